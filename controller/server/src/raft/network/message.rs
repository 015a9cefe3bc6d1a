//! What controllers say to each other about Raft, in frozen layouts. Every message names its sender and
//! its receiver: an address can come to belong to another controller, an id cannot.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use pontoon_model::wire::{self, Envelope, Wire, WireError};
use pontoon_proto::RaftMessage;
use serde::{Deserialize, Serialize};

use super::super::layout::{LogIdRecord, SnapshotMetaRecord, VoteRecord, decode_entry, encode_entry};
use super::super::types::{LogId, TypeConfig, Vote};

/// Entries for a follower, or none for a sign of life.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Append {
    vote: VoteRecord,
    previous: Option<LogIdRecord>,
    committed: Option<LogIdRecord>,
    entries: Vec<Bytes>,
}

/// What the follower did with them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Appended {
    /// On its disk up to here.
    Flushed(Option<LogIdRecord>),
    /// It has another entry here, or none.
    Conflict(LogIdRecord),
    /// It follows a later leader.
    HigherVote(VoteRecord),
}

/// A request for a vote, or the question whether one would be granted.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ballot {
    vote: VoteRecord,
    last: Option<LogIdRecord>,
    transfer: bool,
}

/// Its answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Voted {
    vote: VoteRecord,
    granted: bool,
    last: Option<LogIdRecord>,
}

/// Before the parts of a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotBegin {
    pub(super) vote: VoteRecord,
    pub(super) meta: SnapshotMetaRecord,
    /// Of the file: what arrived of it earlier counts.
    pub(super) id: u64,
    pub(super) len: u64,
    /// Where the parts begin.
    pub(super) from: u64,
}

/// Before a transfer: how much of this file is already there?
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotOffer {
    pub(super) id: u64,
    pub(super) len: u64,
}

/// This much, in bytes from its beginning.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotArrived {
    pub(super) bytes: u64,
}

/// Part of a snapshot's file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotPart {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// The snapshot is installed, or a later leader is known.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotTaken {
    pub(super) vote: VoteRecord,
}

/// A leader hands its leadership over.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    from: VoteRecord,
    to: u64,
    last: Option<LogIdRecord>,
}

/// Whether the receiver takes part in it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Transferred {
    /// Yes.
    Accepted,
    /// Its vote is another by now.
    VoteChanged { expected: VoteRecord, actual: VoteRecord },
    /// Its log is behind.
    NotFlushed { expected: Option<LogIdRecord>, actual: Option<LogIdRecord> },
}

pontoon_model::wire! {
    620, 1 => Append;
    621, 1 => Appended;
    622, 1 => Ballot;
    623, 1 => Voted;
    624, 1 => SnapshotBegin;
    625, 1 => SnapshotPart;
    626, 1 => SnapshotTaken;
    627, 1 => Transfer;
    628, 1 => Transferred;
    629, 1 => SnapshotOffer;
    630, 1 => SnapshotArrived;
}

#[derive(Serialize, Deserialize)]
struct Addressed<T> {
    from: u64,
    to: u64,
    message: T,
}

/// Why a message cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("this is controller c{here}, the message is for c{to}: does an address belong to another controller now?")]
    Misdirected { here: u64, to: u64 },
}

/// Puts `message` into a gRPC message.
pub(super) fn seal<T: Wire>(from: u64, to: u64, message: T) -> Result<RaftMessage, WireError> {
    let body = wire::seal(T::KIND, T::VERSION, &Addressed { from, to, message })?;
    Ok(RaftMessage { body: body.into() })
}

/// Takes a message to `here` out of a gRPC message; with the id of who sent it.
pub(super) fn open_from<T: Wire>(here: u64, message: &RaftMessage) -> Result<(u64, T), MessageError> {
    let (envelope, rest) = Envelope::read(&message.body)?;
    if !rest.is_empty() {
        return Err(WireError::Malformed("bytes after its end").into());
    }
    if envelope.kind != T::KIND {
        return Err(WireError::WrongKind { expected: T::KIND, found: envelope.kind }.into());
    }
    if envelope.version != T::VERSION {
        return Err(WireError::TooNew { kind: envelope.kind, version: envelope.version }.into());
    }
    let addressed: Addressed<T> = envelope.decode()?;
    if addressed.to == here {
        Ok((addressed.from, addressed.message))
    } else {
        Err(MessageError::Misdirected { here, to: addressed.to })
    }
}

/// Takes a message to `here` out of a gRPC message.
pub(super) fn open<T: Wire>(here: u64, message: &RaftMessage) -> Result<T, MessageError> {
    open_from(here, message).map(|(_, message)| message)
}

