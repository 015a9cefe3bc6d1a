//! This controller's own trust: follows the state, and renews its own certificate from it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pontoon_core::Trust as Trusted;
use pontoon_core::command::{NoteCertificate, RetireAuthority};
use pontoon_kit::{CancellationToken, Credentials, Identity, KeyId, PkiError, Trust};
use pontoon_model::{Digest, MachineRole, Timestamp};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::authority::{SignError, roots, sign};
use super::notices::needs_certificate;
use crate::raft::{Leadership, Proposer, Reads, StateFeed};
use crate::sealing::SealingKeys;

/// How often it is looked whether something is due that no change of the state tells of.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps what this controller shows and whom it trusts as the state says.
pub struct Keeper {
    /// Its name.
    pub name: String,
    /// What it shows and whom it trusts.
    pub credentials: Credentials,
    /// Where its key and certificates are kept.
    pub folder: PathBuf,
    /// Who belongs.
    pub feed: StateFeed,
    /// Where its new certificates are noted.
    pub proposer: Proposer,
    /// Opens the authority's key.
    pub sealing: SealingKeys,
    /// How far this controller must have applied the log to know what the others do.
    pub reads: Reads,
    /// Only the leader retires authorities.
    pub leadership: watch::Receiver<Leadership>,
}

impl Keeper {
    /// Follows until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut trusted = self.feed.trust();
        let mut caught_up = false;
        loop {
            // Whoever has just joined, or was off, goes through all that was trusted before: none of that may be believed
            // again, nor signed with.
            caught_up = caught_up || self.has_caught_up().await;
            let trust = trusted.borrow_and_update().clone();
            match (trust.founding(), caught_up) {
                (None, _) => {}
                (Some(_), false) => self.renew_what_has_ended(&trust),
                (Some(_), true) => self.follow(&trust).await,
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = trusted.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn follow(&self, trust: &Trusted) {
        if let Err(error) = self.take(trust) {
            tracing::error!(%error, "what the cluster trusts cannot be taken in");
        }
        if let Err(why) = self.renew_own(trust).await {
            tracing::warn!(%why, "this controller's certificate is not renewed yet");
        }
        self.retire_former(trust, self.feed.snapshot().time()).await;
    }

    /// Whether this controller has applied all that was committed before now.
    async fn has_caught_up(&self) -> bool {
        match timeout(LOOK, self.reads.index()).await {
            Ok(Ok(index)) => self.feed.snapshot().index() >= index,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Every controller has the authority's key, so that it needs nobody for this: all may have been off for so long that
    /// none could speak to another, and then nobody leads.
    fn renew_what_has_ended(&self, trust: &Trusted) {
        let identity = self.credentials.identity();
        let ended = identity.validity().is_ok_and(|validity| validity.ends <= SystemTime::now());
        let known = identity.key_id().ok().zip(trust.machine(MachineRole::Controller, &self.name));
        if ended && known.is_some_and(|(key, row)| row.key == Digest(key.0)) {
            match self.sign_own(trust, &identity).and_then(|(renewed, _)| Ok(self.install(renewed)?)) {
                Ok(()) => tracing::info!("this controller's certificate had ended, and was renewed"),
                Err(error) => tracing::error!(%error, "this controller's certificate has ended"),
            }
        }
    }

    fn take(&self, trust: &Trusted) -> Result<(), PkiError> {
        let revoked = trust.revoked().map(|revoked| KeyId(revoked.key.0)).collect();
        let now = Trust { roots: roots(trust), revoked };
        let before = self.credentials.trust();
        if now == before {
            return Ok(());
        }
        self.credentials.set_trust(&now)?;
        if now.roots != before.roots {
            self.credentials.identity().save(&self.folder)?;
        }
        Ok(())
    }

    async fn renew_own(&self, trust: &Trusted) -> Result<(), String> {
        let identity = self.credentials.identity();
        let own = identity.key_id().map_err(|error| error.to_string())?;
        if trust.is_revoked(&Digest(own.0)) {
            return Err("its key was revoked: this machine no longer belongs to the cluster".to_owned());
        }
        let due = identity.validity().map_or(SystemTime::UNIX_EPOCH, |validity| validity.renew_at());
        let key = Some(Digest(own.0));
        if due > SystemTime::now() && !needs_certificate(trust, MachineRole::Controller, &self.name, key) {
            return Ok(());
        }
        let known = trust.machine(MachineRole::Controller, &self.name);
        if known.is_some_and(|row| Some(row.key) != key) {
            return Err(format!("another machine belongs as controller {}", self.name));
        }
        let (renewed, note) = self.sign_own(trust, &identity).map_err(|error| error.to_string())?;
        let (_, index) = self.proposer.propose(note.into()).await.map_err(|error| error.to_string())?;
        // Only now: what the others do not take would be of no use.
        self.install(renewed).map_err(|error| error.to_string())?;
        // Not again because this controller does not know yet what it has just had written.
        let _ = timeout(LOOK, self.feed.at(index)).await;
        tracing::info!("this controller's certificate was renewed");
        Ok(())
    }

    fn install(&self, renewed: Identity) -> Result<(), PkiError> {
        renewed.save(&self.folder)?;
        self.credentials.renew(renewed.certificate)
    }

    fn sign_own(&self, trust: &Trusted, identity: &Identity) -> Result<(Identity, NoteCertificate), SignError> {
        let request = Identity::request(&identity.key)?;
        let signed = sign((trust, &self.sealing), MachineRole::Controller, &self.name, &request)?;
        let note = signed.note(MachineRole::Controller, self.name.clone());
        Ok((Identity { certificate: signed.certificate, ..identity.clone() }, note))
    }

    /// An authority that no certificate in use comes from any more has served.
    async fn retire_former(&self, trust: &Trusted, now: Timestamp) {
        if !self.leadership.borrow().leading || trust.behind(now).next().is_some() {
            return;
        }
        let Some(fingerprint) = trust.former().map(|row| row.fingerprint) else { return };
        match self.proposer.propose(RetireAuthority { fingerprint, force: false }.into()).await {
            Ok(_) => tracing::info!(authority = %fingerprint.short(), "the former authority is trusted no longer"),
            Err(error) => tracing::debug!(%error, "the former authority is not retired yet"),
        }
    }
}
