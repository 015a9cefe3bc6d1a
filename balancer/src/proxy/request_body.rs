//! A request's body on its way to one servo after another.
//!
//! Each try reads through its own [`RequestBody`]; what one try has taken from the client is kept, up to a limit,
//! for the next. Beyond the limit nothing is kept and the body cannot be sent again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::activity::UnreadBody;

/// Most bytes kept of one request, for a try with another servo: form posts and API calls fit; uploads stream.
pub(super) const MOST_KEPT: usize = 64 * 1024;

/// The client's body, shared by the tries.
#[derive(Clone)]
pub(super) struct Source(Rc<RefCell<State>>);

struct State {
    incoming: Incoming,
    size: SizeHint,
    kept: Vec<Bytes>,
    kept_len: usize,
    /// Most bytes that are kept.
    most_kept: usize,
    keep: Keep,
    /// What came so far, and how much may; 0: any.
    came: u64,
    most: u64,
    too_large: bool,
    ended: bool,
    /// Told when it has.
    unread: Option<UnreadBody>,
    /// The servo would take more, and the client has not sent it yet.
    starved: bool,
    failed: bool,
    /// The newest try: an older one's connection may still be closing and must not take what is not for it.
    turn: u32,
    /// When the newest try last took something.
    moved_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// All that came is kept.
    All,
    /// The request is never sent again: nothing is kept.
    Nothing,
    /// Something that came is not kept.
    Overrun,
}

impl Source {
    /// `most_kept`: how much is kept for another try, nothing of a request that is never sent again. `most`: how large it
    /// may be; 0: any size.
    pub(super) fn new(incoming: Incoming, most_kept: usize, most: u64, unread: Option<UnreadBody>) -> Self {
        let (size, ended) = (incoming.size_hint(), incoming.is_end_stream());
        Self(Rc::new(RefCell::new(State {
            incoming,
            size,
            kept: Vec::new(),
            kept_len: 0,
            most_kept,
            keep: if most_kept > 0 { Keep::All } else { Keep::Nothing },
            came: 0,
            most,
            too_large: false,
            ended,
            unread,
            starved: false,
            failed: false,
            turn: 0,
            moved_at: Instant::now(),
        })))
    }

    /// The body for the next try, from its beginning; bodies of earlier tries end.
    pub(super) fn next_try(&self) -> RequestBody {
        let mut state = self.0.borrow_mut();
        state.turn += 1;
        let empty = state.ended && state.kept.is_empty();
        state.moved_at = Instant::now();
        RequestBody { source: (!empty).then(|| self.clone()), at: 0, turn: state.turn }
    }

    /// Whether the client sends no body.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.0.borrow();
        state.ended && state.kept.is_empty()
    }

    /// A try begins with a body that an earlier one did not touch.
    pub(super) fn touch(&self) {
        self.0.borrow_mut().moved_at = Instant::now();
    }

    /// Whether a further try can send the whole body.
    pub(super) fn is_replayable(&self) -> bool {
        let state = self.0.borrow();
        state.keep == Keep::All && !state.failed
    }

    /// Keeps what comes from now on, up to `most` bytes, if nothing has come yet and nothing would be kept.
    pub(super) fn keep_from_the_start(&self, most: usize) {
        let mut state = self.0.borrow_mut();
        if state.keep == Keep::Nothing && state.came == 0 {
            (state.keep, state.most_kept) = (Keep::All, most);
        }
    }

    /// Whether all of it is here or still to come: a try that no servo has seen can be followed by another.
    pub(super) fn is_whole(&self) -> bool {
        let state = self.0.borrow();
        (state.keep == Keep::All || state.came == 0) && !state.failed
    }

    /// Whether the client failed to send its body: no servo's fault.
    pub(super) fn client_failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// Whether more came than may.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.borrow().too_large
    }

    /// Whether it is the client that keeps the servo waiting.
    pub(super) fn awaits_client(&self) -> bool {
        self.0.borrow().starved
    }

    /// When a servo last took something of the body.
    pub(super) fn moved_at(&self) -> Instant {
        self.0.borrow().moved_at
    }
}

/// The body of one try.
pub(super) struct RequestBody {
    /// None: it is empty.
    source: Option<Source>,
    /// How many kept pieces were taken.
    at: usize,
    turn: u32,
}

impl RequestBody {
    /// Nothing.
    pub(super) fn empty() -> Self {
        Self { source: None, at: 0, turn: 0 }
    }
}

/// Why a try's body ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the client did not send the whole body")]
    Client(#[source] hyper::Error),
    #[error("the client sent more than the app takes")]
    TooLarge,
    #[error("the request is tried with another servo")]
    Superseded,
}

impl State {
    fn end(&mut self) {
        self.ended = true;
        self.unread.take().into_iter().for_each(UnreadBody::come);
    }

    fn poll(&mut self, at: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.kept.get(*at) {
            *at += 1;
            self.moved_at = Instant::now();
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        self.starved = polled.is_pending();
        let frame = match ready!(polled) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.failed = true;
                return Poll::Ready(Some(Err(BodyError::Client(error))));
            }
            None => {
                self.end();
                return Poll::Ready(None);
            }
        };
        if self.incoming.is_end_stream() {
            self.end();
        }
        self.moved_at = Instant::now();
        self.came += frame.data_ref().map_or(0, |data| data.len() as u64);
        if self.most > 0 && self.came > self.most {
            (self.failed, self.too_large) = (true, true);
            return Poll::Ready(Some(Err(BodyError::TooLarge)));
        }
        if self.keep == Keep::All {
            match frame.data_ref() {
                Some(data) if self.kept_len + data.len() <= self.most_kept => {
                    self.kept_len += data.len();
                    self.kept.push(data.clone());
                    *at += 1;
                }
                // Trailers are rare enough not to be worth keeping.
                _ => {
                    self.keep = Keep::Overrun;
                    self.kept = Vec::new();
                    // Pieces are only counted while they are kept.
                    *at = 0;
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(source) = &this.source else { return Poll::Ready(None) };
        let mut state = source.0.borrow_mut();
        if state.turn != this.turn {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        state.poll(&mut this.at, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(|source| {
            let state = source.0.borrow();
            state.ended && self.at >= state.kept.len()
        })
    }

    fn size_hint(&self) -> SizeHint {
        // hyper asks once, before the first piece.
        self.source.as_ref().map_or_else(|| SizeHint::with_exact(0), |source| source.0.borrow().size)
    }
}
