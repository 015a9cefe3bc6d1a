//! Answers with as many rows as the cluster has servos.

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::{ApiError, ApiResult};
use super::extract::Json;

/// What `rows` gives, as JSON. Both are made by a thread for that: of a million rows it is a second's work, in which a
/// thread of the runtime would neither replicate nor answer anybody else.
pub(super) async fn listed<T: Serialize>(rows: impl FnOnce() -> T + Send + 'static) -> ApiResult<Response> {
    let made = tokio::task::spawn_blocking(move || Json(rows()).into_response()).await;
    made.map_err(|error| ApiError::internal(&error))
}
