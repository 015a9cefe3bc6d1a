//! The Raft log and vote on disk: sled behind one file ([`database`]), one writing thread with group commit
//! ([`writer`]), and the newest entries in memory ([`window`]).
//!
//! An append is acknowledged only after its group was flushed **and** its file synced; votes go through the
//! same queue. What is not here yet is the durable watermark, quarantine and rejoining (decision 0001): a damaged
//! or lost log is found when it is opened, and this controller refuses to start.

mod database;
mod identity;
mod record;
mod window;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use pontoon_model::ControllerId;
use pontoon_model::wire::{self, Wire, WireError};
use tokio::sync::{mpsc, oneshot};

use self::database::{Batch, Database};
use self::identity::{IdentityError, IdentityRecord};
use self::record::{COMMITTED, OWNER, OwnerRecord, PURGED, ReadError, VOTE};
use self::window::Window;
use self::writer::{Operation, QUEUE, Writer};
use super::layout::{LogIdRecord, VoteRecord, decode_as};
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes of entries in one message to a follower, so that a slow link still answers within its deadline.
const MESSAGE_BYTES: u64 = 1024 * 1024;

/// Bytes of entries read at once to be applied.
const APPLY_BYTES: u64 = 4 * 1024 * 1024;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder cannot be made or listed.
    #[error("cannot use the folder of the Raft log, {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The identity file cannot be read or written.
    #[error("cannot use the identity file of the Raft log: {why}")]
    Identity {
        /// Why.
        why: String,
    },
    /// The store belongs to another controller.
    #[error("the Raft log in {} belongs to {found}, not to {expected}; check `id` and `data_dir`", path.display())]
    OtherOwner {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found: ControllerId,
        /// Who we are.
        expected: ControllerId,
    },
    /// Another process has it open.
    #[error("the Raft log in {} is in use: does another controller run on this data folder?", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// What was acknowledged is gone. Never treated as a new controller.
    #[error(
        "the Raft log in {} is lost or damaged: {why}. This controller must not vote as {id} again: keep the folder, \
         set up the controller anew with another `id` and an empty data folder, and join it to the others",
        path.display()
    )]
    DataLoss {
        /// Where.
        path: PathBuf,
        /// Whose log it was.
        id: ControllerId,
        /// What is wrong.
        why: String,
    },
    /// A newer Pontoon wrote it.
    #[error("the Raft log in {}: {source}", path.display())]
    TooNew {
        /// Where.
        path: PathBuf,
        /// Which value.
        source: WireError,
    },
}

/// The log and the vote of one controller. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    queue: mpsc::Sender<Operation>,
    window: Arc<Mutex<Window>>,
    vote: Mutex<Option<Vote>>,
    committed: Mutex<Option<LogId>>,
    identity: Mutex<IdentityRecord>,
    /// None once closed.
    database: Mutex<Option<Arc<Database>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the Raft log is closed")
}

/// What is read when the store is opened.
struct Recovered {
    vote: Option<Vote>,
    committed: Option<LogId>,
    window: Window,
}

