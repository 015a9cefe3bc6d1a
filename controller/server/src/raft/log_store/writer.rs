//! The one thread that writes: it drains its queue into one batch, syncs once, then answers everyone.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::entry::RaftEntry;
use openraft::storage::IOFlushed;
use pontoon_model::wire::{self, WireError};
use tokio::sync::{mpsc, oneshot};

use super::super::layout::{LogIdRecord, VoteRecord};
use super::super::types::{Entry, LogId, TypeConfig, Vote};
use super::disk::{Batch, Disk, DiskError};
use super::record::{self, AFTER_ENTRIES, COMMITTED, PURGED, VOTE};
use super::window::Window;

/// Operations that may wait: openraft has at most 64 appends of a leader under way, each at most 1 MiB.
pub(super) const QUEUE: usize = 64;

/// Operations written together; more would let the first wait too long.
const GROUP: usize = QUEUE;

/// Keys removed with one group: 50,000 at once block sled for 0.3 s, and votes with it.
const SLICE: usize = 1_000;

type Answer = oneshot::Sender<io::Result<()>>;

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
    /// Removes entries from this index on.
    Truncate {
        from: u64,
        done: Answer,
    },
    /// Removes entries up to this one.
    Purge {
        upto: LogId,
        done: Answer,
    },
    /// Written with the next group, without a sync of its own.
    Committed(Option<LogId>),
    Stop,
}

enum Waiting {
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

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What writes: a thread of its own in production, a task under simulated time in a simulation.
pub(in crate::raft) struct Writer {
    disk: Arc<dyn Disk>,
    window: Arc<Mutex<Window>>,
    queue: mpsc::Receiver<Operation>,
    /// Taken from the queue and not yet written.
    taken: Vec<Operation>,
    /// Entries up to here still lie in the database; they are removed slice by slice.
    purging: Option<u64>,
    /// After a failed write nothing is written any more: what is on disk is unknown.
    failed: Option<String>,
}

/// What taking from the queue came to.
enum Taken {
    Work,
    Nothing,
    Closed,
}

/// What one group has gathered.
#[derive(Default)]
struct Group {
    batch: Batch,
    waiting: Vec<Waiting>,
    last_appended: Option<u64>,
    must_sync: bool,
    stop: bool,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        window: Arc<Mutex<Window>>,
        queue: mpsc::Receiver<Operation>,
        purging: Option<u64>,
    ) -> Self {
        Self { disk, window, queue, taken: Vec::with_capacity(GROUP), purging, failed: None }
    }

    /// Writes until it is told to stop or nobody can tell it any more.
    pub(super) fn run(mut self) {
        while self.wait() {
            if !self.step() {
                break;
            }
        }
        self.finish();
    }

    /// Waits for work; `false` when there will be none.
    fn wait(&mut self) -> bool {
        match self.take() {
            Taken::Work => true,
            Taken::Nothing => self.queue.blocking_recv().is_some_and(|operation| self.took(operation)),
            Taken::Closed => false,
        }
    }

    /// Waits for work as [`Writer::run`] does, in a task; then call [`Writer::step`]. `false` when there will be none.
    pub(in crate::raft) async fn gather(&mut self) -> bool {
        match self.take() {
            Taken::Work => true,
            Taken::Nothing => self.queue.recv().await.is_some_and(|operation| self.took(operation)),
            Taken::Closed => false,
        }
    }

    /// Takes what there is, without waiting.
    fn take(&mut self) -> Taken {
        while self.taken.len() < GROUP {
            match self.queue.try_recv() {
                Ok(operation) => self.taken.push(operation),
                Err(mpsc::error::TryRecvError::Disconnected) if self.taken.is_empty() => return Taken::Closed,
                Err(_) => break,
            }
        }
        if self.taken.is_empty() && self.purging.is_none() { Taken::Nothing } else { Taken::Work }
    }

    /// The first of a group, and what came with it.
    fn took(&mut self, operation: Operation) -> bool {
        self.taken.push(operation);
        self.take();
        true
    }

    /// Writes one group; `false` to stop.
    pub(in crate::raft) fn step(&mut self) -> bool {
        let operations = std::mem::take(&mut self.taken);
        !self.group(operations.into_iter())
    }

