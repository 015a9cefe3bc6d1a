//! Hosts, balancers, and the routes between them.

use axum::extract::State as Context;
use pontoon_api::{Balancer, Host, Route};
use pontoon_core::view;

use super::Api;
use super::convert;
use super::extract::{Json, Snapshot};

pub(super) async fn hosts(Snapshot(state): Snapshot) -> Json<Vec<Host>> {
    Json(state.hosts().map(|host| convert::host(&state, host)).collect())
}

pub(super) async fn balancers(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Vec<Balancer>> {
    Json(state.balancers().map(|balancer| convert::balancer(balancer, api.heard.last_ack(&balancer.name))).collect())
}

pub(super) async fn routes(Snapshot(state): Snapshot) -> Json<Vec<Route>> {
    Json(view::route_table(&state).routes.iter().map(|route| convert::route(route)).collect())
}
