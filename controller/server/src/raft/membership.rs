//! The one queue through which the membership changes: one change at a time, by the leader, each step safe to repeat.
//!
//! A change may be asked for again at any time, of any leader: what is already done is not done again. So a leader
//! that dies half way leaves nothing to clean up but what its successor's next run of the same change cleans up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use pontoon_model::{ControllerId, ControllerName};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::config::Timing;
use super::leadership::Leadership;
use super::runtime;
use super::types::{Membership, Peer, Raft};

/// Changes that may wait: one per controller of the largest cluster, and who is refused asks again.
const WAITING: usize = 8;

/// One membership entry: two commits over a slow link, and an election in between.
const ONE_ENTRY: Duration = Duration::from_secs(30);

/// A learner without progress for this long does not block the queue: its controller asks again when it lives.
const NO_PROGRESS: Duration = Duration::from_secs(60);

/// Between looks at how far a learner is.
const LOOK: Duration = Duration::from_millis(50);

/// Entries a learner may lack when it becomes a voter: it catches up while the change commits.
const LAG: u64 = 100;

/// A voter whose last answer is older than this many longest elections is not counted as living.
const LIVING_ELECTIONS: u32 = 3;

/// A controller whose store was set aside and that has a new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The new life of its store.
    pub new: ControllerId,
    /// Its name, as its certificate says: all other ids of this name are replaced.
    pub name: ControllerName,
    /// Where it answers.
    pub grpc: SocketAddr,
}

/// How far a replacement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another leads; nothing was done.
    NotLeader(Option<ControllerId>),
    /// The new id votes and the old ones are gone.
    Done,
    /// Under way, or what stands in its way.
    Wait(String),
    /// It will never be done.
    Refused(String),
}

/// The way into the queue. Clones share it.
#[derive(Clone)]
pub struct MembershipQueue {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
    timing: Timing,
    queue: mpsc::Sender<Replacement>,
    under_way: UnderWay,
}

/// What the worker does now and how far it is.
type UnderWay = Arc<Mutex<Option<(Replacement, String)>>>;

impl MembershipQueue {
    /// Starts the worker; it ends when all handles are gone.
    pub(super) fn start(raft: Raft, leadership: watch::Receiver<Leadership>, timing: Timing) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let under_way = UnderWay::default();
        let worker = Worker { raft: raft.clone(), leadership: leadership.clone(), under_way: under_way.clone() };
        runtime::spawn(worker.run(waiting));
        Self { raft, leadership, timing, queue, under_way }
    }

    /// Whether a controller called `name` may give up its store: this one leads, knows the name as a voter, and a
    /// quorum lives without it. The error says what is missing.
    pub fn may_be_replaced(&self, name: &ControllerName) -> Result<(), Progress> {
        self.leads()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if !membership.nodes().any(|(_, peer)| peer.name == *name) {
            return Err(unknown(name));
        }
        let recent = self.timing.election_max * LIVING_ELECTIONS;
        let answered = |id: &u64| metrics.heartbeat.as_ref()?.get(id)?.as_ref().map(|last| last.elapsed() < recent);
        let own = self.raft.node_id();
        let lives = |id: &u64| id == own || answered(id) == Some(true);
        let is_other = |id: &u64| membership.get_node(id).is_none_or(|peer| peer.name != *name);
        let living = voters.iter().filter(|id| is_other(id) && lives(id)).count();
        let needed = voters.len() / 2 + 1;
        if living < needed {
            let why = format!("{living} of the {} voters live without it, {needed} are needed", voters.len());
            return Err(Progress::Wait(why));
        }
        Ok(())
    }

    /// Puts a controller's new id in the place of its old ones; asked again and again until it is done.
    pub fn replace(&self, replacement: &Replacement) -> Progress {
        if let Err(progress) = self.leads() {
            return progress;
        }
        let membership = current(&self.raft);
        if is_done(&membership, replacement) {
            return Progress::Done;
        }
        if !membership.nodes().any(|(_, peer)| peer.name == replacement.name) {
            return unknown(&replacement.name);
        }
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, how_far)) = under_way.filter(|(under_way, _)| under_way == replacement) {
            return Progress::Wait(how_far);
        }
        match self.queue.try_send(replacement.clone()) {
            Ok(()) => Progress::Wait("it waits for its turn".to_owned()),
            Err(_) => Progress::Wait("other changes of the membership come first".to_owned()),
        }
    }

    fn leads(&self) -> Result<(), Progress> {
        let now = *self.leadership.borrow();
        if now.leading { Ok(()) } else { Err(Progress::NotLeader(now.leader)) }
    }
}

fn unknown(name: &ControllerName) -> Progress {
    Progress::Refused(format!("{name} is no member of this cluster"))
}

fn current(raft: &Raft) -> Membership {
    raft.metrics().borrow_watched().membership_config.membership().clone()
}

/// Whether `id` votes and goes on voting: in the middle of a change it counts only once it is in both sets of voters, since
/// the change is not done before and a loss may still cost the majority of the old set.
pub(super) fn votes(membership: &Membership, id: u64) -> bool {
    let sets = membership.get_joint_config();
    // An empty store knows of no voters at all.
    !sets.is_empty() && sets.iter().all(|voters| voters.contains(&id))
}

