//! Between controllers, Raft apart.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use pontoon_model::{BalancerName, ControllerId, HostName, Incarnation, Timestamp};
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
    /// The leader changed while they were under way: they may or may not be applied. Asked again with the same keys, they
    /// are applied once.
    Unsure {
        /// Who leads now.
        leader: Option<ControllerId>,
    },
    /// Not before all members can read them; nothing was applied.
    NeedsLevel {
        /// Who holds it back.
        reason: String,
    },
    /// The leader's disk is full; nothing was applied.
    DiskFull {
        /// In a sentence.
        reason: String,
    },
    /// Cannot be proposed at all; nothing was applied.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What can you read?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeRequest {
    /// Who asks.
    pub from: ControllerId,
}

/// What a controller can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The newest feature level it can read and write.
    pub feature_level: u32,
    /// Its version, for people.
    pub version: String,
}

/// How far must I have applied the log, so that a read of mine sees every change that was acknowledged before now?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndexRequest {
    /// Who asks.
    pub from: ControllerId,
}

/// The leader's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadIndexReply {
    /// As far as this.
    Index(u64),
    /// Not the leader; the leader, if known.
    NotLeader {
        /// Who leads.
        leader: Option<ControllerId>,
    },
    /// It does not reach a majority, or too many ask.
    Unavailable {
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

/// A controller whose store is lost or damaged asks the leader. Who asks is in its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RejoinRequest {
    /// Whether it may set its store aside.
    May,
    /// To take its new id in the place of its old one; repeated until it is done.
    Replace {
        /// Its new Raft id.
        new: ControllerId,
        /// Where it answers.
        grpc: SocketAddr,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RejoinReply {
    /// Who was asked does not lead.
    NotLeader {
        /// Who leads, if known.
        leader: Option<ControllerId>,
    },
    /// It may; or its new id votes.
    Yes,
    /// Not yet.
    Wait {
        /// Why.
        why: String,
    },
    /// Never.
    Refused {
        /// Why.
        why: String,
    },
}

/// Which records do you keep of what was asked of you over REST?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRequest {
    /// None that is older.
    pub since: Timestamp,
    /// The newest so many.
    pub limit: u32,
}

/// A controller's records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReply {
    /// JSON as in its files, newest last.
    pub records: Vec<Bytes>,
}

/// Which of the keys that values are sealed with do you have? And keep this one, if there is any.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKeysRequest {
    /// Who asks.
    pub from: ControllerId,
    /// A key that is to come into use once a majority has it.
    pub offered: Option<Bytes>,
}

impl fmt::Debug for SealingKeysRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeysRequest {{ from: {:?}, offered: {} }}", self.from, self.offered.is_some())
    }
}

/// The keys that a controller has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKeysReply {
    /// Whether the one that was offered is on its disk.
    pub kept: bool,
    /// Those of the keys that its state names.
    pub keys: Vec<Bytes>,
}

impl fmt::Debug for SealingKeysReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeysReply {{ kept: {}, keys: {} }}", self.kept, self.keys.len())
    }
}
