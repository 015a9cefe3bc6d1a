//! What the simulation reads off the wire: the promises that controllers make each other.

use pontoon_model::wire::{self, Envelope, Wire};
use pontoon_proto::RaftMessage;

use super::super::layout::{LogIdRecord, VoteRecord};
use super::super::simulation::events::{At, Said, VoteSeen};
use super::super::types::{LogId, Vote};
use super::message::{self, Append, Appended, Ballot, SnapshotBegin, SnapshotTaken, Voted};
use openraft::raft::{StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId;

fn at(id: Option<LogId>) -> Option<At> {
    id.map(|id| At { term: **id.committed_leader_id(), index: id.index() })
}

fn seen(vote: &Vote) -> VoteSeen {
    let leader = vote.leader_id();
    VoteSeen { term: leader.term(), committed: vote.is_committed(), node: *leader.node_id() }
}

impl From<LogIdRecord> for At {
    fn from(record: LogIdRecord) -> Self {
        let id = LogId::from(record);
        At { term: **id.committed_leader_id(), index: id.index() }
    }
}

impl From<VoteRecord> for VoteSeen {
    fn from(record: VoteRecord) -> Self {
        seen(&record.into())
    }
}

/// What `bytes`, a message to controller `to` on the route `path`, says; none if it is of no interest.
pub(in super::super) fn read(to: u64, path: &str, bytes: &[u8]) -> Option<Said> {
    let sealed: RaftMessage = wire::decode(bytes).ok()?;
    let (envelope, _) = Envelope::read(&sealed.body).ok()?;
    let pre = path.ends_with("PreVote");
    Some(match envelope.kind {
        Append::KIND => {
            let request = message::open::<Append>(to, &sealed).ok()?.into_request().ok()?;
            Said::Append {
                vote: seen(&request.vote),
                previous: at(request.prev_log_id),
                committed: at(request.leader_commit),
                entries: request.entries.len(),
            }
        }
        Appended::KIND => match StreamAppendResult::from(message::open::<Appended>(to, &sealed).ok()?) {
            Ok(flushed) => Said::Flushed(at(flushed)),
            Err(StreamAppendError::Conflict(id)) => Said::Conflict(at(Some(id))?),
            Err(StreamAppendError::HigherVote(vote)) => Said::HigherVote(seen(&vote)),
        },
        Ballot::KIND => {
            let request = VoteRequest::from(message::open::<Ballot>(to, &sealed).ok()?);
            Said::Ballot { pre, vote: seen(&request.vote), last: at(request.last_log_id) }
        }
        Voted::KIND => {
            let response = VoteResponse::from(message::open::<Voted>(to, &sealed).ok()?);
            Said::Voted { pre, granted: response.vote_granted, vote: seen(&response.vote) }
        }
        SnapshotBegin::KIND => {
            let begin = message::open::<SnapshotBegin>(to, &sealed).ok()?;
            Said::Snapshot { vote: begin.vote.into(), bytes: begin.len }
        }
        SnapshotTaken::KIND => Said::SnapshotTaken(message::open::<SnapshotTaken>(to, &sealed).ok()?.vote.into()),
        _ => return None,
    })
}
