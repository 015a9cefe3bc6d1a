//! Lines as they come: output, requests.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, TryStreamExt};
use pontoon_api::LogLine;
use reqwest::Response;
use serde::de::DeserializeOwned;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::ClientError;
use super::error::innermost;

/// Longer than any line an agent keeps; a bound on what a strange server makes us hold.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// An answer of one [`LogLine`] per line.
pub type LogStream = LineStream<LogLine>;

/// An answer of one `T` per line.
pub struct LineStream<T> {
    lines: Pin<Box<dyn Stream<Item = Result<String, LinesCodecError>> + Send>>,
    of: PhantomData<T>,
}

impl<T> std::fmt::Debug for LineStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineStream")
    }
}

impl<T: DeserializeOwned> LineStream<T> {
    pub(super) fn new(response: Response) -> Self {
        let parts = response.bytes_stream().map_err(|error| io::Error::other(innermost(&error)));
        let codec = LinesCodec::new_with_max_length(MAX_LINE_BYTES);
        Self { lines: Box::pin(FramedRead::new(StreamReader::new(parts), codec)), of: PhantomData }
    }

    /// The next line; none when the log has ended.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        loop {
            let broken = |reason: String| Some(Err(ClientError::Broken { reason }));
            match self.lines.next().await? {
                // A server may send empty lines to show that it lives.
                Ok(line) if line.is_empty() => {}
                Ok(line) => {
                    return match serde_json::from_str(&line) {
                        Ok(line) => Some(Ok(line)),
                        Err(error) => broken(format!("a line of the log is not understood ({error})")),
                    };
                }
                Err(error) => return broken(error.to_string()),
            }
        }
    }
}
