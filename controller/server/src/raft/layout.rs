//! Frozen layouts of openraft's types: what is stored and sent never depends on a dependency's structs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::vote::{RaftLeaderId, RaftVote};
use pontoon_model::ControllerName;
use pontoon_model::wire::{self, Wire, WireError};
use serde::{Deserialize, Serialize};

use super::types::{Entry, EntryBytes, LogId, Membership, Peer, SnapshotMeta, StoredMembership, TypeConfig, Vote};

type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;

/// A vote: for whom, in which term, and whether a quorum granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VoteRecord {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id().term(), node: *vote.leader_id().node_id(), committed: vote.is_committed() }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        Vote::from_leader_id(LeaderId::new(record.term, record.node), record.committed)
    }
}

/// Where an entry stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogIdRecord {
    term: u64,
    index: u64,
}

impl LogIdRecord {
    /// Whether who leads by `vote` cannot have written it.
    pub(super) fn is_after_term_of(&self, vote: &VoteRecord) -> bool {
        self.term > vote.term
    }
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> Self {
        Self { term: **id.committed_leader_id(), index: id.index() }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        LogId::new(CommittedLeaderId::new(record.term), record.index)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PeerRecord {
    name: ControllerName,
    grpc: SocketAddr,
}

/// Voters (two sets while they change) and the addresses of all members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembershipRecord {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, PeerRecord>,
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        let record = |peer: &Peer| PeerRecord { name: peer.name.clone(), grpc: peer.grpc };
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, peer)| (*id, record(peer))).collect(),
        }
    }
}

impl TryFrom<MembershipRecord> for Membership {
    type Error = WireError;
    fn try_from(record: MembershipRecord) -> Result<Self, WireError> {
        if record.configs.is_empty() {
            return Ok(Membership::default());
        }
        let peer = |peer: PeerRecord| Peer { name: peer.name, grpc: peer.grpc };
        let nodes: BTreeMap<u64, Peer> = record.nodes.into_iter().map(|(id, node)| (id, peer(node))).collect();
        Membership::new(record.configs, nodes).map_err(|_| WireError::Malformed("a membership without its voters"))
    }
}

/// A membership and the entry that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMembershipRecord {
    log_id: Option<LogIdRecord>,
    membership: MembershipRecord,
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotMetaRecord {
    last: Option<LogIdRecord>,
    membership: StoredMembershipRecord,
}

impl From<&SnapshotMeta> for SnapshotMetaRecord {
    fn from(meta: &SnapshotMeta) -> Self {
        let stored = &meta.last_membership;
        Self {
            last: meta.last_log_id.as_ref().map(LogIdRecord::from),
            membership: StoredMembershipRecord {
                log_id: stored.log_id().as_ref().map(LogIdRecord::from),
                membership: stored.membership().into(),
            },
        }
    }
}

impl TryFrom<SnapshotMetaRecord> for SnapshotMeta {
    type Error = WireError;
    fn try_from(record: SnapshotMetaRecord) -> Result<Self, WireError> {
        let membership = record.membership.membership.try_into()?;
        Ok(SnapshotMeta {
            last_log_id: record.last.map(LogId::from),
            last_membership: StoredMembership::new(record.membership.log_id.map(LogId::from), membership),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum PayloadRecord {
    Blank,
    Commands(Bytes),
    Membership(MembershipRecord),
}

/// One entry of the log, stored and sent in the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct EntryRecord {
    id: LogIdRecord,
    payload: PayloadRecord,
}

// Kinds of the controllers' Raft are 600–649; the files of the log store and the messages have theirs beside them.
pontoon_model::wire! {
    602, 1 => VoteRecord;
    603, 1 => LogIdRecord;
    607, 1 => EntryRecord;
}

/// The bytes of an entry.
pub(super) fn encode_entry(entry: &Entry) -> Result<Vec<u8>, WireError> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadRecord::Blank,
        EntryPayload::Normal(EntryBytes(bytes)) => PayloadRecord::Commands(bytes.clone()),
        EntryPayload::Membership(membership) => PayloadRecord::Membership(membership.into()),
    };
    wire::encode(&EntryRecord { id: (&entry.log_id).into(), payload })
}

/// Reads what [`encode_entry`] wrote.
pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, WireError> {
    let record: EntryRecord = wire::decode(bytes)?;
    let payload = match record.payload {
        PayloadRecord::Blank => EntryPayload::Blank,
        PayloadRecord::Commands(bytes) => EntryPayload::Normal(EntryBytes(bytes)),
        PayloadRecord::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
    };
    Ok(Entry { log_id: record.id.into(), payload })
}

/// Reads one stored value.
pub(super) fn decode_as<R: Wire, T: From<R>>(bytes: &[u8]) -> Result<T, WireError> {
    wire::decode::<R>(bytes).map(T::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term), index)
    }

    fn membership() -> Membership {
        let peer = Peer { name: "a".parse().unwrap(), grpc: "127.0.0.1:7711".parse().unwrap() };
        Membership::new(vec![BTreeSet::from([7])], BTreeMap::from([(7, peer)])).unwrap()
    }

    #[test]
    fn golden_bytes_of_a_vote_and_a_log_id() {
        let vote = Vote::from_leader_id(LeaderId::new(3, 9), true);
        let bytes = wire::encode(&VoteRecord::from(&vote)).unwrap();
        assert_eq!(hex(&bytes), "b75a02010011000000d5db5a180300000000000000090000000000000001");
        assert_eq!(decode_as::<VoteRecord, Vote>(&bytes).unwrap(), vote);

        let bytes = wire::encode(&LogIdRecord::from(&log_id(3, 258))).unwrap();
        assert_eq!(hex(&bytes), "b75b02010010000000928eb20103000000000000000201000000000000");
        assert_eq!(decode_as::<LogIdRecord, LogId>(&bytes).unwrap(), log_id(3, 258));
    }

    #[test]
    fn golden_bytes_of_entries() {
        let entry = |payload| Entry { log_id: log_id(1, 2), payload };
        for (payload, golden) in [
            (EntryPayload::Blank, "00000000"),
            (EntryPayload::Normal(EntryBytes(Bytes::from_static(b"abc"))), "010000000300000000000000616263"),
            (
                EntryPayload::Membership(membership()),
                "02000000010000000000000001000000000000000700000000000000010000000000000007000000000000000100000000000000\
                 61000000007f0000011f1e",
            ),
        ] {
            let entry = entry(payload);
            let bytes = encode_entry(&entry).unwrap();
            assert_eq!(hex(&bytes[..5]), "b75f020100");
            assert_eq!(hex(&bytes[13..29]), "01000000000000000200000000000000");
            assert_eq!(hex(&bytes[29..]), golden);
            assert_eq!(decode_entry(&bytes).unwrap(), entry);
        }
    }

    #[test]
    fn an_empty_membership_reads_back() {
        let meta = SnapshotMeta::default();
        assert_eq!(SnapshotMeta::try_from(SnapshotMetaRecord::from(&meta)).unwrap(), meta);
    }
}
