//! Leadership goes to another controller: to whom it may go, and the ways it goes.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use pontoon_model::ControllerId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::leadership::{self, Leadership};
use super::log_store::DiskHealth;
use super::runtime;
use super::timing::Pace;
use super::types::Raft;

/// A handover takes a few round trips; after this many longest elections another leader is not coming.
const HANDOVER_ELECTIONS: u32 = 3;

/// A planned stop waits so many longest elections for answers of the others: without a majority nobody can lead, and when all
/// stop at once the last has nobody to wait for.
const STOPPING_ELECTIONS: u32 = 1;

/// Between looks at who has answered.
const LOOK: Duration = Duration::from_millis(5);

/// A leader whose disk is full hands on again after this long: the next one's may be full too, and whoever leads then
/// refuses what cannot be written.
const HAND_ON: Duration = Duration::from_secs(30);

/// How many of `ids` have answered this leader within `recent`; itself always.
pub(super) fn living(raft: &Raft, ids: impl Iterator<Item = u64>, recent: Duration) -> usize {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let answered = |id: &u64| metrics.heartbeat.as_ref()?.get(id)?.as_ref().map(|last| last.elapsed() < recent);
    let own = *raft.node_id();
    ids.filter(|id| *id == own || answered(id) == Some(true)).count()
}

/// The voting follower that has most of the log, of those heard within `recent`; none if this controller does not lead.
pub(super) fn successor(raft: &Raft, recent: Duration) -> Option<u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
    let heard = |id: &u64| {
        let last = metrics.heartbeat.as_ref()?.get(id)?.as_ref()?;
        (last.elapsed() < recent).then_some(())
    };
    let followers = metrics.replication.iter().flatten();
    followers
        .filter(|(id, _)| *id != raft.node_id() && voters.contains(id) && heard(id).is_some())
        .max_by_key(|(_, matched)| matched.as_ref().map(|log| log.index()))
        .filter(|_| metrics.state == ServerState::Leader)
        .map(|(id, _)| *id)
}

/// Waits until `needed` of `ids` have answered since this began, and says when that was: who answered a moment ago may have
/// died since, and what is done next could not be undone without it. This controller itself always answers.
pub(super) async fn hear_of(
    raft: &Raft,
    ids: &BTreeSet<u64>,
    needed: usize,
    patience: Duration,
) -> Result<Instant, String> {
    let begun = Instant::now();
    loop {
        // Asked for, so that nobody waits for the next that is due.
        let _ = raft.trigger().heartbeat().await;
        let living = living(raft, ids.iter().copied(), begun.elapsed());
        if living >= needed {
            return Ok(begun);
        }
        if begun.elapsed() > patience {
            let millis = patience.as_millis();
            return Err(format!("{living} of the {needed} that are needed have answered within {millis} ms"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Hands leadership to `target` and waits until another controller leads; says which.
pub(super) async fn transfer(
    raft: &Raft,
    leadership: &watch::Receiver<Leadership>,
    pace: &Pace,
    target: u64,
) -> Result<ControllerId, String> {
    raft.trigger().transfer_leader(target).await.map_err(|error| error.to_string())?;
    let own = ControllerId(*raft.node_id());
    let mut leadership = leadership.clone();
    let elsewhere = leadership::until(&mut leadership, |now| now.leader.filter(|leader| *leader != own));
    let patience = pace.timing().election_max * HANDOVER_ELECTIONS;
    match timeout(patience, elsewhere).await {
        Ok(Some(leader)) => Ok(leader),
        Ok(None) => Err("the consensus has ended".to_owned()),
        // openraft's leader takes no writes from then on, whatever became of it, and sends no heartbeats: the others elect one.
        Err(_) => Err(format!("{} did not take over within {} ms", ControllerId(target), patience.as_millis())),
    }
}

/// Before this controller stops: hands leadership to the voter that has most of the log of those that answer now, so that
/// nobody waits for an election. Says to whom; to nobody if this controller does not lead, or no majority answers.
pub(super) async fn hand_over(raft: &Raft, leadership: &watch::Receiver<Leadership>, pace: &Pace) -> Option<u64> {
    let voters: BTreeSet<u64> = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return None;
        }
        metrics.membership_config.voter_ids().collect()
    };
    let own = raft.node_id();
    let others: BTreeSet<u64> = voters.iter().copied().filter(|id| id != own).collect();
    if others.is_empty() {
        return None;
    }
    let patience = pace.timing().election_max * STOPPING_ELECTIONS;
    // With this one a majority, which it takes to elect the next.
    let since = match hear_of(raft, &others, voters.len() / 2, patience).await {
        Ok(since) => since,
        Err(why) => {
            tracing::warn!(why, "leadership is handed to nobody");
            return None;
        }
    };
    let target = successor(raft, since.elapsed())?;
    if let Err(why) = transfer(raft, leadership, pace, target).await {
        tracing::warn!(target = %ControllerId(target), why, "leadership could not be handed over; the others will elect");
    }
    Some(target)
}

/// Hands leadership over whenever this controller leads and `health` says that its disk is full.
pub(super) async fn yield_when_full(
    raft: Raft,
    mut health: watch::Receiver<DiskHealth>,
    mut leadership: watch::Receiver<Leadership>,
    pace: Pace,
) {
    loop {
        let full = |health: &DiskHealth| matches!(health, DiskHealth::Full { .. });
        let leads = |now: &Leadership| now.leading;
        if runtime::wait_for(&mut health, full).await.is_err()
            || runtime::wait_for(&mut leadership, leads).await.is_err()
        {
            return;
        }
        if !full(&health.borrow()) {
            continue;
        }
        tracing::warn!("this controller's disk is full: it hands leadership over");
        hand_over(&raft, &leadership, &pace).await;
        tokio::time::sleep(HAND_ON).await;
    }
}
