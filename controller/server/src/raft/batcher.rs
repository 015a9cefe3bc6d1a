//! Gathers commands into entries: at once when nothing is under way, in batches behind what is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use pontoon_core::{Outcome, State};
use pontoon_model::{ControllerId, IdempotencyKey, Timestamp};
use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::encoded::Encoded;
use super::health::Health;
use super::levels::HeldBack;
use super::runtime;
use super::state_machine::StateFeed;
use super::types::{EntryBytes, Raft, TypeConfig};

/// Most commands of one entry.
pub const MAX_COMMANDS: usize = 1_024;
/// Most bytes of the commands of one entry: a follower's disk and link take it in well under a heartbeat.
pub const MAX_BYTES: usize = 512 * 1024;

/// Entries under way at once: one being synced, one being sent, one being gathered from answers.
const IN_FLIGHT: usize = 3;

/// Longest wait for company behind an entry under way. Local entries come back sooner; over 80 ms of
/// round trip waiting for them would double each command's time.
const LINGER: Duration = Duration::from_millis(2);

/// Requests waiting to be gathered; one more is refused as busy.
const WAITING: usize = 4 * MAX_COMMANDS;

/// Bytes of commands that wait or are under way; more is refused as busy. Two seconds of a disk that takes 16 MB/s, and
/// little beside a controller's memory.
const WAITING_BYTES: usize = 32 * 1024 * 1024;

/// Why a proposal to this very controller did not end in outcomes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeHereError {
    /// Nothing was proposed: another leads.
    #[error("this controller does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<ControllerId>,
    },
    /// Nothing was proposed: too much waits already.
    #[error("this controller has too many commands waiting")]
    Busy,
    /// Nothing was proposed: more than fits into one entry.
    #[error("{commands} commands of {bytes} bytes do not fit into one entry of {MAX_COMMANDS} and {MAX_BYTES}")]
    TooLarge {
        /// How many.
        commands: usize,
        /// Their size.
        bytes: usize,
    },
    /// Nothing was proposed: not all members can read it yet.
    #[error("{reason}")]
    NeedsLevel {
        /// Who holds it back, in a sentence.
        reason: String,
    },
    /// Nothing was proposed: this controller's disk takes no more.
    #[error("{reason}")]
    DiskFull {
        /// Which disk and what to do, in a sentence.
        reason: String,
    },
    /// Nothing was proposed: a command cannot be encoded.
    #[error("a command cannot be encoded: {why}")]
    Encoding {
        /// Why.
        why: String,
    },
    /// The leader changed while the entry was under way: it may or may not be applied. Ask again with the same keys.
    #[error("the leader changed while the commands were under way; they may yet be applied")]
    Unsure {
        /// Who leads now, if known.
        leader: Option<ControllerId>,
    },
    /// The consensus has ended.
    #[error("this controller's consensus has ended: {why}")]
    Ended {
        /// Why.
        why: String,
    },
}

type Answer = Result<(Vec<Outcome>, u64), ProposeHereError>;

struct Waiting {
    commands: Vec<Encoded>,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

/// The way into the batcher. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Batcher {
    queue: mpsc::Sender<Waiting>,
    /// Bytes of what waits for its outcome.
    bytes: Arc<AtomicUsize>,
    feed: StateFeed,
    health: Health,
    held_back: HeldBack,
}

