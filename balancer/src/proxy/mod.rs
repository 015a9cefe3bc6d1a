//! From a client's connection to a servo and back.
//!
//! [`worker`] accepts, [`connection`] finds out what it accepted, [`forward`] holds what happens to one request and
//! [`exchange`] its way from servo to servo, [`attempts`] which is next; [`fast`] carries plain HTTP/1.1 without hyper. [`ports`] carries
//! what is not HTTP. The other files are their parts.

mod activity;
mod announced;
mod attempts;
mod authority;
mod challenge;
mod client;
mod connection;
mod date;
pub(crate) mod deaths;
mod exchange;
mod fast;
mod forward;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gate;
mod headers;
pub(crate) mod health;
mod hop;
pub(crate) mod listen;
mod local;
mod pages;
pub(crate) mod ports;
mod request_body;
mod response_body;
mod room;
mod tunnel;
mod upstream;
mod with_ending;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use pontoon_kit::{CancellationToken, Credentials};
use tokio::sync::{mpsc, oneshot};

use tokio_rustls::TlsAcceptor;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::error::BalancerError;
use crate::handover::Purpose;
use crate::health::Watcher;
use crate::peers::offer::{Handed, Taker};
use crate::readiness::Readiness;
use crate::table::Table;
use crate::tail::SharedTails;
use connection::Kind;
use deaths::Deaths;
use hop::Peering;
use listen::Inherited;
use room::Room;
use worker::{Listener, Shared};

/// Everything that may fail is done, and nothing is accepted yet.
pub(crate) struct Prepared {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    peer_address: Option<SocketAddr>,
    /// By worker.
    listeners: Vec<Vec<Listener>>,
    /// By worker: connections between balancers that are made elsewhere.
    handed: Vec<mpsc::UnboundedReceiver<Handed>>,
    taker: Taker,
    shared: Shared,
    log_writer: Option<thread::JoinHandle<()>>,
}

/// What all of it works with.
pub(crate) struct With<'a> {
    pub(crate) table: &'a Arc<Table>,
    pub(crate) watcher: &'a Watcher,
    pub(crate) deaths: &'a Arc<Deaths>,
    pub(crate) credentials: &'a Credentials,
    pub(crate) readiness: &'a Arc<Readiness>,
}

/// The running workers.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where it listens for TLS.
    pub(crate) tls_address: Option<SocketAddr>,
    /// Where it listens for other balancers.
    pub(crate) peer_address: Option<SocketAddr>,
    /// Gives workers connections to other balancers.
    pub(crate) taker: Taker,
    /// Where its requests are noted.
    pub(crate) log: AccessLog,
    workers: Vec<oneshot::Receiver<io::Result<()>>>,
    log_writer: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Listens, on sockets that are `inherited` where there are some.
    pub(crate) fn prepare(
        config: &Config,
        with: &With<'_>,
        inherited: &mut Inherited,
        handed_over: &CancellationToken,
        tails: &SharedTails,
    ) -> Result<Prepared, BalancerError> {
        let count = config.worker_count();
        let (address, plain) = listen_on(config.listen, count, inherited.take(Purpose::Plain, config.listen))?;
        let tls = config.listen_tls.map(|address| listen_on(address, count, inherited.take(Purpose::Tls, address)));
        let (tls_address, tls) = tls.transpose()?.map_or((None, Vec::new()), |(address, all)| (Some(address), all));
        let peer = config.peer_listen.map(|address| listen_on(address, count, inherited.take(Purpose::Peer, address)));
        let (peer_address, peer) = peer.transpose()?.map_or((None, Vec::new()), |(address, all)| (Some(address), all));
        let (givers, handed): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let taker = Taker(givers.into());
        let With { table, watcher, deaths, credentials, readiness } = *with;
        let acceptor = TlsAcceptor::from(table.secrets().server_config().map_err(BalancerError::Tls)?);
        let (log, log_writer) =
            AccessLog::open(config.access_log.as_ref(), tails.clone()).map_err(|source| BalancerError::AccessLog {
                path: config.access_log.as_ref().map(|log| log.path.clone()).unwrap_or_default(),
                source,
            })?;
        let shared = Shared {
            table: table.clone(),
            watcher: watcher.clone(),
            deaths: deaths.clone(),
            tls: acceptor,
            log: log.clone(),
            announced: config.proxy_protocol,
            carrier: config.http1,
            handed_over: handed_over.clone(),
            room: Room::of_this_process(),
            readiness: readiness.clone(),
            peering: Peering { credentials: credentials.clone(), taker: taker.clone() },
        };
        let mut listeners: Vec<Vec<Listener>> = std::iter::repeat_with(Vec::new).take(count).collect();
        for (kind, sockets) in [(Kind::Plain, plain), (Kind::Tls, tls), (Kind::Peer, peer)] {
            for (at, socket) in sockets.into_iter().enumerate() {
                listeners[at % count].push(Listener { socket, kind });
            }
        }
        Ok(Prepared { address, tls_address, peer_address, listeners, handed, taker, shared, log_writer })
    }
}

