//! From a client's connection to a servo and back.
//!
//! [`worker`] accepts; [`forward`] holds what happens to one request; the other files are its parts.

mod activity;
mod authority;
mod forward;
mod headers;
mod listen;
mod pages;
mod request_body;
mod response_body;
mod tunnel;
mod upstream;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use pontoon_kit::CancellationToken;
use tokio::sync::oneshot;

use crate::error::BalancerError;
use crate::table::Table;

/// The running workers.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    workers: Vec<oneshot::Receiver<io::Result<()>>>,
}

impl Proxy {
    /// Listens on `address` and starts `count` workers; they run until `shutdown`.
    pub(crate) fn start(
        address: SocketAddr,
        count: usize,
        table: &Arc<Table>,
        shutdown: &CancellationToken,
    ) -> Result<Self, BalancerError> {
        let wrap = |source| BalancerError::Listen { address, source };
        let listeners = listen::listen(address, count).map_err(wrap)?;
        let bound = listeners[0].local_addr().map_err(wrap)?;
        let mut workers = Vec::with_capacity(count);
        for (worker, listener) in listeners.into_iter().enumerate() {
            let (table, shutdown) = (table.clone(), shutdown.clone());
            let (done, ended) = oneshot::channel();
            thread::Builder::new()
                .name(format!("balancer-{worker}"))
                // A receiver that is gone has stopped waiting; a panic drops `done`, which is told apart.
                .spawn(move || drop(done.send(worker::run(listener, table, shutdown))))
                .map_err(|source| BalancerError::Start { worker, source })?;
            workers.push(ended);
        }
        Ok(Self { address: bound, workers })
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
        Ok(())
    }
}
