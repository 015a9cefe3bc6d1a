//! The one queue through which the membership changes: one change at a time, by the leader, each step safe to repeat.
//!
//! A change may be asked for again at any time, of any leader: what is already done is not done again. So a leader
//! that dies half way leaves nothing to clean up but what its successor cleans up ([`worker`]).

mod change;
mod worker;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use pontoon_model::{ControllerId, ControllerName};
use tokio::sync::{mpsc, watch};

use self::change::ids_of;
pub(super) use self::change::votes;
pub use self::change::{Change, Joining, Progress, Replacement};
use self::worker::Worker;
use super::handover;
use super::leadership::Leadership;
use super::proposer::Proposer;
use super::runtime;
use super::state_machine::StateFeed;
use super::timing::Pace;
use super::types::{Membership, Raft};

/// Changes that may wait: one per controller of the largest cluster, and who is refused asks again.
const WAITING: usize = 8;

/// A voter whose last answer is older than this many longest elections is not counted as living.
const LIVING_ELECTIONS: u32 = 3;

/// The way into the queue. Clones share it.
#[derive(Clone)]
pub struct MembershipQueue {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
    feed: StateFeed,
    pace: Pace,
    queue: mpsc::Sender<Change>,
    board: Board,
}

/// What waits, what is under way and how far it is, and why the last that failed did.
#[derive(Clone, Default)]
struct Board(Arc<Mutex<Posted>>);

