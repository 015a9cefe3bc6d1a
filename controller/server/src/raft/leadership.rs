//! Who leads, as far as this controller knows, and since when.

use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::{Instant as _, ServerState};
use pontoon_model::ControllerId;
use tokio::sync::watch;

use super::config::Timing;
use super::network::Heard;
use super::runtime;
use super::timing::Pace;
use super::types::{Raft, TypeConfig};

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if it was heard within two election timeouts.
    pub leader: Option<ControllerId>,
    /// Whether it is this controller, and it has applied everything its predecessors committed.
    pub leading: bool,
    /// Raft's term: each has at most one leader.
    pub term: u64,
    /// Since when the above holds. Monotonic.
    pub since: Instant,
}

impl Leadership {
    fn unknown() -> Self {
        Self { leader: None, leading: false, term: 0, since: Instant::now() }
    }

    fn same(&self, other: &Self) -> bool {
        (self.leader, self.leading, self.term) == (other.leader, other.leading, other.term)
    }
}

/// What is to be known of the consensus at any time.
pub(super) struct Watched {
    /// Who leads.
    pub(super) leadership: watch::Receiver<Leadership>,
    /// Why the consensus has failed by itself, if it has.
    pub(super) failure: watch::Receiver<Option<String>>,
}

/// Follows `raft` and publishes who leads, until the consensus ends.
pub(super) fn watch_leadership(raft: &Raft, heard: Heard, pace: Pace) -> Watched {
    let (sender, leadership) = watch::channel(Leadership::unknown());
    let (failed, failure) = watch::channel(None);
    let (mut server, mut data, all) = (raft.server_metrics(), raft.data_metrics(), raft.metrics());
    runtime::spawn(async move {
        // A leader's silence changes no metric, so there is also a clock.
        let mut look_at = tokio::time::Instant::now();
        let mut settled = true;
        loop {
            // What changes with each entry is only looked at while it can change who leads.
            let mut ended = tokio::select! {
                biased;
                changed = server.changed() => changed.is_err(),
                changed = data.changed(), if !settled => changed.is_err(),
                () = tokio::time::sleep_until(look_at) => {
                    look_at = tokio::time::Instant::now() + pace.timing().heartbeat;
                    false
                }
                () = sender.closed() => return,
            };
            let fatal = all.borrow_watched().running_state.clone().err();
            ended |= fatal.is_some();
            let now = match ended {
                true => Leadership::unknown(),
                false => judge(&server.borrow_and_update(), &data.borrow_and_update(), &heard, pace.timing()),
            };
            settled = now.leading || now.leader != Some(ControllerId(server.borrow_watched().id));
            sender.send_if_modified(|before| {
                let changed = !before.same(&now);
                if changed {
                    tracing::info!(
                        leader = now.leader.map(tracing::field::display),
                        leading = now.leading,
                        term = now.term,
                        "leadership changed"
                    );
                    *before = now;
                }
                changed
            });
            if let Some(fatal) = &fatal {
                failed.send_replace(Some(fatal.to_string()));
            }
            if ended {
                return;
            }
        }
    });
    Watched { leadership, failure }
}

/// Reads the metrics: openraft names the leader it last voted for, however long ago that one was heard.
fn judge(
    server: &RaftServerMetrics<TypeConfig>,
    data: &RaftDataMetrics<TypeConfig>,
    heard: &Heard,
    timing: Timing,
) -> Leadership {
    let recent: Duration = timing.election_max * 2;
    let term = server.vote.leader_id().term;
    let mut leadership = Leadership { term, ..Leadership::unknown() };
    let leads = server.state == ServerState::Leader && server.current_leader == Some(server.id);
    // Nobody acknowledges anything to a leader that is the last voter: what it knows is from before the others left.
    let alone = server.membership_config.voter_ids().all(|id| id == server.id);
    let alive = if leads && alone {
        true
    } else if leads {
        data.last_quorum_acked.is_none_or(|acked| acked.elapsed() < recent)
    } else {
        heard.last().is_some_and(|last| last.elapsed() < recent)
    };
    if alive {
        leadership.leader = server.current_leader.map(ControllerId);
        // A new leader's first entry is blank; with it, all entries of its predecessors are applied.
        let applied_term = data.last_applied.as_ref().map(|id| **id.committed_leader_id());
        leadership.leading = leads && applied_term == Some(term);
    }
    leadership
}

/// Waits until `found` answers, looking at each change of what is watched; none when the consensus ends.
pub(super) async fn until<W, T>(watched: &mut watch::Receiver<W>, mut found: impl FnMut(&W) -> Option<T>) -> Option<T> {
    loop {
        if let Some(value) = found(&watched.borrow_and_update()) {
            return Some(value);
        }
        runtime::changed(watched).await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::type_config::alias::InstantOf;

    use super::super::types::{Membership, Peer, StoredMembership, Vote};
    use super::*;

    fn leader_of(voters: &[u64]) -> RaftServerMetrics<TypeConfig> {
        let nodes: BTreeMap<u64, Peer> = voters.iter().map(|id| (*id, Peer::default())).collect();
        let membership = Membership::new(vec![BTreeSet::from_iter(voters.iter().copied())], nodes).unwrap();
        RaftServerMetrics {
            id: 1,
            vote: Vote::new_committed(3, 1),
            state: ServerState::Leader,
            current_leader: Some(1),
            membership_config: StoredMembership::new(None, membership).into(),
            committed_membership_config: Default::default(),
        }
    }

    #[test]
    fn a_leader_that_no_quorum_answers_is_none_unless_it_is_the_only_voter() {
        let timing = Timing::lan();
        let long_ago = InstantOf::<TypeConfig>::now() - timing.election_max * 3;
        let data = RaftDataMetrics { last_quorum_acked: Some(long_ago.into()), ..Default::default() };
        let leader = |voters: &[u64]| judge(&leader_of(voters), &data, &Heard::default(), timing).leader;
        assert_eq!(leader(&[1, 2, 3]), None);
        assert_eq!(leader(&[1]), Some(ControllerId(1)));
        assert_eq!(leader(&[2]), None, "it leads, and does not vote");
    }
}
