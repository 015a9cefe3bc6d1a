//! The consensus of one controller, put together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::storage::RaftLogStorage;
use pontoon_core::State;
use pontoon_model::{ControllerId, ControllerName};
use pontoon_proto::services::raft_server::RaftServer;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::batcher::Batcher;
use super::compaction::compact;
use super::config::{ConsensusConfig, Member};
use super::events::EventLog;
use super::handover;
use super::health::Health;
use super::leadership::{self, Leadership, Watched};
use super::levels::{HeldBack, Levels};
use super::log_store::{IdentityRecord, LogError, LogStore, identity_in, replace};
use super::membership::{self, MembershipQueue};
use super::network::{Heard, LetIn, Network, RaftService, keep_warm};
use super::peers::{Connections, Peers};
use super::proposer::Proposer;
use super::read::Reads;
use super::runtime;
use super::snapshot::{SnapshotError, SnapshotStore};
use super::state_machine::{StateFeed, StateMachine};
use super::timing::{Chosen, Measuring, Pace, TimingNow};
use super::types::{Peer, Raft, SnapshotMeta};

/// Why the consensus does not start.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The timeouts make no sense.
    #[error("the timing of the controllers cannot be used")]
    Timing(#[source] Box<openraft::ConfigError>),
    /// This controller is not among the members it was given.
    #[error("{id} is not among the members; add it to `members` in the configuration")]
    NotAMember {
        /// This controller.
        id: ControllerId,
    },
    /// openraft refused to start.
    #[error("the consensus of {id} does not start: {why}")]
    Start {
        /// This controller.
        id: ControllerId,
        /// Why.
        why: String,
    },
}

impl ConsensusError {
    /// Whether what was acknowledged is gone from this controller's disk.
    pub fn is_data_loss(&self) -> bool {
        match self {
            Self::Log(error) => matches!(error, LogError::DataLoss { .. }),
            Self::Snapshot(error) => error.is_damage(),
            Self::Timing(_) | Self::NotAMember { .. } | Self::Start { .. } => false,
        }
    }

    /// Whether nothing is lost and all it takes is room on the disk.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Log(LogError::Full { .. }))
    }
}

/// One member, as `GET /v1/controllers` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its Raft id.
    pub id: ControllerId,
    /// Its name.
    pub name: ControllerName,
    /// Its gRPC address.
    pub grpc: SocketAddr,
    /// `leader`, `voter` or `learner`.
    pub role: &'static str,
    /// Last entry known to be on its disk; only known to the leader.
    pub matched: Option<u64>,
}

/// How far a controller's consensus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Raft's term.
    pub term: u64,
    /// Up to where it has applied the log.
    pub applied: u64,
    /// The end of its log.
    pub last: u64,
}

/// The running consensus of this controller.
pub struct Consensus {
    id: ControllerId,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    proposer: Proposer,
    peers: Peers,
    membership: MembershipQueue,
    feed: StateFeed,
    events: EventLog,
    reads: Reads,
    health: Health,
    recovered: u64,
    leadership: watch::Receiver<Leadership>,
    failure: watch::Receiver<Option<String>>,
    pub(super) pace: Pace,
    pub(super) timing: Chosen,
    configured: BTreeMap<u64, SocketAddr>,
    let_in: LetIn,
    _background: DropGuard,
}