impl Batcher {
    /// Starts gathering for `raft`, until all handles are gone.
    pub(super) fn start(raft: Raft, feed: StateFeed, health: Health, held_back: HeldBack) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let gatherer = Gatherer { raft, feed: feed.clone(), time: Timestamp(0), batch: Batch::default() };
        runtime::spawn(gatherer.run(waiting));
        Self { queue, bytes: Arc::default(), feed, health, held_back }
    }

    /// A key for a command that this controller takes in now.
    pub(super) fn fresh_key(&self) -> IdempotencyKey {
        IdempotencyKey::born(self.feed.look(State::index), runtime::rng().next_u64())
    }

    /// Why `commands` cannot be proposed yet, if not all members can read them. The level only rises, so what may be proposed
    /// now may also be applied.
    pub(super) fn needs_level(&self, commands: &[Encoded]) -> Option<String> {
        let needed = commands.iter().map(Encoded::level).max()?;
        let now = self.feed.look(State::feature_level);
        (needed > now).then(|| self.held_back.sentence(needed, now))
    }

    /// Which disk of this controller is full and what to do, if one is.
    pub(super) fn disk_full(&self) -> Option<String> {
        self.health.disk_full().map(|reason| String::clone(&reason))
    }

    /// Proposes `commands` in one entry and waits for their outcomes.
    pub(super) async fn propose(&self, commands: Vec<Encoded>) -> Answer {
        let bytes = size_of(&commands)?;
        if let Some(reason) = self.needs_level(&commands) {
            return Err(ProposeHereError::NeedsLevel { reason });
        }
        if let Some(reason) = self.disk_full() {
            return Err(ProposeHereError::DiskFull { reason });
        }
        let _held = Held::take(&self.bytes, bytes).ok_or(ProposeHereError::Busy)?;
        let (answer, outcome) = oneshot::channel();
        self.queue.try_send(Waiting { commands, bytes, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeHereError::Busy,
            mpsc::error::TrySendError::Closed(_) => ended(),
        })?;
        outcome.await.map_err(|_| ended())?
    }
}

/// A share of [`WAITING_BYTES`], given back when dropped.
struct Held<'a>(&'a AtomicUsize, usize);

impl<'a> Held<'a> {
    fn take(all: &'a AtomicUsize, bytes: usize) -> Option<Self> {
        // Counted before it is judged: when two meet at the limit both may be refused, never both taken.
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let held = Self(all, bytes);
        (before + bytes <= WAITING_BYTES).then_some(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

fn ended() -> ProposeHereError {
    ProposeHereError::Ended { why: "it was shut down".to_owned() }
}

/// The bytes of `commands`, if they fit into one entry.
pub(super) fn size_of(commands: &[Encoded]) -> Result<usize, ProposeHereError> {
    let bytes = commands.iter().map(Encoded::len).sum();
    if commands.len() > MAX_COMMANDS || bytes > MAX_BYTES {
        return Err(ProposeHereError::TooLarge { commands: commands.len(), bytes });
    }
    Ok(bytes)
}

/// Requests that will share an entry.
#[derive(Default)]
struct Batch {
    requests: Vec<Waiting>,
    commands: usize,
    bytes: usize,
    since: Option<Instant>,
}

impl Batch {
    fn has_room_for(&self, request: &Waiting) -> bool {
        self.commands + request.commands.len() <= MAX_COMMANDS && self.bytes + request.bytes <= MAX_BYTES
    }

    fn add(&mut self, request: Waiting) {
        self.commands += request.commands.len();
        self.bytes += request.bytes;
        self.since.get_or_insert_with(Instant::now);
        self.requests.push(request);
    }

    /// Whether to send it now, with `in_flight` entries under way.
    fn is_due(&self, in_flight: usize, full: bool) -> bool {
        let waited = self.since.is_some_and(|since| since.elapsed() >= LINGER);
        !self.requests.is_empty() && (in_flight == 0 || (in_flight < IN_FLIGHT && (full || waited)))
    }
}

struct Gatherer {
    raft: Raft,
    feed: StateFeed,
    time: Timestamp,
    batch: Batch,
}

type UnderWay = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Gatherer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut in_flight: FuturesUnordered<UnderWay> = FuturesUnordered::new();
        // What did not fit into the batch before; nothing is taken from the queue until it is gone.
        let mut next: Option<Waiting> = None;
        let mut open = true;
        // One clock for all batches: a timer for every request would cost more than the request.
        let mut linger = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            while next.is_none() && self.batch.commands < MAX_COMMANDS {
                let Ok(request) = waiting.try_recv() else { break };
                self.take(request, &mut next);
            }
            let full = next.is_some() || self.batch.commands >= MAX_COMMANDS;
            if self.batch.is_due(in_flight.len(), full) {
                if let Some(entry) = self.send().await {
                    in_flight.push(entry);
                }
                if let Some(request) = next.take() {
                    self.batch.add(request);
                }
                continue;
            }
            let lingers = self.batch.since.filter(|_| in_flight.len() < IN_FLIGHT).map(|since| since + LINGER);
            if let Some(until) = lingers.filter(|until| linger.deadline() != *until) {
                linger.as_mut().reset(until);
            }
            tokio::select! {
                biased;
                Some(()) = in_flight.next() => {}
                // Only the first of a batch wakes this task: the others are found in the queue when the batch is due.
                request = waiting.recv(), if open && self.batch.requests.is_empty() => match request {
                    Some(request) => self.take(request, &mut next),
                    None => open = false,
                },
                () = linger.as_mut(), if lingers.is_some() => {}
                else => return,
            }
        }
    }

