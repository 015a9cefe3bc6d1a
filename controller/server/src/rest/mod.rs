//! The REST API: thin handlers over the local copy of the state and the proposer. Routes are listed in `pontoon_api`.

mod apps;
mod auth;
mod builds;
mod change;
mod controllers;
mod convert;
mod env;
mod error;
mod event_rows;
mod events;
mod extract;
mod front;
mod labels;
mod limits;
mod logs;
mod machines;
#[cfg(feature = "next-level")]
mod next_level;
mod releases;
mod seen;
mod serve;
mod servos;
mod source;
mod status;
mod trust;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, patch, post, put};
use pontoon_kit::CancellationToken;
use pontoon_model::ControllerName;
use tokio::sync::watch;

use crate::blobs::{BlobStore, Fetcher, Replicator};
use crate::leader::Waiting;
use crate::members::Members;
use crate::raft::{Consensus, Leadership, Proposer, StateFeed};
use crate::sessions::{Heard, Logs};

pub use auth::{MIN_TOKEN, TokenHash};
pub use front::Rest;
pub use limits::Limits;
pub use serve::serve;

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    // Cloned for each request's handler.
    parts: Arc<ApiParts>,
}

impl Api {
    /// Shares `parts`.
    pub fn new(parts: ApiParts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

impl Deref for Api {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.parts
    }
}

/// What is behind an [`Api`].
pub struct ApiParts {
    /// This controller.
    pub name: ControllerName,
    /// sha256 of the bearer token of the configuration, if it has one.
    pub token: Option<TokenHash>,
    /// For the list of members.
    pub consensus: Arc<Consensus>,
    /// Where changes of who the members are go.
    pub(crate) members: Members,
    /// Where this controller keeps its data.
    pub data_dir: PathBuf,
    /// What is read.
    pub feed: StateFeed,
    /// Where changes go.
    pub proposer: Proposer,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Sources and bundles.
    pub store: BlobStore,
    /// Gets sources this controller lacks.
    pub fetcher: Fetcher,
    /// Stores sources on a majority.
    pub replicator: Replicator,
    /// Output of servos and builds.
    pub logs: Logs,
    /// What balancers connected here acknowledged.
    pub heard: Heard,
    /// What apps wait for.
    pub waiting: Waiting,
    /// Bounds what is under way at the same time.
    pub limits: Limits,
    /// Ends streams.
    pub shutdown: CancellationToken,
}

/// All routes, each with its whole path: a nested router would take each request's path and extensions apart and put
/// them together again.
fn routes(api: Api) -> Router {
    let routes = Router::new()
        .route("/v1/status", get(status::show))
        .route("/v1/apps", get(apps::list).post(apps::create))
        .route("/v1/apps/{app}", get(apps::show).delete(apps::destroy))
        .route("/v1/apps/{app}/source", post(source::upload))
        .route("/v1/apps/{app}/builds", post(builds::start))
        .route("/v1/apps/{app}/builds/{build}", get(builds::show))
        .route("/v1/apps/{app}/builds/{build}/log", get(logs::build))
        .route("/v1/apps/{app}/deployments/{deployment}", get(builds::deployment))
        .route("/v1/apps/{app}/releases", get(releases::list))
        .route("/v1/apps/{app}/rollback", post(releases::rollback))
        .route("/v1/apps/{app}/restart", post(releases::restart))
        .route("/v1/apps/{app}/scale", put(apps::scale))
        .route("/v1/apps/{app}/env", get(env::show).patch(env::change))
        .route("/v1/apps/{app}/labels", get(labels::show).patch(labels::change))
        .route("/v1/apps/{app}/run", post(servos::run))
        .route("/v1/apps/{app}/servos", get(servos::list))
        .route("/v1/apps/{app}/servos/{servo}", get(servos::show).delete(servos::end))
        .route("/v1/apps/{app}/servos/{servo}/log", get(logs::servo))
        .route("/v1/apps/{app}/logs", get(logs::app))
        .route("/v1/events", get(events::follow))
        .route("/v1/labels", patch(labels::change_many))
        .route("/v1/hosts", get(machines::hosts))
        .route("/v1/controllers", get(controllers::list))
        .route("/v1/controllers/{controller}", delete(controllers::remove))
        .route("/v1/controllers/{controller}/promote", post(controllers::promote))
        .route("/v1/leader", post(controllers::transfer))
        .route("/v1/balancers", get(machines::balancers))
        .route("/v1/routes", get(machines::routes))
        .route("/v1/join-tokens", get(trust::tokens).post(trust::create_token))
        .route("/v1/join-tokens/{id}", delete(trust::revoke_token))
        .route("/v1/machines", get(trust::machines))
        .route("/v1/machines/{role}/{name}", delete(trust::revoke_machine))
        .route("/v1/ca", get(trust::ca))
        .route("/v1/ca/rotate", post(trust::rotate_ca))
        .route("/v1/ca/retire", post(trust::retire_ca));
    #[cfg(feature = "next-level")]
    let routes = routes.route("/v1/apps/{app}/note", get(next_level::show).put(next_level::change));
    routes.fallback(error::no_such_path).method_not_allowed_fallback(error::no_such_method).with_state(api)
}