    /// A clean end needs no flush: what was acknowledged is on disk. `committed` is worth one.
    pub(in crate::raft) fn finish(&mut self) {
        if let Err(error) = self.disk.sync() {
            tracing::warn!(%error, "the log could not be flushed at the end");
        }
    }

    /// Writes one group; `true` to stop.
    fn group(&mut self, operations: impl ExactSizeIterator<Item = Operation>) -> bool {
        let only_purging = operations.len() == 0;
        let mut group = Group::default();
        let mut result = self.failed.clone().map_or(Ok(()), Err);
        for operation in operations {
            let added = self.add(operation, &mut group, result.is_ok());
            result = result.and(added.map_err(|error| error.to_string()));
        }
        let Group { batch, waiting, last_appended, must_sync, stop } = group;
        result = result.and_then(|()| self.write(batch, must_sync, only_purging).map_err(|error| error.to_string()));
        if let (Ok(()), Some(last)) = (&result, last_appended) {
            self.window.lock().unwrap_or_else(PoisonError::into_inner).durable(last);
        }
        if let (Err(error), None) = (&result, &self.failed) {
            tracing::error!(%error, "the Raft log cannot be written; this controller stops taking part");
            self.failed = Some(error.clone());
            self.purging = None;
        }
        for waiting in waiting {
            waiting.answer(result.as_ref().map(|_| ()).map_err(|error| io::Error::other(error.clone())));
        }
        stop
    }

    /// Adds one operation to the group; with `write` unset only who waits for it.
    fn add(&mut self, operation: Operation, group: &mut Group, write: bool) -> Result<(), WriteError> {
        match operation {
            Operation::Append { entries, done } => {
                group.waiting.push(Waiting::Append(done));
                group.must_sync = true;
                for entry in entries.iter().filter(|_| write) {
                    record::put_entry(&mut group.batch, entry)?;
                    group.last_appended = Some(entry.index());
                }
            }
            Operation::Vote { vote, done } => {
                group.waiting.push(Waiting::Other(done));
                group.must_sync = true;
                group.batch.put(VOTE, wire::encode(&VoteRecord::from(&vote))?);
            }
            Operation::Truncate { from, done } => {
                group.waiting.push(Waiting::Other(done));
                group.must_sync = true;
                if write {
                    // Removal looks at what is stored, so what waits in the batch must be stored first.
                    self.disk.apply(&std::mem::take(&mut group.batch))?;
                    group.last_appended = None;
                    self.truncate(from)?;
                }
            }
            Operation::Purge { upto, done } => {
                group.waiting.push(Waiting::Other(done));
                group.must_sync = true;
                group.batch.put(PURGED, wire::encode(&LogIdRecord::from(&upto))?);
                self.purging = self.purging.max(Some(upto.index()));
            }
            Operation::Committed(Some(id)) => group.batch.put(COMMITTED, wire::encode(&LogIdRecord::from(&id))?),
            Operation::Committed(None) => group.batch.remove(COMMITTED),
            Operation::Stop => group.stop = true,
        }
        Ok(())
    }

    fn write(&mut self, mut batch: Batch, must_sync: bool, only_purging: bool) -> Result<(), DiskError> {
        if let Some(upto) = self.purging {
            let keys = self.disk.keys(&record::from_index(0), &record::from_index(upto + 1), SLICE)?;
            for key in &keys {
                batch.remove(key);
            }
            // Entries of this very group are not stored yet and so not found: look once more without any.
            if keys.is_empty() && only_purging {
                self.purging = None;
            }
        }
        self.disk.apply(&batch)?;
        // The durable watermark (decision 0001) belongs here: written and synced before the answers.
        if must_sync { self.disk.sync() } else { Ok(()) }
    }

    /// Removes entries from `from` on, from the end backward and whole entries at a time, so that a crash
    /// leaves a shorter log and neither a hole nor half an entry.
    fn truncate(&self, from: u64) -> Result<(), DiskError> {
        loop {
            let mut enough =
                |keys: &[Vec<u8>]| keys.len() >= SLICE && keys.last().is_some_and(|key| record::begins_entry(key));
            let keys = self.disk.keys_from_the_end(&record::from_index(from), AFTER_ENTRIES, &mut enough)?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            for key in &keys {
                batch.remove(key);
            }
            self.disk.apply(&batch)?;
        }
    }
}
