//! HTTP/1.1 without a library between the sockets, for what nearly all requests are: plain ones with a small body or none.
//! It costs half the processor time and, while a connection is idle, a tenth of the memory.
//!
//! It is a way *beside* hyper's, not in its place: whatever is not plain (upgrades, chunked or large bodies, another version,
//! anything that two readers might understand differently: [`request`]) is handed over with the connection before anything
//! was done about it, and from then on the connection is hyper's ([`HandOver`]). Which servo is asked, how often, and who is
//! let in is decided by the same code. `tests/it` runs on both ways, and `tests/it/differential.rs` compares them.

mod answer;
mod buffers;
mod carry;
mod chunks;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod head;
mod relay;
mod request;
mod scan;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::activity::{Activity, Verdict};
use super::attempts::Attempts;
use super::authority;
use super::client::Client;
use super::connection::PREFACE;
use super::forward::{Sides, protocol};
use super::gate::{self, Asked};
use super::pages::Page;
use super::worker::{MOST_HEAD_BYTES, Worker};
use crate::access_log::{About, Pending};
use crate::table::Counted;
use buffers::Buffers;
pub(super) use buffers::Spare;
use carry::Stop;
use request::{Head, Method};
use scan::Scan;

/// Largest body that is carried here: it is read whole first, so that every try has it. Larger ones stream the other way.
const MOST_BODY_BYTES: usize = 16 * 1024;
/// A body that is not here this long after its head streams the other way.
const BODY_WAIT: Duration = Duration::from_secs(1);

/// A client's connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// A connection that goes on the other way.
pub(super) struct HandOver<S> {
    pub(super) stream: S,
    /// What was read of it and is still to be answered.
    pub(super) begun: BytesMut,
    /// It begins as HTTP/2 does.
    pub(super) http2: bool,
    /// Where the first request on it was tried already.
    pub(super) attempts: Option<Box<Attempts>>,
}

/// Serves a connection until it ends, its worker says so, or something comes that is not carried here.
pub(super) async fn serve<S: Stream>(
    worker: &Worker,
    stream: S,
    client: &Client,
    activity: &Arc<Activity>,
) -> Option<HandOver<S>> {
    let mut connection = Connection { worker, client, activity, stream, buffers: None, timer: None };
    loop {
        let (http2, attempts) = match connection.head().await {
            // Most connections have no request most of the time.
            Begun::Head(len) => match Box::pin(connection.request(len)).await {
                Flow::Next => continue,
                Flow::Ended => break,
                Flow::Other => (false, None),
                Flow::Elsewhere(attempts) => (false, Some(attempts)),
            },
            Begun::Other { http2 } => (http2, None),
            Begun::Ended => break,
        };
        let begun = connection.buffers.take().map(|buffers| buffers.input).unwrap_or_default();
        return Some(HandOver { stream: connection.stream, begun, http2, attempts });
    }
    // The next connection's.
    connection.buffers.into_iter().for_each(|buffers| worker.spare.put(buffers));
    None
}

struct Connection<'a, S> {
    worker: &'a Worker,
    client: &'a Client,
    activity: &'a Arc<Activity>,
    stream: S,
    /// None while nothing is to be carried.
    buffers: Option<Box<Buffers>>,
    /// Of whatever is waited for; made once, and then put forward.
    timer: Option<Pin<Box<Sleep>>>,
}

/// How a request begins.
enum Begun {
    /// With a whole head of this length.
    Head(usize),
    Other {
        http2: bool,
    },
    Ended,
}

/// What becomes of the connection.
enum Flow {
    Next,
    Ended,
    Other,
    /// As `Other`, after these attempts.
    Elsewhere(Box<Attempts>),
}

/// What of a request counts once it is on its way.
struct Ask {
    to_head: bool,
    idempotent: bool,
    close: bool,
}

/// What ends with a request, in this order.
struct Ends {
    counted: Counted,
    log: Option<Box<Pending>>,
}

