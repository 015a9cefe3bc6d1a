//! Why a controller cannot start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use pontoon_kit::{LockError, PkiError};
use pontoon_model::ControllerName;

use crate::blobs::BlobError;
use crate::config::ConfigError;
use crate::raft::ConsensusError;
use crate::rest::TlsError;
use crate::sealing::SealError;

/// Why a controller cannot start or go on. What lies beneath is its source.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be made.
    #[error("cannot use the data folder {}", path.display())]
    DataFolder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another controller runs on the data folder, or it cannot be known that none does.
    #[error("{}", .0.in_words(
        "this controller's data folder is not free: stop the controller that runs on it; a second one must have a machine, \
         or at least a folder, of its own and join (`pontoon controller join`)"
    ))]
    Lock(#[from] LockError),
    /// Keys or certificates cannot be used.
    #[error(
        "this controller's key and certificate (its `tls_dir`) cannot be used; where one of the files is lost or damaged, \
         `pontoon controller join ADDR --token TOKEN` with the same --data-dir gets another certificate, and leaves the \
         configuration and the store as they are; where no other controller runs, `pontoon controller init` with it does"
    )]
    Identity(#[from] PkiError),
    /// The keys that values are sealed with cannot be used.
    #[error("this controller cannot open what is kept sealed")]
    Sealing(#[from] SealError),
    /// The bearer token cannot be read.
    #[error("cannot read the token file {}", path.display())]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bearer token is none.
    #[error("the token file {} holds no token of at least {least} characters; write for example the output of `openssl rand -hex 32` into it", path.display())]
    Token {
        /// Which file.
        path: PathBuf,
        /// Shortest token that is accepted.
        least: usize,
    },
    /// The certificate of the REST port cannot be used.
    #[error("cannot use the certificate of the REST port (`rest_tls`)")]
    RestTls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        purpose: &'static str,
        /// Why.
        source: io::Error,
    },
    /// gRPC cannot be set up.
    #[error("cannot set up gRPC")]
    Grpc(#[from] tonic::transport::Error),
    /// Blobs cannot be kept.
    #[error("cannot open the blob store")]
    Blobs(#[from] BlobError),
    /// The audit cannot be kept.
    #[error("cannot start the writer of the audit")]
    Audit(#[source] io::Error),
    /// Consensus cannot start or has stopped.
    #[error("consensus failed")]
    Consensus(#[from] ConsensusError),
    /// The store is lost or damaged, and no other controller is known that has what it held.
    #[error(
        "this controller knows of no other that has what its store held. If there is one, name it in `members` of the \
         configuration, and this one comes back by itself; else restore a backup, or begin anew in an empty folder"
    )]
    OnlyCopy(#[source] ConsensusError),
    /// The store is lost or damaged, and the others do not take this controller back.
    #[error("this controller's store is lost or damaged ({loss}), and it may not come back by itself: {why}")]
    Rejoin {
        /// What was lost.
        loss: String,
        /// What the others say.
        why: String,
    },
    /// The others do not let this controller in.
    #[error("controller {name} was not let into the cluster: {why}")]
    Join {
        /// This controller.
        name: ControllerName,
        /// What the leader says.
        why: String,
    },
    /// Somebody removed this controller from the cluster.
    #[error(
        "controller {name} was removed from its cluster and has stopped ({why}); to use this machine again, set its folder \
         aside and let it join with a new token; if it was removed with --keep-trust, an empty data folder and a new id are \
         enough"
    )]
    Removed {
        /// This controller.
        name: ControllerName,
        /// Who said so.
        why: String,
    },
    /// Another controller does not take this one for a member any more.
    #[error(
        "controller {name} has stopped: another controller of its cluster says that its certificate is revoked, so the \
         cluster goes on without it, and what it would still write belongs to nobody. If it was removed (`pontoon controller \
         remove`), or the cluster was restored or recovered (`pontoon restore`, `controller recover`), that is meant: to use \
         this machine again, set its folder aside and let it join with a new token"
    )]
    ShutOut {
        /// This controller.
        name: ControllerName,
    },
    /// A part that must run has ended: better start anew than go on without it.
    #[error("{task} ended unexpectedly: {why}")]
    TaskEnded {
        /// Which.
        task: &'static str,
        /// How.
        why: String,
    },
}

/// An error and what is behind it, on one line.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = error.source();
    }
    text
}
