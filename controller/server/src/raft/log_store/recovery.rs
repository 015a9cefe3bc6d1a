//! What a disk holds when it is opened, and whether that is all it must hold.

use pontoon_model::ControllerId;
use pontoon_model::wire::{self, Wire, WireError};

use super::super::layout::{LogIdRecord, VoteRecord, decode_as};
use super::super::types::{LogId, Vote};
use super::disk::{Batch, Disk, DiskError};
use super::record::{self, COMMITTED, OWNER, OwnerRecord, PURGED, ReadError, VOTE};
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
}

impl From<DiskError> for Loss {
    fn from(error: DiskError) -> Self {
        Loss::Lost(error.to_string())
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
            error => Loss::Lost(error.to_string()),
        }
    }
}

/// What was found.
pub(super) struct Recovered {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) window: Window,
}

/// Reads and checks all that `disk` holds for controller `id`. `known` says that it has been used before: then
/// an empty one is a loss. Otherwise it is claimed.
pub(super) fn recover(disk: &dyn Disk, id: ControllerId, known: bool) -> Result<Recovered, Loss> {
    let owner = disk.get(OWNER)?.map(|bytes| wire::decode::<OwnerRecord>(&bytes)).transpose()?;
    match owner {
        Some(owner) if owner.id != id.0 => return Err(Loss::OtherOwner(ControllerId(owner.id))),
        Some(_) if known => {}
        None if known => return Err(Loss::Lost("its database is empty".to_owned())),
        // The identity is written after the database and before anything is acknowledged, so a database
        // with a vote but without an identity file has lost that file.
        _ if disk.get(VOTE)?.is_some() => {
            return Err(Loss::Lost("its database is there, its identity file is not".to_owned()));
        }
        _ => claim(disk, id)?,
    }
    let vote = stored::<VoteRecord, Vote>(disk, VOTE)?;
    let committed = stored::<LogIdRecord, LogId>(disk, COMMITTED)?;
    Ok(Recovered { vote, committed, window: entries(disk)? })
}

fn claim(disk: &dyn Disk, id: ControllerId) -> Result<(), Loss> {
    let mut batch = Batch::default();
    batch.put(OWNER, wire::encode(&OwnerRecord { id: id.0 })?);
    disk.apply(&batch)?;
    Ok(disk.sync()?)
}

fn entries(disk: &dyn Disk) -> Result<Window, Loss> {
    let purged = stored::<LogIdRecord, LogId>(disk, PURGED)?;
    let mut window = Window::after(purged);
    let start = purged.map_or(0, |purged| purged.index() + 1);
    let mut gap = None;
    record::read_entries(disk, start, u64::MAX, |entry, _| {
        let index = entry.log_id.index();
        // The first entry of a log that was never purged may have any index.
        let follows = purged.is_none() || window.last() != purged || index == start;
        match window.push(entry) {
            Ok(()) if follows => window.durable(index),
            _ => gap = gap.or(Some(index)),
        }
    })?;
    match gap {
        Some(index) => Err(Loss::Lost(format!("entries before entry {index} are missing"))),
        None => Ok(window),
    }
}

fn stored<R: Wire, T: From<R>>(disk: &dyn Disk, key: &[u8]) -> Result<Option<T>, Loss> {
    let bytes = disk.get(key)?;
    Ok(bytes.map(|bytes| decode_as::<R, T>(&bytes)).transpose()?)
}