impl Consensus {
    /// Opens the log and the snapshot, applies what was committed, joins the others. The service must be
    /// served under the address in `members`.
    pub async fn start(config: ConsensusConfig) -> Result<(Self, RaftServer<RaftService>), ConsensusError> {
        if !config.members.iter().any(|member| member.id == config.id) {
            return Err(ConsensusError::NotAMember { id: config.id });
        }
        let openraft = config.openraft().map_err(|error| ConsensusError::Timing(Box::new(error)))?;
        let Stores { log, snapshots, loaded } = open_stores(raft_folder(&config), config.id, config.was_member).await?;
        // The configuration names the first life of the store; after a loss its identity file names another.
        let id = log.identity().id();
        let (mut state_machine, feed) = match loaded {
            Some((meta, state)) => StateMachine::restored(snapshots.clone(), meta, state),
            None => StateMachine::new(snapshots.clone()),
        };
        let pace = Pace::new(config.timing, config.auto_timing);
        state_machine.sets(pace.clone());
        let events = state_machine.events();
        let recovered = committed_before(&log, id).await?;
        let configured: BTreeMap<u64, SocketAddr> =
            config.members.iter().map(|member| (member.id.0, member.grpc)).collect();
        let network = Network::new(id.0, config.credentials.clone(), configured.clone());
        let starting = Raft::new(id.0, Arc::new(openraft), network.clone(), log.clone(), state_machine);
        let started = pace.scope(starting).await;
        let raft = match started {
            Ok(raft) => raft,
            Err(error) => {
                log.close().await;
                return Err(ConsensusError::Start { id, why: error.to_string() });
            }
        };
        initialize(&raft, &log, &config).await?;

        let heard = Heard::default();
        let Watched { leadership, failure } = leadership::watch_leadership(&raft, heard.clone(), pace.clone());
        let (health, held_back) = (Health::default(), HeldBack::default());
        let batcher = Batcher::start(raft.clone(), feed.clone(), health.clone(), held_back.clone());
        let peers = Peers::new(id, raft.clone(), Connections::new(&config));
        let reads = Reads::start(id, raft.clone(), leadership.clone(), peers.clone());
        let levels = Levels {
            id,
            raft: raft.clone(),
            feed: feed.clone(),
            leadership: leadership.clone(),
            peers: peers.clone(),
            batcher: batcher.clone(),
            held_back,
        };
        let timing = Chosen::new(pace.clone(), log.flush_times());
        let measuring = Measuring {
            id,
            chosen: timing.clone(),
            peers: peers.clone(),
            feed: feed.clone(),
            leadership: leadership.clone(),
            batcher: batcher.clone(),
        };
        let proposer = Proposer::new(id, batcher, leadership.clone(), peers.clone());
        let membership =
            MembershipQueue::start(raft.clone(), leadership.clone(), feed.clone(), proposer.clone(), pace.clone());
        let yielding = handover::yield_when_full(raft.clone(), log.disk_health(), leadership.clone(), pace.clone());
        let compacting = compact(raft.clone(), log.clone(), snapshots.clone(), config.compaction);
        let background = CancellationToken::new();
        runtime::spawn(background.clone().run_until_cancelled_owned(levels.run()));
        runtime::spawn(background.clone().run_until_cancelled_owned(measuring.run()));
        let following = health.clone().follow(config.name.clone(), log.disk_health());
        runtime::spawn(background.clone().run_until_cancelled_owned(following));
        runtime::spawn(background.clone().run_until_cancelled_owned(yielding));
        runtime::spawn(background.clone().run_until_cancelled_owned(compacting));
        runtime::spawn(background.clone().run_until_cancelled_owned(peers.clone().forget_removed()));
        runtime::spawn(background.clone().run_until_cancelled_owned(keep_warm(network, raft.clone())));

        let let_in = LetIn::default();
        if !config.joins || log.is_initialized() || !is_empty(&raft) {
            let_in.now();
        }
        let service =
            RaftServer::new(RaftService::new(id.0, raft.clone(), snapshots, heard, pace.clone(), let_in.clone()))
                .max_decoding_message_size(pontoon_proto::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(pontoon_proto::MAX_MESSAGE_BYTES);
        let consensus = Self {
            id,
            raft,
            log,
            proposer,
            peers,
            membership,
            feed,
            events,
            reads,
            health,
            recovered,
            leadership,
            failure,
            pace,
            timing,
            configured,
            let_in,
            _background: background.drop_guard(),
        };
        Ok((consensus, service))
    }

    /// This controller's Raft id: one life of its store.
    pub fn id(&self) -> ControllerId {
        self.id
    }

    /// Whether this controller's store was set aside and its id is a new one, which may not vote yet.
    pub fn is_replacement(&self) -> bool {
        self.log.identity().replaces().is_some()
    }

    /// Whether this controller was let into a cluster, or was of its first members. It is never let in a second time: who
    /// was removed stays out.
    pub fn is_settled(&self) -> bool {
        self.log.is_initialized()
    }

    /// Remembers that this controller was let in.
    pub async fn settle(&self) -> Result<(), ConsensusError> {
        mark_initialized(&self.log, self.id).await
    }

    /// A leader has agreed that this controller takes part.
    pub fn let_in(&self) {
        self.let_in.now();
    }

    /// How this controller's consensus is.
    pub fn position(&self) -> Position {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Position {
            term: metrics.current_term,
            applied: metrics.last_applied.as_ref().map_or(0, |log| log.index()),
            last: metrics.last_log_index.unwrap_or(0),
        }
    }

    /// Sets this controller's store aside for good and makes an identity with a new id; returns where the old store
    /// is now, and the new id. Only what the leader has allowed: [`MembershipQueue::may_be_replaced`].
    pub async fn set_aside(config: &ConsensusConfig) -> Result<(PathBuf, ControllerId), ConsensusError> {
        let (folder, first) = (raft_folder(config), config.id);
        let aside = runtime::blocking(move || {
            // An identity file that is damaged too says nothing; the configuration names the first life.
            let old = identity_in(&folder).ok().flatten().map_or(first, IdentityRecord::id);
            let (aside, identity) = replace(&folder, old)?;
            Ok((aside, identity.id()))
        });
        aside.await.unwrap_or_else(|error| Err(ConsensusError::Start { id: first, why: error.to_string() }))
    }

    /// Connections to the others by address.
    pub(crate) fn connections(&self) -> Connections {
        self.peers.connections()
    }

    /// The other controllers.
    pub fn peers(&self) -> Peers {
        self.peers.clone()
    }

    /// Where the membership is changed.
    pub fn membership(&self) -> MembershipQueue {
        self.membership.clone()
    }

    /// The way in.
    pub fn proposer(&self) -> Proposer {
        self.proposer.clone()
    }

    /// The way out.
    pub fn feed(&self) -> StateFeed {
        self.feed.clone()
    }

    /// What each entry changed.
    pub fn events(&self) -> EventLog {
        self.events.clone()
    }

    /// What a linearizable read must see.
    pub fn reads(&self) -> Reads {
        self.reads.clone()
    }

    /// What the store says of itself.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The index up to which this controller knew entries to be committed when it started: a state before it is older
    /// than what was read here before.
    pub fn recovered_at(&self) -> u64 {
        self.recovered
    }

    /// How patient it is with the others, and what it has measured of them.
    pub fn timing(&self) -> TimingNow {
        self.timing.now()
    }

    /// Where all members are, and those of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = self.members().into_iter().map(|member| member.grpc).collect();
        all.extend(self.configured.values());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// All members as this controller knows them.
    pub fn members(&self) -> Vec<MemberStatus> {
        let leader = self.leadership.borrow().leader;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let status = |(&id, peer): (&u64, &Peer)| {
            let matched = match &metrics.replication {
                Some(_) if id == self.id.0 => metrics.last_log_index,
                Some(replication) => replication.get(&id).and_then(|matched| matched.as_ref()).map(|log| log.index()),
                None => None,
            };
            let role = match () {
                () if leader == Some(ControllerId(id)) => "leader",
                () if membership::votes(stored.membership(), id) => "voter",
                () => "learner",
            };
            let grpc = self.configured.get(&id).copied().unwrap_or(peer.grpc);
            MemberStatus { id: ControllerId(id), name: peer.name.clone(), grpc, role, matched }
        };
        stored.nodes().map(status).collect()
    }

    /// Waits until the consensus has failed by itself (its disk, an entry of a newer version) and says why.
    pub async fn failed(&self) -> String {
        match leadership::until(&mut self.failure.clone(), Option::clone).await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Hands leadership over if this controller leads, stops, and closes the log.
    pub async fn shutdown(&self) {
        handover::hand_over(&self.raft, &self.leadership, &self.pace).await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not end cleanly");
        }
        self.log.close().await;
    }
}

/// Whether this controller has neither entries nor a snapshot.
fn is_empty(raft: &Raft) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.last_log_index.is_none() && metrics.snapshot.is_none()
}