    /// Puts a request into the batch, or into `next` if it does not fit.
    fn take(&mut self, request: Waiting, next: &mut Option<Waiting>) {
        if self.batch.has_room_for(&request) {
            self.batch.add(request);
        } else {
            *next = Some(request);
        }
    }

    /// Proposes the batch; the future ends when everyone has an answer.
    async fn send(&mut self) -> Option<UnderWay> {
        let batch = std::mem::take(&mut self.batch);
        let mut commands = Vec::with_capacity(batch.commands);
        let mut asked = Vec::with_capacity(batch.requests.len());
        for request in batch.requests {
            asked.push((request.commands.len(), request.answer));
            commands.extend(request.commands);
        }
        // Never before an earlier entry, whatever the clock says.
        self.time = self.time.max(self.feed.now());
        let entry = match pontoon_core::Entry::join(self.time, &commands) {
            Ok(bytes) => EntryBytes(bytes.into()),
            Err(error) => {
                answer_all(asked, &Err(ProposeHereError::Encoding { why: error.to_string() }));
                return None;
            }
        };
        // Sent here and not in the future, so that entries keep their order.
        let (responder, answer) = ProgressResponder::complete_only();
        if let Err(error) = self.raft.client_write_ff(entry, Some(responder)).await {
            answer_all(asked, &Err(ProposeHereError::Ended { why: error.to_string() }));
            return None;
        }
        let raft = self.raft.clone();
        Some(Box::pin(async move {
            let result = match answer.await {
                Ok(result) => judge(result),
                // openraft dropped the request: it may have been appended.
                Err(_) => Err(ProposeHereError::Unsure { leader: raft.current_leader().await.map(ControllerId) }),
            };
            answer_all(asked, &result);
        }))
    }
}

fn judge(result: ClientWriteResult<TypeConfig>) -> Answer {
    match result {
        Ok(response) => Ok((response.data.outcomes, response.log_id.index())),
        Err(ClientWriteError::ForwardToLeader(to)) => {
            Err(ProposeHereError::NotLeader { leader: to.leader_id.map(ControllerId) })
        }
        Err(ClientWriteError::LogEntryDiscarded(to)) => {
            Err(ProposeHereError::Unsure { leader: to.leader_id.map(ControllerId) })
        }
        Err(error) => Err(ProposeHereError::Ended { why: error.to_string() }),
    }
}

fn answer_all(asked: Vec<(usize, oneshot::Sender<Answer>)>, result: &Answer) {
    let mut at = 0;
    for (commands, answer) in asked {
        let own = result.as_ref().map_err(Clone::clone).and_then(|(outcomes, index)| {
            let outcomes = outcomes.get(at..at + commands).map(<[Outcome]>::to_vec);
            let why = "an entry was answered with too few outcomes".to_owned();
            outcomes.map(|outcomes| (outcomes, *index)).ok_or(ProposeHereError::Ended { why })
        });
        at += commands;
        // Who no longer waits needs no answer.
        let _ = answer.send(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_bytes_and_given_back() {
        let all = AtomicUsize::new(0);
        let first = Held::take(&all, WAITING_BYTES).expect("all of it");
        assert!(Held::take(&all, 1).is_none());
        drop(first);
        assert!(Held::take(&all, 1).is_some());
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
