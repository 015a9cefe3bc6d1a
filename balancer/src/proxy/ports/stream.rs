//! A stream that counts how much is read from it, and when something moved last.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What moved on a connection.
#[derive(Debug)]
pub(super) struct Moved {
    begun: Instant,
    /// Milliseconds after that, of the last byte either way.
    last: AtomicU64,
    /// From the client.
    pub(super) received: AtomicU64,
    /// From the servo.
    pub(super) sent: AtomicU64,
}

impl Moved {
    pub(super) fn new() -> Self {
        let none = || AtomicU64::new(0);
        Self { begun: Instant::now(), last: none(), received: none(), sent: none() }
    }

    /// How much came from the servo.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How long nothing has moved.
    pub(super) fn quiet_for(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    fn note(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// One side of a connection.
pub(super) struct Metered<'a> {
    pub(super) stream: TcpStream,
    pub(super) moved: &'a Moved,
    /// Where what is read from it is counted.
    pub(super) read: &'a AtomicU64,
}

impl AsyncRead for Metered<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            this.read.fetch_add(read as u64, Ordering::Relaxed);
            this.moved.note();
        }
        polled
    }
}

impl AsyncWrite for Metered<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if polled.is_ready() {
            // A slow reader is no idle one.
            this.moved.note();
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
