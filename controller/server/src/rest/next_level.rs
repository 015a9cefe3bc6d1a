//! What a later version of Pontoon would add: only a test's build has it.

use axum::extract::State as Context;
use axum::response::IntoResponse;
use pontoon_core::command;
use pontoon_model::AppName;
use serde::{Deserialize, Serialize};

use super::Api;
use super::apps::find;
use super::error::ApiResult;
use super::extract::{Json, Key, Path, Snapshot};

#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    note: String,
}

pub(super) async fn show(Path(app): Path<AppName>, Snapshot(state): Snapshot) -> ApiResult<Json<Note>> {
    Ok(Json(Note { note: find(&state, &app)?.note.clone() }))
}

pub(super) async fn change(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(Note { note }): Json<Note>,
) -> ApiResult<impl IntoResponse> {
    api.change(key, command::NextLevelProbe { app, note }).await
}