impl LogStore {
    /// Opens the log of controller `id` in `folder`, or makes it. Checks every entry.
    pub fn open(folder: &Path, id: ControllerId) -> Result<Self, LogError> {
        fs::create_dir_all(folder).map_err(|source| LogError::Folder { path: folder.to_owned(), source })?;
        let (database, identity) = open_owned(folder, id)?;
        let recovered = recover(&database).map_err(|error| unreadable(folder, id, error))?;
        let database = Arc::new(database);
        let purging = recovered.window.purged().map(|purged| purged.index());
        let window = Arc::new(Mutex::new(recovered.window));
        let (queue, receiver) = mpsc::channel(QUEUE);
        let writer = Writer::new(database.clone(), window.clone(), receiver, purging);
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| LogError::Folder { path: folder.to_owned(), source })?;
        Ok(Self {
            shared: Arc::new(Shared {
                folder: folder.to_owned(),
                queue,
                window,
                vote: Mutex::new(recovered.vote),
                committed: Mutex::new(recovered.committed),
                identity: Mutex::new(identity),
                database: Mutex::new(Some(database)),
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Whether this store has been part of a cluster.
    pub fn is_initialized(&self) -> bool {
        lock(&self.shared.identity).initialized
    }

    /// Remembers for good that this store is part of a cluster.
    pub fn mark_initialized(&self) -> Result<(), LogError> {
        let mut identity = lock(&self.shared.identity);
        let marked = IdentityRecord { initialized: true, ..*identity };
        marked.save(&self.shared.folder).map_err(identity_error)?;
        *identity = marked;
        Ok(())
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        lock(&self.shared.window).bytes_after(index)
    }

    /// Ends the writing thread and lets go of the files. Writes that were not acknowledged may be lost.
    pub async fn close(&self) {
        // A full queue empties itself; a closed one means that the thread has ended.
        let _ = self.shared.queue.send(Operation::Stop).await;
        let thread = lock(&self.shared.thread).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the Raft log's writing thread panicked");
            }
        }
        let database = lock(&self.shared.database).take();
        // Dropping a sled database waits for its threads.
        let _ = tokio::task::spawn_blocking(move || drop(database)).await;
    }

    async fn send(&self, operation: Operation) -> io::Result<()> {
        self.shared.queue.send(operation).await.map_err(|_| closed())
    }

    async fn write(&self, operation: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Operation) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(operation(done)).await?;
        answer.await.map_err(|_| closed())?
    }

    async fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let located = lock(&self.shared.window).locate(start, end);
        if located.stored.is_empty() {
            return Ok(located.cached);
        }
        let database = lock(&self.shared.database).clone().ok_or_else(closed)?;
        let stored = located.stored;
        let read = tokio::task::spawn_blocking(move || {
            let mut entries = Vec::new();
            record::read_entries(&database, stored.start, stored.end, |entry, _| entries.push(entry)).map(|()| entries)
        });
        let mut entries = read.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        entries.extend(located.cached);
        Ok(entries)
    }
}

/// Opens the database of `id`, after checking that the identity file and the database belong together.
fn open_owned(folder: &Path, id: ControllerId) -> Result<(Database, IdentityRecord), LogError> {
    let other = |found| LogError::OtherOwner { path: folder.to_owned(), found, expected: id };
    let lost = |why: String| LogError::DataLoss { path: folder.to_owned(), id, why };
    let known = IdentityRecord::load(folder).map_err(identity_error)?;
    if let Some(known) = known.filter(|known| known.id() != id) {
        return Err(other(known.id()));
    }
    let path = folder.join("log");
    if known.is_some() && !path.join("db").exists() {
        return Err(lost("its identity file is there, its database is not".to_owned()));
    }
    match Database::wait_until_free(&path) {
        Ok(true) => {}
        Ok(false) => return Err(LogError::InUse { path }),
        Err(source) => return Err(LogError::Folder { path, source }),
    }
    let database = Database::open(&path).map_err(|error| lost(error.to_string()))?;
    let owner = database.get(OWNER).map_err(|error| lost(error.to_string()))?;
    let owner = owner.map(|bytes| wire::decode::<OwnerRecord>(&bytes)).transpose();
    match (owner.map_err(|error| lost(error.to_string()))?, known) {
        (Some(owner), _) if owner.id != id.0 => Err(other(ControllerId(owner.id))),
        (Some(_), Some(known)) => Ok((database, known)),
        (None, Some(_)) => Err(lost("its database is empty".to_owned())),
        // The identity is written after the database and before anything is acknowledged, so a database
        // with a vote but without an identity file has lost that file.
        (owner, None) => {
            if database.get(VOTE).map_err(|error| lost(error.to_string()))?.is_some() {
                return Err(lost("its database is there, its identity file is not".to_owned()));
            }
            if owner.is_none() {
                claim(&database, id).map_err(|error| lost(error.to_string()))?;
            }
            let identity = IdentityRecord { id: id.0, initialized: false };
            identity.save(folder).map_err(identity_error)?;
            Ok((database, identity))
        }
    }
}

