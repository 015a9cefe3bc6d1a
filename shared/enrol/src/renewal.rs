//! A certificate is replaced long before it ends, and at once when a controller asks for it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pontoon_kit::{Backoff, CancellationToken, Credentials, Identity, Peer, PkiError, Role, Trust, rpc};
use pontoon_model::Digest;
use pontoon_proto::services::enrolment_client::EnrolmentClient;
use pontoon_proto::{RenewReply, RenewRequest, TrustNow};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::machine_role;

/// One answer: the controller asked may have to ask the leader, and that one to write.
const ANSWER: Duration = Duration::from_secs(15);
/// Between tries; a certificate that is due has a third of its life left.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// How often the clock is looked at: a timer stands still while a machine sleeps.
const LOOK: Duration = Duration::from_secs(60);
/// Between two renewals that a controller asked for: it may ask before it knows of the one that was just made.
const APART: Duration = Duration::from_secs(1);

/// Where a controller's wish for a new certificate is put.
pub type RenewalAsked = watch::Sender<u64>;

/// Takes in what a controller says about trust.
pub fn obey(credentials: &Credentials, asked: &RenewalAsked, now: TrustNow) -> Result<(), PkiError> {
    let revoked = now.revoked.iter().map(|Digest(key)| pontoon_kit::KeyId(*key)).collect();
    credentials.hear_of_trust(&Trust { roots: now.roots, revoked })?;
    if now.renew {
        asked.send_modify(|times| *times += 1);
    }
    Ok(())
}

/// Keeps a machine's certificate good.
#[derive(Debug)]
pub struct Renewal {
    /// What is renewed.
    pub credentials: Credentials,
    /// Where it is kept.
    pub folder: PathBuf,
    /// Wishes for a new one.
    pub asked: watch::Receiver<u64>,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("no connection can be made")]
    Channel(#[from] tonic::transport::Error),
    #[error("{0}")]
    Call(String),
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("{why}")]
    Refused { why: String },
    #[error("{why}")]
    Unavailable { why: String },
    #[error("the new certificate is {got}'s, not {own}'s")]
    Another { got: Peer, own: Peer },
}

impl Renewal {
    /// Renews whenever it is due, asking one of `controllers` after the other, until `stop`.
    pub async fn keep(mut self, controllers: impl Fn() -> Vec<SocketAddr> + Send, stop: CancellationToken) {
        let mut refusals = self.credentials.refusals();
        loop {
            tokio::select! {
                () = self.due() => {}
                // It has ended, or its authority is trusted no longer.
                Ok(()) = refusals.changed() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.until_renewed(&controllers) => refusals.mark_unchanged(),
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = sleep(APART) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Renews whenever the others no longer accept the certificate, for ever; all else is seen to by whoever calls this.
    pub async fn keep_when_refused(mut self, controllers: impl Fn() -> Vec<SocketAddr> + Send) {
        let mut refusals = self.credentials.refusals();
        while refusals.changed().await.is_ok() {
            self.until_renewed(&controllers).await;
            refusals.mark_unchanged();
            sleep(APART).await;
        }
    }

    /// Waits until the certificate is two thirds old or a controller asks.
    async fn due(&mut self) {
        loop {
            let due =
                self.credentials.identity().validity().map_or(SystemTime::UNIX_EPOCH, |validity| validity.renew_at());
            let Ok(left) = due.duration_since(SystemTime::now()) else { return };
            tokio::select! {
                changed = self.asked.changed() => match changed {
                    Ok(()) => return,
                    // Nobody can ask any more.
                    Err(_) => sleep(left.min(LOOK)).await,
                },
                () = sleep(left.min(LOOK)) => {}
            }
        }
    }

    async fn until_renewed(&mut self, controllers: &impl Fn() -> Vec<SocketAddr>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let mut last = None;
            for address in controllers() {
                // Wishes up to now are fulfilled by this one.
                self.asked.mark_unchanged();
                match self.from(address).await {
                    Ok(()) => {
                        let ends = self.credentials.identity().validity().ok().map(|validity| validity.ends);
                        let left = ends.and_then(|ends| ends.duration_since(SystemTime::now()).ok());
                        let days = left.map(|left| left.as_secs() / (24 * 3600));
                        return tracing::info!(days, "the certificate was renewed; it is good for so many days");
                    }
                    Err(error) => last = Some((address, error)),
                }
            }
            if let Some((address, error)) = last {
                tracing::warn!(%address, %error, "the certificate cannot be renewed yet");
            }
            sleep(backoff.wait()).await;
        }
    }

    async fn from(&self, address: SocketAddr) -> Result<(), RenewalError> {
        let identity = self.credentials.identity();
        let own = identity.peer()?;
        let request = RenewRequest {
            role: machine_role(own.role),
            name: own.id.clone(),
            request: Identity::request(&identity.key)?.into(),
        };
        let refusals = self.credentials.refusals();
        let known = rpc::channel(address, Role::Controller, &self.credentials)?;
        let reply = match ask(known, request.clone()).await? {
            // The key alone says who this is.
            Err(_) if refusals.has_changed().unwrap_or(false) => {
                ask(rpc::anonymous_channel(address, Role::Controller, &self.credentials)?, request).await?
            }
            reply => reply,
        };
        match reply.map_err(|status| RenewalError::Call(status.message().to_owned()))? {
            RenewReply::Renewed { certificate, roots } => {
                let renewed = Identity { ca: roots.clone(), certificate: certificate.clone(), key: identity.key };
                let got = renewed.peer()?;
                if got != own {
                    return Err(RenewalError::Another { got, own });
                }
                // Tried before it is kept.
                Credentials::new(renewed.clone())?;
                renewed.save(&self.folder)?;
                self.credentials.renew(certificate)?;
                self.credentials.hear_of_trust(&Trust { roots, ..self.credentials.trust() })?;
                Ok(())
            }
            RenewReply::Refused { why } => Err(RenewalError::Refused { why }),
            RenewReply::Unavailable { why } => Err(RenewalError::Unavailable { why }),
        }
    }
}

async fn ask(channel: Channel, request: RenewRequest) -> Result<Result<RenewReply, Status>, RenewalError> {
    let answered = timeout(ANSWER, EnrolmentClient::new(channel).renew(request)).await;
    Ok(answered.map_err(|_| RenewalError::Silent)?.map(tonic::Response::into_inner))
}
