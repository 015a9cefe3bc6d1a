//! What handlers take from a request; what is wrong with it is said in JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::extract::{Path as AxumPath, Query as AxumQuery};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use pontoon_api::ErrorCode;
use pontoon_core::State;
use pontoon_model::{Digest, IdempotencyKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::seen::Seen;
use crate::raft::StateFeed;

/// How long a read waits for the index it asks for: longer than an election.
const WAIT_FOR_INDEX: Duration = Duration::from_secs(5);

/// Largest JSON body: an environment of 128 KiB, every character escaped.
const MAX_JSON: usize = 1024 * 1024;

/// A body that nobody reads is taken in up to this size, and dropped: any that is JSON.
const UNREAD: u64 = MAX_JSON as u64;
/// And for as long: who has not sent it by then is not held to it.
const UNREAD_WITHIN: Duration = Duration::from_secs(1);

/// A JSON body, or a JSON answer.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        if is_json(request.headers()) {
            read(request.into_body()).await.map(Self)
        } else {
            Err(unusable(ErrorCode::Invalid, "expected a request with `Content-Type: application/json`"))
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        if request.headers().contains_key(CONTENT_TYPE) {
            <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
        } else {
            Ok(None)
        }
    }
}

fn unusable(code: ErrorCode, why: &str) -> ApiError {
    ApiError::new(code, format!("the request's body cannot be used: {why}"))
}

/// `application/json` or `application/SOMETHING+json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let Some((kind, subtype)) = value.split(';').next().and_then(|kind| kind.trim().split_once('/')) else {
        return false;
    };
    let suffix = subtype.rsplit('+').next().unwrap_or_default();
    kind.eq_ignore_ascii_case("application") && suffix.eq_ignore_ascii_case("json")
}

async fn read<T: DeserializeOwned>(body: Body) -> ApiResult<T> {
    let bytes = whole(body).await?;
    serde_json::from_slice(&bytes).or_else(|_| {
        // Read again in a slower way, which tells where the mistake is.
        axum::Json::from_bytes(&bytes)
            .map(|axum::Json(value)| value)
            .map_err(|rejection| unusable(ErrorCode::Invalid, &rejection.body_text()))
    })
}

async fn whole(body: Body) -> ApiResult<Bytes> {
    let collected = Limited::new(body, MAX_JSON).collect().await;
    collected.map(|collected| collected.to_bytes()).map_err(|error| match error.is::<LengthLimitError>() {
        true => unusable(ErrorCode::TooLarge, &format!("it is over {MAX_JSON} bytes")),
        false => unusable(ErrorCode::Invalid, &error.to_string()),
    })
}

/// Takes in the body of a request that is refused without a look at it. A client that is still sending would be stopped, over HTTP/2
/// with a reset, and some take that for the answer.
pub(super) async fn unread(mut body: Body) {
    if body.size_hint().lower() > UNREAD {
        return;
    }
    let mut left = UNREAD;
    let dropped = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) else { return };
            left = rest;
        }
    };
    // Who has not sent it by then reads the refusal or does not.
    let _ = timeout(UNREAD_WITHIN, dropped).await;
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

/// The state, as new as `?consistency=` and `?at_index=N` ask for.
pub(super) struct Snapshot(pub(super) Arc<State>);

#[derive(serde::Deserialize)]
struct HowNew {
    #[serde(default)]
    at_index: u64,
    consistency: Option<String>,
}

impl FromRequestParts<Api> for Snapshot {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> ApiResult<Self> {
        let Query(HowNew { at_index, consistency }) = Query::from_request_parts(parts, api).await?;
        // Never older than what this controller knew to be committed when it started.
        let mut index = at_index.max(api.consensus.recovered_at());
        match consistency.as_deref() {
            None | Some("stale") => {}
            Some("linearizable") => index = index.max(api.consensus.reads().index().await?),
            Some(other) => {
                let message = format!("consistency {other:?} is not known: use stale or linearizable");
                return Err(ApiError::invalid(message));
            }
        }
        let state = state_at(&api.feed, index).await?;
        if let Some(seen) = parts.extensions.get::<Seen>() {
            seen.note(state.index());
        }
        Ok(Self(state))
    }
}

/// The state once it has reached `index`.
pub(super) async fn state_at(feed: &StateFeed, index: u64) -> ApiResult<Arc<State>> {
    match tokio::time::timeout(WAIT_FOR_INDEX, feed.at(index)).await {
        Ok(state) => Ok(state),
        Err(_) => Err(ApiError::unavailable(format!(
            "this controller is at index {} and did not reach {index} in {} s; ask another controller",
            feed.snapshot().index(),
            WAIT_FOR_INDEX.as_secs()
        ))),
    }
}

/// `Idempotency-Key`: a UUID or 32 hexadecimal digits, if the client sends one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key(Option<u128>);

impl Key {
    /// As if the client sent none.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Whether the client sent one.
    pub(super) fn is_given(self) -> bool {
        self.0.is_some()
    }

    /// The key of the `n`th command of the request; none if the client sent none.
    pub(super) fn of_item(self, n: u32) -> Option<IdempotencyKey> {
        let given = self.0?;
        // Hashed, so that keys that a client counts up do not run into one another.
        let digest = Digest::of(&[&given.to_be_bytes()[..], &n.to_be_bytes()[..]].concat());
        let hash = digest.0.first_chunk().map(|bytes| u128::from_le_bytes(*bytes))?;
        Some(IdempotencyKey::of_client(hash))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let Some(header) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let digits: String = header.to_str().unwrap_or_default().chars().filter(|c| *c != '-').collect();
        let key = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
        key.map(|key| Self(Some(key)))
            .ok_or_else(|| ApiError::invalid("Idempotency-Key must be a UUID or 32 hexadecimal digits"))
    }
}
