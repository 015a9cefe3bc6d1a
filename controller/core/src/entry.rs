//! Log entries (batches of commands) and what became of them.

use pontoon_model::wire::{self, Envelope, WireError};
use pontoon_model::{BuildId, DeploymentId, IdempotencyKey, ReleaseNumber, ServoId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::Command;
use crate::state::{CLIENT_KEPT, CLIENT_KEPT_FOR};

/// A command with the key that makes a retry of it harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    /// Drawn by whoever asks; the same for each try.
    pub key: IdempotencyKey,
    /// What to do.
    pub command: Command,
}

impl Stamped {
    /// Its bytes: the key, then the command's envelope.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.command.encode_after(self.key.0.to_le_bytes().to_vec())
    }

    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (key, rest) = bytes.split_first_chunk::<16>().ok_or(WireError::Malformed("no idempotency key"))?;
        let (command, rest) = Command::read(rest)?;
        Ok((Self { key: IdempotencyKey(u128::from_le_bytes(*key)), command }, rest))
    }

    /// Reads what [`Stamped::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        match Self::read(bytes)? {
            (stamped, []) => Ok(stamped),
            _ => Err(WireError::Malformed("bytes after its end")),
        }
    }
}

/// One entry of the Raft log: a batch of commands at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The leader's clock, never before the entry before it.
    pub time: Timestamp,
    /// Applied in order.
    pub commands: Vec<Stamped>,
}

#[derive(Serialize, Deserialize)]
struct EntryHeader {
    time: Timestamp,
    commands: u32,
}

pontoon_model::wire! {
    199, 1 => EntryHeader;
}

impl Entry {
    /// Its bytes: a header in an envelope, then each command.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let commands = self.commands.iter().map(Stamped::encode).collect::<Result<Vec<_>, _>>()?;
        Self::join(self.time, &commands)
    }

    /// The bytes of an entry of commands that [`Stamped::encode`] has encoded.
    pub fn join(time: Timestamp, commands: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, WireError> {
        let header = wire::encode(&EntryHeader { time, commands: commands.len() as u32 })?;
        let size = commands.iter().map(|command| command.as_ref().len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(header.len() + size);
        bytes.extend_from_slice(&header);
        commands.iter().for_each(|command| bytes.extend_from_slice(command.as_ref()));
        Ok(bytes)
    }

    /// Reads what [`Entry::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (envelope, mut rest) = Envelope::read(bytes)?;
        if (envelope.kind, envelope.version) != (199, 1) {
            return Err(WireError::TooNew { kind: envelope.kind, version: envelope.version });
        }
        let header: EntryHeader = envelope.decode()?;
        // Not with_capacity: the count is only trusted as far as there are bytes.
        let mut commands = Vec::new();
        for _ in 0..header.commands {
            let (command, after) = Stamped::read(rest)?;
            commands.push(command);
            rest = after;
        }
        if rest.is_empty() {
            Ok(Self { time: header.time, commands })
        } else {
            Err(WireError::Malformed("bytes after its end"))
        }
    }
}

/// What became of one command.
pub type Outcome = Result<Reply, Rejected>;

/// What an applied command brought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing with a name.
    Done,
    /// A build was queued.
    Build(BuildId),
    /// A release was made and its deployment begun.
    Release {
        /// The release.
        number: ReleaseNumber,
        /// Its deployment.
        deployment: DeploymentId,
    },
    /// A deployment of an existing release was begun.
    Deployment(DeploymentId),
    /// A one-off servo was placed.
    Servo(ServoId),
    /// A plan was applied.
    Planned {
        /// Ops that took effect.
        applied: u32,
        /// Ops that no longer fitted.
        dropped: u32,
    },
}

/// Why a command changed nothing. The message is what the user reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    /// For programs.
    pub kind: RejectedKind,
    /// For people.
    pub message: String,
}

/// Kinds of rejections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RejectedKind {
    /// What it names is not there.
    NotFound,
    /// It clashes with what is.
    Conflict,
    /// It makes no sense in itself.
    Invalid,
    /// It may or may not have been applied before.
    Expired,
    /// Too much is remembered; later there is room.
    Busy,
    /// The cluster's feature level does not allow it yet.
    NeedsLevel,
}

impl Rejected {
    /// What it names is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { kind: RejectedKind::NotFound, message: message.into() }
    }

    /// It clashes with what is.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { kind: RejectedKind::Conflict, message: message.into() }
    }

    /// A retry that comes too late to tell whether an earlier try was applied.
    pub fn expired() -> Self {
        let message = "the change may or may not have been applied, too long ago to tell; look before you repeat it";
        Self { kind: RejectedKind::Expired, message: message.to_owned() }
    }

    /// No room to remember another client's key.
    pub(crate) fn no_room() -> Self {
        let message = format!(
            "{CLIENT_KEPT} changes with an Idempotency-Key were made in the last {} minutes, as many as are remembered; \
             send it later, or without the key",
            CLIENT_KEPT_FOR.as_secs() / 60
        );
        Self { kind: RejectedKind::Busy, message }
    }

    /// Not before every member can read it.
    pub(crate) fn needs_level(needed: u32, now: u32) -> Self {
        let message =
            format!("this needs feature level {needed} and the cluster is at {now}: not all members can read it");
        Self { kind: RejectedKind::NeedsLevel, message }
    }

    /// It makes no sense in itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { kind: RejectedKind::Invalid, message: message.into() }
    }
}

/// The envelope of an outcome.
pub fn encode_outcome(outcome: &Outcome) -> Result<Vec<u8>, WireError> {
    wire::seal(198, 1, outcome)
}

/// Reads what [`encode_outcome`] wrote.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, WireError> {
    let (envelope, rest) = Envelope::read(bytes)?;
    match (envelope.kind, envelope.version, rest) {
        (198, 1, []) => envelope.decode(),
        (198, 1, _) => Err(WireError::Malformed("bytes after its end")),
        (kind, version, _) => Err(WireError::TooNew { kind, version }),
    }
}
