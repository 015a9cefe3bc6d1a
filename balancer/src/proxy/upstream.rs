//! Connections to servos: made, kept while idle, used again. One pool per worker, so that nothing is shared.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{self, Instant};

use super::local::Local;
use super::request_body::RequestBody;
use super::room;
use super::with_ending::WithEnding;
use crate::table::Failure as Fault;

/// A servo that does not accept within this time is passed over: hosts of a cluster are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are closed after this: a request that meets a dead one is sent again, but costs a detour.
const LONGEST_IDLE: Duration = Duration::from_secs(15);
/// A request that must not be sent twice takes a kept connection only if it was idle for less than this. Servers
/// close idle connections after 1 s and more; one closed while such a request is on its way would be a 502.
const LONGEST_IDLE_FOR_ONCE: Duration = Duration::from_millis(500);
/// There are servers that end a connection after their answer without having said so. A request that must not be sent twice is
/// given a connection that has carried more than one, or that was left open for so long.
const PROVEN: u32 = 2;
const RESTED: Duration = Duration::from_millis(5);
/// Most idle connections kept per servo and worker: bursts above it pay for a new connection.
const MOST_IDLE: usize = 512;
/// Largest read buffer per connection: large answers move in pieces of up to this size.
const BUFFER_BYTES: usize = 256 * 1024;
/// Window of an HTTP/2 answer: at 1 ms of round trip inside a site it carries 250 MB/s.
const WINDOW_BYTES: u32 = 256 * 1024;
/// An answer's connection that is not ready for the next request by then (the servo still reads the last one) is closed.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// An HTTP/2 connection is asked this often whether its servo is still there: nothing else tells of a host that vanished.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How a servo is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One request at a time.
    Http1,
    /// Many at a time, without TLS ("prior knowledge"): what gRPC needs.
    Http2,
}

/// Sends requests on a connection.
pub(super) enum Sender {
    Http1(Http1),
    Http2(http2::SendRequest<RequestBody>),
}

impl Sender {
    /// Sends a request; gives it back if nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(http1) => http1.sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    /// What will be known of the connection's end.
    pub(super) fn ending(&self) -> Ending {
        match self {
            Self::Http1(http1) => http1.ending.clone(),
            // Its end is noticed at once, since something always reads.
            Self::Http2(_) => Ending::default(),
        }
    }
}

/// A connection of hyper's on which there is one request at a time.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    ending: Ending,
}

/// How a connection ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Ending {
    reset: Arc<AtomicBool>,
}

impl Ending {
    /// The connection has ended: notes how.
    pub(super) fn note(&self, stream: &TcpStream) {
        self.reset.store(is_reset(stream), Ordering::Relaxed);
    }

    /// See [`fault_if_refused`].
    pub(super) fn fault_if_refused(&self) -> Fault {
        fault_of(self.reset.load(Ordering::Relaxed))
    }
}

/// What a servo has done that ended a kept connection with a request on it and takes no new one. Where the servo has ended
/// before, its machine resets what comes for it, and the request is none of the reasons.
pub(super) fn fault_if_refused(stream: &TcpStream) -> Fault {
    fault_of(is_reset(stream))
}

fn fault_of(reset: bool) -> Fault {
    if reset { Fault::Unreached } else { Fault::Broken }
}

/// Whether a connection that has ended was reset. Its end may have been read before.
fn is_reset(stream: &TcpStream) -> bool {
    stream.peer_addr().is_err()
}

/// Connections without a request, by address, the newest last.
struct Kept<T>(RefCell<HashMap<SocketAddr, Vec<Idle<T>>>>);

