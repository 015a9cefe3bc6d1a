//! Three controllers in this process: real gRPC with mTLS on loopback, real logs on disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::Stream;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::network::{NetVote, RPCOption};
use openraft::raft::VoteRequest;
use openraft::vote::{RaftLeaderId, RaftVote};
use pontoon_core::command::{ChangeLabels, CreateApp, DestroyApp};
use pontoon_core::{Command, RejectedKind, Reply, Stamped};
use pontoon_kit::{Authority, Credentials, Role, rpc, tls};
use pontoon_model::{AppName, ControllerId, IdempotencyKey};
use pontoon_proto::services::peers_server::{self, PeersServer};
use pontoon_proto::services::raft_client::RaftClient;
use pontoon_proto::services::raft_server::RaftServer;
use pontoon_proto::{
    AuditReply, AuditRequest, BlobPart, BlobPresence, BlobRequest, BlobStored, ConnectedReply, ConnectedRequest,
    DescribeRequest, Described, EdgeProgress, EdgeProgressRequest, InspectRequest, Inspected, LogChunk, LogRequest,
    MeasureRequest, MeasuredReply, MembershipReply, MembershipRequest, ProposeReply, ProposeRequest, RaftMessage,
    ReadIndexReply, ReadIndexRequest, RejoinReply, RejoinRequest, RelayBatch, Relayed, RequestsAnswer,
    RequestsQuestion, SealingKeysReply, SealingKeysRequest, TailChunk, TailRequest,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

mod membership;
mod timing;

use super::network::Network;
use super::timing::Chosen;
use super::types::Vote;
use super::*;
use crate::{hint, members, rejoin};

/// An election and a commit take a second; a busy machine takes longer.
const BOUND: Duration = Duration::from_secs(30);

/// The `Peers` service as far as proposals need it; the rest of it is the controller's.
struct Forwarded {
    proposer: Proposer,
    membership: MembershipQueue,
    reads: Reads,
    timing: Chosen,
    as_if: AsIf,
}

/// What they say of themselves that is not so. All of a cluster share it.
#[derive(Clone)]
struct AsIf {
    /// The feature level that each can read.
    readable: Arc<AtomicU32>,
    /// What a question of the measurement takes on top, in milliseconds.
    delay: Arc<AtomicU32>,
}

type Stub<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of these tests"))
}

