//! What a client's connection is doing, so that idle and stalling ones can be ended.
//!
//! hyper has one timer for "no request yet" and "half a request"; we allow 75 s for the one and 10 s for the other.
//! Connections only note what they do; once a second the worker looks at all of its connections.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::millis;

/// A connection without a request is closed after this: as long as most browsers and proxies keep theirs.
pub(super) const CLIENT_IDLE: Duration = Duration::from_secs(75);
/// A request's head must be complete this long after its first byte.
pub(super) const HEADER_READ: Duration = Duration::from_secs(10);

const IDLE: u32 = 0;
const HEAD: u32 = 1;
/// A connection of HTTP/2 without a request: what comes on it need not be one's head.
const QUIET: u32 = 2;

/// Shared by a connection's halves and its worker. Atomics because hyper wants upgradable streams to be `Send`;
/// only one thread ever touches them.
#[derive(Debug)]
pub(super) struct Activity {
    phase: AtomicU32,
    /// Requests being served: with HTTP/2 there may be many.
    serving: AtomicU32,
    /// When the phase began, in milliseconds of this process.
    since: AtomicU64,
    verdict: AtomicU32,
    /// A request's body is still to come, of HTTP/1.
    unread: AtomicBool,
    wake: Notify,
    /// Where it is among those of its worker.
    pub(super) place: AtomicUsize,
}

/// What the worker asks of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// End after the request being served, if there is one.
    Finish,
    /// End now.
    Abort,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: AtomicU32::new(HEAD),
            serving: AtomicU32::new(0),
            since: AtomicU64::new(millis::now()),
            verdict: AtomicU32::new(0),
            unread: AtomicBool::new(false),
            wake: Notify::new(),
            place: AtomicUsize::new(usize::MAX),
        })
    }

    fn enter(&self, phase: u32) {
        self.phase.store(phase, Ordering::Relaxed);
        self.since.store(millis::now(), Ordering::Relaxed);
    }

    /// The handshake is over, and the protocol is known.
    pub(super) fn begin(&self, http2: bool) {
        self.enter(if http2 { QUIET } else { IDLE });
    }

    /// Bytes came: unless a request is being served, they are of the next one's head.
    pub(super) fn head_begins(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE && self.serving.load(Ordering::Relaxed) == 0 {
            self.enter(HEAD);
        }
    }

    /// Whether HTTP/2 is spoken on it.
    pub(super) fn is_http2(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == QUIET
    }

    /// A request is served until the returned value is dropped.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// Ends the connection if at `now` it has been idle, or at a request's head, for too long.
    pub(super) fn check(&self, now: u64) {
        if self.serving.load(Ordering::Relaxed) > 0 {
            return;
        }
        let since = Duration::from_millis(now.saturating_sub(self.since.load(Ordering::Relaxed)));
        match self.phase.load(Ordering::Relaxed) {
            IDLE | QUIET if since > CLIENT_IDLE => self.end(Verdict::Finish),
            HEAD if since > HEADER_READ => self.end(Verdict::Abort),
            _ => {}
        }
    }

    /// How long it has had no request at `now`, not even the beginning of one; none if it has.
    pub(super) fn idle_for(&self, now: u64) -> Option<Duration> {
        let serves = self.serving.load(Ordering::Relaxed) > 0;
        let idle = !serves && matches!(self.phase.load(Ordering::Relaxed), IDLE | QUIET);
        idle.then(|| Duration::from_millis(now.saturating_sub(self.since.load(Ordering::Relaxed))))
    }

    /// Tells the connection to end.
    pub(super) fn end(&self, verdict: Verdict) {
        self.verdict.store(1 + u32::from(verdict == Verdict::Abort), Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether it was told to end.
    pub(super) fn is_ending(&self) -> bool {
        self.verdict.load(Ordering::Relaxed) != 0
    }

    /// Waits to be told to end.
    pub(super) async fn ended(&self) -> Verdict {
        self.wake.notified().await;
        if self.verdict.load(Ordering::Relaxed) == 2 { Verdict::Abort } else { Verdict::Finish }
    }
}

/// A request being served.
#[derive(Debug)]
pub(super) struct Serving(Arc<Activity>);

impl Serving {
    /// The request has a body, of which nothing was read.
    pub(super) fn has_body(&self) -> UnreadBody {
        self.0.unread.store(true, Ordering::Relaxed);
        UnreadBody(self.0.clone())
    }
}

/// A body that is still to come.
#[derive(Debug)]
pub(super) struct UnreadBody(Arc<Activity>);

impl UnreadBody {
    /// All of it has come.
    pub(super) fn come(self) {
        self.0.unread.store(false, Ordering::Relaxed);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
        let phase = if self.0.phase.load(Ordering::Relaxed) == QUIET { QUIET } else { IDLE };
        self.0.enter(phase);
    }
}

/// A stream that notes when bytes of a new request arrive. What was read of it already comes first.
///
/// Where it ends with a part of a request's body unread, that is read and dropped, for a while: a socket that is closed with something in
/// it resets its connection, and the answer with it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    begun: BytesMut,
    stream: S,
    activity: Arc<Activity>,
    /// Until when, once it does.
    lingers: Option<Pin<Box<Sleep>>>,
}

