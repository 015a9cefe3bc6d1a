//! What the leader has heard and does not replicate.

use std::collections::BTreeMap;

use pontoon_model::{BalancerName, HostName, Incarnation, MemoryBytes, RouteVersion, Timestamp};

/// The leader's memory of signs of life. Empty after an election: `PlanInput::leader_since` gives grace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// By host.
    pub hosts: BTreeMap<HostName, HostSign>,
    /// By balancer.
    pub balancers: BTreeMap<BalancerName, BalancerSign>,
}

/// The last sign of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSign {
    /// Which start of the agent.
    pub incarnation: Incarnation,
    /// By the leader's clock.
    pub heard_at: Timestamp,
    /// Memory no process uses.
    pub free_memory: MemoryBytes,
}

/// The last sign of a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancerSign {
    /// It routes by this version or a newer one.
    pub applied: RouteVersion,
    /// No request is in flight to what this version or an older one removed.
    pub drained: RouteVersion,
    /// By the leader's clock.
    pub heard_at: Timestamp,
}
