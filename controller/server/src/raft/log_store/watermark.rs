//! The durable watermark: what was acknowledged last, so that a database which forgot its end is found out
//! (decision 0007). Every frame of the [`super::journal`] carries it.

use super::super::types::{LogId, Vote};

/// What was acknowledged last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Watermark {
    /// The end of the log: its last entry, or the last that was removed if there is none.
    pub(super) last: Option<LogId>,
    /// The first entry of a log from which none was removed yet.
    pub(super) first: Option<u64>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
}

impl Watermark {
    /// Whether something was acknowledged.
    pub(super) fn is_used(&self) -> bool {
        *self != Self::default()
    }
}
