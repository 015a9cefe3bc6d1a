//! What the consensus of one controller needs to know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pontoon_kit::Credentials;
use pontoon_model::{ControllerId, ControllerName};
use serde::Deserialize;

/// A controller among the first voters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its Raft id: random, never reused.
    pub id: ControllerId,
    /// As people see it.
    pub name: ControllerName,
    /// Where its gRPC server answers. Wins over the address in the replicated membership, so that a
    /// cluster whose addresses changed can be started with edited configuration files.
    pub grpc: SocketAddr,
}

/// How fast a lost leader is noticed. Failover takes about `election_max` + (`election_min`..`election_max`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between signs of life of the leader; at least a round trip and a slow flush.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower asks to lead; at least three heartbeats.
    pub election_min: Duration,
    /// Longest; counted twice in a failover, so keep it near the shortest.
    pub election_max: Duration,
}

impl Timing {
    /// For round trips of a few milliseconds: failover in about a second.
    pub fn lan() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(500),
        }
    }

    /// For round trips of 80 ms: failover in about 2.5 s.
    pub fn wan() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(800),
            election_max: Duration::from_millis(1_200),
        }
    }
}

/// How much log there may be before a snapshot is made, and behind one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compaction {
    /// Bytes of log after which a snapshot is made, or as many as the last snapshot has if that is more: replaying as
    /// much takes a few seconds, and a snapshot never costs more than what was logged since the one before.
    pub snapshot_bytes: u64,
    /// Bytes of log kept behind a snapshot at most, however few entries that is. A controller that was away for more
    /// than is kept gets a snapshot.
    pub kept_bytes: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { snapshot_bytes: 64 * 1024 * 1024, kept_bytes: 256 * 1024 * 1024 }
    }
}

/// Everything [`super::Consensus::start`] needs.
#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    /// This controller's Raft id.
    pub id: ControllerId,
    /// This controller's name.
    pub name: ControllerName,
    /// Folder of this controller's data; the log and snapshots go to `raft/` in it.
    pub data_dir: PathBuf,
    /// The first voters, this controller among them; if it joins, those through whom it does.
    pub members: Vec<Member>,
    /// Whether it is let into a cluster that others have made.
    pub joins: bool,
    /// Where the other controllers were when it last ran; asked beside `members` for what any member may say.
    pub remembered: Vec<SocketAddr>,
    /// Whether it was a member before: a store that is not there at all is lost then, and not a new one.
    pub was_member: bool,
    /// This controller's certificate, for the connections to the others.
    pub credentials: Credentials,
    /// Timeouts; with `auto_timing` those to begin with, [`Timing::lan`].
    pub timing: Timing,
    /// Whether the timeouts are those that the leader chooses for all.
    pub auto_timing: bool,
    /// When the log is compacted.
    pub compaction: Compaction,
}

/// Entries kept behind a snapshot, so that a controller that was away for a while needs no snapshot.
const KEPT_ENTRIES: u64 = 20_000;

/// Entries in one message to a follower at most; the log store also limits their bytes.
const MESSAGE_ENTRIES: u64 = 300;

/// openraft tells a snapshot's sender to give up after this; our own deadline watches progress instead.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(3_600);

impl ConsensusConfig {
    /// openraft's own configuration.
    pub(super) fn openraft(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        openraft::Config {
            cluster_name: "pontoon".to_owned(),
            heartbeat_interval: millis(self.timing.heartbeat),
            election_timeout_min: millis(self.timing.election_min),
            election_timeout_max: millis(self.timing.election_max),
            enable_pre_vote: Some(true),
            // `committed` is stored without a sync, so after a power cut the state may be older than what was
            // acknowledged. A new election's first entry brings it up to date before anyone leads.
            enable_leader_restore: Some(false),
            max_payload_entries: MESSAGE_ENTRIES,
            // By the log's bytes, in `consensus.rs`: an entry holds one command or a thousand.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: KEPT_ENTRIES,
            install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
            ..openraft::Config::default()
        }
        .validate()
    }
}
