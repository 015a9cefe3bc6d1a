//! What the [`super::writer`] is asked for, and what it writes together.

use std::io;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::super::types::{Entry, LogId, TypeConfig, Vote};
use super::disk::Batch;
use super::watermark::Watermark;
use super::window::size_of;

pub(super) type Answer = oneshot::Sender<io::Result<()>>;

/// One write. All are done in the order they came.
pub(in crate::raft) enum Operation {
    Append {
        entries: Vec<Entry>,
        done: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: Answer,
    },
    /// Removes the entries after this one.
    Truncate {
        last: Option<LogId>,
        done: Answer,
    },
    /// Removes entries up to this one.
    Purge {
        upto: LogId,
        done: Answer,
    },
    /// Writes what is known to be committed, unless that went with another group by now.
    Committed,
    Stop,
}

impl Operation {
    /// Bytes of the entries it adds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Operation::Append { entries, .. } => entries.iter().map(size_of).sum(),
            _ => 0,
        }
    }
}

pub(super) enum Waiting {
    Append(IOFlushed<TypeConfig>),
    Other(Answer),
}

impl Waiting {
    fn answer(self, result: io::Result<()>) {
        match self {
            Waiting::Append(flushed) => flushed.io_completed(result),
            // Whoever asked may have gone: then nobody needs the answer.
            Waiting::Other(sender) => drop(sender.send(result)),
        }
    }
}

/// What is written and answered together. It can be written again from the beginning: that ends the same.
pub(super) struct Group {
    pub(super) batch: Batch,
    /// Set for a truncation, which is a group of its own.
    pub(super) truncate: Option<u64>,
    pub(super) mark: Watermark,
    pub(super) waiting: Vec<Waiting>,
    pub(super) last_appended: Option<u64>,
    /// Somebody waits for it.
    pub(super) awaited: bool,
    /// It is in the journal, and so need not be written again.
    pub(super) journalled: bool,
}

impl Group {
    /// An empty one; `mark` is the watermark so far.
    pub(super) fn new(mark: Watermark) -> Self {
        Self {
            batch: Batch::default(),
            truncate: None,
            mark,
            waiting: Vec::new(),
            last_appended: None,
            awaited: false,
            journalled: false,
        }
    }

    /// Answers all who still wait.
    pub(super) fn answer(&mut self, result: Result<(), &str>) {
        for waiting in self.waiting.drain(..) {
            waiting.answer(result.map_err(io::Error::other));
        }
    }
}
