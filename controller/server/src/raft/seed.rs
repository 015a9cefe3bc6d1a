//! A cluster that begins with a state instead of nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pontoon_core::State;

use super::config::Member;
use super::snapshot::{SnapshotError, SnapshotStore};
use super::types::{LogId, Membership, Peer, SnapshotMeta, StoredMembership, TypeConfig};

type Committed = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;

/// Puts `state` where a controller that starts for the first time on `data_dir` finds it, as the snapshot of a cluster of
/// `members`. Every member must be given the same state before any of them starts.
pub fn seed(data_dir: &Path, members: &[Member], state: &State) -> Result<(), SnapshotError> {
    seed_into(&data_dir.join("raft").join("snapshots"), members, state)
}

/// The same into a folder of snapshots.
pub(super) fn seed_into(folder: &Path, members: &[Member], state: &State) -> Result<(), SnapshotError> {
    // Before any election, as the entry is that makes an empty cluster.
    let last = LogId::new(Committed::new(0), state.index());
    let voters: BTreeSet<u64> = members.iter().map(|member| member.id.0).collect();
    let peer = |member: &Member| (member.id.0, Peer { name: member.name.clone(), grpc: member.grpc });
    let peers: BTreeMap<u64, Peer> = members.iter().map(peer).collect();
    let membership = Membership::new(vec![voters], peers).unwrap_or_default();
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), membership) };
    let store = SnapshotStore::open(folder)?;
    store.build(&meta, state).map(drop)
}
