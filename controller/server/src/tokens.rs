//! What this controller does about API tokens by itself: the first one becomes part of the state, and uses are noted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_core::{Command, command};
use pontoon_model::{Digest, Timestamp, TokenId};
use tokio::sync::watch;

use crate::raft::{Leadership, Proposer, StateFeed};

/// Between looks whether there are tokens: it takes until all controllers of a new cluster have been asked what they can
/// read.
const LOOK: Duration = Duration::from_millis(200);
/// Uses wait this long, so that many make one entry. What waits when the controller ends is noted at the next use.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// Tokens that were used here since the last note. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct TokenUses {
    waiting: Arc<Mutex<BTreeMap<TokenId, Timestamp>>>,
}

impl TokenUses {
    /// A token was used; called only when the state's note is old, so rarely.
    pub fn note(&self, id: TokenId, at: Timestamp) {
        self.lock().insert(id, at);
    }

    fn take(&self) -> Vec<(TokenId, Timestamp)> {
        std::mem::take(&mut *self.lock()).into_iter().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TokenId, Timestamp>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has them committed from time to time, for ever.
    pub async fn run(self, proposer: Proposer) {
        loop {
            tokio::time::sleep(NOTE_EVERY).await;
            self.commit(&proposer).await;
        }
    }

    /// Has them committed. What cannot be is left: the next use says the same again.
    pub(crate) async fn commit(&self, proposer: &Proposer) {
        let uses = self.take();
        if !uses.is_empty()
            && let Err(error) = proposer.propose(Command::from(command::NoteTokenUse { uses })).await
        {
            tracing::debug!(%error, "the use of API tokens is not noted yet");
        }
    }
}

/// Whoever leads a cluster without tokens makes the token of its file the first. Returns once there is one.
pub async fn adopt(hash: Digest, proposer: Proposer, feed: StateFeed, leadership: watch::Receiver<Leadership>) {
    let command = Command::from(command::AdoptApiToken { hash });
    loop {
        let (any, level) = feed.look(|state| (state.has_api_tokens(), state.feature_level()));
        if any {
            return;
        }
        if leadership.borrow().leading && level >= command.level() {
            match proposer.propose(command.clone()).await {
                Ok(_) => tracing::info!("the token of this controller's token_file is the cluster's first API token"),
                Err(error) => tracing::warn!(%error, "cannot commit the first API token yet"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
