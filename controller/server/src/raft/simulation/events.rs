//! What happens in a simulated cluster, as the trace shows it and the invariants see it.

use std::fmt;

use bytes::Bytes;
use pontoon_model::IdempotencyKey;

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct At {
    pub(in super::super) term: u64,
    pub(in super::super) index: u64,
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@t{}", self.index, self.term)
    }
}

/// A vote, in Raft's order: a later term wins, then one that a quorum granted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct VoteSeen {
    pub(in super::super) term: u64,
    pub(in super::super) committed: bool,
    pub(in super::super) node: u64,
}

impl fmt::Debug for VoteSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{} c{}{}", self.term, self.node, if self.committed { " elected" } else { "" })
    }
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) enum Said {
    Append { vote: VoteSeen, previous: Option<At>, committed: Option<At>, entries: usize },
    Flushed(Option<At>),
    Conflict(At),
    HigherVote(VoteSeen),
    Ballot { pre: bool, vote: VoteSeen, last: Option<At> },
    Voted { pre: bool, granted: bool, vote: VoteSeen },
    Snapshot { vote: VoteSeen, bytes: u64 },
    SnapshotTaken(VoteSeen),
}

/// Values of a client's operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Op(pub(super) u64);

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op{}", self.0)
    }
}

/// What happened.
#[derive(Debug, Clone, Hash)]
pub(super) enum Event {
    /// A controller's process began; what its log says after recovery.
    Started { node: usize, life: u32, vote: Option<VoteSeen>, last: Option<At> },
    /// It could not begin.
    Refused { node: usize, life: u32, why: String },
    /// It ended, not by itself.
    Crashed { node: usize, life: u32, how: &'static str },
    /// Its consensus ended by itself.
    Failed { node: usize, life: u32, why: String },
    /// It sent a message.
    Sent { from: usize, to: usize, said: Said },
    /// It applied an entry.
    Applied { node: usize, life: u32, at: At, entry: Entry },
    /// It replaced its state by a snapshot's.
    Installed { node: usize, life: u32, at: Option<At> },
    /// Its state after an entry, as a hash of its bytes.
    State { node: usize, index: u64, hash: u64 },
    /// Its feed gave out a state.
    Fed { node: usize, life: u32, index: u64 },
    /// A client began a write. Tries of it carry the same key.
    Asked { op: Op, key: IdempotencyKey },
    /// It was told that it is done.
    Acknowledged { op: Op, key: IdempotencyKey, index: u64, done: bool },
    /// It gave up; the write may yet be applied.
    GaveUp { op: Op, why: String },
    /// A client began to read.
    ReadBegan { op: Op },
    /// It was answered from a state.
    Read { op: Op, node: usize, index: u64, found: Vec<(String, String)> },
    /// The disk of a controller took or lost something.
    Disk { node: usize, what: Disk },
    /// Trouble was made, or time of day changed.
    Trouble(String),
}

/// What a disk did.
#[derive(Debug, Clone, Hash)]
pub(super) enum Disk {
    Synced { writes: usize },
    Cut { kept: usize, lost: usize },
}

/// An applied entry.
#[derive(Clone, Hash)]
pub(super) struct Entry {
    /// Of all of it, as it lies in the log.
    pub(super) hash: u64,
    /// Its commands; none for Raft's own.
    pub(super) commands: Option<Bytes>,
    /// Which of them were accepted.
    pub(super) accepted: Vec<bool>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x} of {} commands", self.hash as u32, self.accepted.len())
    }
}
