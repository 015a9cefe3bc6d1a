//! Wires one controller together. Nothing is decided here.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_enrol::{Remembered, Renewal};
use pontoon_kit::rpc::Guarded;
use pontoon_kit::{Backoff, CancellationToken, Credentials, FolderLock, Identity, tls};
use pontoon_model::{EdgeTable, RouteTable};
use pontoon_proto::services::agents_server::AgentsServer;
use pontoon_proto::services::balancers_server::BalancersServer;
use pontoon_proto::services::enrolment_server::EnrolmentServer;
use pontoon_proto::services::peers_server::PeersServer;
use pontoon_proto::services::raft_server::RaftServer;
use pontoon_proto::{KnownControllers, MAX_MESSAGE_BYTES};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::Router;

use crate::acme::AcmeKeeper;
use crate::announce;
use crate::audit::AuditLog;
use crate::blobs::{self, BlobStore, Fetcher, Replicator};
use crate::config::Config;
use crate::edge_keys::EdgeKeysKeeper;
use crate::error::ControllerError;
use crate::leader::{LeaderMemory, Planner, Waiting};
use crate::members::{self, Members};
use crate::peers::PeersService;
use crate::raft::{Consensus, ConsensusConfig, Member, Peers, RaftService};
use crate::rejoin;
use crate::requests::Requests;
use crate::rest::{self, Api, ApiParts, Failures, Limits, Rest, Tls, TokenHash};
use crate::sealing::{self, SealingKeeper, SealingKeys};
use crate::sessions::{
    self, AgentDirectory, AgentsService, BalancersService, Connected, Heard, KnownFeed, Logs, TableFeed, Tails,
};
use crate::tokens::{self, TokenUses};
use crate::trust::{EnrolmentService, Founder, Keeper};

/// Requests under way get this long when the controller stops; streams of logs and sessions are ended at once.
const DRAIN: Duration = Duration::from_secs(3);
/// Then only Raft's streams of the others are left, which never end by themselves.
const GRPC_DRAIN: Duration = Duration::from_millis(200);
/// Handing over leadership and closing the log get this long.
const CONSENSUS_STOP: Duration = Duration::from_secs(10);
/// How often a controller that finds its disk full looks again.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(5);
/// Waiting times while announcing this controller.
const ANNOUNCE_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Runs a controller until `shutdown`, or until a part of it fails.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ControllerError> {
    config.validate()?;
    let _lock = lock(&config.data_dir).await?;
    let OwnFiles { credentials, sealing, token, rest_tls } = OwnFiles::load(&config)?;
    let rest_tls = rest_tls.map(Arc::new);
    let store = BlobStore::open(&config.data_dir)?;
    let audit = AuditLog::open(&config.data_dir, config.name.clone()).map_err(ControllerError::Audit)?;
    let remembered: Vec<SocketAddr> =
        Remembered::in_folder(&config.data_dir).load().known.into_iter().map(|known| known.grpc).collect();
    // The one is below the data folder, the other beside the certificate.
    let was_member = !remembered.is_empty() || sealing.were_in_use();
    let starting = start(&config, consensus_config(&config, &credentials, remembered, was_member));
    let (listeners, consensus, raft_service) = tokio::select! {
        started = starting => started?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let Listeners { grpc, rest } = listeners;
    tracing::info!(name = %config.name, id = %consensus.id(), grpc = %config.grpc, rest = %config.rest, "the controller has started");

    let kept = Kept { token, store, audit, credentials: credentials.clone(), sealing };
    let parts = Parts::new(config, kept, Arc::new(consensus));
    let membership = parts.membership();
    let mut tasks = Tasks::default();
    parts.spawn_background(&mut tasks);
    let tables = parts.spawn_tables(&mut tasks);
    let known = parts.spawn_known(&mut tasks);
    parts.spawn_remembering(&mut tasks, known.clone());
    let served = parts.grpc(raft_service, tables, known);
    let incoming = tls::incoming(grpc, credentials);
    let (grpc_stop, rest_stop) = (CancellationToken::new(), parts.stopping.clone());
    let stopped = grpc_stop.clone().cancelled_owned();
    let mut grpc = Tasks::default();
    grpc.spawn("the gRPC server", async move { served.serve_with_incoming_shutdown(incoming, stopped).await });
    tasks.spawn("the REST server", rest::serve(rest, Rest::new(parts.api()), rest_tls.clone(), rest_stop));

    if let Some(tls) = rest_tls {
        tasks.spawn("the certificate of the REST port", until(parts.stopping.clone(), tls.watch()));
    }

    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = tasks.first_end() => Err(ended),
        ended = grpc.first_end() => Err(ended),
        out = membership => Err(out),
        () = parts.credentials.until_revoked() => Err(ControllerError::ShutOut { name: parts.config.name.clone() }),
        why = parts.consensus.failed() => Err(ControllerError::TaskEnded { task: "consensus", why }),
    };
    // Requests and sessions end first, then leadership is handed over while the gRPC server still carries it.
    tracing::info!("the controller is stopping");
    parts.stopping.cancel();
    tasks.end(DRAIN).await;
    if timeout(CONSENSUS_STOP, parts.consensus.shutdown()).await.is_err() {
        tracing::warn!("consensus did not stop in time");
    }
    grpc_stop.cancel();
    grpc.end(GRPC_DRAIN).await;
    parts.audit.flush().await;
    ended
}

