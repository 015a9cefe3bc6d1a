//! What a disk holds when it is opened, and whether that is all it must hold.

use std::cmp::Ordering;
use std::fmt;

use pontoon_model::ControllerId;
use pontoon_model::wire::{self, Wire, WireError};
use rand::Rng;

use super::super::layout::{LogIdRecord, VoteRecord, decode_as};
use super::super::runtime;
use super::super::types::{LogId, Vote};
use super::disk::{Batch, Disk, DiskError};
use super::journal::{self, Found, Journal, JournalRecord, WriteError};
use super::record::{self, COMMITTED, JOURNAL, OWNER, OwnerRecord, PURGED, ReadError, VOTE};
use super::watermark::Watermark;
use super::window::Window;

/// Why what a disk holds cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum Loss {
    /// What was acknowledged is gone.
    #[error("{0}")]
    Lost(String),
    /// It belongs to another controller.
    #[error("it belongs to {0}")]
    OtherOwner(ControllerId),
    /// A newer Pontoon wrote it.
    #[error(transparent)]
    TooNew(WireError),
    /// Nothing is lost, but it cannot be opened without room.
    #[error("{0}")]
    Full(String),
}

impl From<DiskError> for Loss {
    fn from(error: DiskError) -> Self {
        if error.full { Loss::Full(error.to_string()) } else { Loss::Lost(error.to_string()) }
    }
}

impl From<WireError> for Loss {
    fn from(error: WireError) -> Self {
        match error {
            error @ WireError::TooNew { .. } => Loss::TooNew(error),
            error => Loss::Lost(error.to_string()),
        }
    }
}

impl From<ReadError> for Loss {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Wire { source: source @ WireError::TooNew { .. }, .. } => Loss::TooNew(source),
            ReadError::Disk(error) => error.into(),
            error => Loss::Lost(error.to_string()),
        }
    }
}

impl From<WriteError> for Loss {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Disk(error) => error.into(),
            WriteError::Wire(error) => error.into(),
        }
    }
}

/// What was found.
pub(super) struct Recovered {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) window: Window,
    pub(super) mark: Watermark,
}

impl Recovered {
    /// What was written but not acknowledged counts from now on, since this controller will speak of it: so the
    /// watermark says so. A frame of which only one copy is whole is needed no more, either.
    fn raise(&mut self, disk: &dyn Disk, journal: &mut Journal) -> Result<(), Loss> {
        let (last, first, purged) = (self.window.last(), self.window.begins_at(), self.window.purged());
        self.mark = Watermark { last, first, vote: self.vote, purged };
        Ok(journal.checkpoint(disk, &self.mark)?)
    }
}

/// Reads and checks all that `disk` holds for controller `id`. `known` says that it has been used before: then
/// an empty one is a loss. Otherwise it is claimed. `covered` is the last entry that the snapshot holds.
pub(super) fn recover(
    disk: &dyn Disk,
    id: ControllerId,
    known: bool,
    covered: Option<u64>,
) -> Result<(Recovered, Journal), Loss> {
    let owner = disk.get(OWNER)?.map(|bytes| wire::decode::<OwnerRecord>(&bytes)).transpose()?;
    let store = disk.get(JOURNAL)?.map(|bytes| wire::decode::<JournalRecord>(&bytes)).transpose()?;
    let found = match store {
        Some(record) => journal::read(disk, record.store)?,
        None => Found::Nothing,
    };
    let used = matches!(&found, Found::Frames { mark, .. } if mark.is_used());
    let lost = |why: &str| Err(Loss::Lost(why.to_owned()));
    let (mark, mut journal) = match (owner, found) {
        (Some(owner), _) if owner.id != id.0 => return Err(Loss::OtherOwner(ControllerId(owner.id))),
        (None, _) if known => return lost("its database is empty"),
        (_, Found::Nothing) if known => return lost("its journal is missing"),
        (_, Found::Unreadable) if known => return lost("its journal is unreadable"),
        (Some(_), Found::Frames { mark, frames, journal }) if known => {
            journal::apply(disk, frames)?;
            (mark, journal)
        }
        // The identity is written after the database and before anything is acknowledged, so a database
        // with a vote but without an identity file has lost that file.
        _ if used || disk.get(VOTE)?.is_some() => return lost("its database is there, its identity file is not"),
        _ => (Watermark::default(), claim(disk, id)?),
    };
    let mut recovered = examine(disk, mark, covered)?;
    recovered.raise(disk, &mut journal)?;
    Ok((recovered, journal))
}