fn is_done(membership: &Membership, replacement: &Replacement) -> bool {
    let uniform = membership.get_joint_config().len() == 1;
    let votes = membership.voter_ids().any(|id| id == replacement.new.0);
    uniform && votes && old_ids(membership, replacement).is_empty()
}

/// All ids of this name but the new one.
fn old_ids(membership: &Membership, replacement: &Replacement) -> BTreeSet<u64> {
    let of_name = membership.nodes().filter(|(_, peer)| peer.name == replacement.name);
    of_name.map(|(id, _)| *id).filter(|id| *id != replacement.new.0).collect()
}

/// Works off the queue while this controller leads.
struct Worker {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
    under_way: UnderWay,
}

impl Worker {
    async fn run(self, mut waiting: mpsc::Receiver<Replacement>) {
        while let Some(replacement) = waiting.recv().await {
            let (new, name) = (replacement.new, replacement.name.clone());
            match self.replace(replacement).await {
                Ok(()) => tracing::info!(%name, %new, "a controller's new id votes in the place of its old one"),
                // Its controller asks again.
                Err(why) => tracing::warn!(%name, %new, why, "a controller's id was not replaced"),
            }
            self.say(None);
        }
    }

    fn say(&self, what: Option<(Replacement, String)>) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    async fn replace(&self, replacement: Replacement) -> Result<(), String> {
        if is_done(&current(&self.raft), &replacement) {
            return Ok(());
        }
        let new = replacement.new.0;
        self.finish_joint().await?;
        if current(&self.raft).get_node(&new).is_none() {
            self.say(Some((replacement.clone(), "it is being added as a learner".to_owned())));
            let peer = Peer { name: replacement.name.clone(), grpc: replacement.grpc };
            self.change(ChangeMembers::AddNodes(BTreeMap::from([(new, peer)]))).await?;
        }
        self.until_caught_up(&replacement).await?;
        self.say(Some((replacement.clone(), "it is being made a voter".to_owned())));
        let membership = current(&self.raft);
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let (old_voters, old_learners): (BTreeSet<u64>, BTreeSet<u64>) =
            old_ids(&membership, &replacement).into_iter().partition(|id| voters.contains(id));
        let mut steps = vec![
            ChangeMembers::AddVoterIds(BTreeSet::from([new])),
            ChangeMembers::RemoveVoters(old_voters),
            ChangeMembers::RemoveNodes(old_learners),
        ];
        steps.retain(|step| !matches!(step, ChangeMembers::RemoveVoters(ids) | ChangeMembers::RemoveNodes(ids) if ids.is_empty()));
        self.change(ChangeMembers::Batch(steps)).await
    }

    /// A leader that died in the middle of a change may have left two sets of voters: the second was wanted.
    async fn finish_joint(&self) -> Result<(), String> {
        let membership = current(&self.raft);
        match membership.get_joint_config().as_slice() {
            [_, wanted] => self.change(ChangeMembers::ReplaceAllVoters(wanted.clone())).await,
            _ => Ok(()),
        }
    }

    /// Members that the change removes leave altogether.
    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), String> {
        match timeout(ONE_ENTRY, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the change was not committed within {} s", ONE_ENTRY.as_secs())),
        }
    }

    /// openraft's own blocking `add_learner` is no proof: it counts entries and returns before a snapshot is installed.
    async fn until_caught_up(&self, replacement: &Replacement) -> Result<(), String> {
        let mut moved = (None, Instant::now());
        loop {
            if !self.leadership.borrow().leading {
                return Err("another leads now".to_owned());
            }
            let (matched, last) = self.progress_of(replacement.new);
            if matched.is_some_and(|matched| matched + LAG >= last) {
                return Ok(());
            }
            if matched != moved.0 {
                moved = (matched, Instant::now());
            } else if moved.1.elapsed() > NO_PROGRESS {
                return Err(format!("it has not caught up: it is at {matched:?} of {last}"));
            }
            let how_far =
                format!("it is catching up: {} of {last}", matched.map_or("nothing".into(), |at| at.to_string()));
            self.say(Some((replacement.clone(), how_far)));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The last entry known to be on the learner's disk, and the last of the log.
    fn progress_of(&self, learner: ControllerId) -> (Option<u64>, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&learner.0)?.as_ref().map(|log| log.index()));
        (matched, metrics.last_log_index.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_middle_of_a_change_only_members_of_both_sets_vote_for_good() {
        let sets = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2, 4])];
        let nodes: BTreeMap<u64, Peer> = (1..=5).map(|id| (id, Peer::default())).collect();
        let joint = Membership::new(sets.clone(), nodes.clone()).unwrap();
        assert_eq!((1..=5).filter(|id| votes(&joint, *id)).collect::<Vec<_>>(), [1, 2]);
        assert!(!votes(&Membership::default(), 1), "nobody votes in an empty store");
        let done = Membership::new(sets[1..].to_vec(), nodes).unwrap();
        assert_eq!((1..=5).filter(|id| votes(&done, *id)).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