fn record(id: &Option<LogId>) -> Option<LogIdRecord> {
    id.as_ref().map(LogIdRecord::from)
}

impl Append {
    pub(super) fn from_request(request: &AppendEntriesRequest<TypeConfig>) -> Result<Self, WireError> {
        let encode = |entry| encode_entry(entry).map(Bytes::from);
        Ok(Self {
            vote: (&request.vote).into(),
            previous: record(&request.prev_log_id),
            committed: record(&request.leader_commit),
            entries: request.entries.iter().map(encode).collect::<Result<_, _>>()?,
        })
    }

    /// A leader commits nothing of a term after its own. openraft's stream of one that was asks first whether another leads by now,
    /// and looks then what is committed: between the two its controller may have heard of both. What this stream sent before
    /// and nobody committed would be taken for committed with it.
    pub(super) fn into_request(self) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
        if self.committed.is_some_and(|committed| committed.is_after_term_of(&self.vote)) {
            return Err(WireError::Malformed("it commits an entry of a term after its sender's"));
        }
        Ok(AppendEntriesRequest {
            vote: self.vote.into(),
            prev_log_id: self.previous.map(LogId::from),
            leader_commit: self.committed.map(LogId::from),
            entries: self.entries.iter().map(|bytes| decode_entry(bytes)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&StreamAppendResult<TypeConfig>> for Appended {
    fn from(result: &StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(flushed) => Appended::Flushed(record(flushed)),
            Err(StreamAppendError::Conflict(id)) => Appended::Conflict(id.into()),
            Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote.into()),
        }
    }
}

impl From<Appended> for StreamAppendResult<TypeConfig> {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::Flushed(id) => Ok(id.map(LogId::from)),
            Appended::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
            Appended::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

impl From<&VoteRequest<TypeConfig>> for Ballot {
    fn from(request: &VoteRequest<TypeConfig>) -> Self {
        let transfer = request.leadership_transfer;
        Self { vote: (&request.vote).into(), last: record(&request.last_log_id), transfer }
    }
}

impl From<Ballot> for VoteRequest<TypeConfig> {
    fn from(ballot: Ballot) -> Self {
        let mut request = VoteRequest::new(ballot.vote.into(), ballot.last.map(LogId::from));
        request.leadership_transfer = ballot.transfer;
        request
    }
}

impl From<&VoteResponse<TypeConfig>> for Voted {
    fn from(response: &VoteResponse<TypeConfig>) -> Self {
        let last = record(&response.last_log_id);
        Self { vote: (&response.vote).into(), granted: response.vote_granted, last }
    }
}

impl From<Voted> for VoteResponse<TypeConfig> {
    fn from(voted: Voted) -> Self {
        VoteResponse::new(Vote::from(voted.vote), voted.last.map(LogId::from), voted.granted)
    }
}

impl From<&TransferLeaderRequest<TypeConfig>> for Transfer {
    fn from(request: &TransferLeaderRequest<TypeConfig>) -> Self {
        let last = request.last_log_id().map(LogIdRecord::from);
        Self { from: request.from_leader().into(), to: *request.to_node_id(), last }
    }
}

impl From<Transfer> for TransferLeaderRequest<TypeConfig> {
    fn from(transfer: Transfer) -> Self {
        TransferLeaderRequest::new(transfer.from.into(), transfer.to, transfer.last.map(LogId::from))
    }
}

impl From<&TransferLeaderResponse<TypeConfig>> for Transferred {
    fn from(response: &TransferLeaderResponse<TypeConfig>) -> Self {
        use openraft::raft::TransferLeaderError as Refused;
        match response {
            Ok(()) => Transferred::Accepted,
            Err(Refused::VoteChanged { expected, actual }) => {
                Transferred::VoteChanged { expected: expected.into(), actual: actual.into() }
            }
            Err(Refused::LogNotFlushed { expected, actual }) => {
                Transferred::NotFlushed { expected: record(expected), actual: record(actual) }
            }
        }
    }
}

impl From<Transferred> for TransferLeaderResponse<TypeConfig> {
    fn from(transferred: Transferred) -> Self {
        use openraft::raft::TransferLeaderError as Refused;
        match transferred {
            Transferred::Accepted => Ok(()),
            Transferred::VoteChanged { expected, actual } => {
                Err(Refused::VoteChanged { expected: expected.into(), actual: actual.into() })
            }
            Transferred::NotFlushed { expected, actual } => {
                Err(Refused::LogNotFlushed { expected: expected.map(LogId::from), actual: actual.map(LogId::from) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::EntryPayload;
    use openraft::vote::{RaftLeaderId, RaftVote};

    use super::super::super::types::{Entry, SnapshotMeta};

    type Committed = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
    type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;

    fn vote() -> Vote {
        Vote::from_leader_id(LeaderId::new(2, 7), true)
    }

    fn log_id(index: u64) -> LogId {
        LogId::new(Committed::new(1), index)
    }

    /// The bytes of a message from 7 to 9, after what `open` has checked.
    fn bytes<T: Wire + std::fmt::Debug + PartialEq>(message: T) -> String {
        let sealed = seal(7, 9, message).unwrap();
        let again: T = open(9, &sealed).unwrap();
        assert_eq!(seal(7, 9, again).unwrap(), sealed);
        sealed.body.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes_of_every_message() {
        let entry = Entry { log_id: log_id(4), payload: EntryPayload::Blank };
        let request = AppendEntriesRequest {
            vote: vote(),
            prev_log_id: Some(log_id(3)),
            leader_commit: None,
            entries: vec![entry],
        };
        let mut ballot = VoteRequest::new(vote(), Some(log_id(3)));
        ballot.leadership_transfer = true;
        let meta = SnapshotMeta { last_log_id: Some(log_id(3)), ..SnapshotMeta::default() };
        let all = [
            bytes(Append::from_request(&request).unwrap()),
            bytes(Appended::Flushed(Some((&log_id(3)).into()))),
            bytes(Appended::Conflict((&log_id(3)).into())),
            bytes(Appended::HigherVote((&vote()).into())),
            bytes(Ballot::from(&ballot)),
            bytes(Voted::from(&VoteResponse::new(vote(), None, true))),
            bytes(SnapshotOffer { id: 0x0102, len: 5 }),
            bytes(SnapshotArrived { bytes: 3 }),
            bytes(SnapshotBegin { vote: (&vote()).into(), meta: (&meta).into(), id: 0x0102, len: 5, from: 3 }),
            bytes(SnapshotPart { offset: 5, bytes: Bytes::from_static(b"abc") }),
            bytes(SnapshotTaken { vote: (&vote()).into() }),
            bytes(Transfer::from(&TransferLeaderRequest::new(vote(), 9, None))),
            bytes(Transferred::Accepted),
            bytes(Transferred::VoteChanged { expected: (&vote()).into(), actual: (&vote()).into() }),
            bytes(Transferred::NotFlushed { expected: Some((&log_id(3)).into()), actual: None }),
        ];
        expect_test::expect_file!["message.golden"].assert_eq(&(all.join("\n") + "\n"));
    }

    #[test]
    fn a_message_for_another_controller_is_refused() {
        let sealed = seal(7, 9, Voted::from(&VoteResponse::new(vote(), None, true))).unwrap();
        let error = open::<Voted>(8, &sealed).unwrap_err();
        assert!(matches!(error, MessageError::Misdirected { here: 8, to: 9 }), "{error}");
        let error = open::<Ballot>(9, &sealed).unwrap_err();
        assert!(matches!(error, MessageError::Wire(WireError::WrongKind { .. })), "{error}");
    }

    #[test]
    fn a_commit_of_a_term_after_the_senders_is_refused() {
        let commits = |term| {
            let leader_commit = Some(LogId::new(Committed::new(term), 2));
            let request =
                AppendEntriesRequest { vote: vote(), prev_log_id: Some(log_id(3)), leader_commit, entries: Vec::new() };
            Append::from_request(&request).unwrap().into_request()
        };
        assert!(commits(2).is_ok());
        let error = commits(3).unwrap_err();
        assert!(error.to_string().contains("a term after its sender's"), "{error}");
    }

    #[test]
    fn requests_and_answers_survive_the_way() {
        let entries = (4..6).map(|index| Entry { log_id: log_id(index), payload: EntryPayload::Blank });
        let request = AppendEntriesRequest {
            vote: vote(),
            prev_log_id: Some(log_id(3)),
            leader_commit: Some(log_id(2)),
            entries: entries.collect(),
        };
        let back = Append::from_request(&request).unwrap().into_request().unwrap();
        assert_eq!(format!("{request:?}"), format!("{back:?}"));
        for result in [
            Ok(None),
            Ok(Some(log_id(3))),
            Err(StreamAppendError::Conflict(log_id(3))),
            Err(StreamAppendError::HigherVote(vote())),
        ] {
            assert_eq!(StreamAppendResult::<TypeConfig>::from(Appended::from(&result)), result);
        }
    }
}
