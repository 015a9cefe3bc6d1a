//! openraft's type parameters, as Pontoon uses them.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use pontoon_core::Outcome;
use pontoon_model::ControllerName;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// One leader per term, as in the Raft paper, so that a term names its leader.
    pub TypeConfig:
        D = EntryBytes,
        R = Applied,
        NodeId = u64,
        Node = Peer,
        AsyncRuntime = super::runtime::Runtime,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// The running consensus of this controller.
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(super) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Peer>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// An encoded `pontoon_core::Entry`: Raft carries it and does not look inside.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBytes(pub Bytes);

impl fmt::Debug for EntryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of commands", self.0.len())
    }
}

impl fmt::Display for EntryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry brought about: one outcome per command, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Empty for entries of Raft's own.
    pub outcomes: Vec<Outcome>,
}

/// Another controller, as Raft's membership knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// As people see it.
    pub name: ControllerName,
    /// Where it answers.
    pub grpc: SocketAddr,
}

// openraft's storage suite makes nodes of its own.
#[cfg(test)]
impl Default for Peer {
    fn default() -> Self {
        Self { name: "test".parse().unwrap(), grpc: SocketAddr::from(([127, 0, 0, 1], 1)) }
    }
}
