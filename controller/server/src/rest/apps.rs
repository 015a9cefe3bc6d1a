//! Apps: list, make, show, remove, scale.

use std::sync::Arc;

use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use pontoon_api::{App, CreateApp, SetScale};
use pontoon_core::{State, command};
use pontoon_model::{self as model, AppName, ProcessName};

use super::Api;
use super::caller::Caller;
use super::change::Applied;
use super::convert;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot, state_at};
use super::large::listed;

/// The app, or the sentence that says it is not there.
pub(super) fn find<'a>(state: &'a State, name: &AppName) -> ApiResult<&'a Arc<model::App>> {
    state.app(name).ok_or_else(|| {
        ApiError::not_found(format!(
            "app {name} does not exist; `pontoon app list` shows the apps, `pontoon app create {name}` makes it"
        ))
    })
}

pub(super) async fn list(Context(api): Context<Api>, caller: Caller, Snapshot(state): Snapshot) -> ApiResult<Response> {
    listed(move || {
        let waiting = api.waiting.sentences(&state);
        let seen = state.apps().filter(|app| caller.sees(&app.name));
        seen.map(|app| convert::app(&state, app, &waiting)).collect::<Vec<App>>()
    })
    .await
}

pub(super) async fn create(
    Context(api): Context<Api>,
    key: Key,
    Json(body): Json<CreateApp>,
) -> ApiResult<impl IntoResponse> {
    let name = body.name;
    let (_, index) = api.propose(key, command::CreateApp { name: name.clone() }).await?;
    let state = state_at(&api.feed, index).await?;
    let body = convert::app(&state, find(&state, &name)?, &api.waiting.sentences(&state));
    Ok(Applied { index, body })
}

pub(super) async fn show(
    Context(api): Context<Api>,
    Path(name): Path<AppName>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<App>> {
    let mut shown = convert::app(&state, find(&state, &name)?, &api.waiting.sentences(&state));
    // In lists of many apps it would be looked through for each; those ask for all domains at once.
    shown.domains.extend(state.edge().domains_of(&name).map(|row| row.domain.to_string()));
    Ok(Json(shown))
}

pub(super) async fn destroy(
    Context(api): Context<Api>,
    key: Key,
    Path(name): Path<AppName>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::DestroyApp { name }).await
}

pub(super) async fn scale(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<SetScale>,
) -> ApiResult<impl IntoResponse> {
    if body.count.is_none() && body.sites.is_none() && body.memory.is_none() && body.cpu.is_none() {
        return Err(ApiError::invalid("nothing to change: give count, sites, memory or cpu"));
    }
    let command = command::SetScale {
        app,
        process: body.process.unwrap_or_else(ProcessName::web),
        anywhere: body.count,
        in_site: body.sites,
        memory: body.memory,
        cpu: body.cpu,
    };
    api.change(key, command).await
}
