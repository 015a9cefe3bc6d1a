//! The only way into the state: commands go to the leader, wherever it is, until it answers or time is up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_core::{Command, Outcome, Rejected, Reply, Stamped, decode_outcome, encode_outcome};
use pontoon_kit::Backoff;
use pontoon_model::wire::WireError;
use pontoon_model::{ControllerId, IdempotencyKey};
use pontoon_proto::{ProposeReply, ProposeRequest};
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

pub use super::batcher::ProposeHereError;
use super::batcher::{Batcher, size_of};
use super::leadership::{Leadership, until};
use super::peers::Peers;
use super::runtime;

/// How long a proposal is tried: a failover takes one second, two in a row and a slow disk take a few.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One try: a leader that does not answer within it may be cut off, and another may lead by now.
const ONE_TRY: Duration = Duration::from_secs(3);

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
    /// Try again, perhaps elsewhere; the text says why.
    Again(String, Option<ControllerId>),
    Busy,
    Failed(ProposeError),
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

    /// Proposes one command with a fresh key; returns its reply and the index of its entry.
    pub async fn propose(&self, command: Command) -> Result<(Reply, u64), ProposeError> {
        let key = IdempotencyKey(runtime::rng().random());
        let (outcomes, index) = self.propose_stamped(vec![Stamped { key, command }]).await?;
        match outcomes.into_iter().next() {
            Some(outcome) => Ok((outcome?, index)),
            None => Err(ProposeError::Ended { why: "the leader answered without an outcome".to_owned() }),
        }
    }

    /// Proposes `commands` in one entry, with their keys: tried at this controller or the leader until one
    /// answers, for at most [`PATIENCE`]. A retry of a command that was applied gives its first outcome.
    pub async fn propose_stamped(&self, commands: Vec<Stamped>) -> Result<(Vec<Outcome>, u64), ProposeError> {
        size_of(&commands).map_err(ProposeError::from)?;
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut hint = None;
        let mut last = "none was found".to_owned();
        let mut busy = false;
        loop {
            let Some(leader) = self.leader(hint.take(), deadline).await else {
                return Err(if busy { ProposeError::Busy } else { ProposeError::NoLeader { last } });
            };
            let tried = if leader == self.shared.id {
                self.try_here(&commands).await
            } else {
                self.try_there(leader, &commands).await
            };
            match tried {
                Tried::Done(outcomes, index) => return Ok((outcomes, index)),
                Tried::Failed(error) => return Err(error),
                Tried::Busy => busy = true,
                Tried::Again(why, elsewhere) => {
                    tracing::debug!(%leader, %why, "commands are proposed again");
                    (last, hint, busy) = (why, elsewhere.filter(|elsewhere| *elsewhere != leader), false);
                }
            }
            let wait = backoff.wait_by(&mut runtime::rng());
            if timeout_at(deadline, tokio::time::sleep(wait)).await.is_err() {
                return Err(if busy { ProposeError::Busy } else { ProposeError::NoLeader { last } });
            }
        }
    }

    /// Proposes `commands` in one entry if this controller leads; tried once.
    pub async fn propose_here(&self, commands: Vec<Stamped>) -> Result<(Vec<Outcome>, u64), ProposeHereError> {
        self.shared.batcher.propose(commands).await
    }

    /// Answers another controller's request: what the `Peers.Propose` handler replies.
    pub async fn answer(&self, request: ProposeRequest) -> Result<ProposeReply, WireError> {
        let commands = request.commands.iter().map(|bytes| Stamped::decode(bytes)).collect::<Result<_, _>>()?;
        match self.propose_here(commands).await {
            Ok((outcomes, index)) => {
                let encode = |outcome| encode_outcome(outcome).map(Bytes::from);
                Ok(ProposeReply::Applied { outcomes: outcomes.iter().map(encode).collect::<Result<_, _>>()?, index })
            }
            // Also when the fate is unsure: the asker tries again with the same keys.
            Err(ProposeHereError::NotLeader { leader } | ProposeHereError::Unsure { leader }) => {
                Ok(ProposeReply::NotLeader { leader })
            }
            Err(ProposeHereError::Ended { .. }) => Ok(ProposeReply::NotLeader { leader: None }),
            Err(error) => Ok(ProposeReply::Busy { reason: error.to_string() }),
        }
    }

    async fn leader(&self, hint: Option<ControllerId>, deadline: Instant) -> Option<ControllerId> {
        if hint.is_some() {
            return hint;
        }
        let mut leadership = self.shared.leadership.clone();
        timeout_at(deadline, until(&mut leadership, |now| now.leader)).await.ok()?
    }

    async fn try_here(&self, commands: &[Stamped]) -> Tried {
        match timeout(ONE_TRY, self.propose_here(commands.to_vec())).await {
            Ok(Ok((outcomes, index))) => Tried::Done(outcomes, index),
            Ok(Err(error)) => match error {
                ProposeHereError::NotLeader { leader } | ProposeHereError::Unsure { leader } => {
                    Tried::Again(error.to_string(), leader)
                }
                ProposeHereError::Busy => Tried::Busy,
                error => Tried::Failed(error.into()),
            },
            Err(_) => Tried::Again("this controller leads and does not reach a majority".to_owned(), None),
        }
    }

    async fn try_there(&self, leader: ControllerId, commands: &[Stamped]) -> Tried {
        let encoded = commands.iter().map(|command| command.encode().map(Bytes::from)).collect();
        let request = match encoded {
            Ok(commands) => ProposeRequest { commands },
            Err(error) => return Tried::Failed(error.into()),
        };
        let mut client = match self.shared.peers.reach(leader) {
            Ok(peer) => peer.client(),
            Err(why) => return Tried::Again(why, None),
        };
        match timeout(ONE_TRY, client.propose(request)).await {
            Ok(Ok(reply)) => understand(reply.into_inner()),
            Ok(Err(status)) => Tried::Again(format!("{leader}: {}", status.message()), None),
            Err(_) => {
                self.shared.peers.forget(leader);
                Tried::Again(format!("{leader} does not answer"), None)
            }
        }
    }
}

fn understand(reply: ProposeReply) -> Tried {
    match reply {
        ProposeReply::Applied { outcomes, index } => {
            match outcomes.iter().map(|bytes| decode_outcome(bytes)).collect::<Result<_, _>>() {
                Ok(outcomes) => Tried::Done(outcomes, index),
                Err(error) => Tried::Failed(error.into()),
            }
        }
        ProposeReply::NotLeader { leader } => Tried::Again("the one asked does not lead".to_owned(), leader),
        ProposeReply::Busy { .. } => Tried::Busy,
    }
}
