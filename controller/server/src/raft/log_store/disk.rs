//! What the log needs of a disk, so that its rules run over a real database and over a simulated one alike.

use std::io;

use bytes::Bytes;

/// Copies of the journal: a bad block leaves the other one.
pub(in crate::raft) const COPIES: usize = 2;

/// What is written in the journal begins at a block of this many bytes, so that it cannot tear what is before it.
pub(in crate::raft) const BLOCK: usize = 4096;

/// What the disk answered, as text: a database's own errors are not `Send` everywhere, and it also panics.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log's disk, while {doing}: {why}")]
pub(in crate::raft) struct DiskError {
    /// What was tried.
    pub(in crate::raft) doing: &'static str,
    /// What went wrong.
    pub(in crate::raft) why: String,
    /// Whether space ran out: the only error after which writing goes on, through [`Disk::reopen`].
    pub(in crate::raft) full: bool,
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        let kind = if error.full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        io::Error::new(kind, error)
    }
}

/// Changes that take effect together: of two to the same key the later counts.
#[derive(Debug, Default, Clone)]
pub(in crate::raft) struct Batch {
    changes: Vec<(Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl FromIterator<(Bytes, Option<Bytes>)> for Batch {
    fn from_iter<I: IntoIterator<Item = (Bytes, Option<Bytes>)>>(changes: I) -> Self {
        let changes: Vec<_> = changes.into_iter().collect();
        let bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        Self { changes, bytes }
    }
}

impl Batch {
    /// Sets `key`.
    pub(in crate::raft) fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.changes.push((Bytes::copy_from_slice(key), Some(value.into())));
    }

    /// Removes `key`.
    pub(in crate::raft) fn remove(&mut self, key: &[u8]) {
        self.bytes += key.len();
        self.changes.push((Bytes::copy_from_slice(key), None));
    }

    /// In the order they were made; `None` removes.
    pub(in crate::raft) fn changes(&self) -> &[(Bytes, Option<Bytes>)] {
        &self.changes
    }

    pub(in crate::raft) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of its keys and values.
    pub(in crate::raft) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Room on the file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raft) struct Space {
    /// Still to be had.
    pub(in crate::raft) free: u64,
    /// In all.
    pub(in crate::raft) total: u64,
}

/// An ordered map from bytes to bytes, and a journal beside it: two copies of as many bytes, written in place.
///
/// One thread writes; any may read at the same time. What [`Disk::sync`] has not confirmed may be lost in a
/// crash, but a batch never in part and never before an earlier one.
pub(in crate::raft) trait Disk: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// Applies `batch`; readable at once, durable after the next [`Disk::sync`].
    fn apply(&self, batch: &Batch) -> Result<(), DiskError>;

    /// The same, but a crash may leave the first of its changes only: for what would be applied again then.
    fn apply_in_parts(&self, batch: &Batch) -> Result<(), DiskError>;

    /// Returns when everything applied before survives a power cut.
    fn sync(&self) -> Result<(), DiskError>;

    /// Up to `limit` keys from `from` (inclusive) to `to` (exclusive), lowest first.
    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, DiskError>;

    /// The keys of this range, highest first, until `enough` says so.
    fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        enough: &mut dyn FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DiskError>;

    /// Hands each pair of this range to `visit`, lowest key first, until it says `false`.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), DiskError>;

    /// Bytes of one copy of the journal: a multiple of [`BLOCK`], always the same.
    fn journal_bytes(&self) -> usize;

    /// The copies as they are: empty if they were never written, shorter if a part is gone.
    fn read_journal(&self) -> Result<[Vec<u8>; COPIES], DiskError>;

    /// Overwrites both copies from `at` on, a multiple of [`BLOCK`]; durable when it returns. A crash in the middle
    /// leaves the blocks written to old, new or torn, in each copy on its own, and others untouched.
    fn write_journal(&self, at: usize, bytes: &[u8]) -> Result<(), DiskError>;

    /// How much room is left.
    fn space(&self) -> Result<Space, DiskError>;

    /// Opens the database anew after space ran out in the middle of a write: what was synced is there, what was
    /// not may be.
    fn reopen(&self) -> Result<(), DiskError>;
}