#[derive(Default)]
struct Posted {
    waiting: Vec<Change>,
    under_way: Option<(Change, String)>,
    failed: Option<(Change, String)>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MembershipQueue {
    /// Starts the worker; it ends when all handles are gone.
    pub(super) fn start(
        raft: Raft,
        leadership: watch::Receiver<Leadership>,
        feed: StateFeed,
        proposer: Proposer,
        pace: Pace,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let board = Board::default();
        let (raft_, leadership_) = (raft.clone(), leadership.clone());
        let worker = Worker {
            raft: raft_,
            leadership: leadership_,
            feed: feed.clone(),
            proposer,
            pace: pace.clone(),
            board: board.clone(),
        };
        runtime::spawn(worker.run(waiting));
        Self { raft, leadership, feed, pace, queue, board }
    }

    /// Whether a controller called `name` may give up its store: this one leads, knows the name as a member, and a
    /// quorum lives without it. The error says what is missing.
    pub fn may_be_replaced(&self, name: &ControllerName) -> Result<(), Progress> {
        self.leads()?;
        let membership = current(&self.raft);
        let ids = ids_of(&membership, name);
        if ids.is_empty() {
            return Err(Progress::Refused(format!(
                "{name} is no member of this cluster; to let its machine in anew, `pontoon controller join` in an empty folder"
            )));
        }
        let voters: Vec<u64> = membership.voter_ids().collect();
        let others = voters.iter().copied().filter(|id| !ids.contains(id));
        let living = self.living(others);
        let needed = voters.len() / 2 + 1;
        if living < needed {
            let why = format!("{living} of the {} voters live without it, {needed} are needed", voters.len());
            return Err(Progress::Wait(why));
        }
        Ok(())
    }

    /// Does `change` when its turn comes; asked again and again until it is done.
    pub fn ask(&self, change: &Change) -> Progress {
        if let Err(progress) = self.leads() {
            return progress;
        }
        let membership = current(&self.raft);
        let judged = change.judge(&membership).or_else(|| self.judge_by_who_lives(change, &membership));
        match judged {
            // Its row is the last that goes: not before is it forgotten.
            Some(Progress::Unknown(_)) if self.has_row(change) => {
                return Progress::Wait("it is no member any more; its entry in the state goes next".to_owned());
            }
            Some(progress) => return progress,
            None => {}
        }
        let mut posted = self.board.lock();
        if let Some((_, how_far)) = posted.under_way.as_ref().filter(|(under_way, _)| under_way == change) {
            return Progress::Wait(how_far.clone());
        }
        let why = match posted.failed.as_ref().filter(|(failed, _)| failed == change) {
            Some((_, why)) => format!("the last try failed ({why}), and it is tried again"),
            None => "it waits for its turn".to_owned(),
        };
        if posted.waiting.contains(change) {
            return Progress::Wait(why);
        }
        if self.queue.try_send(change.clone()).is_err() {
            return Progress::Wait("other changes of the membership come first".to_owned());
        }
        posted.waiting.push(change.clone());
        Progress::Wait(why)
    }

    /// Whether `id` is a member, says the leader; only by what is committed.
    pub fn standing(&self, id: ControllerId) -> Progress {
        if let Err(progress) = self.leads() {
            return progress;
        }
        match is_settled(&self.raft).filter(|membership| membership.get_node(&id.0).is_none()) {
            Some(_) => Progress::Unknown(format!("the controller with the id {id} was removed from this cluster")),
            None => Progress::Done,
        }
    }

    /// Where the leader is, as far as this controller knows.
    pub(crate) fn leader_address(&self) -> Option<SocketAddr> {
        let leader = self.leadership.borrow().leader?;
        current(&self.raft).get_node(&leader.0).map(|peer| peer.grpc)
    }

    /// Raft's term, as this controller knows it.
    pub fn term(&self) -> u64 {
        self.leadership.borrow().term
    }

    fn judge_by_who_lives(&self, change: &Change, membership: &Membership) -> Option<Progress> {
        match change {
            Change::Remove { name, force: false } => {
                let ids = ids_of(membership, name);
                let stay: Vec<u64> = membership.voter_ids().filter(|id| !ids.contains(id)).collect();
                let (living, needed) = (self.living(stay.iter().copied()), stay.len() / 2 + 1);
                (living < needed).then(|| {
                    Progress::Refused(format!(
                        "without {name} {} controllers vote and {needed} of them must live, and {living} do: nothing could \
                         be changed any more. Bring the others back first. With --force it is removed all the same: \
                         writes then stop until {needed} of those that stay live, and what only {name} and stores that \
                         are lost held is lost with them",
                        stay.len()
                    ))
                })
            }
            Change::Transfer { to } => self.judge_successor(to.as_ref(), membership),
            _ => None,
        }
    }

    fn judge_successor(&self, to: Option<&ControllerName>, membership: &Membership) -> Option<Progress> {
        let Some(name) = to else {
            let none = handover::successor(&self.raft, self.recent()).is_none();
            return none.then(|| {
                Progress::Refused("no other controller that votes has answered lately, so none can lead".to_owned())
            });
        };
        let ids = ids_of(membership, name);
        if ids.contains(self.raft.node_id()) {
            return Some(Progress::Done);
        }
        let id = ids.into_iter().find(|id| votes(membership, *id))?;
        if self.living(std::iter::once(id)) == 0 {
            return Some(Progress::Refused(format!("{name} has not answered lately, so it cannot lead")));
        }
        let (matched, last) = worker::progress_of(&self.raft, id);
        let lacks = last.saturating_sub(matched.unwrap_or(0));
        (lacks > worker::LAG).then(|| {
            Progress::Refused(format!("{name} lacks {lacks} entries of the log; try again when it has caught up"))
        })
    }

    fn has_row(&self, change: &Change) -> bool {
        let Change::Remove { name, .. } = change else { return false };
        self.feed.look(|state| state.controllers().any(|row| row.name == *name))
    }

    /// How many of `ids` have answered this leader lately; itself always.
    fn living(&self, ids: impl Iterator<Item = u64>) -> usize {
        handover::living(&self.raft, ids, self.recent())
    }

    fn recent(&self) -> Duration {
        self.pace.timing().election_max * LIVING_ELECTIONS
    }

    fn leads(&self) -> Result<(), Progress> {
        let now = *self.leadership.borrow();
        match now.leading {
            true if is_member(&self.raft) => Ok(()),
            // Another leads in a moment.
            true => Err(Progress::NotLeader(None)),
            false => Err(Progress::NotLeader(now.leader)),
        }
    }
}

fn current(raft: &Raft) -> Membership {
    raft.metrics().borrow_watched().membership_config.membership().clone()
}

/// Whether this controller is a member itself. One that is not may lead for a moment: it was elected before it had heard that
/// an earlier leader had removed it.
fn is_member(raft: &Raft) -> bool {
    current(raft).get_node(raft.node_id()).is_some()
}

/// The membership, if it is committed and no change of it is half done.
fn is_settled(raft: &Raft) -> Option<Membership> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let stored = &metrics.membership_config;
    let committed =
        stored.log_id().as_ref().map(|log| log.index()) <= metrics.last_applied.as_ref().map(|log| log.index());
    (committed && change::is_uniform(stored.membership())).then(|| stored.membership().clone())
}
