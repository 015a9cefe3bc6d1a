//! One simulated controller: production's whole consensus, on a simulated disk and network.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::Stream;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftLogStorage;
use openraft::vote::RaftLeaderId;
use openraft::{RaftLogReader, ServerState};
use pontoon_kit::{Authority, Credentials, Role};
use pontoon_proto::services::peers_server::{self, PeersServer};
use pontoon_proto::services::raft_server::RaftServer;
use pontoon_proto::{
    AuditReply, AuditRequest, BlobPart, BlobPresence, BlobRequest, BlobStored, ConnectedReply, ConnectedRequest,
    DescribeRequest, Described, EdgeProgress, EdgeProgressRequest, InspectRequest, Inspected, LogChunk, LogRequest,
    MeasureRequest, MeasuredReply, MembershipReply, MembershipRequest, ProposeReply, ProposeRequest, ReadIndexReply,
    ReadIndexRequest, RejoinReply, RejoinRequest, RelayBatch, Relayed, RequestsAnswer, RequestsQuestion,
    SealingKeysReply, SealingKeysRequest, TailChunk, TailRequest,
};
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::disk::{self, Mounted, SimDisk};
use super::events::{At, Event, VoteSeen};
use super::life::Life;
use super::network::address_of;
use super::plan::Planted;
use super::world::World;
use super::{id_of, lock, wire as transport};
use crate::raft::log_store::{Home, LogError, LogStore};
use crate::raft::timing::Chosen;
use crate::raft::{Compaction, Consensus, ConsensusConfig, ConsensusError, Member, Proposer, RaftService, Reads};

/// Of all simulated controllers: made once, since nothing simulated looks at them.
static CREDENTIALS: LazyLock<Credentials> = LazyLock::new(|| {
    let identity = Authority::create().and_then(|authority| authority.issue(Role::Controller, "simulated"));
    identity.and_then(Credentials::new).expect("certificates can be made")
});

/// After which a supervisor starts a controller again that did not start.
const RESTART: Duration = Duration::from_secs(1);

/// The place of a controller: its disk, and its running process if it has one.
pub(super) struct Slot {
    pub(super) disk: Arc<SimDisk>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lives: u32,
    life: Option<Arc<Life>>,
    consensus: Option<Arc<Consensus>>,
}

impl Slot {
    pub(super) fn new(disk: Arc<SimDisk>) -> Self {
        Self { disk, state: Mutex::default() }
    }

    /// Its process, if it runs.
    pub(super) fn life(&self) -> Option<Arc<Life>> {
        lock(&self.state).life.clone().filter(|life| !life.has_ended())
    }

    /// Its consensus, if it has started.
    pub(super) fn consensus(&self) -> Option<(Arc<Life>, Arc<Consensus>)> {
        let life = self.life()?;
        Some((life, lock(&self.state).consensus.clone()?))
    }

    pub(super) fn leads(&self) -> bool {
        self.consensus()
            .is_some_and(|(_, consensus)| consensus.raft.metrics().borrow_watched().state == ServerState::Leader)
    }

    pub(super) fn clear(&self) {
        *lock(&self.state) = State::default();
    }
}

/// Starts controller `node`; nothing happens if it runs.
pub(super) fn start(world: &Arc<World>, node: usize) {
    let life = {
        let mut state = lock(&world.slots[node].state);
        if state.life.as_ref().is_some_and(|life| !life.has_ended()) {
            return;
        }
        state.lives += 1;
        let life = Life::new(world.clone(), node, state.lives);
        state.life = Some(life.clone());
        state.consensus = None;
        life
    };
    life.spawn(run(life.clone()));
}

/// Ends the process of controller `node` without a word; its disk keeps what it must and some of the rest.
pub(super) fn crash(world: &Arc<World>, node: usize, how: &'static str, reset: bool) {
    let (life, consensus) = {
        let mut state = lock(&world.slots[node].state);
        (state.life.take(), state.consensus.take())
    };
    let Some(life) = life else { return };
    if !life.has_ended() {
        life.end();
        world.slots[node].disk.crash(world);
    }
    world.observe(Event::Crashed { node, life: life.number, how });
    world.network.vanish(world, node, life.number, reset);
    drop(consensus);
}

