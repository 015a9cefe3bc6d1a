//! What the agent says to whoever asks: written by the reconciler alone, read by the session and by log readers.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_model::{BuildId, BuildOutcome, ServoId, ServoReport};
use tokio::sync::watch;

/// The newest of everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Board {
    /// The assignment that is worked on.
    pub(crate) generation: u64,
    /// Every servo there is something to say about.
    pub(crate) servos: BTreeMap<ServoId, Arc<ServoReport>>,
    /// One-off servos: their output ends with their process.
    pub(crate) one_offs: std::collections::BTreeSet<ServoId>,
    /// Every assigned build; those that ended, with their outcome.
    pub(crate) builds: BTreeMap<BuildId, Option<BuildOutcome>>,
}

/// A reader's end.
pub(crate) type BoardFeed = watch::Receiver<Arc<Board>>;
