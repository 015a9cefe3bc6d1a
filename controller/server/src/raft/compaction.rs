//! When snapshots are made, and how much log is kept behind them.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use super::config::Compaction;
use super::log_store::LogStore;
use super::snapshot::SnapshotStore;
use super::types::{LogId, Raft};

/// How often the log's size is looked at.
const LOOK_AT_SIZE: Duration = Duration::from_secs(5);

/// The log grows by an eighth more before the next member makes its snapshot too: all have the same log, and writes feel
/// it less when one at a time is busy with it. The member of the eighth rank waits no longer than the first.
const STAGGER: u64 = 8;

/// Bytes of log after which the member of `rank` among all makes a snapshot, where `enough` is for the first.
fn staggered(enough: u64, rank: usize) -> u64 {
    enough.saturating_add(enough / STAGGER * (rank as u64 % STAGGER))
}

/// Makes snapshots by the log's bytes (openraft counts entries), and keeps the log behind them bounded.
pub(super) async fn compact(raft: Raft, log: LogStore, snapshots: Arc<SnapshotStore>, limits: Compaction) {
    let (mut asked_at, mut let_go) = (None, None);
    loop {
        tokio::time::sleep(LOOK_AT_SIZE).await;
        let (snapshot, applied, purged, rank) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.nodes();
            let rank = members.take_while(|(id, _)| **id < *raft.node_id()).count();
            let index = |id: Option<LogId>| id.map(|id| id.index());
            (index(metrics.snapshot), index(metrics.last_applied), index(metrics.purged), rank)
        };
        // Some time after it was asked for: entries on their way to a follower are kept until it answers or is given up.
        if let Some(upto) = purged.filter(|_| let_go < purged) {
            let_go = purged;
            tracing::info!(upto, "the log behind the snapshot was let go");
        }
        let since = snapshot.max(asked_at);
        let enough = staggered(limits.snapshot_bytes.max(snapshots.current_len()), rank);
        let mut result = Ok(());
        if log.bytes_after(since) > enough && applied > since {
            asked_at = applied;
            result = raft.trigger().snapshot().await;
        }
        // Also when the next snapshot is already due: under steady load one always is.
        if let Some(upto) = snapshot.filter(|_| log.bytes_after(None) > limits.kept_bytes) {
            result = result.and(raft.trigger().purge_log(upto).await);
        }
        if result.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_make_their_snapshots_one_after_the_other() {
        let table = [0, 1, 2, 7, 8].map(|rank| staggered(64, rank));
        assert_eq!(table, [64, 72, 80, 120, 64]);
        assert_eq!(staggered(u64::MAX, 3), u64::MAX);
    }
}