/// A client that has read its answer stops sending, or has sent all, within a few round trips.
const LINGER: Duration = Duration::from_secs(5);
/// As much of a body at once is dropped.
const DROPPED_AT_ONCE: usize = 16 * 1024;

impl<S> Watched<S> {
    pub(super) fn new(begun: BytesMut, stream: S, activity: Arc<Activity>) -> Self {
        Self { begun, stream, activity, lingers: None }
    }

    /// Ready once nothing more is read.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<()>
    where
        S: AsyncRead + Unpin,
    {
        let mut dropped = [MaybeUninit::uninit(); DROPPED_AT_ONCE];
        let until = self.lingers.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        while until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::uninit(&mut dropped);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }

    fn poll_begun(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = self.begun.len().min(buffer.remaining());
        buffer.put_slice(&self.begun[..len]);
        self.begun.advance(len);
        if self.begun.is_empty() {
            // Its memory is not needed for as long as the connection lives.
            self.begun = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match this.begun.is_empty() {
            true => Pin::new(&mut this.stream).poll_read(cx, buffer),
            false => this.poll_begun(buffer),
        };
        if polled.is_ready() {
            this.activity.head_begins();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if this.activity.unread.load(Ordering::Relaxed) && !this.activity.is_http2() {
            ready!(this.poll_unread(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What is decided `by` from now.
    async fn verdict_after(activity: &Activity, by: Duration) -> Option<Verdict> {
        activity.check(millis::now() + by.as_millis() as u64);
        // The permit is there at once or not at all.
        tokio::select! { biased; verdict = activity.ended() => Some(verdict), () = std::future::ready(()) => None }
    }

    #[tokio::test]
    async fn idle_and_stalling_connections_end_and_serving_ones_do_not() {
        let second = Duration::from_secs(1);
        let (mut client, server) = tokio::io::duplex(64);
        let activity = Activity::new();
        assert_eq!(
            verdict_after(&activity, HEADER_READ + second).await,
            Some(Verdict::Abort),
            "its handshake takes too long"
        );
        activity.begin(false);
        let mut watched = Watched::new(BytesMut::new(), server, activity.clone());
        assert_eq!(verdict_after(&activity, CLIENT_IDLE - second).await, None);
        assert_eq!(verdict_after(&activity, CLIENT_IDLE + second).await, Some(Verdict::Finish));
        client.write_all(b"GET").await.unwrap();
        watched.read_u8().await.unwrap();
        assert_eq!(verdict_after(&activity, HEADER_READ - second).await, None);
        assert_eq!(verdict_after(&activity, HEADER_READ + second).await, Some(Verdict::Abort));
        let serving = activity.serve();
        assert_eq!(verdict_after(&activity, 10 * CLIENT_IDLE).await, None);
        drop(serving);
        assert_eq!(verdict_after(&activity, HEADER_READ + second).await, None);
        assert_eq!(verdict_after(&activity, CLIENT_IDLE + second).await, Some(Verdict::Finish));
    }

    #[tokio::test]
    async fn with_http2_what_comes_between_requests_is_no_head_and_all_requests_count() {
        let second = Duration::from_secs(1);
        let (mut client, server) = tokio::io::duplex(64);
        let activity = Activity::new();
        activity.begin(true);
        let mut watched = Watched::new(BytesMut::new(), server, activity.clone());
        client.write_all(b"ping").await.unwrap();
        watched.read_u8().await.unwrap();
        assert_eq!(verdict_after(&activity, HEADER_READ + second).await, None);
        let (first, second_request) = (activity.serve(), activity.serve());
        drop(first);
        assert_eq!(verdict_after(&activity, 10 * CLIENT_IDLE).await, None);
        drop(second_request);
        assert_eq!(verdict_after(&activity, CLIENT_IDLE + second).await, Some(Verdict::Finish));
    }
}
