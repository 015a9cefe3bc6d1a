//! Connections to servos: made, kept while idle, used again. One pool per worker, so that nothing is shared.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{self, Instant};

use super::request_body::RequestBody;

/// A servo that does not accept within this time is passed over: hosts of a cluster are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are closed after this: a request that meets a dead one is sent again, but costs a detour.
const LONGEST_IDLE: Duration = Duration::from_secs(15);
/// A request that must not be sent twice takes a kept connection only if it was idle for less than this. Servers
/// close idle connections after 1 s and more; one closed while such a request is on its way would be a 502.
const LONGEST_IDLE_FOR_ONCE: Duration = Duration::from_millis(500);
/// Most idle connections kept per servo and worker: bursts above it pay for a new connection.
const MOST_IDLE: usize = 64;
/// Largest read buffer per connection: large answers move in pieces of up to this size.
const BUFFER_BYTES: usize = 256 * 1024;
/// An answer's connection that is not ready for the next request by then (the servo still reads the last one) is closed.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Sender = SendRequest<RequestBody>;

struct Idle {
    sender: Sender,
    since: Instant,
}

/// Idle connections by address, the newest last.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
}

impl Pool {
    /// A live idle connection to `address`, the one used last. `once`: for a request that must not be sent twice.
    pub(super) fn take(&self, address: SocketAddr, once: bool) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&address)?;
        let longest = if once { LONGEST_IDLE_FOR_ONCE } else { LONGEST_IDLE };
        while let Some(newest) = connections.last() {
            if newest.since.elapsed() > longest {
                return None;
            }
            let sender = connections.pop().map(|idle| idle.sender);
            if let Some(sender) = sender.filter(Sender::is_ready) {
                return Some(sender);
            }
        }
        None
    }

    /// Forgets every idle connection to `address`: one was dead, so the others are too.
    pub(super) fn forget(&self, address: SocketAddr) {
        self.idle.borrow_mut().remove(&address);
    }

    /// Closes what was idle for too long.
    pub(super) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| idle.since.elapsed() <= LONGEST_IDLE && !idle.sender.is_closed());
            !connections.is_empty()
        });
    }

    fn put(&self, address: SocketAddr, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(address).or_default();
        if connections.len() < MOST_IDLE {
            connections.push(Idle { sender, since: Instant::now() });
        }
    }
}

/// Gives a connection back whose answer was read to its end.
pub(super) fn give_back(pool: &Rc<Pool>, address: SocketAddr, mut sender: Sender) {
    if sender.is_ready() {
        pool.put(address, sender);
    } else if !sender.is_closed() {
        // The connection's own task has not yet seen the end.
        let pool = pool.clone();
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = time::timeout(READY_TIMEOUT, sender.ready()).await {
                pool.put(address, sender);
            }
        });
    }
}

/// Opens a connection.
pub(super) async fn connect(address: SocketAddr) -> Result<Sender, ConnectError> {
    let stream =
        time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| ConnectError::Slow)??;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            // Whoever waits for an answer is told by the sender; here it is only for the curious.
            tracing::debug!(%address, %error, "connection to a servo ended");
        }
    });
    Ok(sender)
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
