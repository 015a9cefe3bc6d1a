//! The Raft log and vote on disk: what it needs of one ([`disk`]), sled behind one file ([`database`]), one
//! writer with group commit ([`writer`]), and the newest entries in memory ([`window`]).
//!
//! An append is acknowledged only after its group and the [`watermark`] are durable in the [`journal`] (or, if it is
//! large, in the database itself); votes go through the same queue. A log that is lost, damaged or shorter than its watermark is found when it is
//! opened ([`recovery`]). While the disk has too little [`room`], appends are held.

mod database;
pub(in crate::raft) mod disk;
mod group;
mod identity;
mod journal;
mod quarantine;
mod record;
mod recovery;
mod room;
mod watermark;
mod window;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::fs;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use pontoon_model::ControllerId;
use pontoon_model::wire::WireError;
use tokio::sync::{mpsc, oneshot, watch};

use self::database::Database;
use self::disk::Disk;
use self::group::Operation;
use self::identity::IdentityError;
pub use self::identity::IdentityRecord;
pub use self::quarantine::{identity_in, replace, replace_with};
use self::recovery::Loss;
pub use self::room::DiskHealth;
use self::room::Room;
use self::window::Window;
use self::writer::QUEUE;
pub(in crate::raft) use self::writer::Writer;
use super::runtime;
use super::timing::FlushTimes;
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes of entries in one message to a follower, so that a slow link still answers within its deadline.
const MESSAGE_BYTES: u64 = 1024 * 1024;

/// Bytes of entries read at once to be applied.
const APPLY_BYTES: u64 = 4 * 1024 * 1024;

/// What is committed is on disk within this time at the latest: a controller that is killed and starts again has it at once.
const COMMITTED_WITHIN: Duration = Duration::from_millis(20);

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
    /// The identity file is there and says nothing, so it is not known whose log it is: as much as a lost log.
    #[error("the identity file of the Raft log is damaged: {why}")]
    DamagedIdentity {
        /// What is wrong.
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
        "the Raft log in {} is lost or damaged: {why}; this controller does not vote as {id} any more",
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
    /// Nothing is lost, but it cannot be opened without room.
    #[error("the Raft log in {} cannot be opened, since the disk is full: {why}", path.display())]
    Full {
        /// Where.
        path: PathBuf,
        /// What the disk says.
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
    folder: Option<PathBuf>,
    queue: mpsc::Sender<Operation>,
    window: Arc<Mutex<Window>>,
    vote: Mutex<Option<Vote>>,
    committed: Arc<Mutex<Option<LogId>>>,
    /// Whether the writer will be told of it.
    telling: AtomicBool,
    identity: Mutex<IdentityRecord>,
    /// None once closed.
    disk: Mutex<Option<Arc<dyn Disk>>>,
    health: watch::Receiver<DiskHealth>,
    flushes: FlushTimes,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the Raft log is closed")
}

/// Whose log a disk holds.
#[derive(Debug, Clone)]
pub(in crate::raft) struct Home {
    /// The controller.
    pub(in crate::raft) id: ControllerId,
    /// Where its files are; none in a simulation, which keeps the identity itself.
    pub(in crate::raft) folder: Option<PathBuf>,
    /// What the store said of itself when it was last closed; none for a new one.
    pub(in crate::raft) identity: Option<IdentityRecord>,
}

impl Home {
    fn path(&self) -> PathBuf {
        self.folder.clone().unwrap_or_default()
    }

    fn lost(&self, why: String) -> LogError {
        LogError::DataLoss { path: self.path(), id: self.id, why }
    }

    fn refused(&self, loss: Loss) -> LogError {
        match loss {
            Loss::Lost(why) => self.lost(why),
            Loss::OtherOwner(found) => LogError::OtherOwner { path: self.path(), found, expected: self.id },
            Loss::TooNew(source) => LogError::TooNew { path: self.path(), source },
            Loss::Full(why) => LogError::Full { path: self.path(), why },
        }
    }
}

impl LogStore {
    /// Opens the log of controller `id` in `folder`, or makes it. Checks every entry, and that nothing that was
    /// acknowledged is missing; `covered` is the last entry that the snapshot in place holds.
    pub fn open(folder: &Path, id: ControllerId, covered: Option<u64>) -> Result<Self, LogError> {
        let wrap = |source| LogError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(wrap)?;
        let (database, home) = open_database(folder, id)?;
        let new = home.identity.is_none();
        let (store, writer) = Self::on(Arc::new(database), home, covered)?;
        if new {
            store.identity().save(folder).map_err(identity_error)?;
        }
        let thread = std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || writer.run());
        *lock(&store.shared.thread) = Some(thread.map_err(wrap)?);
        Ok(store)
    }

    /// The log on `disk`, and the writer that must run for it: [`LogStore::open`] gives it a thread. The disk of a
    /// new store is claimed, and its identity must be kept before the writer runs.
    pub(in crate::raft) fn on(
        disk: Arc<dyn Disk>,
        home: Home,
        covered: Option<u64>,
    ) -> Result<(Self, Writer), LogError> {
        let recovered = recovery::recover(disk.as_ref(), home.id, home.identity.is_some(), covered);
        let (recovered, journal) = recovered.map_err(|loss| home.refused(loss))?;
        let window = Arc::new(Mutex::new(recovered.window));
        let committed = Arc::new(Mutex::new(recovered.committed));
        let (queue, receiver) = mpsc::channel(QUEUE);
        let room = Room::new();
        let health = room.health();
        let writer =
            Writer::new(disk.clone(), window.clone(), committed.clone(), receiver, room, (recovered.mark, journal));
        let flushes = writer.flush_times();
        let identity = home.identity.unwrap_or_else(|| IdentityRecord::new(home.id));
        let shared = Shared {
            folder: home.folder,
            queue,
            window,
            vote: Mutex::new(recovered.vote),
            committed,
            telling: AtomicBool::new(false),
            identity: Mutex::new(identity),
            health,
            flushes,
            disk: Mutex::new(Some(disk)),
            thread: Mutex::new(None),
        };
        Ok((Self { shared: Arc::new(shared) }, writer))
    }

    /// What this store says of itself.
    pub(in crate::raft) fn identity(&self) -> IdentityRecord {
        *lock(&self.shared.identity)
    }

    /// As a store that does not keep its vote.
    #[cfg(test)]
    pub(in crate::raft) fn forget_vote(&self) {
        *lock(&self.shared.vote) = None;
    }

    /// Whether this store has been part of a cluster.
    pub fn is_initialized(&self) -> bool {
        lock(&self.shared.identity).initialized
    }

    /// Remembers for good that this store is part of a cluster.
    pub fn mark_initialized(&self) -> Result<(), LogError> {
        let mut identity = lock(&self.shared.identity);
        let marked = IdentityRecord { initialized: true, ..*identity };
        if let Some(folder) = &self.shared.folder {
            marked.save(folder).map_err(identity_error)?;
        }
        *identity = marked;
        Ok(())
    }

    /// Whether the disk has room. While it has not, appends are held, and go on by themselves.
    pub fn disk_health(&self) -> watch::Receiver<DiskHealth> {
        self.shared.health.clone()
    }

    /// How long flushes took.
    pub(in crate::raft) fn flush_times(&self) -> FlushTimes {
        self.shared.flushes.clone()
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
            let joined = runtime::blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the Raft log's writing thread panicked");
            }
        }
        let disk = lock(&self.shared.disk).take();
        // Dropping a sled database waits for its threads.
        let _ = runtime::blocking(move || drop(disk)).await;
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
        let disk = lock(&self.shared.disk).clone().ok_or_else(closed)?;
        let stored = located.stored;
        let read = runtime::blocking(move || {
            let mut entries = Vec::new();
            record::read_entries(disk.as_ref(), stored.start, stored.end, |entry, _| entries.push(entry))
                .map(|()| entries)
        });
        let mut entries = read.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        entries.extend(located.cached);
        Ok(entries)
    }
}

