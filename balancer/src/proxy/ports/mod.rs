//! Ports of processes that do not speak HTTP: what the controllers name is listened on, and bytes are carried both ways.
//!
//! [`listener`] accepts at one port, [`connection`] holds what happens to one connection, [`reach`] how it finds its servo and
//! [`settle`] whether that keeps it; [`stream`] and [`header`] are its parts.

mod connection;
mod header;
mod listener;
mod reach;
pub(crate) mod settle;
mod sockets;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::CancellationToken;
use pontoon_model::AppName;
use pontoon_proto::PortReport;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time;
use tokio_util::task::TaskTracker;

use super::listen::{self, Inherited};
use super::worker::GRACE;
use crate::access_log::AccessLog;
use crate::handover::Purpose;
use crate::health::Watcher;
use crate::table::{PortEntry, Table};
use listener::Listener;
pub(crate) use listener::Status;
pub(crate) use sockets::Sockets;

/// A port that could not be listened on is tried again after this: whoever has it may be gone by then, and nobody waits for
/// it but the app's users.
const RETRY: Duration = Duration::from_secs(2);

/// What listening needs, and what connections share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) table: Arc<Table>,
    pub(crate) watcher: Watcher,
    pub(crate) log: AccessLog,
    /// Whether connections begin with a header of the PROXY protocol.
    pub(crate) announced: bool,
}

/// Which ports are listened on, for whoever asks. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<watch::Sender<Vec<Arc<Status>>>>);

impl Board {
    /// Every port there shall be, in order.
    pub(crate) fn all(&self) -> Vec<Arc<Status>> {
        self.0.borrow().clone()
    }

    /// Follows it.
    pub(crate) fn follow(&self) -> watch::Receiver<Vec<Arc<Status>>> {
        self.0.subscribe()
    }

    /// What of it controllers are told.
    pub(crate) fn reports(&self) -> Vec<PortReport> {
        self.0.borrow().iter().map(|status| status.report()).collect()
    }

    fn show(&self, all: Vec<Arc<Status>>) {
        self.0.send_if_modified(|shown| {
            let other = *shown != all;
            if other {
                *shown = all;
            }
            other
        });
    }
}

/// Where ports are.
#[derive(Debug)]
pub(crate) struct At {
    /// All of them.
    pub(crate) ip: IpAddr,
    /// The sockets of the process before.
    pub(crate) inherited: Inherited,
    /// Where copies are, for the next process.
    pub(crate) sockets: Sockets,
}

/// Listens on the ports that the controllers name.
pub(crate) struct Ports {
    parts: Parts,
    at: At,
    threads: usize,
    board: Board,
    /// Made with the first port: most balancers have none.
    engine: Option<Engine>,
    open: BTreeMap<u16, Listener>,
    failed: BTreeMap<u16, Arc<Status>>,
}

/// Carries connections on threads of its own, so that they take no time from requests' workers.
struct Engine {
    // Ends what is left without waiting for it.
    runtime: Option<Runtime>,
    connections: TaskTracker,
    /// Cuts every connection.
    cut: CancellationToken,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Ports {
    /// `threads` carry their connections.
    pub(crate) fn new(parts: Parts, at: At, threads: usize, board: Board) -> Self {
        Self { parts, at, threads, board, engine: None, open: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Follows what the controllers name until `shutdown`; then connections may end by themselves for as long as requests.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut versions = self.parts.table.watch_edge();
        loop {
            versions.borrow_and_update();
            self.follow(self.parts.table.ports());
            // Those of ports that are no more.
            drop(std::mem::take(&mut self.at.inherited));
            let again = async {
                match self.failed.is_empty() {
                    true => std::future::pending().await,
                    false => time::sleep(RETRY).await,
                }
            };
            tokio::select! {
                changed = versions.changed() => if changed.is_err() { break },
                () = again => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.open.clear();
        self.at.sockets.retain(|_| false);
        if let Some(engine) = &self.engine {
            engine.connections.close();
            if time::timeout(GRACE, engine.connections.wait()).await.is_err() {
                tracing::warn!(
                    "{} connection(s) to ports cut: they did not end within {GRACE:?}",
                    engine.connections.len()
                );
                engine.cut.cancel();
            }
        }
    }

    fn follow(&mut self, wanted: BTreeMap<u16, PortEntry>) {
        // Dropped, they listen no longer; their connections go on as long as their servos do.
        let is_its = |port: &u16, app: &AppName| wanted.get(port).is_some_and(|entry| entry.app == *app);
        self.open.retain(|port, listener| is_its(port, &listener.status().app));
        self.at.sockets.retain(|port| self.open.contains_key(&port));
        for (port, entry) in &wanted {
            match self.open.get(port) {
                Some(listener) => listener.treat(entry),
                None => self.listen(*port, entry),
            }
        }
        self.failed.retain(|port, _| wanted.contains_key(port) && !self.open.contains_key(port));
        let open = self.open.iter().map(|(port, listener)| (*port, listener.status().clone()));
        let all: BTreeMap<u16, Arc<Status>> = open.chain(self.failed.clone()).collect();
        self.board.show(all.into_values().collect());
    }

    fn listen(&mut self, port: u16, entry: &PortEntry) {
        match self.open(port, entry) {
            Ok(listener) => {
                tracing::info!(port, app = %entry.app, "listens for connections");
                self.open.insert(port, listener);
            }
            Err(error) => {
                let problem = format!("cannot listen on {}: {error}", SocketAddr::new(self.at.ip, port));
                // Once, not with every try.
                if self.failed.get(&port).is_none_or(|before| before.problem.as_ref() != Some(&problem)) {
                    tracing::error!(port, app = %entry.app, "{problem}; trying again every {RETRY:?}");
                }
                self.failed.insert(port, Arc::new(Status::failed(port, entry, problem)));
            }
        }
    }

    fn open(&mut self, port: u16, entry: &PortEntry) -> io::Result<Listener> {
        let address = SocketAddr::new(self.at.ip, port);
        let inherited = self.at.inherited.take(Purpose::Port, address);
        let socket = listen::listen(address, 1, inherited)?.swap_remove(0);
        let copy = socket.try_clone()?;
        let engine = match &mut self.engine {
            Some(engine) => engine,
            None => {
                let mut builder = Builder::new_multi_thread();
                let runtime =
                    builder.worker_threads(self.threads).thread_name("balancer-ports").enable_all().build()?;
                let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
                self.engine.insert(Engine { runtime: Some(runtime), connections, cut })
            }
        };
        let Some(runtime) = &engine.runtime else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let (connections, cut) = (engine.connections.clone(), engine.cut.clone());
        let listener = Listener::start(socket, entry, self.parts.clone(), runtime.handle(), connections, cut)?;
        self.at.sockets.put(port, copy);
        Ok(listener)
    }
}
