//! `GET /v1/events`: what each entry changed, as server-sent events.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Context;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use pontoon_api::ErrorCode;
use pontoon_core::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::Api;
use super::caller::Caller;
use super::error::{ApiError, ApiResult};
use super::event_rows;
use super::extract::{Query, Snapshot};
use crate::raft::{EventLog, EventRead, HeldEvent};

/// A comment after this much silence, so that proxies and clients know that the connection lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Changes given to the connection at once: what a reader that does not read makes us hold.
const AT_ONCE: usize = 256;
/// From where a reader that is too late can go on.
const OLDEST_HEADER: HeaderName = HeaderName::from_static("pontoon-oldest");

#[derive(Deserialize)]
pub(super) struct EventQuery {
    from: Option<u64>,
}

pub(super) async fn follow(
    Context(api): Context<Api>,
    caller: Caller,
    Query(query): Query<EventQuery>,
    headers: HeaderMap,
    // Also waits until this controller has recovered what it knew.
    Snapshot(_): Snapshot,
) -> ApiResult<Response> {
    let from = match headers.get("last-event-id") {
        Some(id) => Some(
            id.to_str()
                .ok()
                .and_then(|id| id.trim().parse().ok())
                .ok_or_else(|| ApiError::invalid("Last-Event-ID must be the index of an event, a number"))?,
        ),
        None => query.from,
    };
    let permit = api.limits.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::busy("too many follow the events of this controller; ask another"))?;
    let log = api.consensus.events();
    let mut newest = log.newest();
    let (start, cursor) = match from {
        Some(from) => {
            if let EventRead::Compacted { oldest } = log.after(from, 1) {
                return Ok(compacted(from, oldest));
            }
            (None, from)
        }
        None => {
            let now = *newest.borrow_and_update();
            (Some(text(Some(now), "start", &json!({ "index": now }))), now)
        }
    };
    let valid = api.until_revoked(&caller);
    let reader = Reader { log, newest, caller, cursor, ended: false, _permit: permit };
    let parts = stream::iter(start).chain(reader.parts());
    let parts = parts
        .take_until(api.shutdown.clone().cancelled_owned())
        .take_until(Box::pin(valid))
        .map(Ok::<_, std::convert::Infallible>);
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(parts)).into_response())
}

fn compacted(from: u64, oldest: u64) -> Response {
    let message = format!(
        "what followed index {from} is no longer held here; read the state anew and follow from its index, {oldest} at least"
    );
    let mut answer = ApiError::new(ErrorCode::Compacted, message).into_response();
    answer.headers_mut().insert(OLDEST_HEADER, HeaderValue::from(oldest));
    answer
}

/// Where one client is.
struct Reader {
    log: EventLog,
    newest: watch::Receiver<u64>,
    /// Who reads: what is not for it is left out.
    caller: Caller,
    /// Everything up to this index has been given.
    cursor: u64,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    fn parts(self) -> impl Stream<Item = Bytes> {
        stream::unfold(self, |mut reader| async move { reader.next().await.map(|part| (part, reader)) })
    }

    /// What to send next; waits for it.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        loop {
            // Looked at before the ring, so that nothing is added unnoticed in between.
            self.newest.borrow_and_update();
            match self.log.after(self.cursor, AT_ONCE) {
                EventRead::Compacted { oldest } => {
                    self.ended = true;
                    return Some(text(None, "compacted", &json!({ "oldest": oldest })));
                }
                EventRead::Events(events) if !events.is_empty() => {
                    self.cursor = events.last().map_or(self.cursor, |event| event.index);
                    let part = encode(&events, &self.caller);
                    if !part.is_empty() {
                        return Some(part);
                    }
                }
                EventRead::Events(_) => match timeout(KEEP_ALIVE, self.newest.changed()).await {
                    Ok(Ok(())) => {}
                    // The consensus has ended.
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(Bytes::from_static(b":\n\n")),
                },
            }
        }
    }
}

fn encode(events: &[Arc<HeldEvent>], caller: &Caller) -> Bytes {
    let mut all = Vec::new();
    let sees = |change: &&Change| caller.sees_all() || change.app().is_some_and(|app| caller.sees(app));
    for event in events {
        let changes: Vec<Value> = event.changes.iter().filter(sees).map(event_rows::change).collect();
        if changes.is_empty() {
            continue;
        }
        let data = json!({ "index": event.index, "time": event.time, "changes": changes });
        all.extend(text(Some(event.index), "change", &data));
    }
    all.into()
}

/// One event. JSON has no line ends in it, so the data is one line.
fn text(id: Option<u64>, event: &str, data: &Value) -> Bytes {
    let mut text = String::new();
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "event: {event}\ndata: {data}\n\n");
    text.into()
}
