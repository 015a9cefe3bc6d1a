//! The only file that names sled, and what it takes to trust it (figures in decision 0001).

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

/// sled's page cache: the newest entries are in our own memory, so sled's is only for catching up.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// How long another holder of the database may take to end: the process before this one, or sled's own
/// threads, which keep its lock for a moment after the last handle is gone.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(10);

/// Between looks at the lock.
const LOOK: Duration = Duration::from_millis(20);

/// What sled answered, as text: its own errors are not `Send` everywhere and it also panics.
#[derive(Debug, Clone, thiserror::Error)]
#[error("sled, while {doing}: {why}")]
pub(super) struct DatabaseError {
    doing: &'static str,
    why: String,
}

impl From<DatabaseError> for io::Error {
    fn from(error: DatabaseError) -> Self {
        io::Error::other(error)
    }
}

/// Runs `operation`, in which sled may fail or panic: damaged files make 0.34.7 do both.
fn guarded<T>(doing: &'static str, operation: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, DatabaseError> {
    let fail = |why| Err(DatabaseError { doing, why });
    match panic::catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => fail(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            fail(format!("panicked: {}", text.unwrap_or_else(|| "no message".to_owned())))
        }
    }
}

/// Changes that take effect together.
#[derive(Default)]
pub(super) struct Batch {
    inner: sled::Batch,
    len: usize,
}

impl Batch {
    /// Sets `key`.
    pub(super) fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.inner.insert(key, value);
        self.len += 1;
    }

    /// Removes `key`.
    pub(super) fn remove(&mut self, key: &[u8]) {
        self.inner.remove(key);
        self.len += 1;
    }
}

/// An ordered map from bytes to bytes on disk.
pub(super) struct Database {
    db: sled::Db,
    // A second descriptor of sled's data file: `flush` alone writes with sync_file_range, which
    // neither updates the file's size nor reaches past the disk's cache.
    file: File,
}

impl Database {
    /// Waits until nobody else has the database in `folder` open; `false` if somebody still has.
    pub(super) fn wait_until_free(folder: &Path) -> io::Result<bool> {
        let file = match File::open(folder.join("db")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let deadline = Instant::now() + UNLOCKED_WITHIN;
        loop {
            // The same lock that sled takes.
            match file.try_lock() {
                Ok(()) => return file.unlock().map(|()| true),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Opens or makes the database in `folder`, which must be free.
    pub(super) fn open(folder: &Path) -> Result<Self, DatabaseError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            // We flush, and only we: an acknowledgement must follow the flush of just its records.
            .flush_every_ms(None);
        let db = guarded("opening the log", || config.open())?;
        let file = File::open(folder.join("db"))
            .map_err(|error| DatabaseError { doing: "opening the log's file", why: error.to_string() })?;
        let database = Self { db, file };
        database.sync()?;
        sync_folder(folder)?;
        Ok(database)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError> {
        guarded("reading", || Ok(self.db.get(key)?.map(|value| value.to_vec())))
    }

    /// Applies `batch`; durable after the next [`Database::sync`], and never in part.
    pub(super) fn apply(&self, batch: Batch) -> Result<(), DatabaseError> {
        if batch.len == 0 {
            return Ok(());
        }
        guarded("writing", || self.db.apply_batch(batch.inner))
    }

    /// Returns when everything applied before survives a power cut.
    pub(super) fn sync(&self) -> Result<(), DatabaseError> {
        guarded("flushing", || {
            self.db.flush()?;
            self.file.sync_data()?;
            Ok(())
        })
    }

    /// Up to `limit` keys from `from` (inclusive) to `to` (exclusive), lowest first.
    pub(super) fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, DatabaseError> {
        guarded("listing", || self.db.range(from..to).keys().take(limit).map(|key| Ok(key?.to_vec())).collect())
    }

    /// The keys of this range, highest first, until `enough` says so.
    pub(super) fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        mut enough: impl FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DatabaseError> {
        guarded("listing", || {
            let mut keys = Vec::new();
            for key in self.db.range(from..to).keys().rev() {
                keys.push(key?.to_vec());
                if enough(&keys) {
                    break;
                }
            }
            Ok(keys)
        })
    }

    /// Hands each pair of this range to `visit`, lowest key first, until it says `false`.
    pub(super) fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DatabaseError> {
        guarded("reading", || {
            for pair in self.db.range(from..to) {
                let (key, value) = pair?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// Makes the names in `folder` durable.
fn sync_folder(folder: &Path) -> Result<(), DatabaseError> {
    let sync = || -> io::Result<()> {
        File::open(folder)?.sync_all()?;
        match folder.parent() {
            Some(parent) if fs::metadata(parent)?.is_dir() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    sync().map_err(|error| DatabaseError { doing: "syncing the log's folder", why: error.to_string() })
}
