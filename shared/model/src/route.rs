//! What balancers read: host name → servos.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{AppName, ProcessName, ReleaseNumber, RouteVersion, ServoId, SiteName};

/// All routes at one version. Host names are lower case, without port, each at most once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Raft index of the last change of any route.
    pub version: RouteVersion,
    /// The routes, ordered by host name.
    pub routes: Vec<Arc<Route>>,
}

/// One host name and the servos that answer for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// As in the `Host` header: lower case, no port. Or [`Route::name_of_process`].
    pub host: String,
    /// Whose.
    pub app: AppName,
    /// The live release; none when nothing was deployed yet.
    pub release: Option<ReleaseNumber>,
    /// May be empty: the balancer then answers 503 with `reason`.
    pub servos: Vec<RouteServo>,
    /// Why there is no servo, for the 503 page; empty otherwise.
    pub reason: String,
}

impl Route {
    /// The reason for no servo when there may be one soon: requests wait then.
    pub const NOT_READY: &str = "none of its servos is ready";

    /// What stands in place of the host name in the route of a process that is reached by a port. No request can name it:
    /// a host name has no `:`.
    pub fn name_of_process(app: &AppName, process: &ProcessName) -> String {
        format!("{process}:{app}")
    }
}

/// One servo that takes traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteServo {
    /// Which.
    pub id: ServoId,
    /// Where it stands.
    pub site: SiteName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its host fell silent: try it after the others.
    pub suspect: bool,
}
