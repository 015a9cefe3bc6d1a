//! The REST API: thin handlers over the local copy of the state and the proposer. Routes are listed in `pontoon_api`.

mod acme;
mod apps;
mod audit;
mod auth;
mod backup;
mod beside;
mod builds;
mod caller;
mod change;
mod controllers;
mod convert;
mod edge;
mod elsewhere;
mod env;
mod error;
mod event_rows;
mod events;
mod extract;
mod failures;
mod front;
mod gather;
mod guard;
mod labels;
mod large;
mod limits;
mod logs;
mod machines;
#[cfg(feature = "next-level")]
mod next_level;
mod ports;
mod releases;
mod requests;
mod sealing;
mod seen;
mod serve;
mod servos;
mod source;
mod status;
mod tls;
mod tokens;
mod trust;
mod upgrade;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;
use pontoon_api::Endpoint;
use pontoon_kit::CancellationToken;
use pontoon_model::{ApiToken, ControllerName};
use tokio::sync::watch;

use crate::audit::AuditLog;
use crate::blobs::{BlobStore, Fetcher, Replicator};
use crate::leader::Waiting;
use crate::members::Members;
use crate::raft::{Consensus, Leadership, Proposer, StateFeed};
use crate::requests::Requests;
use crate::sealing::SealingKeys;
use crate::sessions::{Connected, Heard, Logs, Tails};
use crate::tokens::TokenUses;

pub use auth::{MIN_TOKEN, TokenHash};
pub use failures::Failures;
pub use front::Rest;
pub use limits::Limits;
pub use serve::serve;
pub use tls::{Tls, TlsError, TlsFiles};

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    // Cloned for each request's handler.
    parts: Arc<(ApiParts, Derived)>,
}

/// What follows from the parts.
struct Derived {
    /// Stands for the token of the file until it is committed.
    first_token: Option<Arc<ApiToken>>,
}

impl Api {
    /// Shares `parts`.
    pub fn new(parts: ApiParts) -> Self {
        let first_token = parts.token.map(auth::first_token);
        Self { parts: Arc::new((parts, Derived { first_token })) }
    }
}

impl Deref for Api {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.parts.0
    }
}

impl Api {
    fn first_token(&self) -> Option<&Arc<ApiToken>> {
        self.parts.1.first_token.as_ref()
    }
}

/// What is behind an [`Api`].
pub struct ApiParts {
    /// This controller.
    pub name: ControllerName,
    /// sha256 of the token file's token, if there is one: good until the cluster has tokens of its own.
    pub token: Option<TokenHash>,
    /// Tokens that were used.
    pub uses: TokenUses,
    /// Failed authentications.
    pub failures: Failures,
    /// Records of changes.
    pub audit: AuditLog,
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
    /// Which agents and balancers are connected here.
    pub connected: Connected,
    /// What those balancers tell of requests.
    pub requests: Requests,
    /// Requests as they are answered.
    pub tails: Tails,
    /// What balancers connected here acknowledged.
    pub heard: Heard,
    /// What apps wait for.
    pub waiting: Waiting,
    /// Bounds what is under way at the same time.
    pub limits: Limits,
    /// First and last of the ports that apps' processes get.
    pub tcp_ports: (u16, u16),
    /// Seals what is set, and opens what is shown.
    pub sealing: SealingKeys,
    /// Ends streams.
    pub shutdown: CancellationToken,
}