/// Opens the database of `id`, after checking that it is there if the identity file is.
fn open_database(folder: &Path, id: ControllerId) -> Result<(Database, Home), LogError> {
    let identity = IdentityRecord::load(folder).map_err(identity_error)?;
    let home = Home { id, folder: Some(folder.to_owned()), identity };
    if let Some(known) = identity.filter(|known| known.id() != id) {
        return Err(home.refused(Loss::OtherOwner(known.id())));
    }
    let path = folder.join("log");
    if identity.is_some() && !path.join("db").exists() {
        return Err(home.lost("its identity file is there, its database is not".to_owned()));
    }
    match Database::wait_until_free(&path) {
        Ok(true) => {}
        Ok(false) => return Err(LogError::InUse { path }),
        Err(source) => return Err(LogError::Folder { path, source }),
    }
    match Database::open(&path, &folder.join("journal")) {
        Ok(database) => Ok((database, home)),
        Err(error) => Err(home.refused(error.into())),
    }
}

fn identity_error(error: IdentityError) -> LogError {
    match error {
        IdentityError::Io { .. } => LogError::Identity { why: error.to_string() },
        IdentityError::Wire { path, source: source @ WireError::TooNew { .. } } => LogError::TooNew { path, source },
        IdentityError::Wire { .. } => LogError::DamagedIdentity { why: error.to_string() },
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
        *lock(&self.shared.committed) = committed;
        // The next append takes it along. If there is none, it is told of a little later, once.
        if !self.shared.telling.swap(true, Ordering::Relaxed) {
            let (queue, shared) = (self.shared.queue.clone(), Arc::downgrade(&self.shared));
            runtime::spawn(async move {
                tokio::time::sleep(COMMITTED_WITHIN).await;
                if let Some(shared) = shared.upgrade() {
                    shared.telling.store(false, Ordering::Relaxed);
                }
                // A closed one was told when it ended.
                let _ = queue.send(Operation::Committed).await;
            });
        }
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
        self.write(|done| Operation::Truncate { last, done }).await?;
        // Only now: until then the writer may still call the old entries durable, under the same indexes.
        lock(&self.shared.window).truncate(from, last);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        lock(&self.shared.window).purge(upto);
        self.write(|done| Operation::Purge { upto, done }).await
    }
}