struct Idle<T> {
    connection: T,
    since: Instant,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Kept<T> {
    /// The one that was used last. `once`: for a request that must not be sent twice.
    fn take(&self, address: SocketAddr, once: bool, is_ready: impl Fn(&T) -> bool) -> Option<T> {
        let mut all = self.0.borrow_mut();
        let connections = all.get_mut(&address)?;
        let longest = if once { LONGEST_IDLE_FOR_ONCE } else { LONGEST_IDLE };
        while let Some(newest) = connections.last() {
            if newest.since.elapsed() > longest {
                return None;
            }
            let connection = connections.pop().map(|idle| idle.connection);
            if let Some(connection) = connection.filter(&is_ready) {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, address: SocketAddr, connection: T) {
        let mut all = self.0.borrow_mut();
        let connections = all.entry(address).or_default();
        if connections.len() < MOST_IDLE {
            connections.push(Idle { connection, since: Instant::now() });
        }
    }

    fn forget(&self, address: SocketAddr) {
        self.0.borrow_mut().remove(&address);
    }

    fn sweep(&self, is_open: impl Fn(&T) -> bool) {
        self.0.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| idle.since.elapsed() <= LONGEST_IDLE && is_open(&idle.connection));
            !connections.is_empty()
        });
    }
}

/// Connections by address.
#[derive(Default)]
pub(super) struct Pool {
    idle: Kept<Http1>,
    /// Those on which requests are carried without hyper ([`super::fast`]).
    raw: Kept<Raw>,
    /// Of HTTP/2: used by many requests at the same time.
    shared: RefCell<HashMap<SocketAddr, Shared>>,
}

struct Shared {
    sender: http2::SendRequest<RequestBody>,
    /// When a request last took it.
    used_at: Instant,
}

impl Pool {
    /// A live connection to `address`: of the idle ones the one used last. `once`: for a request that must not be sent
    /// twice.
    pub(super) fn take(&self, address: SocketAddr, protocol: Protocol, once: bool) -> Option<Sender> {
        if protocol == Protocol::Http2 {
            let mut all = self.shared.borrow_mut();
            let shared = all.get_mut(&address).filter(|shared| !shared.sender.is_closed())?;
            shared.used_at = Instant::now();
            return Some(Sender::Http2(shared.sender.clone()));
        }
        self.idle.take(address, once, |http1| http1.sender.is_ready()).map(Sender::Http1)
    }

    /// The same of those without hyper.
    pub(super) fn take_raw(&self, address: SocketAddr, once: bool) -> Option<Raw> {
        if !once {
            return self.raw.take(address, once, |raw| is_open(&raw.stream));
        }
        // An end that has come and that nobody has noticed yet would lose what must not be sent twice.
        let raw = self.raw.take(address, once, |raw| is_open_now(&raw.stream))?;
        if raw.answers >= PROVEN || raw.answered_at.elapsed() >= RESTED {
            return Some(raw);
        }
        // For one that may be sent twice it is good.
        self.raw.put(address, raw);
        None
    }

    /// Keeps one whose answer was read to its end.
    pub(super) fn put_raw(&self, address: SocketAddr, mut raw: Raw) {
        if is_open(&raw.stream) {
            raw.answers += 1;
            raw.answered_at = Instant::now();
            self.raw.put(address, raw);
        }
    }

    /// Forgets every kept connection to `address`: one was dead, so the others are too.
    pub(super) fn forget(&self, address: SocketAddr) {
        self.idle.forget(address);
        self.raw.forget(address);
        self.shared.borrow_mut().remove(&address);
    }

