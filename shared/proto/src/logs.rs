//! Output of servos and builds on its way to a reader.

use pontoon_model::{BuildId, HostName, ServoId, Timestamp};
use serde::{Deserialize, Serialize};

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogSource {
    /// A servo's stdout and stderr.
    Servo(ServoId),
    /// A build's output.
    Build(BuildId),
}

/// Asks for output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// The host that has it.
    pub host: HostName,
    /// Which.
    pub source: LogSource,
    /// Keep sending until the source ends.
    pub follow: bool,
    /// How many of the newest lines to begin with; none means all that is kept.
    pub tail: Option<u32>,
}

/// Some lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// As in `LogWanted`.
    pub stream: u64,
    /// The next lines, at most a few hundred.
    pub lines: Vec<LogLine>,
    /// Set in the last chunk: empty when the source ended, else why it cannot be read.
    pub end: Option<String>,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written, where the runtime knows it.
    pub at: Option<Timestamp>,
    /// Written to stderr.
    pub stderr: bool,
    /// Without the line end; invalid UTF-8 is replaced; at most 16 KiB.
    pub text: String,
}

/// The controller has taken, or no longer wants, the pushed lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPushed {
    /// Lines taken.
    pub lines: u64,
}