fn claim(database: &Database, id: ControllerId) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.put(OWNER, wire::encode(&OwnerRecord { id: id.0 }).map_err(io::Error::other)?);
    database.apply(batch)?;
    Ok(database.sync()?)
}

fn recover(database: &Database) -> Result<Recovered, ReadError> {
    let vote = stored::<VoteRecord, Vote>(database, VOTE)?;
    let committed = stored::<LogIdRecord, LogId>(database, COMMITTED)?;
    let purged = stored::<LogIdRecord, LogId>(database, PURGED)?;
    let mut window = Window::after(purged);
    let start = purged.map_or(0, |purged| purged.index() + 1);
    let mut gap = None;
    record::read_entries(database, start, u64::MAX, |entry, _| {
        let index = entry.log_id.index();
        // The first entry of a log that was never purged may have any index.
        let follows = purged.is_none() || window.last() != purged || index == start;
        match window.push(entry) {
            Ok(()) if follows => window.durable(index),
            _ => gap = gap.or(Some(index)),
        }
    })?;
    match gap {
        Some(index) => Err(ReadError::Damaged { index, why: "entries before it are missing".to_owned() }),
        None => Ok(Recovered { vote, committed, window }),
    }
}

fn stored<R: Wire, T: From<R>>(database: &Database, key: &[u8]) -> Result<Option<T>, ReadError> {
    let bytes = database.get(key)?;
    bytes.map(|bytes| decode_as::<R, T>(&bytes)).transpose().map_err(|source| ReadError::Wire { index: 0, source })
}

fn identity_error(error: IdentityError) -> LogError {
    LogError::Identity { why: error.to_string() }
}

fn unreadable(folder: &Path, id: ControllerId, error: ReadError) -> LogError {
    match error {
        ReadError::Wire { source: source @ WireError::TooNew { .. }, .. } => {
            LogError::TooNew { path: folder.to_owned(), source }
        }
        error => LogError::DataLoss { path: folder.to_owned(), id, why: error.to_string() },
    }
}

/// `start..end` of any range of indexes.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // A few MiB at a time: a controller that starts may have the whole log to apply.
        let (start, end) = bounds(&range);
        let store = self.clone();
        let slices = stream::unfold(Some(start), move |from| {
            let store = store.clone();
            async move {
                let from = from.filter(|from| *from < end)?;
                let to = lock(&store.shared.window).fitting(from, end, APPLY_BYTES);
                let entries = store.read(from, to).await;
                let more = matches!(&entries, Ok(entries) if !entries.is_empty());
                Some((entries, more.then_some(to)))
            }
        });
        let entries = slices.flat_map(|slice| {
            let (entries, error) = match slice {
                Ok(entries) => (entries, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(entries.into_iter().map(Ok).chain(error))
        });
        Box::pin(entries)
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*lock(&self.shared.vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let end = lock(&self.shared.window).fitting(start, end, MESSAGE_BYTES);
        self.read(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let window = lock(&self.shared.window);
        Ok(LogState { last_purged_log_id: window.purged(), last_log_id: window.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.write(|done| Operation::Vote { vote, done }).await?;
        *lock(&self.shared.vote) = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.send(Operation::Committed(committed)).await?;
        *lock(&self.shared.committed) = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(*lock(&self.shared.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            // Readable from now on, before it is durable.
            let mut window = lock(&self.shared.window);
            for entry in &entries {
                let index = entry.log_id.index();
                window.push(entry.clone()).map_err(|expected| {
                    io::Error::other(format!(
                        "entry {index} would leave a hole in the log before it: {expected} is next"
                    ))
                })?;
            }
        }
        self.send(Operation::Append { entries, done: callback }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index() + 1);
        self.write(|done| Operation::Truncate { from, done }).await?;
        // Only now: until then the writer may still call the old entries durable, under the same indexes.
        lock(&self.shared.window).truncate(from, last);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        lock(&self.shared.window).purge(upto);
        self.write(|done| Operation::Purge { upto, done }).await
    }
}
