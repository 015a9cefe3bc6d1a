//! Does the changes, one after the other, while this controller leads; and finishes what an earlier leader left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use pontoon_core::command::RemoveController;
use pontoon_model::{ControllerId, ControllerName};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::super::handover;
use super::super::leadership::Leadership;
use super::super::proposer::Proposer;
use super::super::runtime;
use super::super::state_machine::StateFeed;
use super::super::timing::Pace;
use super::super::types::{Membership, Peer, Raft};
use super::change::{Change, Joining, Progress, Replacement, ids_of, is_uniform};
use super::{Board, LIVING_ELECTIONS, current, is_member, is_settled};

/// One membership entry: two commits over a slow link, and an election in between.
const ONE_ENTRY: Duration = Duration::from_secs(30);

/// A learner without progress for this long does not block the queue: its controller asks again when it lives.
const NO_PROGRESS: Duration = Duration::from_secs(60);

/// Between looks at how far a learner is.
const LOOK: Duration = Duration::from_millis(50);

/// Entries a learner may lack when it becomes a voter, and a voter when it shall lead: it catches up while that commits.
pub(super) const LAG: u64 = 100;

/// Between tries of what an earlier leader left: nobody waits for it.
const TIDY_AGAIN: Duration = Duration::from_secs(5);

/// Works off the queue while this controller leads.
pub(super) struct Worker {
    pub(super) raft: Raft,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) feed: StateFeed,
    pub(super) proposer: Proposer,
    pub(super) pace: Pace,
    pub(super) board: Board,
}

