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
    /// Proposes a command and waits until it is applied somewhere.
    pub(super) async fn propose(&self, key: Key, command: impl Into<Command>) -> ApiResult<(Reply, u64)> {
        let (mut replies, index) = self.propose_all(key, vec![command.into()]).await?;
        let reply = replies.pop().ok_or_else(|| ApiError::unavailable("the command was not answered; try again"))?;
        Ok((reply, index))
    }

    /// Proposes commands in one go. The first rejection is the answer.
    pub(super) async fn propose_all(&self, key: Key, commands: Vec<Command>) -> ApiResult<(Vec<Reply>, u64)> {
        let stamped = (0..).zip(commands).map(|(n, command)| Stamped { key: key.nth(n), command }).collect();
        let (outcomes, index) = self
            .proposer
            .propose_stamped(stamped)
            .await
            .map_err(|error| ApiError::unavailable(format!("the change was not made: {error}; try again")))?;
        let replies = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok((replies, index))
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
