//! Servos, well-behaved and not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::http::{Message, ok, read_message};

/// A listening servo. Dropping it closes its listener and all its connections.
pub struct Servo {
    pub address: SocketAddr,
    pub seen: Seen,
    task: JoinHandle<()>,
    shut: CancellationToken,
}

/// What came to a servo.
#[derive(Clone, Default)]
pub struct Seen {
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<Mutex<Vec<Message>>>,
}

impl Seen {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Servo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub type Stream = BufReader<TcpStream>;

impl Servo {
    /// Each connection is given to `serve`.
    pub async fn start<F>(serve: impl Fn(Stream, Seen) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), serve).await
    }

    pub async fn start_at<F>(address: SocketAddr, serve: impl Fn(Stream, Seen) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let shut = CancellationToken::new();
        let task = tokio::spawn({
            let (seen, shut) = (seen.clone(), shut.clone());
            async move {
                // Aborted with this task.
                let mut connections = JoinSet::new();
                while let Some(accepted) = shut.run_until_cancelled(listener.accept()).await {
                    let (stream, _) = accepted.unwrap();
                    stream.set_nodelay(true).unwrap();
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(serve(BufReader::new(stream), seen.clone()));
                }
                drop(listener);
                std::future::pending::<()>().await;
            }
        });
        Self { address, seen, task, shut }
    }

    /// What makes it take no connection any more; those that it has stay.
    pub fn shutter(&self) -> CancellationToken {
        self.shut.clone()
    }

    /// Ends it, and returns once its listener and its connections are closed: dropping it only says so.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        // The connections' tasks were told with it, and end when it is their turn.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    /// What ends it as if it were dropped.
    pub fn abort_handle(&self) -> AbortHandle {
        self.task.abort_handle()
    }

    /// Answers every request with `text`, keeping connections open.
    pub async fn answering(text: &'static str) -> Self {
        Self::start(move |stream, seen| answer_all(stream, seen, text)).await
    }

    /// Accepts and closes at once: a dead app behind docker-proxy.
    pub async fn closing() -> Self {
        Self::start(|stream, _| async move { drop(stream) }).await
    }

    /// Reads a whole request, then closes.
    pub async fn reading_and_closing() -> Self {
        Self::start(|mut stream, seen| async move {
            let request = read_message(&mut stream).await;
            seen.requests.lock().unwrap().extend(request);
        })
        .await
    }

    /// Reads a whole request, then resets the connection.
    pub async fn resetting() -> Self {
        Self::start(|mut stream, seen| async move {
            let request = read_message(&mut stream).await;
            seen.requests.lock().unwrap().extend(request);
            socket2::SockRef::from(stream.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        })
        .await
    }

    /// Reads a request and never answers.
    pub async fn silent() -> Self {
        Self::start(|mut stream, seen| async move {
            let request = read_message(&mut stream).await;
            seen.requests.lock().unwrap().extend(request);
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
            // The balancer has closed the connection.
            seen.connections.fetch_sub(1, Ordering::SeqCst);
        })
        .await
    }

    /// An address where nobody listens until a test itself does.
    pub async fn refusing() -> SocketAddr {
        let socket = TcpSocket::new_v4().unwrap();
        // Who asks for this very port gets it beside us; nobody gets it by asking for any.
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        // Bound for as long as the test runs: a port that was let go is soon somebody else's.
        std::mem::forget(socket);
        address
    }
}

pub async fn answer_all(mut stream: Stream, seen: Seen, text: &'static str) {
    while let Some(request) = read_message(&mut stream).await {
        seen.requests.lock().unwrap().push(request);
        if stream.write_all(ok(text).as_bytes()).await.is_err() {
            return;
        }
    }
}
