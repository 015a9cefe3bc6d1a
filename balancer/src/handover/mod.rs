//! One process of a balancer gives way to the next without a refused connection (docs/decisions/0021).
//!
//! The running process listens on a socket in the data folder ([`door`]). One that starts on the same folder ([`take`])
//! is given copies of its listening sockets and of the folder's lock, loads what it needs, and takes over: from then on the
//! former process accepts nothing, ends what it has in flight, and is followed by its successor ([`predecessor`]) until
//! then, so that no servo is stopped that it still sends a request to. There is one session with the controllers at any time.

mod channel;
mod door;
mod link;
mod message;
mod predecessor;
mod reload;
mod take;

pub(crate) use door::{Door, Offer};
pub(crate) use link::Link;
pub(crate) use message::Purpose;
pub(crate) use predecessor::{Predecessor, Progress};
pub use reload::{ReloadError, Respawn, reload};
pub(crate) use take::Taking;

use std::io;
use std::time::Duration;

use pontoon_model::RouteVersion;
use pontoon_model::wire::WireError;

/// The socket's name in the data folder.
const SOCKET: &str = "handover.sock";
/// What needs no disk and no other machine is answered within this time.
const ANSWER: Duration = Duration::from_secs(10);
/// A process that takes over is ready within this time: a table of a million servos takes seconds.
const PREPARE: Duration = Duration::from_secs(60);

/// Why a process did not take over. The running one goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It was refused.
    #[error("the balancer that runs on this data folder does not give way: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// The connection broke.
    #[error("the other process broke off")]
    Closed,
    /// It cannot be talked to.
    #[error("the other process cannot be talked to")]
    Io(#[from] io::Error),
    /// It says what cannot be read.
    #[error("what the other process says cannot be read; is its version too far from this one's?")]
    Unreadable(#[from] WireError),
    /// It says something else than it should.
    #[error("the other process did not say what comes next, but {said}")]
    Unexpected {
        /// What it said.
        said: String,
    },
    /// It does not answer.
    #[error("the other process did not answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// The table on disk is not that of the running process.
    #[error("the table on disk has version {have}, and the running process routes by {wanted}: is the disk full?")]
    Behind {
        /// On disk.
        have: RouteVersion,
        /// In memory of the running process.
        wanted: RouteVersion,
    },
}

impl HandoverError {
    fn unexpected(said: &impl std::fmt::Debug) -> Self {
        Self::Unexpected { said: format!("{said:?}") }
    }
}
