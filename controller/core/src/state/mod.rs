//! The replicated state: tables of immutable rows, shared between versions, and indexes derived from them.

mod acme;
mod anew;
mod answers;
mod changes;
mod difference;
mod edge;
mod names;
mod read;
mod recent;
mod records;
mod sealing;
mod tables;
mod trust;
mod unsettled;

use imbl::{OrdMap, OrdSet};
use pontoon_model::{
    ApiToken, App, AppName, Balancer, BalancerName, Build, BuildId, ChosenTiming, Controller, ControllerId, Deployment,
    DeploymentId, Digest, Host, HostName, Release, ReleaseNumber, RouteVersion, Servo, ServoId, Timestamp, TokenId,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::level;

pub use acme::Acme;
pub(crate) use answers::{Answers, Seen};
pub use answers::{CLIENT_KEPT, CLIENT_KEPT_FOR, KEPT};
pub(crate) use changes::Touched;
pub use changes::{Change, Row, RowKey};
pub use edge::Edge;
pub use trust::Trust;

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
    pub(crate) api_tokens: OrdMap<TokenId, Arc<ApiToken>>,
    pub(crate) answers: Answers,
    pub(crate) trust: Arc<Trust>,
    pub(crate) edge: Arc<Edge>,
    pub(crate) acme: Arc<Acme>,
    pub(crate) timing: Option<ChosenTiming>,
    // Derived row by row, never serialized; `check::violations` compares them with a full recomputation.
    pub(crate) servos_by_app: OrdSet<(AppName, ServoId)>,
    pub(crate) servos_by_host: OrdSet<(HostName, ServoId)>,
    pub(crate) tokens_by_hash: OrdMap<Digest, Arc<ApiToken>>,
    pub(crate) unsettled: unsettled::Unsettled,
    // What the newest entry wrote.
    pub(crate) touched: Touched,
}

/// The scalar part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What may be written, see [`crate::level`].
    pub feature_level: u32,
    /// Index of the newest entry any of whose answers was forgotten.
    pub answers_forgotten_upto: u64,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            index: 0,
            time: Timestamp::default(),
            last_id: 0,
            route_version: RouteVersion::default(),
            settings: Settings::default(),
            feature_level: level::FIRST,
            answers_forgotten_upto: 0,
        }
    }
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