/// A controller that does not start. One whose disk is full is started again until it has room; the power may have
/// gone in the middle of it, which is no fault either.
fn refused(life: &Arc<Life>, error: &ConsensusError) {
    let (world, node) = (life.world.clone(), life.node);
    if life.has_ended() {
        return;
    }
    if !matches!(error, ConsensusError::Log(LogError::Full { .. })) {
        return world.observe(Event::Refused { node, life: life.number, why: error.to_string() });
    }
    let number = life.number;
    tokio::spawn(async move {
        tokio::time::sleep(RESTART).await;
        if world.slots[node].life().is_some_and(|now| now.number == number) {
            crash(&world, node, "without room", true);
            start(&world, node);
        }
    });
}

fn config(world: &World, node: usize) -> ConsensusConfig {
    let member = |node: usize| Member { id: id_of(node), name: name_of(node), grpc: address_of(node) };
    ConsensusConfig {
        id: id_of(node),
        name: name_of(node),
        data_dir: world.folder_of(node),
        members: (0..world.plan.nodes).map(member).collect(),
        credentials: CREDENTIALS.clone(),
        joins: false,
        remembered: Vec::new(),
        was_member: false,
        timing: world.plan.timing,
        auto_timing: world.plan.auto_timing,
        compaction: Compaction::default(),
    }
}

pub(super) fn name_of(node: usize) -> pontoon_model::ControllerName {
    format!("controller-{node}").parse().expect("a valid name")
}

async fn run(life: Arc<Life>) {
    let (world, node) = (life.world.clone(), life.node);
    let (consensus, service) = match Consensus::start(config(&world, node)).await {
        Ok(started) => started,
        Err(error) => {
            return refused(&life, &error);
        }
    };
    let peers = PeersServer::new(Forwarded(consensus.proposer(), consensus.reads(), consensus.timing.clone()));
    world.network.listen(&life, Services { raft: service, peers });
    let mut feed = consensus.feed();
    // Production keeps it in a file beside the log.
    world.slots[node].disk.keep_identity(consensus.log.identity());
    let consensus = Arc::new(consensus);
    lock(&world.slots[node].state).consensus = Some(consensus.clone());
    let watching = async {
        loop {
            let index = feed.changed().await.index();
            world.observe(Event::Fed { node, life: life.number, index });
        }
    };
    tokio::select! {
        biased;
        why = consensus.failed() => {
            if !life.stopping.load(Ordering::Relaxed) {
                world.observe(Event::Failed { node, life: life.number, why });
            }
        }
        () = watching => {}
    }
}

/// The log of a simulated controller, if asked from inside one: what `Consensus::start` opens.
pub(in super::super) fn open_log(
    id: pontoon_model::ControllerId,
    covered: Option<u64>,
) -> Option<Result<LogStore, LogError>> {
    let life = Life::current()?;
    let disk = life.world.slots[life.node].disk.clone();
    let mounted = Arc::new(Mounted { life: life.clone(), disk: disk.clone() });
    let home = Home { id, folder: None, identity: disk.identity() };
    let opened = LogStore::on(mounted, home, covered).map(|(store, writer)| {
        disk.keep_identity(store.identity());
        life.spawn(disk::run(life.clone(), disk, writer));
        if life.world.plan.planted == Planted::VoteForgotten {
            store.forget_vote();
        }
        report_start(&life, store.clone());
        store
    });
    Some(opened)
}

