//! Machines with an agent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{HostName, Incarnation, MemoryBytes, SiteName, Timestamp};

/// A machine with an agent, in a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Unique in the cluster.
    pub name: HostName,
    /// Where it stands.
    pub site: SiteName,
    /// When its agent's session last began: from then on it is missed when silent.
    pub registered_at: Timestamp,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// Raft index of the last change of what it shall run: its assignment's generation.
    pub generation: u64,
    /// Which start of its agent is the current one.
    pub incarnation: Incarnation,
    /// Whether it is heard.
    pub state: HostState,
    /// What it offers.
    pub capacity: Capacity,
    /// How it runs servos.
    pub runtime: RuntimeKind,
}

impl Host {
    /// Whether its machine was revoked, and no agent with another key has come since: agents count their starts from one.
    pub fn is_shut_out(&self) -> bool {
        self.incarnation == Incarnation(0) && self.state == HostState::Lost
    }
}

/// What a host offers to servos and builds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Memory for servos, without what the system and containers that are not ours use.
    pub memory: MemoryBytes,
    /// Cores, in thousandths.
    pub cpu: crate::CpuMillis,
}

/// Whether a host is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostState {
    /// Heard within the last seconds.
    Up,
    /// Silent for a few seconds: gets no new servo.
    Suspect,
    /// Silent for longer: its servos are placed elsewhere.
    Lost,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
        })
    }
}

/// How an agent runs servos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Containers of a Docker engine.
    Docker,
    /// Child processes: no isolation, no builds.
    Process,
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Docker => "docker",
            Self::Process => "process",
        })
    }
}
