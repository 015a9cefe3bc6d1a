//! From a client's connection to a servo and back.
//!
//! [`worker`] accepts, [`connection`] finds out what it accepted, [`forward`] holds what happens to one request and
//! [`exchange`] its way from servo to servo; the other files are their parts. [`ports`] carries what is not HTTP.

mod activity;
mod announced;
mod authority;
mod client;
mod connection;
mod exchange;
mod forward;
mod gate;
mod headers;
mod listen;
mod local;
mod pages;
pub(crate) mod ports;
mod request_body;
mod response_body;
mod tunnel;
mod upstream;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use pontoon_kit::CancellationToken;
use tokio::sync::oneshot;

use tokio_rustls::TlsAcceptor;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::error::BalancerError;
use crate::health::Watcher;
use crate::table::Table;
use worker::{Listeners, Shared};

/// The running workers.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where it listens for TLS.
    pub(crate) tls_address: Option<SocketAddr>,
    /// Where its requests are noted.
    pub(crate) log: AccessLog,
    workers: Vec<oneshot::Receiver<io::Result<()>>>,
    log_writer: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Listens and starts workers; they run until `shutdown`.
    pub(crate) fn start(
        config: &Config,
        table: &Arc<Table>,
        watcher: &Watcher,
        shutdown: &CancellationToken,
    ) -> Result<Self, BalancerError> {
        let count = config.worker_count();
        let (address, plain) = listen_on(config.listen, count)?;
        let tls = config.listen_tls.map(|address| listen_on(address, count)).transpose()?;
        let (tls_address, tls) = tls.map_or((None, Vec::new()), |(address, all)| (Some(address), all));
        let acceptor = TlsAcceptor::from(table.secrets().server_config().map_err(BalancerError::Tls)?);
        let (log, log_writer) =
            AccessLog::open(config.access_log.as_ref()).map_err(|source| BalancerError::AccessLog {
                path: config.access_log.as_ref().map(|log| log.path.clone()).unwrap_or_default(),
                source,
            })?;
        let shared = Shared {
            table: table.clone(),
            watcher: watcher.clone(),
            tls: acceptor,
            log: log.clone(),
            announced: config.proxy_protocol,
        };
        let tls = tls.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let listeners = plain.into_iter().zip(tls).map(|(plain, tls)| Listeners { plain, tls });
        let mut workers = Vec::with_capacity(count);
        for (worker, listeners) in listeners.enumerate() {
            let (shared, shutdown) = (shared.clone(), shutdown.clone());
            let (done, ended) = oneshot::channel();
            thread::Builder::new()
                .name(format!("balancer-{worker}"))
                // A receiver that is gone has stopped waiting; a panic drops `done`, which is told apart.
                .spawn(move || drop(done.send(worker::run(listeners, shared, shutdown))))
                .map_err(|source| BalancerError::Start { worker, source })?;
            workers.push(ended);
        }
        Ok(Self { address, tls_address, log, workers, log_writer })
    }

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

fn listen_on(address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<TcpListener>), BalancerError> {
    let wrap = |source| BalancerError::Listen { address, source };
    let listeners = listen::listen(address, count).map_err(wrap)?;
    let bound = listeners[0].local_addr().map_err(wrap)?;
    Ok((bound, listeners))
}
