//! What controllers answer.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_model::labels::Labels;
use pontoon_model::{
    AppName, BalancerName, BuildId, CpuMillis, DeploymentId, Digest, HostName, Language, MemoryBytes, ProcessName,
    ReleaseNumber, Scope, ServoId, SiteName, TokenId,
};
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, ErrorDetail};

/// The cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the answering controller.
    pub version: String,
    /// Name of the answering controller.
    pub controller: String,
    /// Name of the leading controller, if any.
    pub leader: Option<String>,
    /// Whether that one does not answer the answering controller. False for who sees one app only.
    #[serde(default)]
    pub leader_silent: bool,
    /// Raft index the answer is based on.
    pub index: u64,
    /// Controllers heard by the leader, of all.
    pub controllers: u32,
    /// Hosts that are up, of all.
    pub hosts_up: u32,
    /// All hosts.
    pub hosts: u32,
    /// Balancers.
    pub balancers: u32,
    /// Apps.
    pub apps: u32,
    /// Servos that are ready.
    pub servos_ready: u32,
    /// All servos.
    pub servos: u32,
    /// What the controllers may write, so that all of them can read it: it rises by itself when all run a version that can.
    #[serde(default)]
    pub feature_level: u32,
    /// Default host names end with it.
    pub base_domain: String,
    /// What is not as it should be, one sentence each.
    pub problems: Vec<String>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Where it is reached: host names, the default one first.
    pub domains: Vec<String>,
    /// URLs of it through each balancer.
    pub urls: Vec<String>,
    /// The release that takes traffic.
    pub live: Option<ReleaseNumber>,
    /// The deployment under way.
    pub deployment: Option<DeploymentId>,
    /// Wanted number and size, by process type.
    pub scale: BTreeMap<ProcessName, AppScale>,
    /// What people and programs note about it.
    #[serde(default)]
    pub labels: Labels,
    /// Servos that are ready and live.
    pub ready: u32,
    /// What it waits for, e.g. why a servo cannot be placed; one sentence each.
    pub waiting: Vec<String>,
}

/// Wanted number and size of one process type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppScale {
    /// Wherever they fit.
    pub count: u32,
    /// Bound to a site, besides.
    pub sites: BTreeMap<SiteName, u32>,
    /// Of each, in bytes.
    pub memory: MemoryBytes,
    /// Of each, in thousandths of a core.
    pub cpu: CpuMillis,
}

/// A change was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Raft index of the change.
    pub index: u64,
    /// The release it made, if any.
    pub release: Option<ReleaseNumber>,
    /// The deployment it began, if any.
    pub deployment: Option<DeploymentId>,
}

/// What became of one item of a list of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemChanged {
    /// Raft index of the entry that holds the whole list.
    pub index: u64,
    /// Why this item changed nothing; null when it was applied.
    pub error: Option<ErrorDetail>,
}

/// An uploaded source, inspected and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// sha256 of the archive.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Files in it.
    pub files: u64,
    /// What it is written in.
    pub language: Language,
    /// What the release will start, by process type.
    pub processes: BTreeMap<ProcessName, String>,
    /// How it was told, e.g. `requirements.txt`.
    pub because: String,
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// Whose.
    pub app: AppName,
    /// `queued`, `running`, `succeeded` or `failed`.
    pub state: String,
    /// Where it runs.
    pub host: Option<HostName>,
    /// What it is written in.
    pub language: Language,
    /// Why it waits or failed.
    pub reason: Option<String>,
    /// The last lines of a failed build.
    pub last_lines: Vec<String>,
    /// The release it made.
    pub release: Option<ReleaseNumber>,
    /// The deployment it began.
    pub deployment: Option<DeploymentId>,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Whose.
    pub app: AppName,
    /// Where to.
    pub release: ReleaseNumber,
    /// `starting`, `replacing`, `switching`, `done` or `failed`.
    pub state: String,
    /// New servos that are ready.
    pub ready: u32,
    /// New servos wanted.
    pub wanted: u32,
    /// What it waits for, or why it failed.
    pub reason: Option<String>,
    /// Last lines of a servo that failed.
    pub last_lines: Vec<String>,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number.
    pub number: ReleaseNumber,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Whether it takes traffic.
    pub live: bool,
    /// Why it was made.
    pub reason: String,
    /// What it is written in.
    pub language: Language,
    /// sha256 of its bundle.
    pub bundle: Digest,
    /// Length of its bundle in bytes.
    pub bundle_size: u64,
}

