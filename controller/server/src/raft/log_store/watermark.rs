//! The durable watermark: what was acknowledged last, beside the database, so that a database which forgot its
//! end is found out (decision 0007).
//!
//! Two slots are overwritten in turn, each with a sequence number one higher. It is durable before whoever waits
//! is answered, and after the database is: so the database may be ahead of it, never behind. A truncation is the
//! other way round: the lowered watermark first, then the removal.
//!
//! A slot holds the same record twice, in sectors of their own. A write that is cut short leaves one of them whole,
//! the old or the new: so a slot without a whole record was damaged, not torn, and what was acknowledged is unknown.

use pontoon_model::wire::{self, Envelope, WireError};
use serde::{Deserialize, Serialize};

use super::super::layout::{LogIdRecord, VoteRecord};
use super::super::types::{LogId, Vote};
use super::disk::{Disk, SLOT_BYTES, SLOTS};
use super::recovery::Loss;

/// What was acknowledged last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Watermark {
    /// One higher each time; says which slot is newer.
    pub(super) sequence: u64,
    /// The end of the log: its last entry, or the last that was removed if there is none.
    pub(super) last: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WatermarkRecord {
    pub(super) sequence: u64,
    pub(super) last: Option<LogIdRecord>,
    pub(super) vote: Option<VoteRecord>,
    pub(super) purged: Option<LogIdRecord>,
}

pontoon_model::wire! {
    604, 1 => WatermarkRecord;
}

/// Where the two records of a slot begin: far enough apart for disks with large sectors.
const COPIES: [usize; 2] = [0, SLOT_BYTES / 2];

impl Watermark {
    /// What a slot holds.
    fn block(&self) -> Result<Vec<u8>, WireError> {
        let record = self.encode()?;
        let mut block = vec![0; SLOT_BYTES];
        for at in COPIES {
            block[at..at + record.len()].copy_from_slice(&record);
        }
        Ok(block)
    }

    /// The newest record of a slot that is whole; none if none is.
    fn of_slot(slot: &[u8]) -> Result<Option<Self>, WireError> {
        let mut newest: Option<Self> = None;
        for copy in COPIES.iter().filter_map(|at| slot.get(*at..)) {
            match Self::decode(copy) {
                Ok(mark) if newest.is_none_or(|newest| newest.sequence < mark.sequence) => newest = Some(mark),
                Err(error @ WireError::TooNew { .. }) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(newest)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(&WatermarkRecord {
            sequence: self.sequence,
            last: self.last.as_ref().map(LogIdRecord::from),
            vote: self.vote.as_ref().map(VoteRecord::from),
            purged: self.purged.as_ref().map(LogIdRecord::from),
        })
    }

    fn decode(copy: &[u8]) -> Result<Self, WireError> {
        let (_, padding) = Envelope::read(copy)?;
        let record: WatermarkRecord = wire::decode(&copy[..copy.len() - padding.len()])?;
        Ok(Self {
            sequence: record.sequence,
            last: record.last.map(LogId::from),
            vote: record.vote.map(Vote::from),
            purged: record.purged.map(LogId::from),
        })
    }

    /// Where it is written: never over the one before it.
    fn slot(&self) -> usize {
        (self.sequence % SLOTS as u64) as usize
    }

    /// Writes it; durable when this returns.
    pub(super) fn write(&self, disk: &dyn Disk) -> Result<(), super::writer::WriteError> {
        Ok(disk.write_mark(self.slot(), &self.block()?)?)
    }

    /// Whether something was acknowledged.
    pub(super) fn is_used(&self) -> bool {
        (self.last, self.vote, self.purged) != (None, None, None)
    }
}

/// What the slots hold.
pub(super) enum Found {
    /// The watermark.
    Mark(Watermark),
    /// Neither slot was ever written, or the file is gone.
    Nothing,
    /// A slot is damaged, or has missed a write: it may have been the newer one.
    Unreadable,
}

/// Reads the slots of `disk`.
pub(super) fn read(disk: &dyn Disk) -> Result<Found, Loss> {
    let slots = disk.read_marks()?;
    if slots.iter().all(Option::is_none) {
        return Ok(Found::Nothing);
    }
    let mut marks = Vec::new();
    for slot in slots.iter().flatten() {
        match Watermark::of_slot(slot) {
            Ok(mark) => marks.extend(mark),
            Err(error) => return Err(Loss::TooNew(error)),
        }
    }
    marks.sort_by_key(|mark| mark.sequence);
    match marks.as_slice() {
        [older, newer] if older.sequence + 1 == newer.sequence => Ok(Found::Mark(*newer)),
        _ => Ok(Found::Unreadable),
    }
}

/// The first watermarks of a new store: both slots are written, so that an unreadable one is never an unused one.
pub(super) fn begin(disk: &dyn Disk) -> Result<Watermark, super::writer::WriteError> {
    let mut mark = Watermark::default();
    for sequence in 1..=SLOTS as u64 {
        mark.sequence = sequence;
        mark.write(disk)?;
    }
    Ok(mark)
}
