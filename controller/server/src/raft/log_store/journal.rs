//! The journal: what was acknowledged, before the database has it for good (decision 0009).
//!
//! A write is acknowledged once its frame is durable here: one write in place and one sync, a third of what the
//! database takes. The database gets the same changes at once and is synced when half of the journal is full; a
//! frame says up to which frame it was. What is opened after a crash gets the frames after that again.
//!
//! ```text
//! copy 0: | half 0: frame frame frame … | half 1: frame … |     a frame begins at a block
//! copy 1: the same bytes, far from the first
//! ```
//!
//! Each frame is written twice. A write that is cut short may leave neither copy of the newest frame whole: it was not
//! acknowledged, then. One bad block leaves the other copy, and a frame that is missing before the newest is noticed.

use std::collections::BTreeMap;

use bytes::Bytes;
use pontoon_model::wire::{self, Envelope, MAGIC, WireError};
use serde::{Deserialize, Serialize};

use super::super::layout::{LogIdRecord, VoteRecord};
use super::super::types::{LogId, Vote};
use super::disk::{BLOCK, Batch, Disk, DiskError};
use super::recovery::Loss;
use super::watermark::Watermark;

/// The halves of the journal: one is written while the other's frames may still be needed.
const HALVES: usize = 2;

/// What a frame takes besides its changes, and each change besides its bytes, at most.
const FRAME_OVERHEAD: usize = 256;
const CHANGE_OVERHEAD: usize = 32;

/// Of a half, a frame may take this part: larger changes go to the database first, which then costs less than they.
const LARGEST_PART: usize = 4;

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// One frame as it is stored.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FrameRecord {
    /// Drawn when the store was made: bytes of an entry cannot look like a frame, nor another store's frames like ours.
    pub(super) store: u64,
    /// One higher each time.
    pub(super) sequence: u64,
    /// The database has everything up to this frame for good.
    pub(super) base: u64,
    /// The watermark.
    pub(super) last: Option<LogIdRecord>,
    pub(super) first: Option<u64>,
    pub(super) vote: Option<VoteRecord>,
    pub(super) purged: Option<LogIdRecord>,
    /// Of the database, in order.
    pub(super) changes: Vec<(Bytes, Option<Bytes>)>,
}

/// Which journal belongs to a database: kept in the database.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalRecord {
    pub(super) store: u64,
}

pontoon_model::wire! {
    608, 1 => FrameRecord;
    609, 1 => JournalRecord;
}

impl FrameRecord {
    fn mark(&self) -> Watermark {
        Watermark {
            last: self.last.map(LogId::from),
            first: self.first,
            vote: self.vote.map(Vote::from),
            purged: self.purged.map(LogId::from),
        }
    }
}

/// Where the journal stands.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    store: u64,
    /// Of one half.
    half_bytes: usize,
    /// Of the newest frame.
    sequence: u64,
    base: u64,
    /// Where the next frame goes.
    at: usize,
}

impl Journal {
    /// Begins the journal of a new store: every block is written, so that a block which cannot be read was lost.
    pub(super) fn begin(disk: &dyn Disk, store: u64) -> Result<Self, WriteError> {
        let bytes = disk.journal_bytes();
        disk.write_journal(0, &vec![0; bytes])?;
        let mut journal = Self { store, half_bytes: bytes / HALVES, sequence: 0, base: 0, at: 0 };
        journal.checkpoint(disk, &Watermark::default())?;
        Ok(journal)
    }

    /// Whether `changes` are small enough for a frame.
    pub(super) fn takes(&self, changes: &Batch) -> bool {
        let bytes = changes.bytes() + changes.changes().len() * CHANGE_OVERHEAD + FRAME_OVERHEAD;
        bytes <= self.half_bytes / LARGEST_PART
    }

    /// Whether the database may lack something that was acknowledged.
    pub(super) fn is_ahead(&self) -> bool {
        self.base < self.sequence
    }

    /// The database was synced after all frames' changes were applied to it.
    pub(super) fn synced(&mut self) {
        self.base = self.sequence;
    }

    /// Writes a frame with `mark` and `changes`, which must fit ([`Journal::takes`]); durable when it returns. The
    /// changes of all frames before must have been applied to the database.
    pub(super) fn write(&mut self, disk: &dyn Disk, mark: &Watermark, changes: &Batch) -> Result<(), WriteError> {
        let mut frame = self.frame(mark, changes)?;
        // A frame never crosses the end of a half.
        let half_end = (self.at / self.half_bytes + 1) * self.half_bytes;
        if self.at + frame.len() > half_end {
            self.at = half_end % (HALVES * self.half_bytes);
        }
        // A half is written over from its beginning: from then on nobody may need what it held.
        if self.at.is_multiple_of(self.half_bytes) && self.is_ahead() {
            disk.sync()?;
            self.synced();
            frame = self.frame(mark, changes)?;
        }
        disk.write_journal(self.at, &frame)?;
        self.sequence += 1;
        self.at = (self.at + frame.len()) % (HALVES * self.half_bytes);
        Ok(())
    }

