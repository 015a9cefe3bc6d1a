//! The replicated state: tables of immutable rows, shared between versions, and indexes derived from them.

mod difference;
mod read;
mod records;
mod tables;
mod unsettled;

use imbl::{OrdMap, OrdSet};
use pontoon_model::{
    App, AppName, Balancer, BalancerName, Build, BuildId, Controller, ControllerId, Deployment, DeploymentId, Host,
    HostName, IdempotencyKey, Release, ReleaseNumber, RouteVersion, Servo, ServoId, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::Outcome;

/// Everything the controllers agree on. `clone` is O(1): maps are structurally shared, rows are in `Arc`s.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub(crate) header: Header,
    pub(crate) apps: OrdMap<AppName, Arc<App>>,
    pub(crate) releases: OrdMap<(AppName, ReleaseNumber), Arc<Release>>,
    pub(crate) builds: OrdMap<BuildId, Arc<Build>>,
    pub(crate) deployments: OrdMap<DeploymentId, Arc<Deployment>>,
    pub(crate) servos: OrdMap<ServoId, Arc<Servo>>,
    pub(crate) hosts: OrdMap<HostName, Arc<Host>>,
    pub(crate) balancers: OrdMap<BalancerName, Arc<Balancer>>,
    pub(crate) controllers: OrdMap<ControllerId, Arc<Controller>>,
    pub(crate) answered: OrdMap<IdempotencyKey, Answered>,
    // Derived row by row, never serialized; `check::violations` compares them with a full recomputation.
    pub(crate) servos_by_app: OrdSet<(AppName, ServoId)>,
    pub(crate) servos_by_host: OrdSet<(HostName, ServoId)>,
    pub(crate) answered_by_time: OrdSet<(Timestamp, IdempotencyKey)>,
    pub(crate) unsettled: unsettled::Unsettled,
}

/// The scalar part of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Raft index of the last applied entry.
    pub index: u64,
    /// Its time.
    pub time: Timestamp,
    /// The last id given to a servo, build or deployment.
    pub last_id: u64,
    /// Raft index of the last change of any route.
    pub route_version: RouteVersion,
    /// Cluster-wide settings.
    pub settings: Settings,
}

/// Cluster-wide settings, changed by command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Default host names are `APP.BASE_DOMAIN`.
    pub base_domain: String,
}

impl Default for Settings {
    /// `localhost`: browsers and curl resolve every name below it to the machine itself.
    fn default() -> Self {
        Self { base_domain: "localhost".into() }
    }
}

/// What was answered to a key, so that a retry gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub at: Timestamp,
    pub outcome: Outcome,
}
