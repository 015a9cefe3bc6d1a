//! Hosts, balancers, and the routes between them.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State as Context;
use axum::response::Response;
use pontoon_api::{Balancer, Host, Route};
use pontoon_core::{State, view};
use pontoon_model::{AppName, ServoId};
use pontoon_proto::RequestsRow;
use serde::Deserialize;

use super::Api;
use super::caller::Caller;
use super::convert;
use super::error::ApiResult;
use super::extract::{Json, Query, Snapshot};
use super::large::listed;
use super::requests;
use crate::requests::WINDOWS;

pub(super) async fn hosts(Snapshot(state): Snapshot) -> ApiResult<Response> {
    listed(move || {
        // One that was revoked is of interest until its servos have gone.
        let shown =
            |host: &&Arc<pontoon_model::Host>| !host.is_shut_out() || state.servos_on(&host.name).next().is_some();
        state.hosts().filter(shown).map(|host| convert::host(&state, host)).collect::<Vec<Host>>()
    })
    .await
}

pub(super) async fn balancers(Context(api): Context<Api>, Snapshot(state): Snapshot) -> Json<Vec<Balancer>> {
    let shown = |balancer: &Arc<pontoon_model::Balancer>| {
        let reach = state.edge().peer(&balancer.name).map(|row| row.reach);
        convert::balancer(balancer, api.heard.last_ack(&balancer.name), reach)
    };
    Json(state.balancers().map(shown).collect())
}

/// What follows `?` of the routes.
#[derive(Debug, Deserialize)]
pub(super) struct RoutesQuery {
    #[serde(default)]
    load: bool,
}

pub(super) async fn routes(
    Context(api): Context<Api>,
    caller: Caller,
    Query(query): Query<RoutesQuery>,
    Snapshot(state): Snapshot,
) -> ApiResult<Response> {
    let load = if query.load { Some(requests::heard(&api, None).await.0) } else { None };
    listed(move || {
        let table = view::route_table(&state);
        let seen = table.routes.iter().filter(|route| caller.sees(&route.app));
        let mut routes: Vec<Route> = seen.map(|route| convert::route(route)).collect();
        if let Some(load) = load {
            add_load(&state, &mut routes, &load);
        }
        routes
    })
    .await
}

/// Says how busy they are.
fn add_load(state: &State, routes: &mut [Route], rows: &[RequestsRow]) {
    let mut apps: HashMap<&AppName, (f64, u64)> = HashMap::new();
    let mut servos: HashMap<ServoId, (u64, u32)> = HashMap::new();
    for row in rows {
        let app = apps.entry(&row.app).or_default();
        app.0 += requests::rate(WINDOWS[0], &row.windows[0]);
        app.1 += row.in_flight;
        for load in &row.servos {
            let servo = servos.entry(load.servo).or_default();
            servo.0 += u64::from(load.in_flight);
            servo.1 += u32::from(load.ejected);
        }
    }
    for route in routes {
        // Balancers count by app: what comes to a preview, or a canary, is among it and not known by itself.
        let live = state.app(&route.app).and_then(|app| app.live.as_ref()).map(|live| live.release);
        if route.release == live {
            let (rate, in_flight) = apps.get(&route.app).copied().unwrap_or_default();
            (route.rate, route.in_flight) = (Some(rate), Some(in_flight));
        }
        for servo in &mut route.servos {
            let (in_flight, ejected_by) = servos.get(&servo.id).copied().unwrap_or_default();
            (servo.in_flight, servo.ejected_by) = (Some(in_flight), Some(ejected_by));
        }
    }
}