    /// Makes durable what the database has, which must be the changes of all frames, and writes a frame with `mark` that
    /// says so.
    pub(super) fn checkpoint(&mut self, disk: &dyn Disk, mark: &Watermark) -> Result<(), WriteError> {
        disk.sync()?;
        self.synced();
        self.write(disk, mark, &Batch::default())?;
        self.synced();
        Ok(())
    }

    fn frame(&self, mark: &Watermark, changes: &Batch) -> Result<Vec<u8>, WireError> {
        let mut frame = wire::encode(&FrameRecord {
            store: self.store,
            sequence: self.sequence + 1,
            base: self.base,
            last: mark.last.as_ref().map(LogIdRecord::from),
            first: mark.first,
            vote: mark.vote.as_ref().map(VoteRecord::from),
            purged: mark.purged.as_ref().map(LogIdRecord::from),
            changes: changes.changes().to_vec(),
        })?;
        frame.resize(frame.len().next_multiple_of(BLOCK), 0);
        Ok(frame)
    }

    /// Applies to `disk` what its database may lack, after it was opened anew.
    pub(super) fn replay(&mut self, disk: &dyn Disk) -> Result<(), Loss> {
        match read(disk, self.store)? {
            Found::Frames { frames, .. } => apply(disk, frames)?,
            Found::Nothing | Found::Unreadable => return Err(Loss::Lost("its journal is unreadable".to_owned())),
        }
        disk.sync()?;
        self.synced();
        Ok(())
    }
}

/// What the journal of a disk holds.
pub(super) enum Found {
    /// The newest watermark, the frames whose changes the database may lack, in order, and where to go on.
    Frames { mark: Watermark, frames: Vec<FrameRecord>, journal: Journal },
    /// It was never written, or the file is gone.
    Nothing,
    /// It is damaged: what was acknowledged is unknown.
    Unreadable,
}

/// Reads the journal of `disk`, whose frames bear `store`.
pub(super) fn read(disk: &dyn Disk, store: u64) -> Result<Found, Loss> {
    let copies = disk.read_journal()?;
    if copies.iter().all(Vec::is_empty) {
        return Ok(Found::Nothing);
    }
    if copies.iter().any(|copy| copy.len() != disk.journal_bytes()) {
        return Ok(Found::Unreadable);
    }
    let mut found = BTreeMap::new();
    for copy in &copies {
        for at in (0..copy.len()).step_by(BLOCK) {
            if let Some((frame, bytes)) = frame_at(copy, at, store)? {
                found.insert(frame.sequence, (frame, at + bytes));
            }
        }
    }
    let Some((newest, end)) = found.values().next_back() else { return Ok(Found::Unreadable) };
    let (mark, sequence, base) = (newest.mark(), newest.sequence, newest.base);
    let (half_bytes, at) = (disk.journal_bytes() / HALVES, end % disk.journal_bytes());
    let frames: Vec<FrameRecord> =
        found.split_off(&base.saturating_add(1)).into_values().map(|(frame, _)| frame).collect();
    if frames.len() as u64 != sequence.saturating_sub(base) {
        return Ok(Found::Unreadable);
    }
    Ok(Found::Frames { mark, frames, journal: Journal { store, half_bytes, sequence, base, at } })
}

/// The frame of `store` that begins at `at`, and its bytes with what fills its last block.
fn frame_at(copy: &[u8], at: usize, store: u64) -> Result<Option<(FrameRecord, usize)>, WireError> {
    if copy[at] != MAGIC {
        return Ok(None);
    }
    let Ok((envelope, rest)) = Envelope::read(&copy[at..]) else { return Ok(None) };
    let bytes = (copy.len() - at - rest.len()).next_multiple_of(BLOCK);
    match wire::decode_envelope::<FrameRecord>(&envelope) {
        Ok(frame) => Ok((frame.store == store).then_some((frame, bytes))),
        Err(error @ WireError::TooNew { .. }) => Err(error),
        // Bytes of an entry, at a block's beginning by chance.
        Err(_) => Ok(None),
    }
}

/// Applies the changes of `frames` to the database.
pub(super) fn apply(disk: &dyn Disk, frames: Vec<FrameRecord>) -> Result<(), DiskError> {
    frames.into_iter().try_for_each(|frame| disk.apply_in_parts(&frame.changes.into_iter().collect()))
}
