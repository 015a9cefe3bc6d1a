//! Ports of balancers at which processes are reached that do not speak HTTP.

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::ports::{AddPort, Port, PortAt};
use pontoon_core::{State, command};
use pontoon_model::{AppName, PortRow, PortSettings, ProcessName};
use serde::Deserialize;

use super::Api;
use super::apps::find;
use super::caller::Caller;
use super::change::Applied;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Query, Snapshot, state_at};

#[derive(Deserialize)]
pub(super) struct OfApp {
    app: Option<AppName>,
}

pub(super) async fn list(
    Context(api): Context<Api>,
    caller: Caller,
    Query(OfApp { app }): Query<OfApp>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<Vec<Port>>> {
    if let Some(app) = &app {
        if !caller.sees(app) {
            return Err(caller.forbidden(&format!("read or deploy:{app}")));
        }
        find(&state, app)?;
    }
    let asked = |row: &PortRow| app.as_ref().is_none_or(|app| row.app == *app) && caller.sees(&row.app);
    let mut ports: Vec<Port> =
        state.edge().ports().filter(|row| asked(row)).map(|row| shown(&api, &state, row)).collect();
    ports.sort_by_key(|row| row.port);
    Ok(Json(ports))
}

pub(super) async fn add(
    Context(api): Context<Api>,
    caller: Caller,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<AddPort>,
) -> ApiResult<impl IntoResponse> {
    let (range, process) = (api.tcp_ports, body.process.unwrap_or_else(ProcessName::tcp));
    let outside = body.port.filter(|port| !(range.0..=range.1).contains(port));
    // Any port of the balancers' machines is the cluster's, not an app's.
    if let Some(port) = outside.filter(|_| !caller.token().is_admin()) {
        let needed = format!("admin, since port {port} is not one of {}-{}, which are for everybody", range.0, range.1);
        return Err(caller.forbidden(&needed));
    }
    let usual = PortSettings::default();
    let settings = PortSettings {
        proxy_protocol: body.proxy_protocol,
        idle_ms: body.idle_ms,
        connections: body.connections.unwrap_or(usual.connections),
    };
    let command = command::AddPort { app: app.clone(), process: process.clone(), port: body.port, range, settings };
    let (_, index) = api.propose(key, command).await?;
    let state = state_at(&api.feed, index).await?;
    let row = state.edge().port_of(&app, &process);
    let row = row.ok_or_else(|| ApiError::unavailable("the port was removed again just now"))?;
    Ok(Applied { index, body: shown(&api, &state, row) })
}

pub(super) async fn remove(
    Context(api): Context<Api>,
    key: Key,
    Path((app, port)): Path<(AppName, String)>,
) -> ApiResult<impl IntoResponse> {
    let port = port.parse().map_err(|_| ApiError::invalid(format!("{port:?} is no port: a number up to 65535")))?;
    api.change(key, command::RemovePort { app, port }).await
}

fn shown(api: &Api, state: &State, row: &PortRow) -> Port {
    let said = state.balancers().filter_map(|balancer| {
        let problem = api.heard.port_at(&balancer.name, row.port)?;
        Some(PortAt { balancer: balancer.name.clone(), listening: problem.is_none(), problem })
    });
    Port {
        port: row.port,
        app: row.app.clone(),
        process: row.process.clone(),
        proxy_protocol: row.settings.proxy_protocol,
        idle_ms: row.settings.idle_ms,
        connections: row.settings.connections,
        added_at: row.added_at.0,
        balancers: said.collect(),
    }
}