impl Prepared {
    /// Copies of the sockets, for another process.
    pub(crate) fn sockets(&self) -> io::Result<Vec<(Purpose, TcpListener)>> {
        let purpose = |kind| match kind {
            Kind::Plain => Purpose::Plain,
            Kind::Tls => Purpose::Tls,
            Kind::Peer => Purpose::Peer,
        };
        let all = self.listeners.iter().flatten();
        all.map(|listener| Ok((purpose(listener.kind), listener.socket.try_clone()?))).collect()
    }

    /// Starts workers; they run until `shutdown`.
    pub(crate) fn serve(self, shutdown: &CancellationToken) -> Result<Proxy, BalancerError> {
        let Self { address, tls_address, peer_address, listeners, handed, taker, shared, log_writer } = self;
        let log = shared.log.clone();
        let mut workers = Vec::with_capacity(listeners.len());
        for (worker, (listeners, handed)) in listeners.into_iter().zip(handed).enumerate() {
            let (shared, shutdown) = (shared.clone(), shutdown.clone());
            let (done, ended) = oneshot::channel();
            thread::Builder::new()
                .name(format!("balancer-{worker}"))
                // A receiver that is gone has stopped waiting; a panic drops `done`, which is told apart.
                .spawn(move || drop(done.send(worker::run(listeners, handed, shared, shutdown))))
                .map_err(|source| BalancerError::Start { worker, source })?;
            workers.push(ended);
        }
        Ok(Proxy { address, tls_address, peer_address, taker, log, workers, log_writer })
    }
}

impl Proxy {
    /// Returns once every worker has ended after a shutdown, or one ended without.
    pub(crate) async fn ended(&mut self, shutdown: &CancellationToken) -> Result<(), BalancerError> {
        while !self.workers.is_empty() {
            let (ended, at, _) = futures_util::future::select_all(&mut self.workers).await;
            drop(self.workers.remove(at));
            match ended {
                Ok(Ok(())) if shutdown.is_cancelled() => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "a worker ended");
                    return Err(BalancerError::Ended { part: "a worker" });
                }
                _ => return Err(BalancerError::Ended { part: "a worker" }),
            }
        }
        self.log = AccessLog::default();
        if let Some(writer) = self.log_writer.take() {
            // With the workers the last line was sent; a writer that panicked has said so.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
        Ok(())
    }
}

fn listen_on(
    address: SocketAddr,
    count: usize,
    inherited: Vec<TcpListener>,
) -> Result<(SocketAddr, Vec<TcpListener>), BalancerError> {
    let wrap = |source| BalancerError::Listen { address, source };
    let listeners = listen::listen(address, count, inherited).map_err(wrap)?;
    let bound = listeners[0].local_addr().map_err(wrap)?;
    Ok((bound, listeners))
}
