//! Between controllers, Raft apart.

use bytes::Bytes;
use pontoon_model::{BalancerName, ControllerId, HostName, Incarnation};
use serde::{Deserialize, Serialize};

use crate::{BalancerAck, Heartbeat};

/// Commands from a controller that does not lead, to the one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposeRequest {
    /// Enveloped commands, each with its idempotency key (controller/core `Stamped`).
    pub commands: Vec<Bytes>,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProposeReply {
    /// Applied; one enveloped outcome per command (controller/core `Outcome`), and the Raft index.
    Applied {
        /// In the order of the request.
        outcomes: Vec<Bytes>,
        /// Of the entry.
        index: u64,
    },
    /// Not the leader; the leader, if known.
    NotLeader {
        /// Who leads.
        leader: Option<ControllerId>,
    },
    /// Not taken now; nothing was applied.
    Busy {
        /// Why.
        reason: String,
    },
}

/// What a controller heard since its last batch, for the leader's memory; never replicated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayBatch {
    /// Who relays.
    pub from: ControllerId,
    /// Agents it hears.
    pub hosts: Vec<(HostName, Incarnation, Heartbeat)>,
    /// Balancers it hears.
    pub balancers: Vec<(BalancerName, BalancerAck)>,
}

/// The leader's answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// Whether the receiver leads; if not, the batch went to nobody.
    pub accepted: bool,
}
