//! The only file that names sled, and what it takes to trust it (figures in decision 0001).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::disk::{Batch, COPIES, Disk, DiskError, Space};

/// sled's page cache: the newest entries are in our own memory, so sled's is only for catching up.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// One copy of the journal. Each half of it is a sync of the database, which takes some milliseconds: at a thousand
/// small writes a second that is two a second.
const JOURNAL_BYTES: usize = 4 * 1024 * 1024;

/// The journal is written in pieces of this size. Linux caches a file in pieces as large as what was written or read at
/// once, and a write of a block costs in proportion to its piece: in one of 2 MiB a tenth of all that a write costs.
const JOURNAL_PIECE: usize = 16 * 1024;

/// How long another holder of the database may take to end: the process before this one, or sled's own
/// threads, which keep its lock for a moment after the last handle is gone.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(10);

/// Between looks at the lock.
const LOOK: Duration = Duration::from_millis(20);

/// Runs `operation`, in which sled may fail or panic: damaged files make 0.34.7 do both.
fn guarded<T>(doing: &'static str, operation: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, DiskError> {
    match panic::catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let full = matches!(&error, sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull);
            Err(DiskError { doing, why: format!("sled: {error}"), full })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let why = format!("sled panicked: {}", text.unwrap_or_else(|| "no message".to_owned()));
            Err(DiskError { doing, why, full: false })
        }
    }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> DiskError {
    move |error| DiskError { doing, why: error.to_string(), full: error.kind() == io::ErrorKind::StorageFull }
}

/// sled, open.
struct Opened {
    db: sled::Db,
    // A second descriptor of sled's data file: `flush` alone writes with sync_file_range, which
    // neither updates the file's size nor reaches past the disk's cache.
    file: File,
}

impl Opened {
    fn open(folder: &Path) -> Result<Self, DiskError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            // We flush, and only we: an acknowledgement must follow the flush of just its records.
            .flush_every_ms(None);
        let db = guarded("opening the log", || config.open())?;
        let file = File::open(folder.join("db")).map_err(failed("opening the log's file"))?;
        Ok(Self { db, file })
    }

    fn sync(&self) -> Result<(), DiskError> {
        guarded("flushing", || {
            self.db.flush()?;
            self.file.sync_data()?;
            Ok(())
        })
    }
}

/// The log's disk: sled in one folder, the journal in a file beside it.
pub(super) struct Database {
    folder: PathBuf,
    journal: File,
    // None while it is opened anew.
    opened: RwLock<Option<Opened>>,
}

impl Database {
    /// Waits until nobody else has the database in `folder` open; `false` if somebody still has.
    pub(super) fn wait_until_free(folder: &Path) -> io::Result<bool> {
        let file = match File::options().read(true).write(true).open(folder.join("db")) {
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

    /// Opens or makes the database in `folder`, which must be free, and the journal beside it.
    pub(super) fn open(folder: &Path, journal: &Path) -> Result<Self, DiskError> {
        let opened = Opened::open(folder)?;
        opened.sync()?;
        let journal = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(journal);
        let journal = journal.map_err(failed("opening the journal"))?;
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), journal, opened: RwLock::new(Some(opened)) })
    }

    fn with<T>(&self, operation: impl FnOnce(&Opened) -> Result<T, DiskError>) -> Result<T, DiskError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || DiskError { doing: "using the log", why: "it could not be opened anew".into(), full: false };
        operation(opened.as_ref().ok_or_else(closed)?)
    }
}

