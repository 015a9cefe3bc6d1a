//! One worker: a thread with its own runtime, listener, connections and pool.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use pontoon_kit::CancellationToken;
use slab::Slab;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, Verdict};
use super::connection::{self, Kind};
use super::date::Date;
use super::deaths::Deaths;
use super::fast::Spare;
use super::hop::{self, Peering};
use super::listen;
use super::local::Local;
use super::room::Room;
use super::upstream::Pool;
use crate::access_log::AccessLog;
use crate::config::Http1;
use crate::health::Watcher;
use crate::millis;
use crate::peers::links;
use crate::peers::offer::Handed;
use crate::readiness::Readiness;
use crate::secrets::CookieKeys;
use crate::table::Table;

/// Requests in flight may take this long to end after a stop: what controllers grant servos too.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// How long a connection may wait for its last request after another process has taken over: those that are used are used
/// more often.
const LINGER: Duration = Duration::from_secs(10);
/// The same where none has: nobody can connect again before it is started, so it is as short as clients at work allow.
const PARTING: Duration = Duration::from_secs(1);
/// Largest request head: a page of cookies fits, an attack does not.
pub(super) const MOST_HEAD_BYTES: usize = 32 * 1024;
/// Largest buffer per client connection.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often connections and pools are looked over; the limits checked are many seconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// After a failed accept (no file descriptors left): time for some connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where there is no room for more connections: of a worker's so many end with each look that have been idle for so long. Not all
/// of them, since they would all be there again at once.
const SHARE_ENDED: usize = 8;
const IDLE_AT_LEAST: Duration = Duration::from_secs(1);

/// Requests at a time on one connection of HTTP/2: what browsers and proxies expect at least (RFC 9113 asks for 100).
const MOST_STREAMS: u32 = 128;
/// What a client may send of one request's body, and of all of a connection's, before it is taken: over 80 ms of round trip
/// it carries 12 MB/s.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What the workers of a balancer share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) table: Arc<Table>,
    pub(super) watcher: Watcher,
    pub(super) deaths: Arc<Deaths>,
    pub(super) tls: TlsAcceptor,
    pub(super) log: AccessLog,
    /// Whether connections begin with a header of the PROXY protocol.
    pub(super) announced: bool,
    /// How HTTP/1.1 is carried.
    pub(super) carrier: Http1,
    /// Cancelled when another process accepts connections.
    pub(super) handed_over: CancellationToken,
    pub(super) room: Room,
    pub(super) readiness: Arc<Readiness>,
    pub(super) peering: Peering,
}

/// What the requests of one worker share.
pub(super) struct Worker {
    shared: Shared,
    leaving: Cell<bool>,
    pub(super) pool: Rc<Pool>,
    pub(super) spare: Spare,
    pub(super) date: Date,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Local>,
    pub(super) http2_of_peers: http2::Builder<Local>,
    pub(super) links: Rc<hop::links::Links>,
    activities: RefCell<Slab<Weak<Activity>>>,
    connections: TaskTracker,
    /// Connections that changed their protocol.
    pub(super) tunnels: TaskTracker,
}

/// A listening socket and what comes on it.
pub(super) struct Listener {
    pub(super) socket: std::net::TcpListener,
    pub(super) kind: Kind,
}

/// Serves connections of `listeners` until `shutdown`, then lets requests end. Blocks its thread.
pub(super) fn run(
    listeners: Vec<Listener>,
    handed: mpsc::UnboundedReceiver<Handed>,
    shared: Shared,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(Worker::new(shared));
    LocalSet::new().block_on(&runtime, async move {
        let listen = |one: Listener| Ok((TcpListener::from_std(one.socket)?, one.kind));
        let listeners = listeners.into_iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        tokio::select! {
            _ = join_all(listeners.iter().map(|(listener, kind)| worker.accept(listener, *kind))) => {}
            () = hop::serve::take(&worker, handed) => {}
            () = worker.sweep() => {}
            () = shutdown.cancelled() => {}
        }
        let handed_over = worker.handed_over.is_cancelled();
        worker.leaving.set(true);
        worker.part(listeners, if handed_over { LINGER } else { PARTING }).await;
        let begun = Instant::now();
        worker.finish().await;
        // Without another process they are cut: they have no end of their own.
        if handed_over {
            worker.end_tunnels(GRACE.saturating_sub(begun.elapsed())).await;
        }
        Ok(())
    })
}

