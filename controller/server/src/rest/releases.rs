//! Releases: list, go back, start anew.

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::{Release, Rollback};
use pontoon_core::command;
use pontoon_model::AppName;

use super::Api;
use super::apps::find;
use super::convert;
use super::error::ApiResult;
use super::extract::{Json, Key, Path, Snapshot};

pub(super) async fn list(Path(name): Path<AppName>, Snapshot(state): Snapshot) -> ApiResult<Json<Vec<Release>>> {
    let app = find(&state, &name)?;
    Ok(Json(state.releases(&name).rev().map(|release| convert::release(app, release)).collect()))
}

pub(super) async fn rollback(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    body: Option<Json<Rollback>>,
) -> ApiResult<impl IntoResponse> {
    let to = body.and_then(|Json(body)| body.to);
    api.change(key, command::Rollback { app, to }).await
}

pub(super) async fn restart(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::Restart { app }).await
}
