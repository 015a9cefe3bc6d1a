//! Whether the other side of a connection between balancers is there, while requests wait for it.
//!
//! A site that vanished, or a balancer that was stopped, breaks no connection: nothing comes any more. HTTP/2's own pings end the
//! connection after seconds, and with it everything on it. Long before that, requests that may be repeated can ask elsewhere: if it
//! was a pause and no end, that costs them nothing but a second try.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::peers::{Peer, links};
use crate::proxy::request_body::RequestBody;

/// A connection on which requests wait is asked this often: most requests are answered before it is asked at all.
const EVERY: Duration = Duration::from_millis(200);
/// What an answer may take, on top of four round trips. One lost packet costs two of them and 200 ms (TCP sends it again after that at
/// the earliest); a process whose only core eight others want answers within 25 ms; one whose container has used up its share of the
/// processor is stopped for up to 100 ms.
const PATIENCE: Duration = Duration::from_millis(400);
/// Before the first was measured.
const USUAL_ROUND_TRIP: Duration = Duration::from_millis(100);
/// The question itself is given up soon after ([`links::PROBE`]), and asked again.
const MOST_PATIENCE: Duration = Duration::from_millis(1_400);
const _: () = assert!(MOST_PATIENCE.as_millis() < links::PROBE.as_millis());
/// The patience is spent in as many parts: if it is this process that had a pause, only one of them is.
const PARTS: u32 = 4;

/// That of one connection.
#[derive(Debug)]
pub(in crate::proxy) struct Pulse {
    peer: Arc<Peer>,
    /// Requests that wait for the beginning of an answer.
    waiting: Cell<u32>,
    /// Rung when the first begins to.
    begun: Notify,
    silent: watch::Sender<bool>,
}

impl Pulse {
    pub(super) fn new(peer: Arc<Peer>) -> Self {
        Self { peer, waiting: Cell::new(0), begun: Notify::new(), silent: watch::Sender::new(false) }
    }

    /// Whether it did not answer in time, and has not since.
    pub(super) fn is_silent(&self) -> bool {
        *self.silent.borrow()
    }

    /// Returns when it is silent.
    pub(super) async fn silence(&self) {
        // The sender is here, so there is an end to wait for.
        let _ = self.silent.subscribe().wait_for(|silent| *silent).await;
    }

    /// A request waits until the returned value is dropped.
    pub(super) fn wait(self: &Rc<Self>) -> Waiting {
        self.waiting.set(self.waiting.get() + 1);
        self.begun.notify_one();
        Waiting(self.clone())
    }

    /// Asks whether the other side is there while requests wait. Does not return.
    pub(super) async fn listen(&self, mut sender: SendRequest<RequestBody>) {
        loop {
            while self.waiting.get() == 0 && !self.is_silent() {
                self.begun.notified().await;
            }
            sleep(EVERY).await;
            if self.waiting.get() > 0 || self.is_silent() {
                self.ask(&mut sender).await;
            }
        }
    }

    async fn ask(&self, sender: &mut SendRequest<RequestBody>) {
        let mut asked = std::pin::pin!(links::probe(sender, RequestBody::empty()));
        let part = patience(self.peer.round_trip()) / PARTS;
        for _ in 0..PARTS {
            match timeout(part, asked.as_mut()).await {
                Ok(Ok(_)) => return self.become_silent(false),
                // The connection is ending, and its requests with it.
                Ok(Err(error)) => return tracing::debug!(peer = %self.peer.name, %error, "a peer has no pulse"),
                Err(_) => {}
            }
        }
        self.become_silent(true);
        if asked.await.is_ok() {
            self.become_silent(false);
        }
    }

    fn become_silent(&self, silent: bool) {
        let changed = self.silent.send_if_modified(|before| std::mem::replace(before, silent) != silent);
        if changed {
            if silent {
                self.peer.fell_silent()
            } else {
                self.peer.was_silent()
            }
            let word = if silent { "has fallen silent" } else { "is heard again" };
            tracing::info!(peer = %self.peer.name, site = %self.peer.site, "a site's balancer {word}");
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if self.is_silent() {
            self.peer.was_silent();
        }
    }
}

/// How long an answer may take over such a distance.
fn patience(round_trip: Option<Duration>) -> Duration {
    (PATIENCE + 4 * round_trip.unwrap_or(USUAL_ROUND_TRIP)).min(MOST_PATIENCE)
}

/// A request waits for an answer.
pub(super) struct Waiting(Rc<Pulse>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_the_distance_and_has_an_end() {
        let millis = |round_trip| patience(Some(Duration::from_millis(round_trip))).as_millis();
        assert_eq!([0, 80, 200, 10_000].map(millis), [400, 720, 1_200, 1_400]);
        assert_eq!(patience(None), patience(Some(USUAL_ROUND_TRIP)));
    }
}