impl Disk for Database {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.with(|opened| guarded("reading", || Ok(opened.db.get(key)?.map(|value| value.to_vec()))))
    }

    fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes() {
            match value {
                Some(value) => changes.insert(key.as_ref(), value.as_ref()),
                None => changes.remove(key.as_ref()),
            }
        }
        self.with(|opened| guarded("writing", || opened.db.apply_batch(changes)))
    }

    /// Without `apply_batch`, which writes what sled has buffered before and after each batch to keep it whole, and wakes
    /// all of its threads for that.
    fn apply_in_parts(&self, batch: &Batch) -> Result<(), DiskError> {
        let each = |db: &sled::Db| {
            for (key, value) in batch.changes() {
                match value {
                    Some(value) => drop(db.insert(key, value.as_ref())?),
                    None => drop(db.remove(key)?),
                }
            }
            Ok(())
        };
        self.with(|opened| guarded("writing", || each(&opened.db)))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.with(Opened::sync)
    }

    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, DiskError> {
        let list = |db: &sled::Db| db.range(from..to).keys().take(limit).map(|key| Ok(key?.to_vec())).collect();
        self.with(|opened| guarded("listing", || list(&opened.db)))
    }

    fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        enough: &mut dyn FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        let mut list = |db: &sled::Db| {
            let mut keys = Vec::new();
            for key in db.range(from..to).keys().rev() {
                keys.push(key?.to_vec());
                if enough(&keys) {
                    break;
                }
            }
            Ok(keys)
        };
        self.with(|opened| guarded("listing", || list(&opened.db)))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), DiskError> {
        let mut read = |db: &sled::Db| {
            for pair in db.range(from..to) {
                let (key, value) = pair?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        };
        self.with(|opened| guarded("reading", || read(&opened.db)))
    }

    fn journal_bytes(&self) -> usize {
        JOURNAL_BYTES
    }

    fn read_journal(&self) -> Result<[Vec<u8>; COPIES], DiskError> {
        let read = |copy: usize| -> io::Result<Vec<u8>> {
            let (start, mut bytes) = (copy * JOURNAL_BYTES, vec![0; JOURNAL_BYTES]);
            let len = self.journal.metadata()?.len() as usize;
            bytes.truncate(len.saturating_sub(start));
            self.journal.read_exact_at(&mut bytes, start as u64)?;
            Ok(bytes)
        };
        let both = || Ok([read(0)?, read(1)?]);
        let both = both().map_err(failed("reading the journal"))?;
        // Read at once, so cached in large pieces (see JOURNAL_PIECE). Where this is refused, it is only slower.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&self.journal, 0, None, rustix::fs::Advice::DontNeed);
        Ok(both)
    }

    fn write_journal(&self, at: usize, bytes: &[u8]) -> Result<(), DiskError> {
        let write = || -> io::Result<()> {
            for copy in 0..COPIES {
                let starts = (copy * JOURNAL_BYTES + at..).step_by(JOURNAL_PIECE);
                for (piece, start) in bytes.chunks(JOURNAL_PIECE).zip(starts) {
                    self.journal.write_all_at(piece, start as u64)?;
                }
            }
            self.journal.sync_data()
        };
        write().map_err(failed("writing the journal"))
    }

    fn space(&self) -> Result<Space, DiskError> {
        let found = nix::sys::statvfs::fstatvfs(&self.journal);
        let found = found.map_err(|error| failed("looking for space")(error.into()))?;
        let bytes = |blocks: nix::libc::fsblkcnt_t| blocks * found.fragment_size();
        Ok(Space { free: bytes(found.blocks_available()), total: bytes(found.blocks()) })
    }

    fn reopen(&self) -> Result<(), DiskError> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        // Dropping what failed may fail and panic in turn; its files are all that counts.
        let _ = guarded("closing the log", || {
            drop(opened.take());
            Ok(())
        });
        match Self::wait_until_free(&self.folder) {
            Ok(true) => {}
            Ok(false) => {
                return Err(DiskError { doing: "reopening the log", why: "it is still in use".into(), full: false });
            }
            Err(error) => return Err(failed("reopening the log")(error)),
        }
        *opened = Some(Opened::open(&self.folder)?);
        Ok(())
    }
}

/// Makes the names in `folder` durable.
fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    let sync = || -> io::Result<()> {
        File::open(folder)?.sync_all()?;
        match folder.parent() {
            Some(parent) if fs::metadata(parent)?.is_dir() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    sync().map_err(failed("syncing the log's folder"))
}
