//! Controllers, as people see them; Raft's own membership is kept by openraft.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{ControllerId, ControllerName, SiteName};

/// A controller that has announced itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Its Raft id.
    pub id: ControllerId,
    /// Its name.
    pub name: ControllerName,
    /// Where it stands.
    pub site: SiteName,
    /// Its gRPC address, for controllers, agents and balancers.
    pub grpc: SocketAddr,
    /// Its REST address, for people and programs.
    pub rest: SocketAddr,
    /// Raft index of the last change of this row.
    pub version: u64,
}
