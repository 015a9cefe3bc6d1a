//! How entries lie in the database: as parts small enough that sled keeps them in its log file.
//!
//! ```text
//! e ‖ index (8, big-endian) ‖ part (2, big-endian)  →  envelope of a part
//! m ‖ name                                          →  envelope of a vote, a log id …
//! ```

use bytes::Bytes;
use pontoon_model::wire::{self, WireError};
use serde::{Deserialize, Serialize};

use super::super::layout::{decode_entry, encode_entry};
use super::super::types::Entry;
use super::disk::{Batch, Disk, DiskError};

/// Bytes of an entry per part. With its envelope and key a part stays under 4 KiB, and a full sled node
/// (17 parts) under 128 KiB, beyond which sled writes separate blob files and never syncs them.
const PART_BYTES: usize = 3_900;

/// Our vote.
pub(super) const VOTE: &[u8] = b"mvote";
/// The last entry known to be committed.
pub(super) const COMMITTED: &[u8] = b"mcommitted";
/// The last entry that a snapshot has replaced.
pub(super) const PURGED: &[u8] = b"mpurged";
/// Which journal is this database's.
pub(super) const JOURNAL: &[u8] = b"mjournal";
/// Whose database this is.
pub(super) const OWNER: &[u8] = b"mowner";

const KEY_LEN: usize = 11;

/// Part 0: also says what the whole must be.
#[derive(Serialize, Deserialize)]
pub(super) struct FirstPart {
    pub(super) index: u64,
    pub(super) parts: u16,
    pub(super) len: u32,
    pub(super) crc: u32,
    pub(super) bytes: Bytes,
}

/// The parts after it.

#[derive(Serialize, Deserialize)]
pub(super) struct NextPart {
    pub(super) index: u64,
    pub(super) part: u16,
    pub(super) bytes: Bytes,
}

/// Whose database this is; its absence beside an identity file is data loss.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnerRecord {
    pub(super) id: u64,
}

pontoon_model::wire! {
    601, 1 => OwnerRecord;
    605, 1 => FirstPart;
    606, 1 => NextPart;
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("entry {index} is damaged: {why}")]
    Damaged { index: u64, why: String },
    #[error("entry {index} cannot be read: {source}")]
    Wire { index: u64, source: WireError },
}

/// The key of a part.
pub(super) fn key(index: u64, part: u16) -> [u8; KEY_LEN] {
    let mut key = [b'e'; KEY_LEN];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&part.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(u64, u16)> {
    let key: &[u8; KEY_LEN] = key.try_into().ok()?;
    let index = u64::from_be_bytes(key[1..9].try_into().ok()?);
    Some((index, u16::from_be_bytes([key[9], key[10]])))
}

/// The keys of all parts of entries from `index` on.
pub(super) fn from_index(index: u64) -> [u8; KEY_LEN] {
    key(index, 0)
}

/// Above every entry's key.
pub(super) const AFTER_ENTRIES: &[u8] = b"f";

/// Whether `key` is the first part of an entry.
pub(super) fn begins_entry(key: &[u8]) -> bool {
    parse_key(key).is_some_and(|(_, part)| part == 0)
}

/// Adds the parts of `entry` to `batch`.
pub(super) fn put_entry(batch: &mut Batch, entry: &Entry) -> Result<(), WireError> {
    let index = entry.log_id.index();
    let bytes = Bytes::from(encode_entry(entry)?);
    let parts =
        u16::try_from(bytes.len().div_ceil(PART_BYTES)).map_err(|_| WireError::TooLarge { len: bytes.len() })?;
    let part_of = |part: usize| bytes.slice(part * PART_BYTES..bytes.len().min((part + 1) * PART_BYTES));
    let first = FirstPart { index, parts, len: bytes.len() as u32, crc: crc32c::crc32c(&bytes), bytes: part_of(0) };
    batch.put(&key(index, 0), wire::encode(&first)?);
    for part in 1..parts {
        let next = NextPart { index, part, bytes: part_of(usize::from(part)) };
        batch.put(&key(index, part), wire::encode(&next)?);
    }
    Ok(())
}

/// An entry whose parts are being put together.
struct Assembly {
    index: u64,
    parts: u16,
    seen: u16,
    len: u32,
    crc: u32,
    bytes: Vec<u8>,
}

impl Assembly {
    fn begin(index: u64, value: &[u8]) -> Result<Self, ReadError> {
        let wrap = |source| ReadError::Wire { index, source };
        let first: FirstPart = wire::decode(value).map_err(wrap)?;
        if first.index != index {
            return Err(ReadError::Damaged { index, why: format!("it says it is entry {}", first.index) });
        }
        let (parts, len, crc) = (first.parts, first.len, first.crc);
        Ok(Self { index, parts, seen: 1, len, crc, bytes: first.bytes.to_vec() })
    }

    fn add(&mut self, part: u16, value: &[u8]) -> Result<(), ReadError> {
        let index = self.index;
        let next: NextPart = wire::decode(value).map_err(|source| ReadError::Wire { index, source })?;
        if (next.index, next.part, part) != (index, self.seen, self.seen) {
            return Err(ReadError::Damaged { index, why: format!("part {part} where {} was expected", self.seen) });
        }
        self.bytes.extend_from_slice(&next.bytes);
        self.seen += 1;
        Ok(())
    }

    fn finish(self) -> Result<(Entry, usize), ReadError> {
        let index = self.index;
        let whole = self.seen == self.parts && self.bytes.len() == self.len as usize;
        if !whole || crc32c::crc32c(&self.bytes) != self.crc {
            let why = format!("{} of {} parts, or a wrong checksum", self.seen, self.parts);
            return Err(ReadError::Damaged { index, why });
        }
        let entry = decode_entry(&self.bytes).map_err(|source| ReadError::Wire { index, source })?;
        if entry.log_id.index() != index {
            return Err(ReadError::Damaged { index, why: format!("it holds entry {}", entry.log_id.index()) });
        }
        Ok((entry, self.bytes.len()))
    }
}

/// Reads entries `start..end` in order, as far as they are there, and hands each to `visit` with its size.
/// A hole between them is an error.
pub(super) fn read_entries(
    disk: &dyn Disk,
    start: u64,
    end: u64,
    mut visit: impl FnMut(Entry, usize),
) -> Result<(), ReadError> {
    let mut open: Option<Assembly> = None;
    let mut failed = None;
    let mut finish = |assembly: Assembly| assembly.finish().map(|(entry, size)| visit(entry, size));
    disk.scan(&key(start, 0), &key(end, 0), &mut |key, value| {
        let mut step = || {
            let Some((index, part)) = parse_key(key) else {
                return Err(ReadError::Damaged { index: 0, why: format!("a key of {} bytes", key.len()) });
            };
            match open.as_mut() {
                Some(assembly) if assembly.index == index => return assembly.add(part, value),
                Some(assembly) if assembly.index + 1 != index => {
                    let why = format!("the next one is {index}");
                    return Err(ReadError::Damaged { index: assembly.index + 1, why });
                }
                _ => {}
            }
            let next = Assembly::begin(index, value)?;
            open.replace(next).map_or(Ok(()), &mut finish)
        };
        failed = step().err();
        failed.is_none()
    })?;
    match (failed, open) {
        (Some(error), _) => Err(error),
        (None, Some(assembly)) => finish(assembly),
        (None, None) => Ok(()),
    }
}