fn raft_folder(config: &ConsensusConfig) -> PathBuf {
    config.data_dir.join("raft")
}

/// What a controller has on its disk.
pub(super) struct Stores {
    pub(super) log: LogStore,
    snapshots: Arc<SnapshotStore>,
    pub(super) loaded: Option<(SnapshotMeta, State)>,
}

/// Opens what is in `folder`. `was_there` says that it has been used before.
pub(super) async fn open_stores(folder: PathBuf, id: ControllerId, was_there: bool) -> Result<Stores, ConsensusError> {
    let opened = runtime::blocking(move || {
        // What a crash left between the old store and its replacement comes first.
        let identity = identity_in(&folder).map_err(|error| match error {
            LogError::DamagedIdentity { why } => LogError::DataLoss { path: folder.clone(), id, why },
            error => error,
        })?;
        let id = identity.filter(|known| known.replaces().is_some()).map_or(id, IdentityRecord::id);
        let snapshots = Arc::new(SnapshotStore::open(&folder.join("snapshots"))?);
        let loaded = snapshots.load()?;
        let covered = snapshots.covered();
        // A snapshot alone is what a backup was restored to.
        if identity.is_none() && loaded.is_none() && was_there {
            let why = "it is gone".to_owned();
            return Err(LogError::DataLoss { path: folder, id, why }.into());
        }
        #[cfg(test)]
        let log = super::simulation::open_log(id, covered).unwrap_or_else(|| LogStore::open(&folder, id, covered))?;
        #[cfg(not(test))]
        let log = LogStore::open(&folder, id, covered)?;
        Ok(Stores { log, snapshots, loaded })
    });
    opened.await.unwrap_or_else(|error| Err(ConsensusError::Start { id, why: error.to_string() }))
}

