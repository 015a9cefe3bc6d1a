//! The REST API: thin handlers over the local copy of the state and the proposer. Routes are listed in `pontoon_api`.

mod apps;
mod auth;
mod builds;
mod change;
mod convert;
mod env;
mod error;
mod event_rows;
mod events;
mod extract;
mod labels;
mod limits;
mod logs;
mod machines;
#[cfg(feature = "next-level")]
mod next_level;
mod releases;
mod seen;
mod servos;
mod source;
mod status;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, patch, post, put};
use axum::{Router, middleware};
use pontoon_kit::CancellationToken;
use pontoon_model::ControllerName;
use tokio::sync::watch;

use crate::blobs::{BlobStore, Fetcher, Replicator};
use crate::leader::Waiting;
use crate::raft::{Consensus, Leadership, Proposer, StateFeed};
use crate::sessions::{Heard, Logs};

pub use auth::{MIN_TOKEN, TokenHash};
pub use limits::Limits;

/// Largest JSON body: an environment of 128 KiB, every character escaped.
const MAX_JSON: usize = 1024 * 1024;

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    // Cloned several times per request: for each layer that a request passes, and for its handler.
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
    /// sha256 of the bearer token.
    pub token: TokenHash,
    /// For the list of members.
    pub consensus: Arc<Consensus>,
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

/// All routes.
pub fn router(api: Api) -> Router {
    let app = Router::new()
        .route("/", get(apps::show).delete(apps::destroy))
        .route("/source", post(source::upload).layer(DefaultBodyLimit::disable()))
        .route("/builds", post(builds::start))
        .route("/builds/{build}", get(builds::show))
        .route("/builds/{build}/log", get(logs::build))
        .route("/deployments/{deployment}", get(builds::deployment))
        .route("/releases", get(releases::list))
        .route("/rollback", post(releases::rollback))
        .route("/restart", post(releases::restart))
        .route("/scale", put(apps::scale))
        .route("/env", get(env::show).patch(env::change))
        .route("/labels", get(labels::show).patch(labels::change))
        .route("/run", post(servos::run))
        .route("/servos", get(servos::list))
        .route("/servos/{servo}", get(servos::show).delete(servos::end))
        .route("/servos/{servo}/log", get(logs::servo))
        .route("/logs", get(logs::app));
    #[cfg(feature = "next-level")]
    let app = app.route("/note", get(next_level::show).put(next_level::change));
    let version1 = Router::new()
        .route("/status", get(status::show))
        .route("/apps", get(apps::list).post(apps::create))
        .nest("/apps/{app}", app)
        .route("/events", get(events::follow))
        .route("/labels", patch(labels::change_many))
        .route("/hosts", get(machines::hosts))
        .route("/controllers", get(machines::controllers))
        .route("/balancers", get(machines::balancers))
        .route("/routes", get(machines::routes));
    Router::new()
        .nest("/v1", version1)
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(middleware::from_fn(seen::show))
        .layer(middleware::from_fn_with_state(api.clone(), limits::check))
        .layer(middleware::from_fn_with_state(api.clone(), auth::check))
        .with_state(api)
}
