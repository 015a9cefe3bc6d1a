//! Hosts, balancers, and the routes between them.

use std::sync::Arc;

use axum::extract::State as Context;
use pontoon_api::{Balancer, Host, Route};
use pontoon_core::view;

use super::Api;
use super::caller::Caller;
use super::convert;
use super::extract::{Json, Snapshot};

pub(super) async fn hosts(Snapshot(state): Snapshot) -> Json<Vec<Host>> {
    // One that was revoked is of interest until its servos have gone.
    let shown = |host: &&Arc<pontoon_model::Host>| !host.is_shut_out() || state.servos_on(&host.name).next().is_some();
    Json(state.hosts().filter(shown).map(|host| convert::host(&state, host)).collect())
}

pub(super) async fn balancers(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Vec<Balancer>> {
    let shown = |balancer: &Arc<pontoon_model::Balancer>| {
        let reach = state.edge().peer(&balancer.name).map(|row| row.reach);
        convert::balancer(balancer, api.heard.last_ack(&balancer.name), reach)
    };
    Json(state.balancers().map(shown).collect())
}

pub(super) async fn routes(caller: Caller, Snapshot(state): Snapshot) -> Json<Vec<Route>> {
    let table = view::route_table(&state);
    let seen = table.routes.iter().filter(|route| caller.sees(&route.app));
    Json(seen.map(|route| convert::route(route)).collect())
}