/// The handler of each endpoint, behind what the endpoint asks of the token.
fn handler(endpoint: Endpoint) -> MethodRouter<Api> {
    use guard::route;
    match endpoint {
        Endpoint::ShowStatus => route(endpoint, status::show),
        Endpoint::ListApps => route(endpoint, apps::list),
        Endpoint::CreateApp => route(endpoint, apps::create),
        Endpoint::ShowApp => route(endpoint, apps::show),
        Endpoint::DestroyApp => route(endpoint, apps::destroy),
        Endpoint::UploadSource => route(endpoint, source::upload),
        Endpoint::StartBuild => route(endpoint, builds::start),
        Endpoint::ShowBuild => route(endpoint, builds::show),
        Endpoint::BuildLog => route(endpoint, logs::build),
        Endpoint::ShowDeployment => route(endpoint, builds::deployment),
        Endpoint::ListReleases => route(endpoint, releases::list),
        Endpoint::Rollback => route(endpoint, releases::rollback),
        Endpoint::Restart => route(endpoint, releases::restart),
        Endpoint::SetScale => route(endpoint, apps::scale),
        Endpoint::ShowEnv => route(endpoint, env::show),
        Endpoint::ChangeEnv => route(endpoint, env::change),
        Endpoint::ShowLabels => route(endpoint, labels::show),
        Endpoint::ChangeLabels => route(endpoint, labels::change),
        Endpoint::ChangeManyLabels => route(endpoint, labels::change_many),
        Endpoint::RunOneOff => route(endpoint, servos::run),
        Endpoint::ListServos => route(endpoint, servos::list),
        Endpoint::ShowServo => route(endpoint, servos::show),
        Endpoint::EndOneOff => route(endpoint, servos::end),
        Endpoint::ServoLog => route(endpoint, logs::servo),
        Endpoint::AppLogs => route(endpoint, logs::app),
        Endpoint::ShowRequests => route(endpoint, requests::show),
        Endpoint::TailRequests => route(endpoint, requests::tail),
        Endpoint::FollowEvents => route(endpoint, events::follow),
        Endpoint::ListDomains => route(endpoint, edge::domains),
        Endpoint::AddDomain => route(endpoint, edge::add_domain),
        Endpoint::RemoveDomain => route(endpoint, edge::remove_domain),
        Endpoint::ShowTraffic => route(endpoint, edge::traffic),
        Endpoint::ChangeTraffic => route(endpoint, edge::change_traffic),
        Endpoint::ListBeside => route(endpoint, beside::list),
        Endpoint::SetBeside => route(endpoint, beside::set),
        Endpoint::PromoteBeside => route(endpoint, beside::promote),
        Endpoint::StopBeside => route(endpoint, beside::stop),
        Endpoint::ListPorts => route(endpoint, ports::list),
        Endpoint::AddPort => route(endpoint, ports::add),
        Endpoint::RemovePort => route(endpoint, ports::remove),
        Endpoint::ListCertificates => route(endpoint, edge::certificates),
        Endpoint::PutCertificate => route(endpoint, edge::put_certificate),
        Endpoint::RemoveCertificate => route(endpoint, edge::remove_certificate),
        Endpoint::ShowAcme => route(endpoint, acme::show),
        Endpoint::SetAcme => route(endpoint, acme::set),
        Endpoint::EndAcme => route(endpoint, acme::end),
        Endpoint::RetryOrders => route(endpoint, acme::retry),
        Endpoint::ListHosts => route(endpoint, machines::hosts),
        Endpoint::ListControllers => route(endpoint, controllers::list),
        Endpoint::RemoveController => route(endpoint, controllers::remove),
        Endpoint::PromoteController => route(endpoint, controllers::promote),
        Endpoint::TransferLeader => route(endpoint, controllers::transfer),
        Endpoint::ListJoinTokens => route(endpoint, trust::tokens),
        Endpoint::CreateJoinToken => route(endpoint, trust::create_token),
        Endpoint::RevokeJoinToken => route(endpoint, trust::revoke_token),
        Endpoint::ListMachines => route(endpoint, trust::machines),
        Endpoint::RevokeMachine => route(endpoint, trust::revoke_machine),
        Endpoint::ShowCa => route(endpoint, trust::ca),
        Endpoint::RotateCa => route(endpoint, trust::rotate_ca),
        Endpoint::RetireCa => route(endpoint, trust::retire_ca),
        Endpoint::ListBalancers => route(endpoint, machines::balancers),
        Endpoint::ListRoutes => route(endpoint, machines::routes),
        Endpoint::ShowOwnToken => route(endpoint, tokens::own),
        Endpoint::ListTokens => route(endpoint, tokens::list),
        Endpoint::CreateToken => route(endpoint, tokens::create),
        Endpoint::RevokeToken => route(endpoint, tokens::revoke),
        Endpoint::CheckUpgrade => route(endpoint, upgrade::check),
        Endpoint::ShowAudit => route(endpoint, audit::show),
        Endpoint::Backup => route(endpoint, backup::make),
    }
}

/// All routes, made from the table of endpoints. Each has its whole path: a nested router would take each request's path
/// and extensions apart and put them together again.
fn routes(api: Api) -> Router {
    let all = Endpoint::ALL.iter();
    let routes = all.fold(Router::new(), |routes, endpoint| routes.route(endpoint.path(), handler(*endpoint)));
    #[cfg(feature = "next-level")]
    let routes = {
        use pontoon_api::Needs::{OwnApp, ReadApp};
        let show = guard::guarded("ShowNote", "GET", ReadApp, next_level::show);
        let change = guard::guarded("ChangeNote", "PUT", OwnApp, next_level::change);
        routes.route("/v1/apps/{app}/note", show.merge(change))
    };
    routes.fallback(error::no_such_path).method_not_allowed_fallback(error::no_such_method).with_state(api)
}
