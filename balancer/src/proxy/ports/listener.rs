//! Accepts connections at one port.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pontoon_kit::CancellationToken;
use pontoon_model::AppName;
use pontoon_proto::PortReport;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time;
use tokio_util::task::TaskTracker;

use super::Parts;
use super::connection;
use super::settle::Proofs;
use crate::proxy::listen;
use crate::table::PortEntry;

/// After a failed accept (no file descriptors left): time for some connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port that shall be listened on.
#[derive(Debug)]
pub(crate) struct Status {
    /// Which.
    pub(crate) port: u16,
    /// Whose.
    pub(crate) app: AppName,
    /// Why it is not listened on.
    pub(crate) problem: Option<String>,
    /// What came to it.
    pub(crate) counts: Counts,
}

/// Counts since it is listened on.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections that have not ended.
    pub(super) open: AtomicU32,
    /// Those that were ended at once, because there were too many.
    pub(super) refused: AtomicU64,
    /// From clients to servos.
    pub(super) received: AtomicU64,
    /// From servos to clients.
    pub(super) sent: AtomicU64,
}

impl Counts {
    /// Open connections, refused ones, bytes received and sent.
    pub(crate) fn read(&self) -> (u32, u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.open.load(Ordering::Relaxed), read(&self.refused), read(&self.received), read(&self.sent))
    }
}

/// What people are told; counts are not part of it.
impl PartialEq for Status {
    fn eq(&self, other: &Self) -> bool {
        (self.port, &self.app, &self.problem) == (other.port, &other.app, &other.problem)
    }
}

impl Status {
    pub(super) fn failed(port: u16, entry: &PortEntry, problem: String) -> Self {
        Self { port, app: entry.app.clone(), problem: Some(problem), counts: Counts::default() }
    }

    /// As controllers are told.
    pub(super) fn report(&self) -> PortReport {
        PortReport { port: self.port, problem: self.problem.clone() }
    }
}

/// A port that is listened on until this is dropped.
pub(super) struct Listener {
    shared: Arc<Shared>,
    closed: CancellationToken,
}

/// What the connections of one port share.
pub(super) struct Shared {
    pub(super) parts: Parts,
    pub(super) status: Arc<Status>,
    pub(super) entry: ArcSwap<PortEntry>,
    pub(super) proofs: Proofs,
    /// Cuts them.
    pub(super) cut: CancellationToken,
}

impl Listener {
    pub(super) fn start(
        socket: StdListener,
        entry: &PortEntry,
        parts: Parts,
        runtime: &Handle,
        connections: TaskTracker,
        cut: CancellationToken,
    ) -> io::Result<Self> {
        let port = socket.local_addr()?.port();
        let status = Arc::new(Status { port, app: entry.app.clone(), problem: None, counts: Counts::default() });
        let shared = Arc::new(Shared {
            parts,
            status,
            entry: ArcSwap::from_pointee(entry.clone()),
            proofs: Proofs::default(),
            cut,
        });
        let closed = CancellationToken::new();
        let listener = {
            // The socket belongs to the runtime on which it is read.
            let _inside = runtime.enter();
            TcpListener::from_std(socket)?
        };
        // Waited for as the connections are: those that it takes at its end are some of them.
        connections.spawn_on(accept(listener, shared.clone(), connections.clone(), closed.clone()), runtime);
        Ok(Self { shared, closed })
    }

    pub(super) fn status(&self) -> &Arc<Status> {
        &self.shared.status
    }

    /// How new connections are treated from now on.
    pub(super) fn treat(&self, entry: &PortEntry) {
        if **self.shared.entry.load() != *entry {
            self.shared.entry.store(Arc::new(entry.clone()));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: TaskTracker, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => begin(&shared, &connections, stream, peer),
            Err(error) if super::super::worker::is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(port = shared.status.port, %error, "cannot accept connections; trying again");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Another process may be taking from the same queue.
    for (stream, peer) in listen::waiting(listener).take(listen::BACKLOG as usize) {
        begin(&shared, &connections, stream, peer);
    }
}

fn begin(shared: &Arc<Shared>, connections: &TaskTracker, stream: TcpStream, peer: SocketAddr) {
    match Place::take(shared) {
        Some(place) => drop(connections.spawn(connection::serve(place, stream, peer))),
        None => refused(shared, peer),
    }
}

fn refused(shared: &Shared, peer: SocketAddr) {
    let before = shared.status.counts.refused.fetch_add(1, Ordering::Relaxed);
    if before == 0 {
        let most = shared.entry.load().settings.connections;
        tracing::warn!(
            port = shared.status.port, %peer,
            "a connection was ended at once: {most} are open already; said once, /metrics counts the others"
        );
    }
}

/// A connection's place among those that a port may have.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
}

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let most = shared.entry.load().settings.connections;
        // Dropping it gives the place back.
        let place = Self { shared: shared.clone() };
        (shared.status.counts.open.fetch_add(1, Ordering::AcqRel) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.status.counts.open.fetch_sub(1, Ordering::AcqRel);
    }
}
