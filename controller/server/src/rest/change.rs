//! Proposing what a request asks for, and answering it.

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use pontoon_api::Changed;
use pontoon_core::{Command, Outcome, Reply, Stamped};
use serde::Serialize;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Key};
use super::seen::INDEX_HEADER;

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
        let (mut outcomes, index) = self.propose_all(key, vec![command.into()]).await?;
        let outcome = outcomes.pop().ok_or_else(|| ApiError::unavailable("the command was not answered; try again"))?;
        Ok((outcome?, index))
    }

    /// Proposes commands in one entry: each is applied or rejected for itself.
    pub(super) async fn propose_all(&self, key: Key, commands: Vec<Command>) -> ApiResult<(Vec<Outcome>, u64)> {
        let stamp = |(n, command)| {
            let key = key.of_item(n).unwrap_or_else(|| self.proposer.fresh_key());
            Stamped { key, command }
        };
        let stamped = (0..).zip(commands).map(stamp).collect();
        Ok(self.proposer.propose_stamped(stamped).await?)
    }

    /// Proposes a command whose answer is [`Changed`].
    pub(super) async fn change(&self, key: Key, command: impl Into<Command>) -> ApiResult<Applied<Changed>> {
        Ok(self.propose(key, command).await?.into())
    }
}

impl From<(Reply, u64)> for Applied<Changed> {
    fn from((reply, index): (Reply, u64)) -> Self {
        let (release, deployment) = match reply {
            Reply::Release { number, deployment } => (Some(number), Some(deployment)),
            Reply::Deployment(deployment) => (None, Some(deployment)),
            Reply::Done | Reply::Build(_) | Reply::Servo(_) | Reply::Planned { .. } => (None, None),
        };
        Self { index, body: Changed { index, release, deployment } }
    }
}
