//! Following a log that begins at its beginning, across broken connections.

use pontoon_api::LogLine;

use crate::client::{ClientError, LogStream};

/// How much of a log has been seen.
#[derive(Debug, Default)]
pub(super) struct Follower {
    seen: usize,
}

impl Follower {
    /// Gives `each` the lines not yet seen, until the log ends or breaks. `open` opens it at its beginning.
    pub(super) async fn follow(
        &mut self,
        open: impl AsyncFnOnce() -> Result<LogStream, ClientError>,
        mut each: impl FnMut(LogLine) -> std::io::Result<()>,
    ) -> Result<(), FollowError> {
        let mut log = open().await.map_err(FollowError::Log)?;
        let mut at = 0;
        while let Some(line) = log.next().await {
            let line = line.map_err(FollowError::Log)?;
            at += 1;
            if at > self.seen {
                self.seen = at;
                each(line).map_err(FollowError::Out)?;
            }
        }
        Ok(())
    }

    /// Whether there was anything to see.
    pub(super) fn has_seen_any(&self) -> bool {
        self.seen > 0
    }
}

/// Why following ended early.
#[derive(Debug)]
pub(super) enum FollowError {
    /// The log cannot be had, for now at least.
    Log(ClientError),
    /// We cannot print.
    Out(std::io::Error),
}
