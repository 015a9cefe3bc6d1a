//! What can end a balancer.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use pontoon_kit::{LockError, PkiError};
use pontoon_model::BalancerName;

use crate::handover::HandoverError;

/// Why a balancer cannot run.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; is another program, or another balancer, using it?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// What systemd passed on cannot be used.
    #[error("the sockets that systemd passed on (LISTEN_FDS) cannot be used")]
    Inherited(#[source] io::Error),
    /// The folder for the route table cannot be used.
    #[error("cannot use the data folder {}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another balancer runs on the data folder, or it cannot be known that none does.
    #[error("{}", .0.in_words(
        "this balancer's data folder is not free: stop the balancer that runs on it, or give this one a `data_dir`, a name and \
         an address of its own"
    ))]
    Lock(#[from] LockError),
    /// The process that runs did not give way.
    #[error(
        "this process could not take over from the one that runs on its data folder, which goes on; if it shall not run beside \
         it, stop that one first"
    )]
    Handover(#[from] HandoverError),
    /// The key or certificate cannot be used.
    #[error(
        "this balancer's key and certificate (its `tls_dir`) cannot be used; where one of the files is lost or damaged, \
         `pontoon balancer join ADDR --token TOKEN` with the same --data-dir gets another certificate, and leaves the \
         configuration as it is"
    )]
    Identity(#[source] PkiError),
    /// Its cluster does not take its certificate any more.
    #[error(
        "balancer {name} was revoked, and does not belong to its cluster any more: it hears of no change, so what it routed by was \
         given up, certificates of domains included. To use this machine again, remove {} and let it join with a new token \
         (`pontoon balancer join ADDR --token TOKEN`)", key.display()
    )]
    Revoked {
        /// Its name.
        name: BalancerName,
        /// Its key, which is worth nothing any more.
        key: PathBuf,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log {}", path.display())]
    AccessLog {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// TLS for users cannot be set up.
    #[error("cannot set up TLS for users' connections")]
    Tls(#[source] rustls::Error),
    /// A worker thread cannot be started.
    #[error("cannot start worker {worker}")]
    Start {
        /// Its number, from 0.
        worker: usize,
        /// Why.
        source: io::Error,
    },
    /// A part that must run as long as the process ended by itself: the process ends too, and is started again.
    #[error("{part} ended unexpectedly; the log above says why, and a restart is safe")]
    Ended {
        /// Which.
        part: &'static str,
    },
}
