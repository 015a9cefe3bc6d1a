//! An answer's body on its way to the client, and what must end with it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{self, Instant, Sleep};

use super::activity::Serving;
use super::upstream::{self, Pool, Sender};
use crate::access_log::Pending;
use crate::table::{Counted, InFlight};

/// The body of every answer to a client.
pub(super) struct ResponseBody {
    kind: Kind,
    ends: Ends,
}

/// What ends with the answer, in this order and after the servo's part: the route's count, the client connection's idle
/// time, the line of the access log.
pub(super) struct Ends {
    pub(super) counted: Option<Counted>,
    pub(super) serving: Serving,
    pub(super) log: Option<Pending>,
}

enum Kind {
    /// Our own.
    Page(Option<Bytes>),
    /// A servo's.
    Servo { incoming: Incoming, lease: Option<Lease>, idle: Option<Idle> },
}

/// Ends an answer in which nothing moves.
struct Idle {
    longest: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    /// Whether the time is over; otherwise whoever asks is woken when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().poll(cx).is_ready()
    }

    fn restart(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.longest);
    }
}

/// Why an answer ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Servo(#[from] hyper::Error),
    #[error("nothing came of the answer for {0:?}")]
    Idle(Duration),
}

/// A servo's connection while its answer is read.
pub(super) struct Lease {
    pub(super) sender: Sender,
    pub(super) address: SocketAddr,
    pub(super) pool: Rc<Pool>,
    /// The request counts as in flight to the servo until the answer's end.
    pub(super) _in_flight: InFlight,
}

impl ResponseBody {
    pub(super) fn page(page: Bytes, ends: Ends) -> Self {
        let page = Some(page).filter(|page| !page.is_empty());
        Self { kind: Kind::Page(page), ends }
    }

    /// `lease`: none if the connection is no servo's. `idle`: how long nothing may come before it is given up.
    pub(super) fn servo(incoming: Incoming, lease: Option<Lease>, ends: Ends, idle: Option<Duration>) -> Self {
        let idle = idle.map(|longest| Idle { longest, timer: Box::pin(time::sleep(longest)) });
        let kind = Kind::Servo { incoming, lease, idle };
        let mut body = Self { kind, ends };
        body.end_if_read();
        body
    }

    /// Gives the servo's connection back once all was read. One that is dropped earlier is closed: the rest of its
    /// answer is nobody's.
    fn end_if_read(&mut self) {
        if let Kind::Servo { incoming, lease, .. } = &mut self.kind
            && incoming.is_end_stream()
        {
            Lease::end(lease.take());
        }
    }
}

impl Ends {
    fn sent(&mut self, data: Option<&Bytes>) {
        if let (Some(log), Some(data)) = (&mut self.log, data) {
            log.sent(data.len());
        }
    }
}

impl Lease {
    fn end(lease: Option<Self>) {
        if let Some(lease) = lease {
            upstream::give_back(&lease.pool, lease.address, lease.sender);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = self.get_mut();
        match &mut this.kind {
            Kind::Page(page) => {
                let page = page.take();
                this.ends.sent(page.as_ref());
                Poll::Ready(page.map(|page| Ok(Frame::data(page))))
            }
            Kind::Servo { incoming, lease, idle } => {
                let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
                    let Some(idle) = idle else { return Poll::Pending };
                    if !idle.is_over(cx) {
                        return Poll::Pending;
                    }
                    drop(lease.take());
                    return Poll::Ready(Some(Err(AnswerError::Idle(idle.longest))));
                };
                if let Some(idle) = idle {
                    idle.restart();
                }
                this.ends.sent(frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()));
                match &frame {
                    None => Lease::end(lease.take()),
                    Some(Ok(_)) => this.end_if_read(),
                    Some(Err(_)) => drop(lease.take()),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(AnswerError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Page(page) => page.is_none(),
            Kind::Servo { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64)),
            Kind::Servo { incoming, .. } => incoming.size_hint(),
        }
    }
}