/// Whether the files that `config` names can be used. Nothing is made, taken or listened on.
pub fn check(config: &Config) -> Result<(), ControllerError> {
    OwnFiles::load(config).map(drop)
}

/// What is read before anything is begun.
struct OwnFiles {
    credentials: Credentials,
    sealing: SealingKeys,
    token: Option<TokenHash>,
    rest_tls: Option<Tls>,
}

impl OwnFiles {
    fn load(config: &Config) -> Result<Self, ControllerError> {
        Ok(Self {
            credentials: Credentials::new(Identity::load(&config.tls_dir)?)?,
            sealing: SealingKeys::open(&config.tls_dir)?,
            token: config.token_file.as_deref().map(TokenHash::load).transpose()?,
            rest_tls: config.rest_tls_files().map(Tls::load).transpose()?,
        })
    }
}

/// Takes the data folder, which is made if it is not there: what two controllers would do to one log cannot be undone.
async fn lock(folder: &Path) -> Result<FolderLock, ControllerError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| ControllerError::DataFolder { path: folder.to_owned(), source })?;
    Ok(FolderLock::take(folder).await?)
}

/// Starts the consensus, if need be once there is room on the disk, or with an empty store once the others allow it.
async fn start(
    config: &Config,
    mut consensus: ConsensusConfig,
) -> Result<(Listeners, Consensus, RaftServer<RaftService>), ControllerError> {
    let other = |address: &SocketAddr| *address != config.grpc_address();
    let knows_others = config.members.len() > 1 || consensus.remembered.iter().any(other);
    loop {
        let listeners = Listeners::bind(config).await?;
        let error = match Consensus::start(consensus.clone()).await {
            Ok((consensus, service)) => return Ok((listeners, consensus, service)),
            Err(error) => error,
        };
        // Whoever asks this controller meanwhile shall ask another.
        drop(listeners);
        if error.is_for_want_of_room() {
            tracing::error!("{error}; this controller starts when there is room");
            tokio::time::sleep(LOOK_FOR_ROOM).await;
        } else if error.is_data_loss() && knows_others {
            match rejoin::start_anew(consensus.clone(), config.grpc_address(), error).await {
                Ok((consensus, service)) => return Ok((Listeners::bind(config).await?, consensus, service)),
                // It was removed, and its folder emptied so that it may join anew: whether it may is asked then.
                Err(ControllerError::Rejoin { .. }) if config.join && consensus.was_member => {
                    consensus.was_member = false;
                }
                Err(error) => return Err(error),
            }
        } else if error.is_data_loss() {
            return Err(ControllerError::OnlyCopy(error));
        } else {
            return Err(error.into());
        }
    }
}