/// Reads and checks a disk whose watermark is `mark`.
pub(super) fn examine(disk: &dyn Disk, mark: Watermark, covered: Option<u64>) -> Result<Recovered, Loss> {
    let vote = stored::<VoteRecord, Vote>(disk, VOTE)?;
    let purged = stored::<LogIdRecord, LogId>(disk, PURGED)?;
    let committed = stored::<LogIdRecord, LogId>(disk, COMMITTED)?;
    let behind = |marked: &Vote| vote.is_none_or(|vote| vote.partial_cmp(marked).is_none_or(Ordering::is_lt));
    if let Some(marked) = mark.vote.filter(behind) {
        let found = vote.map_or_else(|| "it has no vote".to_owned(), |vote| format!("its vote is {vote}"));
        return Err(Loss::Lost(format!("{found}, {marked} was acknowledged")));
    }
    if purged < mark.purged {
        return Err(Loss::Lost(format!("it begins after {}, after {} was acknowledged", At(purged), At(mark.purged))));
    }
    if let Some(purged) = purged.filter(|purged| covered < Some(purged.index())) {
        let held =
            covered.map_or_else(|| "there is no snapshot".to_owned(), |last| format!("its snapshot ends at {last}"));
        return Err(Loss::Lost(format!("entries up to {} were removed from it, and {held}", purged.index())));
    }
    let window = entries(disk, purged, mark.last)?;
    if let Some(first) = mark.first.filter(|first| window.begins_at().is_some_and(|found| found != *first)) {
        return Err(Loss::Lost(format!("entries from entry {first} on are missing")));
    }
    if window.last().map(|last| last.index()) < mark.last.map(|last| last.index()) {
        return Err(Loss::Lost(format!("it ends at {}, {} was acknowledged", At(window.last()), At(mark.last))));
    }
    Ok(Recovered { vote, committed, window, mark })
}

/// A log id as people read it.
struct At(Option<LogId>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(id) => write!(f, "entry {} of term {}", id.index(), **id.committed_leader_id()),
            None => f.write_str("no entry"),
        }
    }
}

fn claim(disk: &dyn Disk, id: ControllerId) -> Result<Journal, Loss> {
    let store = runtime::rng().next_u64();
    let mut batch = Batch::default();
    batch.put(OWNER, wire::encode(&OwnerRecord { id: id.0 })?);
    batch.put(JOURNAL, wire::encode(&JournalRecord { store })?);
    disk.apply(&batch)?;
    Ok(Journal::begin(disk, store)?)
}

/// All entries, checked; the one that the watermark names must be that one.
fn entries(disk: &dyn Disk, purged: Option<LogId>, marked: Option<LogId>) -> Result<Window, Loss> {
    let mut window = Window::after(purged);
    let start = purged.map_or(0, |purged| purged.index() + 1);
    let mut wrong = None;
    record::read_entries(disk, start, u64::MAX, |entry, _| {
        let id = entry.log_id;
        // The first entry of a log that was never purged may have any index.
        let follows = purged.is_none() || window.last() != purged || id.index() == start;
        if marked.is_some_and(|marked| marked.index() == id.index() && marked != id) {
            wrong.get_or_insert_with(|| format!("it holds {}, {} was acknowledged", At(Some(id)), At(marked)));
        }
        match window.push(entry) {
            Ok(()) if follows => window.durable(id.index()),
            _ => drop(wrong.get_or_insert_with(|| format!("entries before entry {} are missing", id.index()))),
        }
    })?;
    match wrong {
        Some(why) => Err(Loss::Lost(why)),
        None => Ok(window),
    }
}

fn stored<R: Wire, T: From<R>>(disk: &dyn Disk, key: &[u8]) -> Result<Option<T>, Loss> {
    let bytes = disk.get(key)?;
    Ok(bytes.map(|bytes| decode_as::<R, T>(&bytes)).transpose()?)
}
