//! Between an agent and the controller it is connected to.

use pontoon_model::{
    Assignment, BuildId, BuildOutcome, Capacity, HostName, Incarnation, MemoryBytes, RuntimeKind, ServoReport, SiteName,
};
use serde::{Deserialize, Serialize};

use crate::{KnownController, LogRequest, TrustNow};

/// From an agent. The first message of a session is `Hello`; right after it the agent reports all its servos.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// Who speaks.
    Hello(AgentHello),
    /// Sent every second.
    Heartbeat(Heartbeat),
    /// Servos whose status changed; after `Hello`, every servo the agent has.
    /// The controller keeps proposing them until they are committed.
    Servos(Vec<ServoReport>),
    /// A build ended; repeated after each `Hello` until the build leaves the assignment.
    Build(BuildReport),
}

/// Who an agent is and what its host offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The host's name.
    pub host: HostName,
    /// Where it stands.
    pub site: SiteName,
    /// Grows with each start of this agent.
    pub incarnation: Incarnation,
    /// What it offers.
    pub capacity: Capacity,
    /// How it runs servos.
    pub runtime: RuntimeKind,
    /// The newest assignment it knows: its generation, or 0.
    pub generation: u64,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Grows by one within a session.
    pub sequence: u64,
    /// Memory no process uses.
    pub free_memory: MemoryBytes,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Which.
    pub build: BuildId,
    /// How.
    pub outcome: BuildOutcome,
}

/// To an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentDirective {
    /// Everything the host shall run; sent after `Hello` and at every change.
    Assignment(Assignment),
    /// Somebody wants to read a log: open `PushLog` and send it under `stream`.
    LogWanted {
        /// Chosen by the controller.
        stream: u64,
        /// Which log, from where.
        request: LogRequest,
    },
    /// Nobody reads `stream` any more.
    LogUnwanted {
        /// As in `LogWanted`.
        stream: u64,
    },
    /// This controller has lost the others: go to another one.
    GoElsewhere,
    /// Where the controllers are; sent after `Hello` and at every change, only to who says that it reads this
    /// ([`crate::known::READS`]).
    Controllers {
        /// All of them.
        known: Vec<KnownController>,
    },
    /// Whom to trust; only to who says that it reads this.
    Trust(TrustNow),
}