/// A servo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servo {
    /// Its id.
    pub id: ServoId,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessName,
    /// Which release.
    pub release: ReleaseNumber,
    /// Where.
    pub host: HostName,
    /// Where that is.
    pub site: SiteName,
    /// `placed`, `starting`, `ready`, `exited`, `lost`, `draining` or `stopping`.
    pub state: String,
    /// Whether it takes traffic.
    pub routed: bool,
    /// Where it listens.
    pub address: Option<String>,
    /// Memory limit in bytes.
    pub memory: MemoryBytes,
    /// Whether the limit is enforced.
    pub limits_enforced: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Unix milliseconds.
    pub created_at: u64,
    /// How its process last ended, though it may run again.
    pub exit: Option<Exit>,
    /// The command of a one-off servo.
    pub one_off: Option<String>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when signalled.
    pub code: i32,
    /// In words.
    pub reason: String,
    /// Its last lines.
    pub last_lines: Vec<String>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// Where it stands.
    pub site: SiteName,
    /// `up`, `suspect` or `lost`; `revoked` until the last servo of a host that was has gone.
    pub state: String,
    /// `docker` or `process`.
    pub runtime: String,
    /// For servos, in bytes.
    pub memory: MemoryBytes,
    /// Reserved by servos, in bytes.
    pub memory_used: MemoryBytes,
    /// Cores, in thousandths.
    pub cpu: CpuMillis,
    /// Servos on it.
    pub servos: u32,
}

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Its Raft id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: SiteName,
    /// `leader`, `voter`, `learner`, or `removed` while its entry is being removed.
    pub role: String,
    /// Its gRPC address.
    pub grpc: String,
    /// Its REST address.
    pub rest: String,
    /// Newest log index it is known to have.
    pub matched: Option<u64>,
    /// Whether it answered the controller that was asked.
    #[serde(default)]
    pub reachable: bool,
    /// Its version of Pontoon; this and all below only of one that answered.
    #[serde(default)]
    pub version: Option<String>,
    /// Raft's term.
    #[serde(default)]
    pub term: Option<u64>,
    /// Up to which index it has applied the log.
    #[serde(default)]
    pub applied: Option<u64>,
    /// Entries that the leader has and it has not applied.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Bytes free where it keeps its data.
    #[serde(default)]
    pub free_disk: Option<MemoryBytes>,
    /// The newest feature level it can read and write.
    #[serde(default)]
    pub feature_level: Option<u32>,
    /// Its clock less that of the controller that was asked, in milliseconds; good to half a round trip.
    #[serde(default)]
    pub clock_offset_ms: Option<i64>,
    /// Sources and bundles it does not have yet.
    #[serde(default)]
    pub missing_blobs: Option<u64>,
    /// How patient it is with the others.
    #[serde(default)]
    pub timing: Option<ControllerTiming>,
    /// What speaks against its place or its timing, in sentences.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// When a controller takes the leader for lost, and what that is chosen from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerTiming {
    /// Whether it is what the leader chose for all; otherwise its configuration says so.
    pub auto: bool,
    /// Between two signs of life of a leader, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest silence before an election, in milliseconds.
    pub election_min_ms: u64,
    /// The longest.
    pub election_max_ms: u64,
    /// A slow flush of its log, in microseconds.
    pub flush_us: u64,
    /// A round trip from the leader, in microseconds; none for the leader itself, and before it was measured.
    pub round_trip_us: Option<u64>,
}

/// What is in the way of upgrading Pontoon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// What the controllers write, so that all of them can read it.
    pub feature_level: u32,
    /// Who runs which version: controllers, agents, balancers.
    pub running: Vec<RunningVersion>,
    /// What must be mended first, in sentences; nothing if all is well.
    pub obstacles: Vec<String>,
    /// What does not forbid it, in sentences.
    pub warnings: Vec<String>,
}

