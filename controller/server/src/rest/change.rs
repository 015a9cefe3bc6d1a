//! Proposing what a request asks for, and answering it.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use pontoon_api::Changed;
use pontoon_core::{Command, Reply, Stamped};
use serde::Serialize;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key};

/// The Raft index of a change: reads with `?at_index=` of it see the change.
const INDEX_HEADER: HeaderName = HeaderName::from_static("pontoon-index");

/// An answer to a change, with its index in a header.
pub(super) struct Applied<T> {
    pub(super) index: u64,
    pub(super) body: T,
}

impl<T: Serialize> IntoResponse for Applied<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        response.headers_mut().insert(INDEX_HEADER, HeaderValue::from(self.index));
        response
    }
}

impl Api {
    /// Proposes a command and waits until it is applied somewhere; a rejection is the answer.
    pub(super) async fn propose(&self, key: Key, command: impl Into<Command>) -> ApiResult<(Reply, u64)> {
        let stamped = Stamped { key: key.0, command: command.into() };
        let unavailable = |why: &str| ApiError::unavailable(format!("the change was not made: {why}; try again"));
        let (mut outcomes, index) =
            self.proposer.propose_stamped(vec![stamped]).await.map_err(|error| unavailable(&error.to_string()))?;
        let outcome = outcomes.pop().ok_or_else(|| unavailable("the command was not answered"))?;
        Ok((outcome?, index))
    }

    /// Proposes a command whose answer is [`Changed`].
    pub(super) async fn change(&self, key: Key, command: impl Into<Command>) -> ApiResult<Applied<Changed>> {
        let (reply, index) = self.propose(key, command).await?;
        let (release, deployment) = match reply {
            Reply::Release { number, deployment } => (Some(number), Some(deployment)),
            Reply::Deployment(deployment) => (None, Some(deployment)),
            Reply::Done | Reply::Build(_) | Reply::Servo(_) | Reply::Planned { .. } => (None, None),
        };
        Ok(Applied { index, body: Changed { index, release, deployment } })
    }
}