/// What the log says of itself right after it was opened.
fn report_start(life: &Arc<Life>, mut store: LogStore) {
    let (node, number, world) = (life.node, life.number, life.world.clone());
    let state = futures_util::FutureExt::now_or_never(async {
        let vote = store.read_vote().await.ok().flatten();
        let last = store.get_log_state().await.ok().and_then(|state| state.last_log_id);
        (vote, last)
    });
    let (vote, last) = state.unwrap_or_default();
    let vote = vote.map(|vote| VoteSeen {
        term: vote.leader_id().term(),
        committed: vote.is_committed(),
        node: *vote.leader_id().node_id(),
    });
    let last = last.map(|last| At { term: **last.committed_leader_id(), index: last.index() });
    world.observe(Event::Started { node, life: number, vote, last });
}

/// What a controller serves.
#[derive(Clone)]
pub(super) struct Services {
    raft: RaftServer<RaftService>,
    peers: PeersServer<Forwarded>,
}

impl Services {
    pub(super) async fn call(mut self, request: http::Request<Body>) -> http::Response<Body> {
        let answered = if request.uri().path().starts_with("/pontoon.Raft/") {
            self.raft.call(request).await
        } else {
            self.peers.call(request).await
        };
        answered.unwrap_or_else(|never| match never {})
    }
}

/// The `Peers` service as far as proposals need it; the rest of it is no part of consensus.
#[derive(Debug)]
struct Forwarded(Proposer, Reads, Chosen);

type Stub<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not simulated"))
}

#[tonic::async_trait]
impl peers_server::Peers for Forwarded {
    type GetBlobStream = Stub<BlobPart>;
    type OpenLogStream = Stub<LogChunk>;
    type OpenTailStream = Stub<TailChunk>;

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        transport::check_caller(&request)?;
        let reply = self.0.answer(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| Status::invalid_argument(error.to_string()))
    }
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Described>, Status> {
        let feature_level = pontoon_core::level::NEWEST;
        Ok(Response::new(Described { feature_level, version: "simulated".to_owned() }))
    }
    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        transport::check_caller(&request)?;
        let reply = self.1.here().await;
        Ok(Response::new(reply.unwrap_or_else(|error| ReadIndexReply::Unavailable { reason: error.to_string() })))
    }
    async fn rejoin(&self, _: Request<RejoinRequest>) -> Result<Response<RejoinReply>, Status> {
        not_here()
    }
    async fn change_members(&self, _: Request<MembershipRequest>) -> Result<Response<MembershipReply>, Status> {
        not_here()
    }
    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<Inspected>, Status> {
        not_here()
    }
    async fn measure(&self, _: Request<MeasureRequest>) -> Result<Response<MeasuredReply>, Status> {
        Ok(Response::new(self.2.now().into()))
    }
    async fn connected(&self, _: Request<ConnectedRequest>) -> Result<Response<ConnectedReply>, Status> {
        not_here()
    }
    async fn edge_progress(&self, _: Request<EdgeProgressRequest>) -> Result<Response<EdgeProgress>, Status> {
        not_here()
    }
    async fn sealing_keys(&self, _: Request<SealingKeysRequest>) -> Result<Response<SealingKeysReply>, Status> {
        not_here()
    }
    async fn relay(&self, _: Request<RelayBatch>) -> Result<Response<Relayed>, Status> {
        not_here()
    }
    async fn has_blob(&self, _: Request<BlobRequest>) -> Result<Response<BlobPresence>, Status> {
        not_here()
    }
    async fn get_blob(&self, _: Request<BlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        not_here()
    }
    async fn put_blob(&self, _: Request<Streaming<BlobPart>>) -> Result<Response<BlobStored>, Status> {
        not_here()
    }
    async fn open_log(&self, _: Request<LogRequest>) -> Result<Response<Self::OpenLogStream>, Status> {
        not_here()
    }
    async fn requests(&self, _: Request<RequestsQuestion>) -> Result<Response<RequestsAnswer>, Status> {
        not_here()
    }
    async fn open_tail(&self, _: Request<TailRequest>) -> Result<Response<Self::OpenTailStream>, Status> {
        not_here()
    }
    async fn audit(&self, _: Request<AuditRequest>) -> Result<Response<AuditReply>, Status> {
        not_here()
    }
}