/// A machine of the cluster and the version of Pontoon on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningVersion {
    /// `controller`, `agent` or `balancer`.
    pub role: String,
    /// Its name.
    pub name: String,
    /// Its version; none if it is not reached, or too old to say.
    pub version: Option<String>,
    /// Whether it answers, or is connected to a controller that does.
    pub connected: bool,
    /// The newest feature level it can read; of controllers only.
    pub feature_level: Option<u32>,
}

/// How far a change of who the controllers are is. Asked for again while it is not done, it shows how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChanged {
    /// Whether it is done (200), or goes on (202).
    pub done: bool,
    /// What it waits for, if it goes on.
    pub how_far: Option<String>,
    /// Whether the key of a controller that was removed is worth nothing any more.
    #[serde(default)]
    pub revoked: bool,
}

/// A balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancer {
    /// Its name.
    pub name: BalancerName,
    /// Where it stands.
    pub site: SiteName,
    /// Where users reach it.
    pub listen: String,
    /// The route version it has acknowledged, where the answering controller knows it.
    pub applied: Option<u64>,
    /// How the balancers of other sites reach it: an address, or `dials-out` if it connects to them; none: they do not.
    #[serde(default)]
    pub peer: Option<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// As in the `Host` header.
    pub host: String,
    /// Whose.
    pub app: AppName,
    /// The live release.
    pub release: Option<ReleaseNumber>,
    /// Where requests go.
    pub servos: Vec<RouteTarget>,
    /// Requests a second of the app (of all its host names, previews included) in the last ten seconds, where it was asked for;
    /// with routes of the live release only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Requests of the app that are being answered, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
}

/// One servo of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// Which.
    pub id: ServoId,
    /// Where it stands.
    pub site: SiteName,
    /// Where it listens.
    pub address: String,
    /// Whether its host has been silent for some seconds: it is tried after the others.
    #[serde(default)]
    pub suspect: bool,
    /// Requests in flight to it from all balancers, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Balancers that try it after the others since it failed, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_by: Option<u32>,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Unix milliseconds, where known.
    pub at: Option<u64>,
    /// Which servo or build wrote it, e.g. `web.s12` or `build.b3`.
    pub source: String,
    /// Written to stderr.
    pub stderr: bool,
    /// Without the line end.
    pub text: String,
}

/// An API token, without the token itself: that is known to its owner only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub name: String,
    /// What it allows: `admin`, `read`, `deploy:APP`.
    pub scopes: BTreeSet<Scope>,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Unix milliseconds; from then on it is refused.
    pub expires_at: Option<u64>,
    /// Unix milliseconds, to the hour.
    pub last_used_at: Option<u64>,
    /// Whether its time is over.
    pub expired: bool,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// Raft index of the change.
    pub index: u64,
    /// For `Authorization: Bearer`; shown this once and stored nowhere.
    pub token: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub row: Token,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CreatedToken {{ token: [hidden], row: {:?} }}", self.row)
    }
}

/// What was asked of the controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Newest last.
    pub records: Vec<AuditRecord>,
    /// Controllers whose records are not among them, and why, one sentence each.
    pub missing: Vec<String>,
}

impl Audit {
    /// Most records of one answer: 1 KB each at most, and all of them go through one message between controllers.
    pub const MOST: u32 = 1_000;
}

/// A change that was asked for over REST, or a request that was not let in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Unix milliseconds, by the controller's clock.
    pub at: u64,
    /// Who was asked.
    pub controller: String,
    /// Whose token.
    pub token: Option<TokenId>,
    /// What that token is for.
    pub token_name: Option<String>,
    /// The client's address.
    pub from: Option<String>,
    /// An endpoint's name, or `NoToken`, `WrongToken`, `ExpiredToken`, or `LeftOut`.
    pub action: String,
    /// HTTP method.
    pub method: Option<String>,
    /// Without what follows `?`.
    pub path: Option<String>,
    /// The app in the path.
    pub app: Option<String>,
    /// HTTP status.
    pub status: u16,
    /// Why not, if it was refused.
    pub error: Option<ErrorCode>,
    /// Raft index of the change.
    pub index: Option<u64>,
    /// So many records were left out, since the disk did not take them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
}