impl<S: Stream> Connection<'_, S> {
    /// Reads a whole head into the buffers.
    async fn head(&mut self) -> Begun {
        let mut from = 0;
        loop {
            if let Some(buffers) = self.buffers.take_if(|buffers| buffers.input.is_empty()) {
                self.worker.spare.put(buffers);
            }
            if let Some(buffers) = &self.buffers {
                let input = &buffers.input[..];
                let preface = &PREFACE[..PREFACE.len().min(input.len())];
                if input.starts_with(preface) {
                    if input.len() >= PREFACE.len() {
                        return Begun::Other { http2: true };
                    }
                } else {
                    match scan::head_end(input, from) {
                        Scan::Whole(len) if len <= MOST_HEAD_BYTES => return Begun::Head(len),
                        Scan::Partial(at) if at < MOST_HEAD_BYTES => from = at,
                        _ => return Begun::Other { http2: false },
                    }
                }
            }
            if !self.more().await {
                return Begun::Ended;
            }
        }
    }

    /// Waits for bytes of a request; false when none will come. A connection that shall end goes on only if a request has
    /// begun.
    async fn more(&mut self) -> bool {
        let activity = self.activity;
        let mut ended = pin!(activity.ended());
        std::future::poll_fn(|cx| {
            if let Poll::Ready(verdict) = ended.as_mut().poll(cx) {
                return Poll::Ready(verdict == Verdict::Finish && self.buffers.is_some());
            }
            self.poll_client(cx).map(|read| {
                self.activity.head_begins();
                matches!(read, Ok(1..))
            })
        })
        .await
    }

    /// Reads what the client has sent. Buffers are there only if something has.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut buffers = self.buffers.take().unwrap_or_else(|| self.worker.spare.take());
        buffers.room_for_input();
        let polled = poll_read_buf(Pin::new(&mut self.stream), cx, &mut buffers.input);
        if buffers.is_empty() {
            self.worker.spare.put(buffers);
        } else {
            self.buffers = Some(buffers);
        }
        polled
    }

    /// The buffers of a request that has begun.
    fn buffers(&mut self) -> &mut Buffers {
        self.buffers.get_or_insert_with(|| self.worker.spare.take())
    }

    /// Puts the timer forward.
    fn arm(&mut self, after: Duration) {
        let at = Instant::now() + after;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    /// Whether the client has gone. What it sends meanwhile is kept, up to the next request's head.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        // The request itself is still in it.
        while self.buffers().input.len() < 2 * MOST_HEAD_BYTES + MOST_BODY_BYTES {
            match self.poll_client(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// What `future` comes to, unless the client goes away before.
    async fn unless_gone<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = Box::pin(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_gone(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Waits until the input has `len` bytes; false if it does not come to that.
    async fn has_input(&mut self, len: usize) -> bool {
        if self.buffers().input.len() >= len {
            return true;
        }
        self.arm(BODY_WAIT);
        std::future::poll_fn(|cx| {
            while self.buffers().input.len() < len {
                match self.poll_client(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if self.is_over(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(true)
        })
        .await
    }

    /// Answers the request whose head is the first `head_len` bytes of the input. Until it is decided that it is carried here
    /// nothing is taken out of the input.
    async fn request(&mut self, head_len: usize) -> Flow {
        let begun = std::time::Instant::now();
        let (worker, client) = (self.worker, self.client);
        let buffers = self.buffers();
        buffers.request.clear();
        let Some(head) = request::read(&buffers.input[..head_len], client, &mut buffers.request) else {
            return Flow::Other;
        };
        if head.body > MOST_BODY_BYTES || !self.has_input(head_len + head.body).await {
            return Flow::Other;
        }
        let Buffers { input, request, .. } = self.buffers();
        let text = |range: &std::ops::Range<usize>| std::str::from_utf8(&input[range.clone()]).ok();
        // Both are ASCII, the one because it was looked at, the other if it is a name.
        let Some((target, host)) = text(&head.target).zip(text(&head.host).and_then(authority::normalize)) else {
            return Flow::Other;
        };
        // What an authority may look for now is shown by hyper's way, before the app's rules count.
        if worker.table.secrets().challenges().file(&host, &target[..head.path_len]).is_some() {
            return Flow::Other;
        }
        // Our own pages about the request itself are made by hyper's way.
        let Some(mut route) = worker.table.find(&host, &target[..head.path_len]) else { return Flow::Other };
        let settings = route.app.settings().clone();
        let traffic = &settings.traffic;
        if traffic.http2 || traffic.retry_unsafe || !traffic.retry_statuses.is_empty() {
            return Flow::Other;
        }
        let asked = Asked {
            path_and_query: target,
            head_bytes: head_len - head.method.name().len() - AROUND_TARGET,
            body_bytes: Some(head.body as u64),
        };
        if gate::check(&asked, &settings, client, &host).is_err() {
            return Flow::Other;
        }
        let about = About {
            client: client.address,
            method: head.method.name(),
            path: target,
            protocol: protocol(http::Version::HTTP_11, client),
        };
        let mut log = worker.log.begin(&about).map(Box::new);
        if let Some(log) = &mut log {
            log.routed(&host, Some(&route.app.name));
            log.named(request_id(&head, input, request));
        }
        let session = || worker.cookies().read_lines(head.cookie.iter().map(|at| &input[at.clone()]), &route.app.name);
        let mut attempts = Attempts::new(traffic.affinity.then(session).flatten());
        request.extend_from_slice(&input[head_len..head_len + head.body]);
        let ask =
            Ask { to_head: head.method == Method::Head, idempotent: head.method.is_idempotent(), close: head.close };
        // Dropped last: the connection is idle once the request's line is written.
        let _serving = self.activity.serve();
        let mut ends = Ends { counted: worker.table.begin(&route), log };
        let sides = Sides { worker, client, settings: &settings, host: &host };
        let carried = self.carry(&sides, &mut route, &mut attempts, &ask).await;
        if matches!(carried, Err(Stop::Elsewhere)) {
            // What was tried was not sent, or may be sent again. It is counted, and noted, the other way.
            Counted::forget(ends.counted);
            ends.log.into_iter().for_each(|log| log.forget());
            return Flow::Elsewhere(Box::new(attempts));
        }
        self.buffers().input.advance(head_len + head.body);
        let carried = match carried {
            Ok(carried) if carried.answer.status == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Stop::Page(Page::UnaskedUpgrade { host: host.clone() }))
            }
            other => other,
        };
        match carried {
            Ok(carried) => {
                let servo = carried.in_flight.servo().id;
                route.statistics().answered(carried.answer.status, begun.elapsed());
                worker.table.answered(&route, servo, carried.answer.status);
                if let Some(log) = &mut ends.log {
                    log.answered(carried.answer.status, Some(servo));
                }
                let pinned = traffic.affinity && attempts.session != Some(servo);
                let cookie = pinned.then(|| worker.cookies().write(servo, &route.app.name, client.secure)).flatten();
                self.relay(&sides, carried, &ask, cookie, &mut ends).await
            }
            Err(Stop::Page(page)) => {
                let status = page.status().as_u16();
                route.statistics().answered(status, begun.elapsed());
                if let Some(log) = &mut ends.log {
                    log.answered(status, None);
                }
                self.page(page, &sides, &ask, &mut ends).await
            }
            Err(Stop::Gone | Stop::Elsewhere) => Flow::Ended,
        }
    }
}

/// Of a request's head, besides the method: what is no target and no header. Spaces, version, line ends.
const AROUND_TARGET: usize = " ".len() + " HTTP/1.1\r\n".len() + "\r\n".len();

/// The client's own, or the one that ends what the servo gets.
fn request_id<'b>(head: &Head, input: &'b [u8], request: &'b [u8]) -> &'b [u8] {
    const LEN: usize = 32;
    match &head.id {
        Some(at) => &input[at.clone()],
        None => request.strip_suffix(b"\r\n\r\n").map_or(&[], |lines| &lines[lines.len().saturating_sub(LEN)..]),
    }
}
