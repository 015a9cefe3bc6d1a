//! The only way into the state: commands go to the leader, wherever it is, until it answers or time is up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_core::{Command, Outcome, Rejected, RejectedKind, Reply, Stamped, decode_outcome, encode_outcome};
use pontoon_kit::Backoff;
use pontoon_model::wire::WireError;
use pontoon_model::{ControllerId, IdempotencyKey};
use pontoon_proto::{ProposeReply, ProposeRequest};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

pub use super::batcher::ProposeHereError;
use super::batcher::{Batcher, size_of};
use super::encoded::Encoded;
use super::leadership::{Leadership, until};
use super::peers::Peers;
use super::runtime;

/// How long a proposal is tried: a failover takes one second, two in a row and a slow disk take a few.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One try: a leader that does not answer within it may be cut off, and another may lead by now.
const ONE_TRY: Duration = Duration::from_secs(3);

/// A busy leader is asked again for this long only: whoever waits longer keeps a connection and a place in memory from
/// others, and can try again by itself.
const BUSY_PATIENCE: Duration = Duration::from_millis(200);

/// How long a command waits for the cluster's feature level: the leader looks every second whether all can read the next.
const LEVEL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a controller whose disk is full looks for a leader: as long as an election usually takes.
const FULL_PATIENCE: Duration = Duration::from_secs(1);

/// Between tries.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Why commands were not applied as far as this controller knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The state refused it; the message is for the user.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// No controller leads. Nothing was applied, or what was is not known here.
    #[error("no controller leads: a majority of the controllers must run and reach each other ({last})")]
    NoLeader {
        /// What the last try met.
        last: String,
    },
    /// The leader is overloaded; nothing was applied.
    #[error("the controllers are busy; try again in a moment")]
    Busy,
    /// More than fits into one entry; nothing was applied.
    #[error("{commands} commands of {bytes} bytes are more than one entry of the log may hold")]
    TooLarge {
        /// How many.
        commands: usize,
        /// Their size.
        bytes: usize,
    },
    /// Not all controllers can read it yet; nothing was applied.
    #[error("{reason}")]
    NeedsLevel {
        /// Who holds it back, in a sentence.
        reason: String,
    },
    /// The leader's disk is full; nothing was applied.
    #[error("{reason}")]
    DiskFull {
        /// Which disk and what to do, in a sentence.
        reason: String,
    },
    /// It cannot be sent, or the answer cannot be read.
    #[error("a command or its outcome cannot be encoded or decoded: {why}")]
    Encoding {
        /// Why.
        why: String,
    },
    /// This controller is stopping.
    #[error("this controller is stopping: {why}")]
    Ended {
        /// Why.
        why: String,
    },
}

impl From<ProposeHereError> for ProposeError {
    fn from(error: ProposeHereError) -> Self {
        match error {
            ProposeHereError::Busy => Self::Busy,
            ProposeHereError::TooLarge { commands, bytes } => Self::TooLarge { commands, bytes },
            ProposeHereError::NeedsLevel { reason } => Self::NeedsLevel { reason },
            ProposeHereError::DiskFull { reason } => Self::DiskFull { reason },
            ProposeHereError::Encoding { why } => Self::Encoding { why },
            ProposeHereError::Ended { why } => Self::Ended { why },
            ProposeHereError::NotLeader { .. } | ProposeHereError::Unsure { .. } => {
                Self::NoLeader { last: error.to_string() }
            }
        }
    }
}

impl From<WireError> for ProposeError {
    fn from(error: WireError) -> Self {
        Self::Encoding { why: error.to_string() }
    }
}

/// Proposes commands. Clones share everything.
#[derive(Debug, Clone)]
pub struct Proposer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: ControllerId,
    batcher: Batcher,
    leadership: watch::Receiver<Leadership>,
    peers: Peers,
}

/// What one try came to.
enum Tried {
    Done(Vec<Outcome>, u64),
    /// Try again, perhaps elsewhere.
    Again {
        why: String,
        elsewhere: Option<ControllerId>,
        /// Whether it may have been applied.
        unsure: bool,
    },
    Busy,
    NeedsLevel(String),
    Failed(ProposeError),
}

/// What is known while commands are tried.
struct Trying {
    deadline: Instant,
    /// Since when the leader is busy, or wants a higher feature level.
    refused_since: Option<Instant>,
    backoff: Backoff,
    hint: Option<ControllerId>,
    /// What to say when time is up.
    last: ProposeError,
    /// Whether an earlier try may have been applied.
    unsure: bool,
}

impl Trying {
    fn start() -> Self {
        Self {
            deadline: Instant::now() + PATIENCE,
            refused_since: None,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            hint: None,
            last: ProposeError::NoLeader { last: "none was found".to_owned() },
            unsure: false,
        }
    }

    /// Takes in a refusal that may pass within `patience`.
    fn refused(&mut self, error: ProposeError, patience: Duration) -> Result<(), ProposeError> {
        self.last = error;
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= patience { Err(self.last.clone()) } else { Ok(()) }
    }
}

