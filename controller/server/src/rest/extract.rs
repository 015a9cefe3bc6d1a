//! What handlers take from a request; what is wrong with it is said in JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::extract::{Path as AxumPath, Query as AxumQuery};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use pontoon_api::ErrorCode;
use pontoon_core::State;
use pontoon_model::IdempotencyKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Api;
use super::error::{ApiError, ApiResult};
use crate::raft::StateFeed;

/// How long a read waits for the index it asks for: longer than an election.
const WAIT_FOR_INDEX: Duration = Duration::from_secs(5);

/// A JSON body, or a JSON answer.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
            _ => ErrorCode::Invalid,
        };
        Self::new(code, format!("the request's body cannot be used: {}", rejection.body_text()))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let axum::Json(body) = <axum::Json<T> as FromRequest<S>>::from_request(request, state).await?;
        Ok(Self(body))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        let body = <axum::Json<T> as OptionalFromRequest<S>>::from_request(request, state).await?;
        Ok(body.map(|axum::Json(body)| Self(body)))
    }
}

/// Names and ids in the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let AxumPath(value) = AxumPath::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// What follows `?`.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let AxumQuery(value) = AxumQuery::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// The state, at least as new as `?at_index=N` asks for.
pub(super) struct Snapshot(pub(super) Arc<State>);

#[derive(serde::Deserialize)]
struct AtIndex {
    #[serde(default)]
    at_index: u64,
}

impl FromRequestParts<Api> for Snapshot {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> ApiResult<Self> {
        let Query(AtIndex { at_index }) = Query::from_request_parts(parts, api).await?;
        state_at(&api.feed, at_index).await.map(Self)
    }
}

/// The state once it has reached `index`.
pub(super) async fn state_at(feed: &StateFeed, index: u64) -> ApiResult<Arc<State>> {
    let mut feed = feed.clone();
    let mut state = feed.snapshot();
    let reached = async {
        while state.index() < index {
            state = feed.changed().await;
        }
    };
    match tokio::time::timeout(WAIT_FOR_INDEX, reached).await {
        Ok(()) => Ok(state),
        Err(_) => Err(ApiError::unavailable(format!(
            "this controller is at index {} and did not reach {index} in {} s; ask another controller",
            feed.snapshot().index(),
            WAIT_FOR_INDEX.as_secs()
        ))),
    }
}

/// `Idempotency-Key`: a UUID or 32 hexadecimal digits; drawn here if absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key(pub(super) IdempotencyKey);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let Some(header) = parts.headers.get("idempotency-key") else {
            return Ok(Self(IdempotencyKey(rand::random())));
        };
        let digits: String = header.to_str().unwrap_or_default().chars().filter(|c| *c != '-').collect();
        let key = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
        key.map(|key| Self(IdempotencyKey(key)))
            .ok_or_else(|| ApiError::invalid("Idempotency-Key must be a UUID or 32 hexadecimal digits"))
    }
}
