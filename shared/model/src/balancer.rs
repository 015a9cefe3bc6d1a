//! Balancers, as the cluster knows them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{BalancerName, SiteName, Timestamp};

/// A registered balancer: it must acknowledge a route version before a servo of an older one is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancer {
    /// Unique in the cluster.
    pub name: BalancerName,
    /// Where it stands.
    pub site: SiteName,
    /// When it first registered.
    pub registered_at: Timestamp,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// Where users reach it.
    pub listen: SocketAddr,
}
