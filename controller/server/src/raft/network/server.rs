//! The answering side: other controllers' requests, handed to openraft.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::Snapshot;
use pontoon_model::ControllerId;
use pontoon_model::wire::Wire;
use pontoon_proto::RaftMessage;
use pontoon_proto::services::raft_server;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::super::snapshot::SnapshotStore;
use super::super::timing::Pace;
use super::super::types::Raft;
use super::message::{
    self, Append, Appended, Ballot, MessageError, SnapshotArrived, SnapshotOffer, SnapshotTaken, Transfer, Transferred,
    Voted,
};
use super::{link, transfer};

/// When the leader was last heard: openraft itself remembers only whom it voted for, and with pre-vote an
/// isolated follower would name its old leader for ever.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    /// When a leader's message was last accepted.
    pub fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// The `Raft` service of this controller. Only controllers may call it.
#[derive(Clone)]
pub struct RaftService {
    id: u64,
    raft: Raft,
    snapshots: Arc<SnapshotStore>,
    heard: Heard,
    pace: Pace,
    let_in: LetIn,
}

/// Whether this controller takes part. One that joins with an empty store does once a leader has heard of that and agreed: it
/// may have had another store under the same id, and have forgotten whom it voted for and what it had acknowledged.
#[derive(Debug, Clone, Default)]
pub struct LetIn(Arc<AtomicBool>);

impl LetIn {
    /// It takes part from now on.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl RaftService {
    pub(in super::super) fn new(
        id: u64,
        raft: Raft,
        snapshots: Arc<SnapshotStore>,
        heard: Heard,
        pace: Pace,
        let_in: LetIn,
    ) -> Self {
        Self { id, raft, snapshots, heard, pace, let_in }
    }

    /// Refuses whoever is no controller, and everyone once this one has stopped: a stream of entries into a
    /// stopped openraft would end without a word, and its sender would try the same connection for ever.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        link::check_caller(request)?;
        if !self.let_in.0.load(Ordering::Relaxed) {
            return Err(Status::unavailable("this controller has not been let into the cluster yet"));
        }
        self.raft.metrics().borrow_watched().running_state.clone().map_err(stopped)
    }

    fn open<T: Wire>(&self, request: &Request<RaftMessage>) -> Result<(u64, T), Status> {
        self.admit(request)?;
        message::open_from(self.id, request.get_ref()).map_err(refused)
    }
}

fn refused(error: MessageError) -> Status {
    match error {
        MessageError::Misdirected { .. } => Status::failed_precondition(error.to_string()),
        MessageError::Wire(_) => Status::invalid_argument(error.to_string()),
    }
}

fn seal<T: Wire>(from: u64, to: u64, message: T) -> Result<RaftMessage, Status> {
    message::seal(from, to, message).map_err(|error| Status::internal(error.to_string()))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this controller's Raft has stopped: {error}"))
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

    async fn append(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<Self::AppendStream>, Status> {
        self.admit(&request)?;
        let (id, heard) = (self.id, self.heard.clone());
        let caller = Arc::new(AtomicU64::new(0));
        let sender = caller.clone();
        let requests = request.into_inner().map(move |message| {
            let (from, append): (u64, Append) = message::open_from(id, &message?).map_err(refused)?;
            sender.store(from, Ordering::Relaxed);
            append.into_request().map_err(|error| Status::invalid_argument(error.to_string()))
        });
        // The first message that cannot be used ends the stream; the caller starts a new one.
        let requests = requests.map(|request: Result<_, Status>| {
            request.inspect_err(|status| tracing::warn!(%status, "entries of another controller cannot be used")).ok()
        });
        let requests =
            requests.take_while(|request| std::future::ready(request.is_some())).filter_map(std::future::ready);
        let results = self.raft.stream_append(requests).map(move |result| {
            let result = result.map_err(stopped)?;
            if !matches!(result, Err(openraft::raft::StreamAppendError::HigherVote(_))) {
                heard.now();
            }
            seal(id, caller.load(Ordering::Relaxed), Appended::from(&result))
        });
        Ok(Response::new(Box::pin(results)))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, ballot): (u64, Ballot) = self.open(&request)?;
        let voted = self.raft.vote(ballot.into()).await.map_err(stopped)?;
        seal(self.id, from, Voted::from(&voted)).map(Response::new)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, ballot): (u64, Ballot) = self.open(&request)?;
        let voted = self.raft.pre_vote(ballot.into()).await.map_err(stopped)?;
        seal(self.id, from, Voted::from(&voted)).map(Response::new)
    }

    async fn snapshot_offer(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, offer): (u64, SnapshotOffer) = self.open(&request)?;
        let bytes = self.snapshots.arrived(offer.id, offer.len);
        seal(self.id, from, SnapshotArrived { bytes }).map(Response::new)
    }

    async fn snapshot(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<RaftMessage>, Status> {
        self.admit(&request)?;
        let received = transfer::receive(self.id, self.snapshots.clone(), request.into_inner()).await?;
        let snapshot = Snapshot { meta: received.meta, snapshot: received.file };
        let last = snapshot.meta.last_log_id.map(|id| id.index());
        let taken = self.raft.install_full_snapshot(received.vote, snapshot).await.map_err(stopped)?;
        tracing::info!(last, from = %ControllerId(received.from), "a snapshot of the leader was installed");
        self.heard.now();
        seal(self.id, received.from, SnapshotTaken { vote: (&taken.vote).into() }).map(Response::new)
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, transfer): (u64, Transfer) = self.open(&request)?;
        // It waits for its log as long as openraft's shortest election takes.
        let handling = self.raft.handle_transfer_leader(transfer.into());
        let transferred = self.pace.scope(handling).await.map_err(stopped)?;
        seal(self.id, from, Transferred::from(&transferred)).map(Response::new)
    }
}
