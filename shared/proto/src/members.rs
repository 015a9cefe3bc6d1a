//! Between controllers: who is one of them, and how each of them is.

use std::net::SocketAddr;

use pontoon_model::{BalancerName, ControllerId, ControllerName, MachineRole, RouteVersion};
use serde::{Deserialize, Serialize};

/// A change of who the controllers are, asked of the leader again and again until it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipRequest {
    /// To let the caller in. Its name is in its certificate.
    Join {
        /// Its Raft id.
        id: ControllerId,
        /// Where it answers.
        grpc: SocketAddr,
        /// Whether it shall vote, or follow only.
        voter: bool,
        /// Whether its store holds nothing: then it cannot be a member that was here before.
        empty: bool,
    },
    /// To let a member vote that follows only.
    Promote {
        /// Which.
        name: ControllerName,
    },
    /// To leave a member out for good.
    Remove {
        /// Which.
        name: ControllerName,
        /// Even if those that stay are no majority now.
        force: bool,
    },
    /// To hand leadership over.
    Transfer {
        /// To whom; without it to who has most of the log.
        to: Option<ControllerName>,
    },
    /// Whether `id` is a member.
    Standing {
        /// Who asks for itself.
        id: ControllerId,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipReply {
    /// Who was asked does not lead.
    NotLeader {
        /// Who leads, if known.
        leader: Option<ControllerId>,
    },
    /// It is done; or it is a member.
    Done,
    /// Not yet.
    Wait {
        /// How far it is.
        why: String,
    },
    /// Never.
    Refused {
        /// Why.
        why: String,
    },
    /// There is no such member.
    Unknown {
        /// In which term: who has seen a later one must not believe it.
        term: u64,
        /// In a sentence.
        why: String,
    },
}

/// How are you?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectRequest {
    /// Who asks.
    pub from: ControllerId,
}

/// How long is the way to you, and how slow is your disk?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasureRequest {
    /// Who asks.
    pub from: ControllerId,
}

/// A controller's timing and what it has measured. The answer comes at once: how long it took is a measurement, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredReply {
    /// A slow flush of its log, in microseconds, as all below.
    pub flush_us: u64,
    /// Between two signs of life of a leader, as in force at this controller.
    pub heartbeat_us: u64,
    /// The shortest silence before an election.
    pub election_min_us: u64,
    /// The longest.
    pub election_max_us: u64,
    /// Whether these are what the leader chose for all.
    pub auto: bool,
    /// Round trips from it to others.
    pub round_trips_us: Vec<(ControllerId, u64)>,
    /// Why its timing is too short, if it is.
    pub warning: Option<String>,
}

/// Which agents and balancers are connected to you?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedRequest {
    /// Who asks.
    pub from: ControllerId,
}

/// The agents and balancers that are connected to a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedReply {
    /// By role and name.
    pub machines: Vec<ConnectedMachine>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedMachine {
    /// Agent or balancer.
    pub role: MachineRole,
    /// Its name.
    pub name: String,
    /// Its version, if it says so.
    pub version: Option<String>,
}

/// How far are the balancers that are connected to you, of what they know besides the routes?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeProgressRequest {
    /// Who asks.
    pub from: ControllerId,
}

/// The balancers that are connected to a controller and follow what there is besides the routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeProgress {
    /// By name; version 0 before they have said anything.
    pub balancers: Vec<(BalancerName, RouteVersion)>,
}

/// How a controller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Its version, for people.
    pub version: String,
    /// The newest feature level it can read and write.
    pub feature_level: u32,
    /// Raft's term.
    pub term: u64,
    /// Up to where it has applied the log.
    pub applied: u64,
    /// The end of its log.
    pub last: u64,
    /// Bytes free where it keeps its data.
    pub free_disk: u64,
    /// Its clock when it answered: milliseconds since 1970.
    pub clock: u64,
    /// Sources and bundles that the state refers to and that it does not have.
    pub missing_blobs: u64,
}
