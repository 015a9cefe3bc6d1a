//! What the log needs of a disk, so that its rules run over a real database and over a simulated one alike.

use std::io;

/// Slots for the watermark: one is overwritten while the other is whole.
pub(in crate::raft) const SLOTS: usize = 2;

/// Bytes of one slot: a block of its own, so that writing one cannot tear the other.
pub(in crate::raft) const SLOT_BYTES: usize = 4096;

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
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Batch {
    /// Sets `key`.
    pub(in crate::raft) fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.changes.push((key.to_vec(), Some(value)));
    }

    /// Removes `key`.
    pub(in crate::raft) fn remove(&mut self, key: &[u8]) {
        self.bytes += key.len();
        self.changes.push((key.to_vec(), None));
    }

    /// In the order they were made; `None` removes.
    pub(in crate::raft) fn changes(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
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

/// An ordered map from bytes to bytes, and two slots beside it.
///
/// One thread writes; any may read at the same time. What [`Disk::sync`] has not confirmed may be lost in a
/// crash, but a batch never in part and never before an earlier one.
pub(in crate::raft) trait Disk: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// Applies `batch`; readable at once, durable after the next [`Disk::sync`].
    fn apply(&self, batch: &Batch) -> Result<(), DiskError>;

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

    /// The slots as they are, up to [`SLOT_BYTES`] each; `None` where there is nothing to read.
    fn read_marks(&self) -> Result<[Option<Vec<u8>>; SLOTS], DiskError>;

    /// Overwrites one slot with `bytes`, at most [`SLOT_BYTES`]; durable when it returns. A crash in the middle
    /// leaves this slot old, new or torn, and the other one untouched.
    fn write_mark(&self, slot: usize, bytes: &[u8]) -> Result<(), DiskError>;

    /// How much room is left.
    fn space(&self) -> Result<Space, DiskError>;

    /// Opens the database anew after space ran out in the middle of a write: what was synced is there, what was
    /// not may be.
    fn reopen(&self) -> Result<(), DiskError>;
}