#[tonic::async_trait]
impl peers_server::Peers for Forwarded {
    type GetBlobStream = Stub<BlobPart>;
    type OpenLogStream = Stub<LogChunk>;
    type OpenTailStream = Stub<TailChunk>;

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        rpc::caller(&request, Role::Controller)?;
        let reply = self.proposer.answer(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| Status::invalid_argument(error.to_string()))
    }
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Described>, Status> {
        let feature_level = self.as_if.readable.load(Ordering::Relaxed);
        Ok(Response::new(Described { feature_level, version: "test".to_owned() }))
    }
    async fn read_index(&self, _: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        let reply = self.reads.here().await;
        reply.map(Response::new).map_err(|error| Status::unavailable(error.to_string()))
    }
    async fn change_members(&self, request: Request<MembershipRequest>) -> Result<Response<MembershipReply>, Status> {
        let name = rpc::caller(&request, Role::Controller)?.id.parse().unwrap();
        let reply = members::answer(&self.membership, &name, request.into_inner());
        Ok(hint::beside(reply, self.membership.leader_address()))
    }
    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<Inspected>, Status> {
        not_here()
    }
    async fn measure(&self, _: Request<MeasureRequest>) -> Result<Response<MeasuredReply>, Status> {
        tokio::time::sleep(Duration::from_millis(self.as_if.delay.load(Ordering::Relaxed).into())).await;
        Ok(Response::new(self.timing.now().into()))
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
    async fn rejoin(&self, request: Request<RejoinRequest>) -> Result<Response<RejoinReply>, Status> {
        let name = rpc::caller(&request, Role::Controller)?.id.parse().unwrap();
        Ok(rejoin::answer(&self.membership, &name, request.into_inner()))
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

/// One running controller's consensus and its gRPC server.
struct Node {
    consensus: Consensus,
    serving: JoinHandle<()>,
    stop: CancellationToken,
}

impl Node {
    async fn start(config: ConsensusConfig, listener: TcpListener, as_if: AsIf) -> Self {
        let credentials = config.credentials.clone();
        let started = Consensus::start(config).await.unwrap();
        Self::serve(credentials, started, listener, as_if)
    }

    fn serve(
        credentials: Credentials,
        (consensus, service): (Consensus, RaftServer<RaftService>),
        listener: TcpListener,
        as_if: AsIf,
    ) -> Self {
        let forwarded = Forwarded {
            proposer: consensus.proposer(),
            membership: consensus.membership(),
            reads: consensus.reads(),
            timing: consensus.timing.clone(),
            as_if,
        };
        let peers = PeersServer::new(forwarded);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let router = rpc::server(pontoon_enrol::needs).add_service(service).add_service(peers);
        let serving = tokio::spawn(async move {
            // Not waiting for open streams: the others' streams never end by themselves.
            tokio::select! {
                served = router.serve_with_incoming(tls::incoming(listener, credentials)) => served.unwrap(),
                () = stopped => {}
            }
        });
        Self { consensus, serving, stop }
    }

    /// As on SIGTERM.
    async fn shut_down(self) {
        self.consensus.shutdown().await;
        self.cut_off().await;
    }

    /// Without a word to the others.
    async fn vanish(self) {
        let (raft, log) = (self.consensus.raft.clone(), self.consensus.log.clone());
        self.cut_off().await;
        raft.shutdown().await.unwrap();
        log.close().await;
    }

    async fn cut_off(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

struct Cluster {
    folder: tempfile::TempDir,
    authority: Authority,
    members: Vec<Member>,
    /// So many of them made the cluster; the others join.
    first: usize,
    nodes: Vec<Option<Node>>,
    as_if: AsIf,
    auto_timing: bool,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_reading(pontoon_core::level::NEWEST).await
    }

    /// Controllers that say they can read no higher feature level.
    async fn start_reading(level: u32) -> Self {
        Self::start_with(3, level).await
    }

    async fn start_with(count: u64, level: u32) -> Self {
        let mut listeners = Vec::new();
        let mut members = Vec::new();
        for id in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let name = format!("controller-{id}").parse().unwrap();
            members.push(Member { id: ControllerId(id * 1_000), name, grpc: listener.local_addr().unwrap() });
            listeners.push(listener);
        }
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create().unwrap();
        let as_if = AsIf { readable: Arc::new(AtomicU32::new(level)), delay: Arc::default() };
        let first = members.len();
        let mut cluster = Self { folder, authority, members, first, nodes: Vec::new(), as_if, auto_timing: true };
        for (at, listener) in listeners.into_iter().enumerate() {
            let node = Node::start(cluster.config(at), listener, cluster.as_if.clone()).await;
            cluster.nodes.push(Some(node));
        }
        cluster
    }

    fn credentials(&self, at: usize) -> Credentials {
        let identity = self.authority.issue(Role::Controller, self.members[at].name.as_str()).unwrap();
        Credentials::new(identity).unwrap()
    }

    fn data_dir(&self, at: usize) -> PathBuf {
        self.folder.path().join(at.to_string())
    }

    fn config(&self, at: usize) -> ConsensusConfig {
        ConsensusConfig {
            id: self.members[at].id,
            name: self.members[at].name.clone(),
            data_dir: self.data_dir(at),
            members: match at < self.first {
                true => self.members[..self.first].to_vec(),
                false => self.running().into_iter().chain([at]).map(|at| self.members[at].clone()).collect(),
            },
            credentials: self.credentials(at),
            timing: Timing::lan(),
            auto_timing: self.auto_timing,
            joins: at >= self.first,
            remembered: Vec::new(),
            was_member: false,
            compaction: Compaction::default(),
        }
    }

    async fn restart(&mut self, at: usize) {
        let address: SocketAddr = self.members[at].grpc;
        let listener = wait_for_port(address).await;
        self.nodes[at] = Some(Node::start(self.config(at), listener, self.as_if.clone()).await);
    }

    fn consensus(&self, at: usize) -> &Consensus {
        &self.nodes[at].as_ref().expect("this node is stopped").consensus
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].is_some()).collect()
    }

    /// Waits until all running nodes name the same leader, and it leads.
    async fn leader(&self) -> usize {
        let agreed = || {
            let named = self.running().into_iter().map(|at| self.consensus(at).leadership().borrow().leader);
            let named: Vec<_> = named.collect();
            let first = named.first().copied().flatten()?;
            let at = self.running().into_iter().find(|at| self.consensus(*at).id() == first)?;
            let leads = self.consensus(at).leadership().borrow().leading;
            (leads && named.iter().all(|leader| *leader == Some(first))).then_some(at)
        };
        wait_for("a leader all agree on", agreed).await
    }

    /// Waits until the copies of all running nodes hold `apps`.
    async fn all_have(&self, apps: &[&str]) {
        for at in self.running() {
            let mut feed = self.consensus(at).feed();
            let has = async {
                while apps.iter().any(|app| feed.snapshot().app(&name(app)).is_none()) {
                    feed.changed().await;
                }
            };
            timeout(BOUND, has).await.unwrap_or_else(|_| panic!("node {at} never saw {apps:?}"));
        }
    }

    async fn shut_down(mut self) {
        for node in self.nodes.drain(..).flatten() {
            node.shut_down().await;
        }
    }
}

