//! How many requests are under way at once. Stale reads are not counted: they wait for nothing.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::{ApiError, ApiResult};

/// Uploads taken at the same time: each may hold 256 MiB of disk and a core for its inspection.
const UPLOADS: usize = 4;
/// Changes under way at the same time: half of what the leader's queue takes, so that a controller that is asked alone
/// refuses before the queue does. Each holds a connection and its command.
const CHANGES: usize = 2_048;
/// Streams of events: each costs the encoding of all changes.
const STREAMS: usize = 256;

/// Backups under way: each reads the whole state and the disk, and one keeps a line busy.
const BACKUPS: usize = 1;

/// Permits of what is bounded. Clones share them.
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) uploads: Arc<Semaphore>,
    pub(super) changes: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) backups: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        let permits = |n| Arc::new(Semaphore::new(n));
        let (uploads, changes) = (permits(UPLOADS), permits(CHANGES));
        Self { uploads, changes, streams: permits(STREAMS), backups: permits(BACKUPS) }
    }
}

impl Limits {
    /// A change's place, or the refusal when too many are under way.
    pub(super) fn change(&self) -> ApiResult<SemaphorePermit<'_>> {
        self.changes.try_acquire().map_err(|_| {
            ApiError::busy("this controller has too many changes under way; nothing was changed, try again")
        })
    }
}
