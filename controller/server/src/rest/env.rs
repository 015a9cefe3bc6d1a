//! An app's environment.

use std::collections::BTreeMap;

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_api::ChangeEnv;
use pontoon_core::command;
use pontoon_model::AppName;

use super::Api;
use super::apps::find;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot};

pub(super) async fn show(
    Path(app): Path<AppName>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<BTreeMap<String, String>>> {
    Ok(Json(find(&state, &app)?.env.clone()))
}

pub(super) async fn change(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<ChangeEnv>,
) -> ApiResult<impl IntoResponse> {
    if body.set.is_empty() && body.unset.is_empty() {
        return Err(ApiError::invalid("nothing to change: give names to set or unset"));
    }
    api.change(key, command::ChangeEnv { app, set: body.set, unset: body.unset }).await
}