    /// Opens a connection without a word on it; where this machine has nothing left for one, what is idle makes room.
    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        match dial(address).await {
            Err(error) if error.is_ours() => {
                self.idle.0.borrow_mut().clear();
                self.raw.0.borrow_mut().clear();
                dial(address).await
            }
            dialled => dialled,
        }
    }

    /// Closes what was idle for too long. A connection of HTTP/2 that is dropped here ends with its last request.
    pub(super) fn sweep(&self) {
        self.idle.sweep(|http1| !http1.sender.is_closed());
        self.raw.sweep(|raw| is_open(&raw.stream));
        let used = |shared: &Shared| shared.used_at.elapsed() <= LONGEST_IDLE && !shared.sender.is_closed();
        self.shared.borrow_mut().retain(|_, shared| used(shared));
    }

    /// Opens a connection.
    pub(super) async fn connect(&self, address: SocketAddr, protocol: Protocol) -> Result<Sender, ConnectError> {
        let ending = Ending::default();
        let stream = TokioIo::new(WithEnding::new(self.dial(address).await?, ending.clone()));
        let ended = move |result: Result<(), hyper::Error>| {
            if let Err(error) = result {
                // Whoever waits for an answer is told by the sender; here it is only for the curious.
                tracing::debug!(%address, %error, "connection to a servo ended");
            }
        };
        if protocol == Protocol::Http1 {
            let (sender, connection) = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(stream).await?;
            tokio::task::spawn_local(async move { ended(connection.with_upgrades().await) });
            return Ok(Sender::Http1(Http1 { sender, ending }));
        }
        let (sender, connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(stream)
            .await?;
        tokio::task::spawn_local(async move { ended(connection.await) });
        let shared = Shared { sender: sender.clone(), used_at: Instant::now() };
        self.shared.borrow_mut().insert(address, shared);
        Ok(Sender::Http2(sender))
    }

    /// Opens one on which requests are carried without hyper.
    pub(super) async fn connect_raw(&self, address: SocketAddr) -> Result<Raw, ConnectError> {
        Ok(Raw { stream: self.dial(address).await?, answers: 0, answered_at: Instant::now() })
    }
}

/// A connection on which requests are carried without hyper.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
    answers: u32,
    /// When the last one ended.
    answered_at: Instant,
}

/// Opens a connection without a word on it.
pub(super) async fn dial(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream =
        time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| ConnectError::Slow)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the servo has said nothing on an idle connection, its end included. Asks the kernel only if something came.
fn is_open(stream: &TcpStream) -> bool {
    let nothing = stream.try_read(&mut [0]);
    nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The same, by asking the kernel.
fn is_open_now(stream: &TcpStream) -> bool {
    let nothing = socket2::SockRef::from(stream).recv(&mut [MaybeUninit::uninit()]);
    nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Gives a connection back whose answer was read to its end.
pub(super) fn give_back(pool: &Rc<Pool>, address: SocketAddr, sender: Sender) {
    // One of HTTP/2 stays in the pool while it is used.
    let Sender::Http1(mut http1) = sender else { return };
    if http1.sender.is_ready() {
        pool.idle.put(address, http1);
    } else if !http1.sender.is_closed() {
        // The connection's own task has not yet seen the end.
        let pool = pool.clone();
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = time::timeout(READY_TIMEOUT, http1.sender.ready()).await {
                pool.idle.put(address, http1);
            }
        });
    }
}

/// Why there is no connection; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    Slow,
    #[error("{0}")]
    Refused(#[from] std::io::Error),
    #[error("{0}")]
    Handshake(#[from] hyper::Error),
}

impl ConnectError {
    /// Whether it says something of this machine and nothing of the servo.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Refused(error) if room::is_ours(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = dial(listener.local_addr().unwrap()).await.unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    async fn end(stream: &mut TcpStream) {
        let read = stream.read(&mut [0]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test]
    async fn a_servo_that_was_dead_before_a_request_was_sent_has_not_died_of_it() {
        let (mut ours, servo) = pair().await;
        drop(servo);
        ours.write_all(b"GET").await.unwrap();
        end(&mut ours).await;
        assert_eq!(fault_if_refused(&ours), Fault::Unreached);
        // It has not read it either.
        let (mut ours, servo) = pair().await;
        ours.write_all(b"GET").await.unwrap();
        servo.readable().await.unwrap();
        drop(servo);
        end(&mut ours).await;
        assert_eq!(fault_if_refused(&ours), Fault::Unreached);
    }

    #[tokio::test]
    async fn a_servo_that_has_read_the_request_may_have_died_of_it() {
        let (ours, mut servo) = pair().await;
        let ending = Ending::default();
        let mut ours = WithEnding::new(ours, ending.clone());
        ours.write_all(b"GET").await.unwrap();
        servo.read_exact(&mut [0; 3]).await.unwrap();
        drop(servo);
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(ending.fault_if_refused(), Fault::Broken);
        // And the next one has not.
        let _ = ours.write_all(b"GET").await;
        let _ = ours.read(&mut [0]).await;
        assert_eq!(ending.fault_if_refused(), Fault::Unreached);
    }
}