/// The index of the newest entry that this store knows to be committed.
async fn committed_before(log: &LogStore, id: ControllerId) -> Result<u64, ConsensusError> {
    let committed = log.clone().read_committed().await;
    let committed = committed.map_err(|error| ConsensusError::Start { id, why: error.to_string() })?;
    Ok(committed.map_or(0, |log_id| log_id.index()))
}

/// Makes the cluster, once in the life of this store. Every first member does it with the same members, which
/// gives the same first entry; whoever was part of a cluster never does it again.
async fn initialize(raft: &Raft, log: &LogStore, config: &ConsensusConfig) -> Result<(), ConsensusError> {
    // Who joins is given the members by the cluster's log.
    if log.is_initialized() || config.joins {
        return Ok(());
    }
    let start = |why: String| ConsensusError::Start { id: config.id, why };
    let peer = |member: &Member| (member.id.0, Peer { name: member.name.clone(), grpc: member.grpc });
    let members: BTreeMap<u64, Peer> = config.members.iter().map(peer).collect();
    match raft.initialize(members).await {
        // Not allowed: a log from before, whose marker a crash left out, or another member was faster.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(start(error.to_string())),
    }
    mark_initialized(log, config.id).await
}

async fn mark_initialized(log: &LogStore, id: ControllerId) -> Result<(), ConsensusError> {
    let log = log.clone();
    let marked = runtime::blocking(move || log.mark_initialized()).await;
    Ok(marked.map_err(|error| ConsensusError::Start { id, why: error.to_string() })??)
}