impl Proposer {
    pub(super) fn new(
        id: ControllerId,
        batcher: Batcher,
        leadership: watch::Receiver<Leadership>,
        peers: Peers,
    ) -> Self {
        Self { shared: Arc::new(Shared { id, batcher, leadership, peers }) }
    }

    /// A key for a command that this controller takes in now; the same for each try of it.
    pub fn fresh_key(&self) -> IdempotencyKey {
        self.shared.batcher.fresh_key()
    }

    /// Proposes one command with a fresh key; returns its reply and the index of its entry.
    pub async fn propose(&self, command: Command) -> Result<(Reply, u64), ProposeError> {
        let key = self.fresh_key();
        let (outcomes, index) = self.propose_stamped(vec![Stamped { key, command }]).await?;
        match outcomes.into_iter().next() {
            Some(outcome) => Ok((outcome?, index)),
            None => Err(ProposeError::Ended { why: "the leader answered without an outcome".to_owned() }),
        }
    }

    /// Proposes `commands` in one entry, with their keys: tried at this controller or the leader until one
    /// answers, for at most [`PATIENCE`]. A retry of a command that was applied gives its first outcome.
    pub async fn propose_stamped(&self, commands: Vec<Stamped>) -> Result<(Vec<Outcome>, u64), ProposeError> {
        let mut commands = commands.iter().map(Encoded::new).collect::<Result<Vec<_>, _>>()?;
        size_of(&commands)?;
        let mut trying = Trying::start();
        loop {
            let Some(leader) = self.leader(trying.hint.take(), trying.deadline).await else {
                return Err(self.when_time_is_up(trying));
            };
            let tried = if leader == self.shared.id {
                self.try_here(&commands).await
            } else {
                self.try_there(leader, &commands).await
            };
            match tried {
                Tried::Done(outcomes, index) => {
                    // Asked first, since it hardly ever is so: the clock is read for those only.
                    let late = !trying.unsure && outcomes.iter().any(is_expired);
                    if late && Instant::now() < trying.deadline && self.stamp_again(&mut commands, &outcomes, index) {
                        continue;
                    }
                    return Ok((outcomes, index));
                }
                Tried::Failed(error) => return Err(error),
                Tried::Busy => trying.refused(ProposeError::Busy, BUSY_PATIENCE)?,
                Tried::NeedsLevel(reason) => trying.refused(ProposeError::NeedsLevel { reason }, LEVEL_PATIENCE)?,
                Tried::Again { why, elsewhere, unsure } => {
                    tracing::debug!(%leader, %why, "commands are proposed again");
                    trying.unsure |= unsure;
                    trying.refused_since = None;
                    trying.hint = elsewhere.filter(|elsewhere| *elsewhere != leader);
                    trying.last = ProposeError::NoLeader { last: why };
                }
            }
            let wait = trying.backoff.wait_by(&mut runtime::rng());
            if timeout_at(trying.deadline, tokio::time::sleep(wait)).await.is_err() {
                return Err(self.when_time_is_up(trying));
            }
        }
    }

    /// A command that is refused as too late although no earlier try can have been applied was only slow on its way: it
    /// gets a key born now. The others keep theirs, so that they are answered as before.
    fn stamp_again(&self, commands: &mut [Encoded], outcomes: &[Outcome], index: u64) -> bool {
        let mut any = false;
        for (command, outcome) in commands.iter_mut().zip(outcomes) {
            if is_expired(outcome) && command.key().birth().is_some() {
                *command = command.restamped(IdempotencyKey::born(index, runtime::rng().next_u64()));
                any = true;
            }
        }
        any
    }

    /// Proposes `commands` in one entry if this controller leads; tried once.
    pub async fn propose_here(&self, commands: Vec<Stamped>) -> Result<(Vec<Outcome>, u64), ProposeHereError> {
        let commands = commands.iter().map(Encoded::new).collect::<Result<Vec<_>, _>>();
        let commands = commands.map_err(|error| ProposeHereError::Encoding { why: error.to_string() })?;
        self.shared.batcher.propose(commands).await
    }

    /// Answers another controller's request: what the `Peers.Propose` handler replies.
    pub async fn answer(&self, request: ProposeRequest) -> Result<ProposeReply, WireError> {
        let commands = request.commands.into_iter().map(Encoded::check).collect::<Result<_, _>>()?;
        let error = match self.shared.batcher.propose(commands).await {
            Ok((outcomes, index)) => {
                let encode = |outcome| encode_outcome(outcome).map(Bytes::from);
                let outcomes = outcomes.iter().map(encode).collect::<Result<_, _>>()?;
                return Ok(ProposeReply::Applied { outcomes, index });
            }
            Err(error) => error,
        };
        let reason = error.to_string();
        Ok(match error {
            ProposeHereError::NotLeader { leader } => ProposeReply::NotLeader { leader },
            ProposeHereError::Unsure { leader } => ProposeReply::Unsure { leader },
            // Some of what ends when the consensus does was on its way.
            ProposeHereError::Ended { .. } => ProposeReply::Unsure { leader: None },
            ProposeHereError::Busy => ProposeReply::Busy { reason },
            ProposeHereError::NeedsLevel { reason } => ProposeReply::NeedsLevel { reason },
            ProposeHereError::DiskFull { reason } => ProposeReply::DiskFull { reason },
            ProposeHereError::TooLarge { .. } | ProposeHereError::Encoding { .. } => ProposeReply::Refused { reason },
        })
    }