/// The old server's socket may take a moment to go.
async fn wait_for_port(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + BOUND;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address} is not free: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn name(app: &str) -> AppName {
    app.parse().unwrap()
}

fn create(app: &str) -> Command {
    CreateApp { name: name(app) }.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_controller_takes_commands_and_all_see_them() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for (at, app) in ["a", "b", "c"].into_iter().enumerate() {
        let (reply, index) = cluster.consensus(at).proposer().propose(create(app)).await.unwrap();
        assert_eq!(reply, Reply::Done);
        assert!(index > 0);
    }
    cluster.all_have(&["a", "b", "c"]).await;
    let refused = cluster.consensus((leader + 1) % 3).proposer().propose(create("a")).await.unwrap_err();
    assert!(
        matches!(&refused, ProposeError::Rejected(rejected) if rejected.kind == RejectedKind::Conflict),
        "{refused}"
    );

    // Who was told "done" finds it in that controller's copy, if it is the leader.
    let (_, index) = cluster.consensus(leader).proposer().propose(create("d")).await.unwrap();
    assert!(cluster.consensus(leader).feed().snapshot().index() >= index);

    let members = cluster.consensus(leader).members();
    let leaders: Vec<_> = members.iter().filter(|member| member.role == "leader").map(|member| member.id).collect();
    assert_eq!(leaders, [cluster.members[leader].id]);
    assert!(members.iter().all(|member| member.matched.is_some()), "{members:?}");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_or_vanishes_is_replaced_and_nothing_is_lost() {
    let mut cluster = Cluster::start().await;
    let first = cluster.leader().await;
    cluster.consensus(first).proposer().propose(create("before")).await.unwrap();
    let follower = (first + 1) % 3;
    let proposer = cluster.consensus(follower).proposer();

    cluster.nodes[first].take().unwrap().shut_down().await;
    // At once: the proposer finds the new leader by itself.
    proposer.propose(create("after-a-stop")).await.unwrap();
    cluster.restart(first).await;
    cluster.all_have(&["before", "after-a-stop"]).await;

    let second = cluster.leader().await;
    let proposer = cluster.consensus((second + 1) % 3).proposer();
    let term = cluster.consensus(second).leadership().borrow().term;
    cluster.nodes[second].take().unwrap().vanish().await;
    proposer.propose(create("after-a-crash")).await.unwrap();
    let third = cluster.leader().await;
    assert!(cluster.consensus(third).leadership().borrow().term > term);
    cluster.restart(second).await;
    cluster.all_have(&["before", "after-a-stop", "after-a-crash"]).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_with_the_same_key_is_applied_once() {
    let cluster = Cluster::start().await;
    let command = Stamped { key: IdempotencyKey(42), command: create("once") };
    let first = cluster.consensus(0).proposer().propose_stamped(vec![command.clone()]).await.unwrap();
    let second = cluster.consensus(1).proposer().propose_stamped(vec![command]).await.unwrap();
    assert_eq!(first.0, second.0);
    assert!(first.0[0].is_ok() && second.1 > first.1);
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_commands_share_entries() {
    const COMMANDS: u64 = 600;
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let (_, before) = cluster.consensus(leader).proposer().propose(create("first")).await.unwrap();
    let asked = (0..COMMANDS).map(|at| {
        let proposer = cluster.consensus(leader).proposer();
        async move { proposer.propose(create(&format!("app-{at}"))).await.unwrap().1 }
    });
    let last = futures_util::future::join_all(asked).await.into_iter().max().unwrap();
    assert!(last - before < COMMANDS / 10, "{COMMANDS} commands took {} entries", last - before);
    assert_eq!(cluster.consensus(leader).feed().snapshot().apps().count() as u64, COMMANDS + 1);
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_for_an_entry_is_refused_with_its_size() {
    let cluster = Cluster::start().await;
    let stamped = |key| Stamped { key: IdempotencyKey(key), command: create("a") };
    let most = MAX_COMMANDS as u128;
    let proposer = cluster.consensus(0).proposer();
    let refused = proposer.propose_stamped((0..=most).map(stamped).collect()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::TooLarge { commands: 1_025, .. }), "{refused}");
    let (outcomes, _) = proposer.propose_stamped((0..most).map(stamped).collect()).await.unwrap();
    assert_eq!(outcomes.len(), MAX_COMMANDS);
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_stopped_and_started_again_know_everything() {
    let mut cluster = Cluster::start().await;
    for app in ["a", "b", "c"] {
        cluster.consensus(0).proposer().propose(create(app)).await.unwrap();
    }
    cluster.all_have(&["a", "b", "c"]).await;
    let term = cluster.consensus(0).leadership().borrow().term;
    for at in 0..3 {
        cluster.nodes[at].take().unwrap().shut_down().await;
    }
    for at in 0..3 {
        cluster.restart(at).await;
    }
    cluster.all_have(&["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    assert!(cluster.consensus(leader).leadership().borrow().term > term);
    cluster.consensus(leader).proposer().propose(create("d")).await.unwrap();
    cluster.all_have(&["d"]).await;
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.nodes[away].take().unwrap().shut_down().await;
    for at in 0..40 {
        cluster.consensus(leader).proposer().propose(create(&format!("app-{at}"))).await.unwrap();
    }
    let raft = cluster.consensus(leader).raft.clone();
    let applied = raft.metrics().borrow_watched().last_applied.map(|id| id.index());
    raft.trigger().snapshot().await.unwrap();
    wait_for("a snapshot", || raft.metrics().borrow_watched().snapshot.filter(|id| Some(id.index()) >= applied)).await;
    raft.trigger().purge_log(applied.unwrap()).await.unwrap();
    wait_for("a purge", || raft.metrics().borrow_watched().purged.filter(|id| Some(id.index()) >= applied)).await;

    cluster.restart(away).await;
    cluster.all_have(&["app-0", "app-39"]).await;
    let current = cluster.data_dir(away).join("raft/snapshots/current.snapshot");
    assert!(current.exists(), "it caught up without a snapshot");
    let left: Vec<_> = std::fs::read_dir(current.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // And starts from it.
    cluster.nodes[away].take().unwrap().shut_down().await;
    cluster.restart(away).await;
    assert!(cluster.consensus(away).feed().snapshot().app(&name("app-39")).is_some());
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pre_vote_against_a_living_leader_is_refused_and_changes_no_term() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let (asked, asker) = ((leader + 1) % 3, (leader + 2) % 3);
    let term = cluster.consensus(asked).leadership().borrow().term;
    let network = Network::new(cluster.members[asker].id.0, cluster.credentials(asker), Default::default());
    let peer = types::Peer { name: cluster.members[asked].name.clone(), grpc: cluster.members[asked].grpc };
    let mut network_of = network.clone();
    let mut connection =
        openraft::RaftNetworkFactory::new_client(&mut network_of, cluster.members[asked].id.0, &peer).await;
    let last = cluster.consensus(asker).raft.metrics().borrow_watched().last_applied;
    let ballot = || {
        let leader_id = RaftLeaderId::new(term + 5, cluster.members[asker].id.0);
        VoteRequest::new(Vote::from_leader_id(leader_id, false), last)
    };
    let voted = connection.pre_vote(ballot(), RPCOption::new(BOUND)).await.unwrap();
    assert!(!voted.vote_granted);
    assert_eq!(cluster.consensus(asked).raft.metrics().borrow_watched().current_term, term);

    // Who cannot be asked has not granted.
    let nobody = types::Peer { name: "nobody".parse().unwrap(), grpc: ([127, 0, 0, 1], 1).into() };
    let mut connection = openraft::RaftNetworkFactory::new_client(&mut network_of, 77, &nobody).await;
    assert!(connection.pre_vote(ballot(), RPCOption::new(BOUND)).await.is_err());

    // A message for another controller is not taken: addresses change hands.
    let mut connection = openraft::RaftNetworkFactory::new_client(&mut network_of, 77, &peer).await;
    let error = connection.vote(ballot(), RPCOption::new(BOUND)).await.unwrap_err();
    assert!(error.to_string().contains("the message is for c77"), "{error}");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_controllers_may_speak_raft() {
    let cluster = Cluster::start().await;
    let agent = Credentials::new(cluster.authority.issue(Role::Agent, "host-1").unwrap()).unwrap();
    let channel = rpc::channel(cluster.members[0].grpc, Role::Controller, &agent).unwrap();
    let mut client = RaftClient::new(channel);
    let message = || RaftMessage { body: Default::default() };
    let refusals = [
        client.vote(message()).await.unwrap_err(),
        client.pre_vote(message()).await.unwrap_err(),
        client.transfer_leader(message()).await.unwrap_err(),
        client.append(tokio_stream::iter([message()])).await.unwrap_err(),
        client.snapshot(tokio_stream::iter([message()])).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|status| status.code() == Code::PermissionDenied), "{refusals:?}");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nobody_leads() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for at in [(leader + 1) % 3, (leader + 2) % 3] {
        cluster.nodes[at].take().unwrap().vanish().await;
    }
    let leadership = cluster.consensus(leader).leadership();
    wait_for("the leader notices", || leadership.borrow().leader.is_none().then_some(())).await;
    assert!(!leadership.borrow().leading);
    cluster.shut_down().await;
}

/// What is left of a store after its database is gone.
fn lose_database(data_dir: &Path) {
    std::fs::remove_file(data_dir.join("raft/log/db")).unwrap();
}

/// Its log is whole, and nobody can say whose it is.
fn damage_identity(data_dir: &Path) {
    std::fs::write(data_dir.join("raft/identity"), b"nonsense").unwrap();
}

/// The ids that vote, as `at` knows them, by name.
fn voters(cluster: &Cluster, at: usize) -> Vec<(String, ControllerId)> {
    let members = cluster.consensus(at).members();
    let voters = members.into_iter().filter(|member| member.role != "learner");
    voters.map(|member| (member.name.to_string(), member.id)).collect()
}

impl Cluster {
    /// Starts `at`, whose store is lost, with an empty one under a new id, and waits until it is back in its place.
    async fn come_back(&mut self, at: usize, config: ConsensusConfig) {
        let grpc = self.members[at].grpc;
        let loss = Consensus::start(config.clone()).await.err().expect("a lost store does not start");
        assert!(loss.is_data_loss(), "{loss}");
        let started = timeout(BOUND, rejoin::start_anew(config.clone(), grpc, loss));
        let started = started.await.expect("the others allow it").unwrap();
        let listener = wait_for_port(grpc).await;
        self.nodes[at] = Some(Node::serve(config.credentials, started, listener, self.as_if.clone()));
        assert!(self.consensus(at).is_replacement());
        timeout(BOUND, rejoin::take_place(self.consensus(at), grpc)).await.expect("in time").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_whose_store_is_lost_votes_again_under_a_new_id() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.consensus(leader).proposer().propose(create("before")).await.unwrap();
    let losses: [fn(&Path); 3] = [lose_database, lose_database, damage_identity];
    for (round, lose) in losses.into_iter().enumerate() {
        // A follower, and then whoever leads.
        let leader = cluster.leader().await;
        let lost = if round == 0 { (leader + 1) % 3 } else { leader };
        let before = voters(&cluster, leader);
        cluster.nodes[lost].take().unwrap().vanish().await;
        lose(&cluster.data_dir(lost));

        cluster.come_back(lost, cluster.config(lost)).await;
        wait_until_voters(&cluster, lost, &before).await;

        let new = cluster.consensus(lost).id();
        assert!(before.iter().all(|(_, id)| *id != new), "an id is never used again");
        let app = format!("after-{round}");
        cluster.consensus(lost).proposer().propose(create(&app)).await.unwrap();
        cluster.all_have(&["before", &app]).await;
    }
    // The new ids count: one more may vanish.
    let leader = cluster.leader().await;
    cluster.nodes[leader].take().unwrap().vanish().await;
    let next = cluster.leader().await;
    cluster.consensus(next).proposer().propose(create("one-less")).await.unwrap();
    cluster.shut_down().await;
}

/// Waits until everyone counts three voters, among them the new id of `at`, and none of its old.
async fn wait_until_voters(cluster: &Cluster, at: usize, before: &[(String, ControllerId)]) {
    let (name, new) = (cluster.members[at].name.to_string(), cluster.consensus(at).id());
    let old = before.iter().find(|(of, _)| *of == name).map(|(_, id)| *id);
    let replaced = || {
        let seen: Vec<_> = cluster.running().into_iter().map(|node| voters(cluster, node)).collect();
        let right = |voters: &Vec<(String, ControllerId)>| {
            let has = |id| voters.iter().any(|(_, voter)| *voter == id);
            voters.len() == 3 && has(new) && old.is_none_or(|old| !has(old))
        };
        seen.iter().all(right).then_some(())
    };
    wait_for("the new id to vote in the place of the old", replaced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_does_not_give_up_its_stores() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.consensus(leader).proposer().propose(create("kept")).await.unwrap();
    let lost = [leader, (leader + 1) % 3];
    for at in lost {
        cluster.nodes[at].take().unwrap().vanish().await;
        lose_database(&cluster.data_dir(at));
    }
    for at in lost {
        let config = cluster.config(at);
        let loss = Consensus::start(config.clone()).await.err().expect("a lost store does not start");
        // Several rounds of asking the one that is left.
        let waiting =
            timeout(Duration::from_secs(3), rejoin::start_anew(config.clone(), config.members[at].grpc, loss));
        assert!(waiting.await.is_err(), "it must wait for a person");
        assert!(cluster.data_dir(at).join("raft/identity").exists(), "nothing is set aside");
    }
    cluster.shut_down().await;
}

fn label(value: &str) -> Command {
    let set = [("l".into(), value.into())].into_iter().collect();
    ChangeLabels { app: name("a"), set, unset: Vec::new() }.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_of_any_controller_sees_what_was_written_through_another() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.consensus(0).proposer().propose(create("a")).await.unwrap();
    for round in 0..10_usize {
        let (writer, reader) = (round % 3, (round + 1) % 3);
        let (_, written) = cluster.consensus(writer).proposer().propose(label(&round.to_string())).await.unwrap();
        let index = cluster.consensus(reader).reads().index().await.unwrap();
        assert!(index >= written, "{index} is before {written}");
    }
    // Alone it may not say that it leads.
    for at in (0..3).filter(|at| *at != leader) {
        cluster.nodes[at].take().unwrap().vanish().await;
    }
    let refused = cluster.consensus(leader).reads().index().await.unwrap_err();
    assert!(refused.to_string().contains("consistency=stale"), "{refused}");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_raises_the_feature_level_when_all_can_read_the_next() {
    let cluster = Cluster::start_reading(1).await;
    let leader = cluster.leader().await;
    let follower = cluster.consensus((leader + 1) % 3).proposer();
    follower.propose(create("a")).await.unwrap();
    for at in 0..3 {
        let refused = cluster.consensus(at).proposer().propose(label("x")).await.unwrap_err();
        let ProposeError::NeedsLevel { reason } = &refused else { panic!("{refused:?}") };
        let named = |at: usize| reason.contains(cluster.members[at].name.as_str());
        // Each can read more itself, as far as it knows.
        assert!(named((at + 1) % 3) && named((at + 2) % 3), "{reason}");
    }
    assert_eq!(cluster.consensus(leader).feed().snapshot().feature_level(), 1);
    cluster.as_if.readable.store(pontoon_core::level::NEWEST, Ordering::Relaxed);
    follower.propose(label("x")).await.unwrap();
    // A level at a time.
    let mut feed = cluster.consensus(leader).feed();
    let raised = async {
        while feed.snapshot().feature_level() < pontoon_core::level::NEWEST {
            feed.changed().await;
        }
    };
    tokio::time::timeout(BOUND, raised).await.expect("the newest level");
    cluster.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_slow_on_its_way_gets_a_new_key_and_is_applied() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let proposer = cluster.consensus(leader).proposer();
    // Enough that answers are forgotten.
    let entries = pontoon_core::state::KEPT / MAX_COMMANDS + 2;
    for _ in 0..entries {
        let refused = |_| Stamped { key: proposer.fresh_key(), command: DestroyApp { name: name("none") }.into() };
        proposer.propose_stamped((0..MAX_COMMANDS).map(refused).collect()).await.unwrap();
    }
    assert!(cluster.consensus(leader).feed().snapshot().answers_forgotten_upto() > 1);
    for at in 0..3 {
        let old = Stamped { key: IdempotencyKey::born(0, at as u64), command: create(&format!("late-{at}")) };
        let (outcomes, _) = cluster.consensus(at).proposer().propose_stamped(vec![old]).await.unwrap();
        assert_eq!(outcomes, [Ok(Reply::Done)]);
    }
    cluster.shut_down().await;
}
