//! The authority that a cluster was made with becomes part of the state, once.

use std::time::Duration;

use pontoon_core::command::FoundTrust;
use pontoon_kit::Authority;
use pontoon_model::{Digest, SecretPlace};
use tokio::sync::watch;
use tokio::time::sleep;

use super::authority::SignError;
use crate::config::FoundingConfig;
use crate::raft::{Leadership, Proposer, StateFeed};
use crate::sealing::SealingKeys;

/// Between tries.
const RETRY: Duration = Duration::from_secs(1);

/// Proposes what the configuration says, as long as the state has no authority and this controller leads.
pub struct Founder {
    /// From the configuration.
    pub config: FoundingConfig,
    /// Whether there is one.
    pub feed: StateFeed,
    /// Where it is proposed.
    pub proposer: Proposer,
    /// Seals the authority's key.
    pub sealing: SealingKeys,
    /// Whether this controller leads: one is enough.
    pub leadership: watch::Receiver<Leadership>,
}

impl Founder {
    /// Returns once the state has an authority.
    pub async fn run(self) {
        let mut said: Option<String> = None;
        loop {
            if self.feed.snapshot().trust().founding().is_some() {
                return;
            }
            // Not before its key can be kept sealed, which takes a moment.
            if self.leadership.borrow().leading
                && self.feed.snapshot().trust().sealing_key().is_some()
                && let Err(why) = self.found().await
                && said.as_ref() != Some(&why)
            {
                tracing::warn!(%why, "the cluster's authority cannot be kept by the controllers yet");
                said = Some(why);
            }
            sleep(RETRY).await;
        }
    }

    async fn found(&self) -> Result<(), String> {
        let command = self.command().map_err(|error| error.to_string())?;
        self.proposer.propose(command.into()).await.map_err(|error| error.to_string())?;
        tracing::info!(cluster = %self.config.cluster, "the controllers keep the cluster's authority and give out certificates");
        Ok(())
    }

    fn command(&self) -> Result<FoundTrust, SignError> {
        let authority = Authority::load(&self.config.ca_dir)?;
        let fingerprint = Digest(authority.fingerprint()?.0);
        let place = SecretPlace::Authority(fingerprint);
        let key = self.sealing.seal(self.feed.snapshot().trust(), &place, authority.key())?;
        Ok(FoundTrust {
            cluster: self.config.cluster.clone(),
            certificate_life: self.config.certificate_life_s,
            fingerprint,
            certificate: authority.certificate().to_owned(),
            key,
        })
    }
}
