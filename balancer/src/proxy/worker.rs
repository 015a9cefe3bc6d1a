//! One worker: a thread with its own runtime, listener, connections and pool.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pontoon_kit::CancellationToken;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{self, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use super::activity::{self, Activity, Verdict, Watched};
use super::forward::{self, Client};
use super::headers;
use super::upstream::Pool;
use crate::table::Table;

/// Requests in flight may take this long to end after a stop: what controllers grant servos too.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// Largest request head: a page of cookies fits, an attack does not.
const MOST_HEAD_BYTES: usize = 32 * 1024;
/// Largest buffer per client connection.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often connections and pools are looked over; the limits checked are many seconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// After a failed accept (no file descriptors left): time for some connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the requests of one worker share.
pub(super) struct Worker {
    pub(super) table: Arc<Table>,
    pub(super) pool: Rc<Pool>,
    activities: RefCell<Vec<Weak<Activity>>>,
    connections: TaskTracker,
    server: http1::Builder,
}

/// Serves connections of `listener` until `shutdown`, then lets requests end. Blocks its thread.
pub(super) fn run(listener: std::net::TcpListener, table: Arc<Table>, shutdown: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(Worker::new(table));
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::from_std(listener)?;
        tokio::select! {
            () = worker.accept(listener) => {}
            () = worker.sweep() => {}
            () = shutdown.cancelled() => {}
        }
        worker.finish().await;
        Ok(())
    })
}

impl Worker {
    fn new(table: Arc<Table>) -> Self {
        let mut server = http1::Builder::new();
        server
            .timer(TokioTimer::new())
            // Our own watch does this: see `activity`.
            .header_read_timeout(None)
            .max_header_size(MOST_HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES);
        Self { table, pool: Rc::default(), activities: RefCell::default(), connections: TaskTracker::new(), server }
    }

    async fn accept(self: &Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    self.connections.spawn_local(self.clone().serve(stream, peer));
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
            let now = activity::now();
            self.activities
                .borrow_mut()
                .retain(|activity| activity.upgrade().map(|activity| activity.check(now)).is_some());
        }
    }

    /// Ends idle connections, waits for requests in flight. Tunnels are cut at the end: they have none of their own.
    async fn finish(&self) {
        for activity in self.activities.borrow().iter().filter_map(Weak::upgrade) {
            activity.end(Verdict::Finish);
        }
        self.connections.close();
        if time::timeout(GRACE, self.connections.wait()).await.is_err() {
            tracing::warn!("{} connection(s) cut: their requests did not end within {GRACE:?}", self.connections.len());
        }
    }

    async fn serve(self: Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Without it, small answers wait for the client's acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%peer, %error, "client went away at once");
        }
        let activity = Activity::new();
        self.activities.borrow_mut().push(Arc::downgrade(&activity));
        let client = Rc::new(Client { address: headers::client_value(peer.ip()) });
        let service = service_fn({
            let (worker, activity) = (self.clone(), activity.clone());
            move |request| {
                let (worker, client, serving) = (worker.clone(), client.clone(), activity.serve());
                async move { Ok::<_, Infallible>(forward::answer(&worker, &client, request, serving).await) }
            }
        });
        let stream = TokioIo::new(Watched::new(stream, activity.clone()));
        let mut connection = pin!(self.server.serve_connection(stream, service).with_upgrades());
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        // Clients go away and send nonsense all the time.
                        tracing::debug!(%peer, %error, "client connection ended");
                    }
                    return;
                }
                verdict = activity.ended() => match verdict {
                    Verdict::Finish => connection.as_mut().graceful_shutdown(),
                    Verdict::Abort => return,
                },
            }
        }
    }
}

/// The client was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
