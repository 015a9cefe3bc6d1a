//! The durable watermark: what was acknowledged last, beside the database, so that a database which forgot its
//! end is found out (decision 0007).
//!
//! Two slots are overwritten in turn, each with a sequence number one higher. It is durable before whoever waits
//! is answered, and after the database is: so the database may be ahead of it, never behind. A truncation is the
//! other way round: the lowered watermark first, then the removal.

use pontoon_model::wire::{self, Envelope, WireError};
use serde::{Deserialize, Serialize};

use super::super::layout::{LogIdRecord, VoteRecord};
use super::super::types::{LogId, Vote};
use super::disk::{Disk, SLOTS};
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
    /// A slot was unreadable, and no leader was heard since.
    pub(super) unsure: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WatermarkRecord {
    pub(super) sequence: u64,
    pub(super) last: Option<LogIdRecord>,
    pub(super) vote: Option<VoteRecord>,
    pub(super) purged: Option<LogIdRecord>,
    pub(super) unsure: bool,
}

pontoon_model::wire! {
    604, 1 => WatermarkRecord;
}

impl Watermark {
    pub(super) fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(&WatermarkRecord {
            sequence: self.sequence,
            last: self.last.as_ref().map(LogIdRecord::from),
            vote: self.vote.as_ref().map(VoteRecord::from),
            purged: self.purged.as_ref().map(LogIdRecord::from),
            unsure: self.unsure,
        })
    }

    fn decode(slot: &[u8]) -> Result<Self, WireError> {
        let (_, padding) = Envelope::read(slot)?;
        let record: WatermarkRecord = wire::decode(&slot[..slot.len() - padding.len()])?;
        Ok(Self {
            sequence: record.sequence,
            last: record.last.map(LogId::from),
            vote: record.vote.map(Vote::from),
            purged: record.purged.map(LogId::from),
            unsure: record.unsure,
        })
    }

    /// Where it is written: never over the one before it.
    fn slot(&self) -> usize {
        (self.sequence % SLOTS as u64) as usize
    }

    /// Writes it; durable when this returns.
    pub(super) fn write(&self, disk: &dyn Disk) -> Result<(), super::writer::WriteError> {
        Ok(disk.write_mark(self.slot(), &self.encode()?)?)
    }

    /// Whether something was acknowledged.
    pub(super) fn is_used(&self) -> bool {
        (self.last, self.vote, self.purged) != (None, None, None)
    }
}

/// What the slots hold.
pub(super) enum Found {
    /// A watermark. If one slot cannot be read, a write was cut short, which nobody was told of, or the newer
    /// one is damaged: then it is unsure.
    Mark(Watermark),
    /// Neither slot was ever written, or the file is gone.
    Nothing,
    /// Both are damaged.
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
        match Watermark::decode(slot) {
            Ok(mark) => marks.push(mark),
            Err(error @ WireError::TooNew { .. }) => return Err(Loss::TooNew(error)),
            Err(_) => {}
        }
    }
    marks.sort_by_key(|mark| mark.sequence);
    let Some(newest) = marks.last() else { return Ok(Found::Unreadable) };
    // A slot that is whole but older than it may be has lost a write.
    let whole = marks.len() == SLOTS && marks[0].sequence + 1 == newest.sequence;
    Ok(Found::Mark(Watermark { unsure: newest.unsure || !whole, ..*newest }))
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
