//! The authority that a cluster was made with becomes part of the state, once.

use std::time::Duration;

use pontoon_core::command::FoundTrust;
use pontoon_kit::{Authority, PkiError};
use pontoon_model::{Digest, Secret};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::config::FoundingConfig;
use crate::raft::{Leadership, Proposer, StateFeed};

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
            if self.leadership.borrow().leading
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

    fn command(&self) -> Result<FoundTrust, PkiError> {
        let authority = Authority::load(&self.config.ca_dir)?;
        Ok(FoundTrust {
            cluster: self.config.cluster.clone(),
            certificate_life: self.config.certificate_life_s,
            fingerprint: Digest(authority.fingerprint()?.0),
            certificate: authority.certificate().to_owned(),
            key: Secret(authority.key().to_owned()),
        })
    }
}
