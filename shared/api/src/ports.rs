//! Ports of balancers at which processes are reached that do not speak HTTP.

use pontoon_model::{AppName, BalancerName, ProcessName, ProxyHeader};
use serde::{Deserialize, Serialize};

/// A process shall be reached at a port of every balancer. One that has a port keeps it; what is absent gets its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPort {
    /// Which process type; `tcp` if absent.
    #[serde(default)]
    pub process: Option<ProcessName>,
    /// Which port; without it one that is free.
    #[serde(default)]
    pub port: Option<u16>,
    /// Whether servos are told first whose a connection is: `off`, `v1` or `v2` of the PROXY protocol.
    #[serde(default)]
    pub proxy_protocol: ProxyHeader,
    /// After how long without a byte a connection is ended, in milliseconds; 0: never.
    #[serde(default)]
    pub idle_ms: u32,
    /// Connections at the same time, per balancer; 1,000 if absent.
    #[serde(default)]
    pub connections: Option<u32>,
}

/// A port that leads to an app's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Which.
    pub port: u16,
    /// Whose.
    pub app: AppName,
    /// To the servos of which process type.
    pub process: ProcessName,
    /// `off`, `v1` or `v2`.
    pub proxy_protocol: ProxyHeader,
    /// In milliseconds; 0: never.
    pub idle_ms: u32,
    /// Per balancer.
    pub connections: u32,
    /// Unix milliseconds.
    pub added_at: u64,
    /// What the balancers say that are connected to the controller which answers.
    pub balancers: Vec<PortAt>,
}

/// A port at one balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAt {
    /// Which.
    pub balancer: BalancerName,
    /// Whether it listens there.
    pub listening: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
