//! Linearizable reads: a read sees every change that was acknowledged before it was asked for.
//!
//! The leader makes sure by a round of heartbeats that it still leads (ReadIndex), one round for all who wait. Not by its
//! lease, although openraft offers that (`ReadPolicy::LeaseRead`): a lease is a promise of the followers not to vote for
//! another for a while, and they keep it in memory only. A follower that is killed and started again within the lease has
//! forgotten it, votes, and a new leader writes while the old one, cut off meanwhile, still believes in its lease. A planned
//! handover (`transfer_leader`) asks followers to break the promise, and the monotonic clock that measures it stands still
//! while a virtual machine is suspended.

use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use pontoon_model::ControllerId;
use pontoon_proto::{ReadIndexReply, ReadIndexRequest};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::leadership::{Leadership, until};
use super::peers::Peers;
use super::runtime;
use super::types::Raft;

/// Reads that wait for the next round; more are refused at once.
const WAITING: usize = 4_096;

/// How long a leader is looked for and asked: longer than an election, shorter than a client's patience.
const PATIENCE: Duration = Duration::from_secs(5);

/// One answer of the leader; one that needs longer is cut off.
const ONE_TRY: Duration = Duration::from_secs(2);

/// Between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a linearizable read is not possible now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or the leader is not reached.
    #[error("no controller leads, or it cannot be reached ({last}); `?consistency=stale` still answers")]
    NoLeader {
        /// What the last try met.
        last: String,
    },
    /// Too many wait.
    #[error("too many linearizable reads are waiting; try again in a moment, or read with `?consistency=stale`")]
    Busy,
}

type Asked = oneshot::Sender<ReadIndexReply>;

/// Finds the index that a linearizable read must see. Clones share everything.
#[derive(Debug, Clone)]
pub struct Reads {
    id: ControllerId,
    queue: mpsc::Sender<Asked>,
    leadership: watch::Receiver<Leadership>,
    peers: Peers,
}

impl Reads {
    /// Starts answering for `raft`, until all handles are gone.
    pub(super) fn start(id: ControllerId, raft: Raft, leadership: watch::Receiver<Leadership>, peers: Peers) -> Self {
        let (queue, asked) = mpsc::channel(WAITING);
        runtime::spawn(confirm(raft, asked));
        Self { id, queue, leadership, peers }
    }

    /// The index that a read which begins now must see.
    pub async fn index(&self) -> Result<u64, ReadError> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = "none was found".to_owned();
        loop {
            let mut leadership = self.leadership.clone();
            let Ok(Some(leader)) = timeout_at(deadline, until(&mut leadership, |now| now.leader)).await else {
                return Err(ReadError::NoLeader { last });
            };
            let reply = if leader == self.id { self.here().await } else { self.there(leader).await };
            last = match reply {
                Ok(ReadIndexReply::Index(index)) => return Ok(index),
                Ok(ReadIndexReply::NotLeader { .. }) => "the one asked does not lead".to_owned(),
                Ok(ReadIndexReply::Unavailable { reason }) => reason,
                Err(error) => return Err(error),
            };
            if timeout_at(deadline, tokio::time::sleep(PAUSE)).await.is_err() {
                return Err(ReadError::NoLeader { last });
            }
        }
    }

    /// Asks this controller's own consensus; what the `Peers.ReadIndex` handler replies.
    pub async fn here(&self) -> Result<ReadIndexReply, ReadError> {
        let (answer, reply) = oneshot::channel();
        self.queue.try_send(answer).map_err(|_| ReadError::Busy)?;
        let ended = ReadIndexReply::Unavailable { reason: "this controller is stopping".to_owned() };
        Ok(reply.await.unwrap_or(ended))
    }

    async fn there(&self, leader: ControllerId) -> Result<ReadIndexReply, ReadError> {
        let unavailable = |reason| Ok(ReadIndexReply::Unavailable { reason });
        let mut client = match self.peers.reach(leader) {
            Ok(peer) => peer.client(),
            Err(why) => return unavailable(why),
        };
        match timeout(ONE_TRY, client.read_index(ReadIndexRequest { from: self.id })).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => unavailable(format!("{leader}: {}", status.message())),
            Err(_) => {
                self.peers.forget(leader);
                unavailable(format!("{leader} does not answer"))
            }
        }
    }
}

/// One round after the other, each for all who have asked before it began.
async fn confirm(raft: Raft, mut asked: mpsc::Receiver<Asked>) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, WAITING).await > 0 {
        let reply = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => ReadIndexReply::Index(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                ReadIndexReply::NotLeader { leader: to.leader_id.map(ControllerId) }
            }
            Err(error) => ReadIndexReply::Unavailable { reason: error.to_string() },
        };
        for answer in waiting.drain(..) {
            // Who no longer waits needs no answer.
            let _ = answer.send(reply.clone());
        }
    }
}