impl Worker {
    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Change>) {
        // When to look for what an earlier leader left.
        let mut tidy = Some(Duration::ZERO);
        loop {
            let leads = self.leadership.borrow_and_update().leading;
            tokio::select! {
                biased;
                change = waiting.recv() => match change {
                    Some(change) => {
                        self.carry_out(change).await;
                        tidy = Some(Duration::ZERO);
                    }
                    None => return,
                },
                changed = runtime::changed(&mut self.leadership) => match changed {
                    Ok(()) => tidy = Some(Duration::ZERO),
                    Err(_) => return,
                },
                () = tokio::time::sleep(tidy.unwrap_or_default()), if leads && tidy.is_some() => {
                    tidy = self.tidy_up().await.then_some(TIDY_AGAIN);
                }
            }
        }
    }

    async fn carry_out(&self, change: Change) {
        {
            let mut posted = self.board.lock();
            posted.waiting.retain(|waiting| *waiting != change);
            posted.under_way = Some((change.clone(), "it has begun".to_owned()));
        }
        let result = match change.judge(&current(&self.raft)) {
            Some(Progress::Refused(why) | Progress::Unknown(why)) => Err(why),
            Some(_) => Ok(()),
            None => self.step_by_step(&change).await,
        };
        match &result {
            Ok(()) => tracing::info!(%change, "the membership was changed"),
            // Who wants it asks again.
            Err(why) => tracing::warn!(%change, why, "the membership was not changed"),
        }
        let mut posted = self.board.lock();
        posted.under_way = None;
        posted.failed = result.err().map(|why| (change, why));
    }

    fn say(&self, what: impl Into<String>) {
        if let Some((_, how_far)) = &mut self.board.lock().under_way {
            *how_far = what.into();
        }
    }

    async fn step_by_step(&self, change: &Change) -> Result<(), String> {
        if !matches!(change, Change::Transfer { .. }) {
            self.finish_joint().await?;
        }
        match change {
            Change::Replace(replacement) => self.replace(replacement).await,
            Change::Join(joining) => self.join(joining).await,
            Change::Promote { name } => self.promote(name).await,
            Change::Remove { name, force } => self.remove(name, *force).await,
            Change::Transfer { to } => self.transfer(to.as_ref()).await,
        }
    }

    async fn replace(&self, replacement: &Replacement) -> Result<(), String> {
        let new = replacement.new.0;
        self.add_learner(new, &replacement.name, replacement.grpc).await?;
        self.until_caught_up(new).await?;
        self.say("it is taking the place of its old id");
        let membership = current(&self.raft);
        let (old_voters, old_learners) = by_role(&membership, replacement.old_ids(&membership));
        let mut steps = Vec::new();
        if !old_voters.is_empty() {
            steps.push(ChangeMembers::AddVoterIds(BTreeSet::from([new])));
            steps.push(ChangeMembers::RemoveVoters(old_voters));
        }
        if !old_learners.is_empty() {
            steps.push(ChangeMembers::RemoveNodes(old_learners));
        }
        self.change(ChangeMembers::Batch(steps)).await
    }

    async fn join(&self, joining: &Joining) -> Result<(), String> {
        let id = joining.id.0;
        self.add_learner(id, &joining.name, joining.grpc).await?;
        if !joining.voter {
            return Ok(());
        }
        self.make_voter(id).await
    }

    async fn promote(&self, name: &ControllerName) -> Result<(), String> {
        let ids = ids_of(&current(&self.raft), name);
        match ids.first() {
            Some(id) => self.make_voter(*id).await,
            None => Err(format!("{name} is no member any more")),
        }
    }

    async fn make_voter(&self, id: u64) -> Result<(), String> {
        self.until_caught_up(id).await?;
        self.say("it is being made a voter");
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    async fn add_learner(&self, id: u64, name: &ControllerName, grpc: std::net::SocketAddr) -> Result<(), String> {
        if current(&self.raft).get_node(&id).is_some() {
            return Ok(());
        }
        self.say("it is being added as a learner");
        let peer = Peer { name: name.clone(), grpc };
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, peer)]))).await
    }

    /// Removes all ids of `name`. One that leads does not remove itself: a leader that is no member may not count its own
    /// disk any more, and nobody would look after what comes next. It hands over, and the next leader is asked.
    async fn remove(&self, name: &ControllerName, force: bool) -> Result<(), String> {
        let membership = current(&self.raft);
        let ids = ids_of(&membership, name);
        if ids.contains(self.raft.node_id()) {
            self.say("it leads: leadership goes to another first");
            return self.transfer(None).await;
        }
        self.say("it is being removed");
        let (voting, learning) = by_role(&membership, ids);
        if !force && !voting.is_empty() {
            let stay: BTreeSet<u64> = membership.voter_ids().filter(|id| !voting.contains(id)).collect();
            self.hear_of(&stay, stay.len() / 2 + 1).await?;
        }
        if !voting.is_empty() {
            self.change(ChangeMembers::RemoveVoters(voting)).await?;
        }
        if !learning.is_empty() {
            self.change(ChangeMembers::RemoveNodes(learning)).await?;
        }
        Ok(())
    }

    /// Hands leadership to the voter called `to`, or to who has most of the log, and sees to it that somebody leads.
    async fn transfer(&self, to: Option<&ControllerName>) -> Result<(), String> {
        let (own, membership) = (*self.raft.node_id(), current(&self.raft));
        let target = match to {
            Some(name) => {
                let ids: BTreeSet<u64> = ids_of(&membership, name).into_iter().take(1).collect();
                self.hear_of(&ids, 1).await?;
                ids.first().copied()
            }
            None => {
                let others: BTreeSet<u64> = membership.voter_ids().filter(|id| *id != own).collect();
                let since = self.hear_of(&others, 1).await?;
                handover::successor(&self.raft, since.elapsed())
            }
        };
        let target = target.ok_or("no other controller that votes has answered lately, so none can lead")?;
        self.say(format!("leadership is being handed to {}", ControllerId(target)));
        let leader = handover::transfer(&self.raft, &self.leadership, &self.pace, target).await?;
        match to {
            Some(_) if leader != ControllerId(target) => {
                Err(format!("{} did not take over: {leader} leads now", ControllerId(target)))
            }
            _ => Ok(()),
        }
    }

    /// As [`handover::hear_of`], as patient as a change of the membership is.
    async fn hear_of(&self, ids: &BTreeSet<u64>, needed: usize) -> Result<Instant, String> {
        let patience = self.pace.timing().election_max * LIVING_ELECTIONS;
        handover::hear_of(&self.raft, ids, needed, patience).await
    }

    /// What an earlier leader left: a change that is half done, rows of controllers that are members no more. True if
    /// there is something left to do.
    async fn tidy_up(&self) -> bool {
        if let Err(why) = self.finish_joint().await {
            tracing::warn!(why, "a change of the membership that an earlier leader began is not finished yet");
            return true;
        }
        let Some(membership) = is_settled(&self.raft) else { return true };
        let gone = self.feed.look(|state| {
            let rows = state.controllers().filter(|row| membership.get_node(&row.id.0).is_none());
            rows.map(|row| (row.id, row.name.clone())).collect::<Vec<_>>()
        });
        for (id, name) in gone {
            if let Err(error) = self.proposer.propose(RemoveController { id }.into()).await {
                tracing::warn!(%name, %id, %error, "the entry of a controller that was removed is not removed yet");
                return true;
            }
            tracing::info!(%name, %id, "a controller was removed");
        }
        false
    }

    /// A leader that died in the middle of a change may have left two sets of voters: the second was wanted.
    async fn finish_joint(&self) -> Result<(), String> {
        let membership = current(&self.raft);
        match membership.get_joint_config().as_slice() {
            [_, wanted] if !is_uniform(&membership) => {
                self.change(ChangeMembers::ReplaceAllVoters(wanted.clone())).await
            }
            _ => Ok(()),
        }
    }

    /// Members that the change removes leave altogether.
    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), String> {
        // openraft takes it for impossible that such a leader is asked.
        if !is_member(&self.raft) {
            return Err("this controller was removed itself, and another will lead in a moment".to_owned());
        }
        match timeout(ONE_ENTRY, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the change was not committed within {} s", ONE_ENTRY.as_secs())),
        }
    }

    /// openraft's own blocking `add_learner` is no proof: it counts entries and returns before a snapshot is installed.
    async fn until_caught_up(&self, id: u64) -> Result<(), String> {
        let mut moved = (None, Instant::now());
        loop {
            if !self.leadership.borrow().leading {
                return Err("another leads now".to_owned());
            }
            let (matched, last) = progress_of(&self.raft, id);
            if matched.is_some_and(|matched| matched + LAG >= last) {
                return Ok(());
            }
            let at = matched.map_or("nothing".into(), |at| at.to_string());
            if matched != moved.0 {
                moved = (matched, Instant::now());
            } else if moved.1.elapsed() > NO_PROGRESS {
                return Err(format!("it has not caught up: it is at {at} of {last}"));
            }
            self.say(format!("it is catching up: {at} of {last}"));
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Those of `ids` that vote, and those that follow only.
fn by_role(membership: &Membership, ids: BTreeSet<u64>) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    ids.into_iter().partition(|id| voters.contains(id))
}

/// The last entry known to be on a follower's disk, and the last of the log.
pub(super) fn progress_of(raft: &Raft, follower: u64) -> (Option<u64>, u64) {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&follower)?.as_ref().map(|log| log.index()));
    (matched, metrics.last_log_index.unwrap_or(0))
}
