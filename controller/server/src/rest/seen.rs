//! Which index an answer is based on: a header of everything that has read the state.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::Response;
use http::{HeaderName, HeaderValue};

/// The Raft index that an answer is based on; reads with `?at_index=` of it see at least as much.
pub(super) const INDEX_HEADER: HeaderName = HeaderName::from_static("pontoon-index");

/// Where a handler notes the index it has read; travels with the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<AtomicU64>);

impl Seen {
    pub(super) fn note(&self, index: u64) {
        self.0.fetch_max(index, Ordering::Relaxed);
    }

    /// Adds the header, to refusals too: "there is no such app" is what the state said.
    pub(super) fn show(&self, answer: &mut Response) {
        let index = self.0.load(Ordering::Relaxed);
        if index > 0 && !answer.headers().contains_key(INDEX_HEADER) {
            answer.headers_mut().insert(INDEX_HEADER, HeaderValue::from(index));
        }
    }
}
