//! Server-sent events as they come.

use std::io;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::Response;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::ClientError;
use super::error::innermost;

/// An entry holds at most 1,024 commands, whose rows are some kilobytes each; a bound on what a strange server makes us hold.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The index it is of, where it has one.
    pub id: Option<u64>,
    /// `start`, `change` or `compacted`.
    pub event: String,
    /// JSON.
    pub data: String,
}

/// An answer of events.
pub struct EventStream {
    lines: Pin<Box<dyn Stream<Item = Result<String, LinesCodecError>> + Send>>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventStream")
    }
}

impl EventStream {
    pub(super) fn new(response: Response) -> Self {
        let parts = response.bytes_stream().map_err(|error| io::Error::other(innermost(&error)));
        let codec = LinesCodec::new_with_max_length(MAX_LINE_BYTES);
        Self { lines: Box::pin(FramedRead::new(StreamReader::new(parts), codec)) }
    }

    /// The next event; none when the controller has ended the stream.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        let mut event = Event::default();
        loop {
            let line = match self.lines.next().await? {
                Ok(line) => line,
                Err(error) => return Some(Err(ClientError::Broken { reason: error.to_string() })),
            };
            match line.split_once(": ") {
                // The end of an event, or of a comment that only shows that the connection lives.
                None if line.is_empty() && event != Event::default() => return Some(Ok(event)),
                Some(("id", id)) => event.id = id.parse().ok(),
                Some(("event", name)) => event.event = name.to_owned(),
                Some(("data", data)) => event.data = data.to_owned(),
                _ => {}
            }
        }
    }
}
