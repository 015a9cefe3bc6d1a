//! Joining with a token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_kit::pki::JoinText;
use pontoon_kit::tls::{PinnedChannelError, TlsFailure, pinned_channel};
use pontoon_kit::{Identity, PkiError, Role};
use pontoon_model::SiteName;
use pontoon_proto::services::enrolment_client::EnrolmentClient;
use pontoon_proto::{Admitted, JoinReply, JoinRequest};
use tokio::time::{Instant, sleep, timeout};

use crate::machine_role;

/// One answer: the controller asked may have to ask the leader, and that one to write.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a cluster that is not able to just now is asked again: an election takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Who wants to join.
#[derive(Debug, Clone)]
pub struct Who<'a> {
    /// As what.
    pub role: Role,
    /// Under which name.
    pub name: &'a str,
    /// Where it stands.
    pub site: Option<&'a SiteName>,
}

/// Why a machine does not belong.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is for another role.
    #[error("this token lets in {of}s; `pontoon token create --role {wanted}` makes one for a {wanted}")]
    Role {
        /// The token's role.
        of: Role,
        /// What was to join.
        wanted: Role,
    },
    /// There is a certificate already.
    #[error(
        "{} holds a certificate of {peer} already; remove that folder if this machine shall join anew", folder.display()
    )]
    There {
        /// Where.
        folder: PathBuf,
        /// Whose.
        peer: String,
    },
    /// Keys or certificates.
    #[error("cannot make or keep this machine's key and certificate")]
    Pki(#[from] PkiError),
    /// TLS.
    #[error(transparent)]
    Channel(#[from] PinnedChannelError),
    /// The controller does not answer, or is not of the token's cluster.
    #[error(
        "{address} does not answer as a controller of the token's cluster: {why}; is it the address and port that \
         `pontoon controllers` shows as GRPC, and the token of this cluster?"
    )]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// It is one of a cluster with another authority.
    #[error(
        "the token names another certificate authority than that of the cluster at {address}: {}; `pontoon token create --role \
         {role}`, asked of that cluster, makes one that it takes", another_authority(*changed)
    )]
    Authority {
        /// Who was asked.
        address: SocketAddr,
        /// As what.
        role: Role,
        /// Whether that cluster's authority was changed at some time.
        changed: bool,
    },
    /// The certificate of the controller is not good now.
    #[error(
        "the certificate of the controller at {address} is not good at what is now by this machine's clock: set the clock right, \
         then try again; if it is right, look into that controller's log, or ask another"
    )]
    Time {
        /// Who was asked.
        address: SocketAddr,
    },
    /// It is no gRPC server.
    #[error(
        "what answers at {address} does not speak TLS: give the address and port that `pontoon controllers` shows as GRPC"
    )]
    NotTls {
        /// Who was asked.
        address: SocketAddr,
    },
    /// The cluster says no.
    #[error("the cluster does not let this machine in: {why}")]
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// The cluster cannot answer.
    #[error("the cluster cannot let anybody in now: {why}; try again when a majority of its controllers runs")]
    Unavailable {
        /// Why.
        why: String,
    },
}

/// Asks the controller at `address` to let `who` in; keeps key and certificates in `folder`. Asked again after a failure, it
/// goes on with the same key, and no use of the token is lost.
pub async fn join(address: SocketAddr, token: &JoinText, who: &Who<'_>, folder: &Path) -> Result<Admitted, JoinError> {
    if token.role != who.role {
        return Err(JoinError::Role { of: token.role, wanted: who.role });
    }
    // What cannot be used, because a file of it is lost or damaged, is made whole here.
    if let Ok(there) = Identity::load_usable(folder) {
        let peer = there.peer()?.to_string();
        return Err(JoinError::There { folder: folder.to_owned(), peer });
    }
    let key = Identity::load_or_make_key(folder)?;
    let request = JoinRequest {
        secret: token.secret.clone(),
        role: machine_role(who.role),
        name: who.name.to_owned(),
        site: who.site.cloned(),
        request: Identity::request(&key)?.into(),
    };
    let admitted = ask(address, token, request).await?;
    let identity = Identity { ca: admitted.roots.clone(), certificate: admitted.certificate.clone(), key };
    identity.save(folder)?;
    Ok(admitted)
}

async fn ask(address: SocketAddr, token: &JoinText, request: JoinRequest) -> Result<Admitted, JoinError> {
    let mut client = EnrolmentClient::new(pinned_channel(address, token.authority)?);
    let began = Instant::now();
    loop {
        let error = match timeout(ANSWER, client.join(request.clone())).await {
            Ok(Ok(reply)) => match reply.into_inner() {
                JoinReply::Admitted(admitted) => return Ok(*admitted),
                JoinReply::Refused { why } => return Err(JoinError::Refused { why }),
                JoinReply::Unavailable { why } => JoinError::Unavailable { why },
            },
            Ok(Err(status)) => return Err(not_answered(address, token.role, &status)),
            Err(_) => JoinError::Unreachable { address, why: format!("it was silent for {} s", ANSWER.as_secs()) },
        };
        if began.elapsed() > PATIENCE {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

fn another_authority(changed: bool) -> &'static str {
    match changed {
        true => "it was changed since the token was made (`pontoon ca rotate`), or the token is of another cluster",
        false => "the token is of another cluster",
    }
}

/// Why nobody of the token's cluster answered.
fn not_answered(address: SocketAddr, role: Role, status: &tonic::Status) -> JoinError {
    match TlsFailure::of(status) {
        Some(TlsFailure::NotTheAuthority { follows_another: changed }) => {
            JoinError::Authority { address, role, changed }
        }
        Some(TlsFailure::Ended | TlsFailure::NotYet) => JoinError::Time { address },
        Some(TlsFailure::NotTls) => JoinError::NotTls { address },
        _ => JoinError::Unreachable { address, why: words_of(status) },
    }
}

/// What is at the bottom of a failed call: tonic's own words say only that the transport failed.
fn words_of(status: &tonic::Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    let words = error.to_string();
    if words.is_empty() { status.message().to_owned() } else { words }
}
