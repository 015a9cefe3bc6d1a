//! What is set is sealed before it is proposed.

use std::sync::Arc;
use std::time::Duration;

use pontoon_core::{Command, Reply, State, level};
use tokio::time::timeout;

use super::Api;
use super::error::{ApiError, ApiResult};
use super::extract::{Key, state_at};
use crate::sealing::SealError;

/// A new cluster has its first key within a second or two: an election, the feature level, and a round to all controllers.
const FIRST_KEY: Duration = Duration::from_secs(5);

/// How often a change is tried that another key has come before.
const TRIES: usize = 3;

impl Api {
    /// Proposes what `sealed` makes of a state, with values sealed by it.
    pub(super) async fn propose_sealed<C: Into<Command>>(
        &self,
        key: Key,
        sealed: impl Fn(&State) -> ApiResult<C>,
    ) -> ApiResult<(Reply, u64)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let state = self.state_to_seal_by().await?;
            match self.propose(key, sealed(&state)?).await {
                // Another key has come meanwhile. The same idempotency key would get the same answer.
                Err(error) if error.is_conflict() && !key.is_given() && tries < TRIES => {}
                proposed => return proposed,
            }
        }
    }

    /// A state that knows every change that was acknowledged before, and what to seal with. Without a key, which no member of an
    /// older version could read, values are kept as they are until all can.
    pub(super) async fn state_to_seal_by(&self) -> ApiResult<Arc<State>> {
        let index = self.consensus.reads().index().await?;
        let state = state_at(&self.feed, index).await?;
        if state.trust().sealing_key().is_some() {
            return Ok(state);
        }
        let mut trust = self.feed.trust();
        let has_key = timeout(FIRST_KEY, trust.wait_for(|trust| trust.sealing_key().is_some())).await;
        let state = self.feed.snapshot();
        match has_key {
            Ok(Ok(_)) => Ok(state),
            Ok(Err(_)) | Err(_) if state.feature_level() < level::SEALING => Ok(state),
            Ok(Err(_)) | Err(_) => Err(ApiError::unavailable(
                "the cluster has no key yet that values are sealed with: a majority of the controllers must have it; the leader's log \
                 says what is in the way. Nothing was changed",
            )),
        }
    }
}

impl From<SealError> for ApiError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Missing { .. } => Self::unavailable(error.to_string()),
            SealError::Damaged { .. } => {
                tracing::error!("{error}");
                Self::new(pontoon_api::ErrorCode::Internal, error.to_string())
            }
            SealError::Record { .. } | SealError::File { .. } | SealError::Exposed { .. } => Self::internal(&error),
        }
    }
}