    /// When all disks are full nobody leads: followers that cannot append answer no leader. The disk is what to say then.
    fn when_time_is_up(&self, trying: Trying) -> ProposeError {
        match self.shared.batcher.disk_full() {
            Some(reason) if !trying.unsure => ProposeError::DiskFull { reason },
            _ => trying.last,
        }
    }

    async fn leader(&self, hint: Option<ControllerId>, deadline: Instant) -> Option<ControllerId> {
        if hint.is_some() {
            return hint;
        }
        // Nearly always somebody leads, and then there is nothing to wait for.
        let known = self.shared.leadership.borrow().leader;
        if known.is_some() {
            return known;
        }
        let mut leadership = self.shared.leadership.clone();
        // With this disk full, nobody leads as long as the others' are full too.
        let deadline = match self.shared.batcher.disk_full() {
            Some(_) => deadline.min(Instant::now() + FULL_PATIENCE),
            None => deadline,
        };
        timeout_at(deadline, until(&mut leadership, |now| now.leader)).await.ok()?
    }

    async fn try_here(&self, commands: &[Encoded]) -> Tried {
        match timeout(ONE_TRY, self.shared.batcher.propose(commands.to_vec())).await {
            Ok(Ok((outcomes, index))) => Tried::Done(outcomes, index),
            Ok(Err(error)) => match error {
                ProposeHereError::NotLeader { leader } => {
                    Tried::Again { why: error.to_string(), elsewhere: leader, unsure: false }
                }
                ProposeHereError::Unsure { leader } => {
                    Tried::Again { why: error.to_string(), elsewhere: leader, unsure: true }
                }
                ProposeHereError::Busy => Tried::Busy,
                ProposeHereError::NeedsLevel { reason } => Tried::NeedsLevel(reason),
                error => Tried::Failed(error.into()),
            },
            Err(_) => {
                let why = "this controller leads and does not reach a majority".to_owned();
                Tried::Again { why, elsewhere: None, unsure: true }
            }
        }
    }

    async fn try_there(&self, leader: ControllerId, commands: &[Encoded]) -> Tried {
        // Not sent to a leader of an older version, which could not even decode them.
        if let Some(reason) = self.shared.batcher.needs_level(commands) {
            return Tried::NeedsLevel(reason);
        }
        let request = ProposeRequest { commands: commands.iter().map(|command| command.bytes().clone()).collect() };
        let again = |why, unsure| Tried::Again { why, elsewhere: None, unsure };
        let mut client = match self.shared.peers.reach(leader) {
            Ok(peer) => peer.client(),
            Err(why) => return again(why, false),
        };
        match timeout(ONE_TRY, client.propose(request)).await {
            Ok(Ok(reply)) => {
                let tried = understand(reply.into_inner());
                // Perhaps one that has stopped, on a connection that outlives it.
                if matches!(tried, Tried::Again { unsure: true, .. }) {
                    self.shared.peers.forget(leader);
                }
                tried
            }
            Ok(Err(status)) => again(format!("{leader}: {}", status.message()), true),
            Err(_) => {
                self.shared.peers.forget(leader);
                again(format!("{leader} does not answer"), true)
            }
        }
    }
}

fn is_expired(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|rejected| rejected.kind == RejectedKind::Expired)
}

fn understand(reply: ProposeReply) -> Tried {
    match reply {
        ProposeReply::Applied { outcomes, index } => {
            match outcomes.iter().map(|bytes| decode_outcome(bytes)).collect::<Result<_, _>>() {
                Ok(outcomes) => Tried::Done(outcomes, index),
                Err(error) => Tried::Failed(error.into()),
            }
        }
        ProposeReply::NotLeader { leader } => {
            Tried::Again { why: "the one asked does not lead".to_owned(), elsewhere: leader, unsure: false }
        }
        ProposeReply::Unsure { leader } => {
            let why = "the leader changed while the commands were under way".to_owned();
            Tried::Again { why, elsewhere: leader, unsure: true }
        }
        ProposeReply::Busy { .. } => Tried::Busy,
        ProposeReply::NeedsLevel { reason } => Tried::NeedsLevel(reason),
        ProposeReply::DiskFull { reason } => Tried::Failed(ProposeError::DiskFull { reason }),
        ProposeReply::Refused { reason } => Tried::Failed(ProposeError::Encoding { why: reason }),
    }
}