/// Bound before anything is touched, so that a busy port is said first.
struct Listeners {
    grpc: TcpListener,
    rest: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ControllerError> {
        Ok(Self { grpc: listen(config.grpc, "gRPC").await?, rest: listen(config.rest, "REST").await? })
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ControllerError> {
    TcpListener::bind(address).await.map_err(|source| ControllerError::Listen { address, purpose, source })
}

fn consensus_config(
    config: &Config,
    credentials: &Credentials,
    remembered: Vec<SocketAddr>,
    was_member: bool,
) -> ConsensusConfig {
    let member =
        |member: &crate::config::MemberConfig| Member { id: member.id, name: member.name.clone(), grpc: member.grpc };
    ConsensusConfig {
        id: config.id,
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        members: config.members.iter().map(member).collect(),
        joins: config.join,
        remembered,
        was_member,
        credentials: credentials.clone(),
        timing: config.timing.times(),
        auto_timing: config.timing.is_auto(),
        compaction: config.store,
    }
}

/// What is on this machine besides the consensus.
struct Kept {
    token: Option<TokenHash>,
    store: BlobStore,
    audit: AuditLog,
    credentials: Credentials,
    sealing: SealingKeys,
}

/// The parts that know each other.
struct Parts {
    config: Config,
    token: Option<TokenHash>,
    audit: AuditLog,
    uses: TokenUses,
    store: BlobStore,
    credentials: Credentials,
    sealing: SealingKeys,
    peers: Peers,
    consensus: Arc<Consensus>,
    fetcher: Fetcher,
    replicator: Replicator,
    memory: LeaderMemory,
    waiting: Waiting,
    heard: Heard,
    directory: AgentDirectory,
    connected: Connected,
    requests: Requests,
    tails: Tails,
    logs: Logs,
    /// Ends everything but consensus and the gRPC server, which hands over leadership.
    stopping: CancellationToken,
}

impl Parts {
    fn new(config: Config, kept: Kept, consensus: Arc<Consensus>) -> Self {
        let Kept { token, store, audit, credentials, sealing } = kept;
        let peers = consensus.peers();
        let directory = AgentDirectory::default();
        Self {
            fetcher: Fetcher::new(store.clone(), peers.clone()),
            replicator: Replicator::new(store.clone(), peers.clone()),
            logs: Logs::new(directory.clone(), peers.clone()),
            tails: Tails::new(peers.clone()),
            requests: Requests::default(),
            memory: LeaderMemory::default(),
            waiting: Waiting::default(),
            heard: Heard::default(),
            stopping: CancellationToken::new(),
            config,
            token,
            audit,
            uses: TokenUses::default(),
            store,
            credentials,
            sealing,
            peers,
            consensus,
            directory,
            connected: Connected::default(),
        }
    }

    fn spawn_background(&self, tasks: &mut Tasks) {
        let stopping = || self.stopping.clone();
        let (feed, leadership) = (self.consensus.feed(), self.consensus.leadership());
        let planner = Planner {
            feed: feed.clone(),
            proposer: self.consensus.proposer(),
            leadership: leadership.clone(),
            memory: self.memory.clone(),
            waiting: self.waiting.clone(),
        };
        tasks.spawn("the planner", never_fails(planner.run(stopping())));
        let relay = sessions::Relay {
            own: self.consensus.id(),
            heard: self.heard.clone(),
            memory: self.memory.clone(),
            peers: self.peers.clone(),
            feed: feed.clone(),
            leadership: leadership.clone(),
        };
        tasks.spawn("the relay", never_fails(relay.run(stopping())));
        let fetching = blobs::fetch_missing(self.fetcher.clone(), self.store.clone(), feed.clone(), stopping());
        tasks.spawn("blob fetching", never_fails(fetching));
        let collecting = blobs::collect_garbage(self.store.clone(), feed.clone(), leadership.clone(), stopping());
        tasks.spawn("blob collection", never_fails(collecting));
        let keeper = Keeper {
            name: self.config.name.to_string(),
            credentials: self.credentials.clone(),
            folder: self.config.tls_dir.clone(),
            feed: feed.clone(),
            proposer: self.consensus.proposer(),
            sealing: self.sealing.clone(),
            reads: self.consensus.reads(),
            leadership: leadership.clone(),
        };
        tasks.spawn("the keeping of trust", never_fails(keeper.run(stopping())));
        tasks.spawn("the keys that values are sealed with", never_fails(self.sealing_keeper().run(stopping())));
        let edge_keys = EdgeKeysKeeper {
            feed: feed.clone(),
            proposer: self.consensus.proposer(),
            sealing: self.sealing.clone(),
            leadership: leadership.clone(),
        };
        tasks.spawn("the keys of balancers", until(stopping(), edge_keys.run()));
        let acme = AcmeKeeper {
            own: self.consensus.id(),
            feed: feed.clone(),
            proposer: self.consensus.proposer(),
            leadership: leadership.clone(),
            heard: self.heard.clone(),
            peers: self.peers.clone(),
            sealing: self.sealing.clone(),
        };
        tasks.spawn("the ordering of certificates", until(stopping(), acme.run()));
        // Who was off while the authority changed is refused by the others, and asks them as any machine does.
        let renewing = Renewal {
            credentials: self.credentials.clone(),
            folder: self.config.tls_dir.clone(),
            asked: watch::channel(0).1,
        };
        let (consensus, own) = (self.consensus.clone(), self.config.grpc_address());
        let known = move || consensus.addresses().into_iter().filter(|address| *address != own).collect();
        tasks.spawn("renewing when refused", until(stopping(), renewing.keep_when_refused(known)));
        if let Some(config) = self.config.founding.clone() {
            let (feed, proposer, sealing) = (feed.clone(), self.consensus.proposer(), self.sealing.clone());
            let founder = Founder { config, feed, proposer, sealing, leadership: leadership.clone() };
            tasks.spawn("the founding", once(stopping(), founder.run()));
        }
        let noting = self.uses.clone().run(self.consensus.proposer());
        tasks.spawn("noting the use of tokens", until(stopping(), noting));
        if let Some(token) = self.token {
            let proposer = self.consensus.proposer();
            let adopting = tokens::adopt(token.digest(), proposer, feed.clone(), leadership.clone());
            tasks.spawn("the first token", once(stopping(), adopting));
        }
        let backoff = Backoff::new(ANNOUNCE_RETRY.0, ANNOUNCE_RETRY.1);
        let (config, id) = (self.config.clone(), self.consensus.id());
        let announcing = announce::announce(config, id, self.consensus.proposer(), feed, leadership, backoff);
        tasks.spawn("the announcement", once(stopping(), announcing));
    }

    fn sealing_keeper(&self) -> SealingKeeper {
        SealingKeeper {
            own: self.consensus.id(),
            keys: self.sealing.clone(),
            feed: self.consensus.feed(),
            proposer: self.consensus.proposer(),
            reads: self.consensus.reads(),
            leadership: self.consensus.leadership(),
            peers: self.peers.clone(),
        }
    }

    /// Gets this controller into the cluster where it is not in it yet; returns when it is out, or stays out.
    fn membership(&self) -> impl Future<Output = ControllerError> + use<> {
        let (consensus, own, name) = (self.consensus.clone(), self.config.grpc_address(), self.config.name.clone());
        let (joins, voter) = (self.config.join && !consensus.is_settled(), self.config.voter);
        let bundles = blobs::whole(self.store.clone(), self.consensus.feed(), self.consensus.reads());
        let keys = sealing::whole(self.sealing.clone(), self.consensus.feed(), self.consensus.reads());
        let whole = async move {
            bundles.await;
            keys.await;
        };
        async move {
            let entered = if consensus.is_replacement() {
                rejoin::take_place(&consensus, own).await
            } else if joins {
                members::join(&consensus, own, voter, whole).await
            } else {
                Ok(())
            };
            match entered {
                Ok(()) => ControllerError::Removed { name, why: members::removed(&consensus, own).await },
                Err(why) => ControllerError::Join { name, why },
            }
        }
    }

    fn spawn_tables(&self, tasks: &mut Tasks) -> (TableFeed<RouteTable>, TableFeed<EdgeTable>) {
        let (routes, publishing) = sessions::publish_tables(self.consensus.feed(), self.stopping.clone());
        tasks.spawn("route publishing", never_fails(publishing));
        let (edge, publishing) = sessions::publish_tables(self.consensus.feed(), self.stopping.clone());
        tasks.spawn("publishing what balancers need besides routes", never_fails(publishing));
        (routes, edge)
    }

    fn spawn_known(&self, tasks: &mut Tasks) -> KnownFeed {
        let (known, publishing) = sessions::publish_controllers(self.consensus.feed(), self.stopping.clone());
        tasks.spawn("publishing where controllers are", never_fails(publishing));
        known
    }

    /// Without its store this controller asks the others what to do, whatever its configuration says of them.
    fn spawn_remembering(&self, tasks: &mut Tasks, mut known: KnownFeed) {
        let file = Remembered::in_folder(&self.config.data_dir);
        let (feed, recovered) = (self.consensus.feed(), self.consensus.recovered_at());
        let remembering = async move {
            // Until then the state is older than what is remembered.
            feed.at(recovered).await;
            loop {
                let told = known.borrow_and_update().to_vec();
                if !told.is_empty() {
                    file.save(KnownControllers { known: told }).await;
                }
                if known.changed().await.is_err() {
                    return;
                }
            }
        };
        tasks.spawn("remembering the controllers", once(self.stopping.clone(), remembering));
    }

    fn grpc(
        &self,
        raft: RaftServer<RaftService>,
        (routes, edge): (TableFeed<RouteTable>, TableFeed<EdgeTable>),
        known: KnownFeed,
    ) -> Router<Guarded> {
        let (feed, leadership) = (self.consensus.feed(), self.consensus.leadership());
        let agents = AgentsService {
            feed: feed.clone(),
            known: known.clone(),
            proposer: self.consensus.proposer(),
            leadership: leadership.clone(),
            directory: self.directory.clone(),
            connected: self.connected.clone(),
            heard: self.heard.clone(),
            logs: self.logs.clone(),
            store: self.store.clone(),
            fetcher: self.fetcher.clone(),
            replicator: self.replicator.clone(),
            sealing: self.sealing.clone(),
            shutdown: self.stopping.clone(),
        };
        let balancers = BalancersService {
            feed: feed.clone(),
            known,
            routes,
            edge,
            proposer: self.consensus.proposer(),
            leadership: leadership.clone(),
            connected: self.connected.clone(),
            heard: self.heard.clone(),
            requests: self.requests.clone(),
            tails: self.tails.clone(),
            sealing: self.sealing.clone(),
            shutdown: self.stopping.clone(),
        };
        let enrolment = EnrolmentService::new(
            feed.clone(),
            self.consensus.reads(),
            self.consensus.proposer(),
            self.sealing.clone(),
        );
        let peers = PeersService {
            feed,
            proposer: self.consensus.proposer(),
            membership: self.consensus.membership(),
            consensus: self.consensus.clone(),
            data_dir: self.config.data_dir.clone(),
            reads: self.consensus.reads(),
            leadership,
            memory: self.memory.clone(),
            store: self.store.clone(),
            logs: self.logs.clone(),
            heard: self.heard.clone(),
            audit: self.audit.clone(),
            connected: self.connected.clone(),
            requests: self.requests.clone(),
            tails: self.tails.clone(),
            sealing: self.sealing.clone(),
            shutdown: self.stopping.clone(),
        };
        pontoon_kit::rpc::server(pontoon_enrol::needs)
            .add_service(raft)
            .add_service(
                PeersServer::new(peers)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(EnrolmentServer::new(enrolment))
            .add_service(
                AgentsServer::new(agents)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                BalancersServer::new(balancers)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
    }

    fn api(&self) -> Api {
        Api::new(ApiParts {
            name: self.config.name.clone(),
            data_dir: self.config.data_dir.clone(),
            members: Members {
                own: self.config.name.clone(),
                id: self.consensus.id(),
                queue: self.consensus.membership(),
                leadership: self.consensus.leadership(),
                peers: self.peers.clone(),
            },
            token: self.token,
            uses: self.uses.clone(),
            failures: Failures::default(),
            audit: self.audit.clone(),
            connected: self.connected.clone(),
            requests: self.requests.clone(),
            tails: self.tails.clone(),
            consensus: self.consensus.clone(),
            feed: self.consensus.feed(),
            proposer: self.consensus.proposer(),
            leadership: self.consensus.leadership(),
            store: self.store.clone(),
            fetcher: self.fetcher.clone(),
            replicator: self.replicator.clone(),
            logs: self.logs.clone(),
            heard: self.heard.clone(),
            waiting: self.waiting.clone(),
            limits: Limits::default(),
            tcp_ports: self.config.tcp_ports,
            sealing: self.sealing.clone(),
            shutdown: self.stopping.clone(),
        })
    }
}

/// Tasks that must run as long as the controller does.
#[derive(Default)]
struct Tasks(JoinSet<(&'static str, String)>);

impl Tasks {
    fn spawn<E, F>(&mut self, name: &'static str, task: F)
    where
        E: std::fmt::Display + Send,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.0.spawn(async move {
            let why = task.await.err().map_or("it returned".to_owned(), |error| error.to_string());
            (name, why)
        });
    }

    /// The first task that ends, which none should.
    async fn first_end(&mut self) -> ControllerError {
        match self.0.join_next().await {
            Some(Ok((task, why))) => ControllerError::TaskEnded { task, why },
            Some(Err(panicked)) => ControllerError::TaskEnded { task: "a background task", why: panicked.to_string() },
            None => ControllerError::TaskEnded { task: "everything", why: "nothing runs".into() },
        }
    }

    /// Waits for their ends, and cuts what is left after `patience`.
    async fn end(mut self, patience: Duration) {
        let _ = timeout(patience, async { while self.0.join_next().await.is_some() {} }).await;
        self.0.shutdown().await;
    }
}

/// Runs `task`, which is done some day, and lasts until `stop`.
async fn once(stop: CancellationToken, task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    let lasting = async {
        task.await;
        std::future::pending().await
    };
    until(stop, lasting).await
}

/// Runs `task` until `stop`.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    tokio::select! {
        () = task => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

async fn never_fails(task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    task.await;
    Ok(())
}
