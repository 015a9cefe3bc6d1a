//! Servos: list, show, run one once.

use std::sync::Arc;

use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use pontoon_api::{Changed, RunOneOff, Servo};
use pontoon_core::{Reply, State, command};
use pontoon_model::{self as model, AppName, ServoId};

use super::Api;
use super::apps::find;
use super::change::Applied;
use super::convert;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key, Path, Snapshot, state_at};
use super::large::listed;

/// The app's servo of this id.
pub(super) fn find_servo<'a>(state: &'a State, app: &AppName, id: ServoId) -> ApiResult<&'a Arc<model::Servo>> {
    find(state, app)?;
    state.servo(id).filter(|servo| servo.app == *app).ok_or_else(|| {
        ApiError::not_found(format!("app {app} has no servo {id}; it may have ended. `pontoon ps` shows those it has"))
    })
}

/// An id in a path, with or without its letter.
pub(super) fn id<T: std::str::FromStr<Err = String>>(text: &str) -> ApiResult<T> {
    text.parse().map_err(ApiError::invalid)
}

pub(super) async fn list(Path(app): Path<AppName>, Snapshot(state): Snapshot) -> ApiResult<Response> {
    find(&state, &app)?;
    listed(move || state.servos_of(&app).map(|servo| convert::servo(&state, servo)).collect::<Vec<Servo>>()).await
}

pub(super) async fn show(
    Path((app, servo)): Path<(AppName, String)>,
    Snapshot(state): Snapshot,
) -> ApiResult<Json<Servo>> {
    Ok(Json(convert::servo(&state, find_servo(&state, &app, id(&servo)?)?)))
}

pub(super) async fn end(
    Context(api): Context<Api>,
    key: Key,
    Path((app, servo)): Path<(AppName, String)>,
) -> ApiResult<Applied<Changed>> {
    api.change(key, command::EndOneOff { app, servo: id(&servo)? }).await
}

pub(super) async fn run(
    Context(api): Context<Api>,
    key: Key,
    Path(app): Path<AppName>,
    Json(body): Json<RunOneOff>,
) -> ApiResult<impl IntoResponse> {
    let (reply, index) = api.propose(key, command::RunOneOff { app: app.clone(), command: body.command }).await?;
    let Reply::Servo(servo) = reply else {
        return Err(ApiError::invalid("this Idempotency-Key was used for another request"));
    };
    let state = state_at(&api.feed, index).await?;
    let body = convert::servo(&state, find_servo(&state, &app, servo)?);
    Ok(Applied { index, body })
}