impl Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Worker {
    fn new(shared: Shared) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            // Our own watch does this: see `activity`.
            .header_read_timeout(None)
            .max_header_size(MOST_HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES);
        let mut http2 = http2::Builder::new(Local);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(MOST_HEAD_BYTES as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Self {
            shared,
            leaving: Cell::new(false),
            http2_of_peers: links::asked(Local),
            links: Rc::default(),
            pool: Rc::default(),
            spare: Spare::default(),
            date: Date::default(),
            http1,
            http2,
            activities: RefCell::default(),
            connections: TaskTracker::new(),
            tunnels: TaskTracker::new(),
        }
    }

    /// Whether it accepts no more connections: answers end theirs then, so that clients go elsewhere.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Signs and checks cookies.
    pub(super) fn cookies(&self) -> Arc<CookieKeys> {
        self.table.secrets().cookies()
    }

    /// Runs what serves a connection; waited for at the end.
    pub(super) fn track(&self, serving: impl Future<Output = ()> + 'static) {
        self.connections.spawn_local(serving);
    }

    /// Looks after a connection from now on.
    pub(super) fn watch_over(&self, activity: &Arc<Activity>) {
        let place = self.activities.borrow_mut().insert(Arc::downgrade(activity));
        activity.place.store(place, Ordering::Relaxed);
    }

    /// A connection has ended. Without this it is noticed by the next sweep; but short ones come by ten thousands a second, and
    /// until then each keeps its memory.
    pub(super) fn let_go(&self, activity: &Activity) {
        self.activities.borrow_mut().try_remove(activity.place.load(Ordering::Relaxed));
    }

    /// Those of connections that have not ended.
    fn alive(&self) -> Vec<Arc<Activity>> {
        self.activities.borrow().iter().filter_map(|(_, activity)| activity.upgrade()).collect()
    }

    async fn accept(self: &Rc<Self>, listener: &TcpListener, kind: Kind) {
        loop {
            // Other balancers ask for many clients of theirs on one.
            let place = if kind == Kind::Peer { None } else { self.room.place().await };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    self.connections.spawn_local(connection::serve(self.clone(), stream, peer, kind, place));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again in {ACCEPT_PAUSE:?}");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn sweep(&self) {
        let mut ticks = time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pool.sweep();
            self.links.sweep();
            let now = millis::now();
            self.activities
                .borrow_mut()
                .retain(|_, activity| activity.upgrade().map(|activity| activity.check(now)).is_some());
            if self.room.is_full() {
                self.make_room(now);
            }
        }
    }

    /// Ends the connections that have been idle for longest: others wait for their places.
    fn make_room(&self, now: u64) {
        let alive = self.alive();
        let idle = |activity: &Arc<Activity>| activity.idle_for(now).filter(|idle| *idle >= IDLE_AT_LEAST);
        let mut all: Vec<_> = alive.iter().filter_map(|activity| Some((idle(activity)?, activity))).collect();
        all.sort_unstable_by_key(|(idle, _)| std::cmp::Reverse(*idle));
        let share = (alive.len() / SHARE_ENDED).max(1);
        all.iter().take(share).for_each(|(_, activity)| activity.end(Verdict::Finish));
    }

    /// Accepts nothing more. An idle connection of HTTP/1 that is closed here could meet a request on its way, so each has some
    /// time for another, whose answer ends it.
    async fn part(self: &Rc<Self>, listeners: Vec<(TcpListener, Kind)>, linger: Duration) {
        for (listener, kind) in listeners {
            // With their listener they would be reset, and another process may not have taken this one.
            for (stream, peer) in listen::waiting(listener) {
                self.connections.spawn_local(connection::serve(self.clone(), stream, peer, kind, None));
            }
        }
        // Of HTTP/2 both sides know which request was the last.
        self.alive().iter().filter(|activity| activity.is_http2()).for_each(|activity| activity.end(Verdict::Finish));
        self.connections.close();
        tokio::select! {
            _ = time::timeout(linger, self.connections.wait()) => {}
            () = self.sweep() => {}
        }
    }

    /// Connections of other protocols end by themselves, or are cut after `grace`.
    async fn end_tunnels(&self, grace: Duration) {
        self.tunnels.close();
        if time::timeout(grace, self.tunnels.wait()).await.is_err() {
            tracing::warn!("{} connection(s) of other protocols cut after {GRACE:?}", self.tunnels.len());
        }
    }

    /// Ends idle connections, waits for requests in flight.
    async fn finish(&self) {
        self.alive().iter().for_each(|activity| activity.end(Verdict::Finish));
        self.connections.close();
        if time::timeout(GRACE, self.connections.wait()).await.is_err() {
            tracing::warn!("{} connection(s) cut: their requests did not end within {GRACE:?}", self.connections.len());
        }
    }
}

/// The client was gone before it was accepted.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
