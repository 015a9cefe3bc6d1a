//! Commands: the changes that may enter the Raft log. Each has an explicit kind, and its payload is one
//! frozen layout per version (`pontoon_model::wire`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pontoon_model::labels::Labels;
use pontoon_model::wire::{self, Envelope, WireError};
use pontoon_model::{
    AcmeAccount, AcmeSettings, AppName, BalancerName, BlobRef, BuildId, BuildOutcome, Capacity, Certificate, Challenge,
    ControllerId, ControllerName, CpuMillis, Digest, Domain, HealthCheck, HostName, Incarnation, Language, MachineRole,
    MemoryBytes, OrderRow, PortSettings, Process, ProcessName, Reach, ReleaseNumber, RuntimeKind, Scope, SealingKeyId,
    Secret, SecretPlace, ServoId, ServoReport, SiteName, Timestamp, TokenId, Traffic, Trouble,
};
use serde::{Deserialize, Serialize};

use crate::level;
use crate::plan::Op;

/// Makes an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateApp {
    /// Its name; refused when taken.
    pub name: AppName,
}

/// Removes an app and everything of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyApp {
    /// Which.
    pub name: AppName,
}

/// Changes the wanted number or size of one process type; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetScale {
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessName,
    /// How many, wherever they fit.
    pub anywhere: Option<u32>,
    /// How many in which site, besides.
    pub in_site: Option<BTreeMap<SiteName, u32>>,
    /// Memory of each.
    pub memory: Option<MemoryBytes>,
    /// CPU of each.
    pub cpu: Option<CpuMillis>,
}

/// Changes the environment; begins a deployment of a new release when one is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEnv {
    /// Whose.
    pub app: AppName,
    /// Names and new values: sealed, once the cluster has a key for that.
    pub set: BTreeMap<String, Secret>,
    /// Names to remove.
    pub unset: Vec<String>,
}

/// Builds a stored source and deploys the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartBuild {
    /// Whose.
    pub app: AppName,
    /// The source: already on a majority of the controllers.
    pub source: BlobRef,
    /// Detected from it.
    pub language: Language,
    /// What the release will start.
    pub processes: BTreeMap<ProcessName, Process>,
    /// How its servos show that they are ready.
    pub health: HealthCheck,
}

/// Deploys an older release again, as a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Whose.
    pub app: AppName,
    /// Which; absent: the newest one before the live release that was live or could be.
    pub to: Option<ReleaseNumber>,
}

/// Replaces all servos by fresh ones of the same release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Whose.
    pub app: AppName,
}

/// Runs a command once in a servo of the live release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOneOff {
    /// Whose.
    pub app: AppName,
    /// A line for `/bin/sh -c`; a simple command takes the shell's place.
    pub command: String,
}

/// Ends a one-off servo that still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOneOff {
    /// Whose.
    pub app: AppName,
    /// Which.
    pub servo: ServoId,
}

/// An agent's session began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterHost {
    /// Its host.
    pub name: HostName,
    /// Where that stands.
    pub site: SiteName,
    /// Which start of the agent; an older one is refused.
    pub incarnation: Incarnation,
    /// What it offers.
    pub capacity: Capacity,
    /// How it runs servos.
    pub runtime: RuntimeKind,
}

/// Servos of a host changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportServos {
    /// Which host.
    pub host: HostName,
    /// Which start of its agent.
    pub incarnation: Incarnation,
    /// What changed.
    pub reports: Vec<ServoReport>,
}

/// A build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportBuild {
    /// Which host ran it.
    pub host: HostName,
    /// Which build.
    pub build: BuildId,
    /// How it ended; a bundle is already on a majority of the controllers.
    pub outcome: BuildOutcome,
}

/// A balancer's session began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBalancer {
    /// Its name.
    pub name: BalancerName,
    /// Where it stands.
    pub site: SiteName,
    /// Where users reach it.
    pub listen: SocketAddr,
}

/// A controller says where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterController {
    /// Its Raft id.
    pub id: ControllerId,
    /// Its name.
    pub name: ControllerName,
    /// Where it stands.
    pub site: SiteName,
    /// For controllers, agents, balancers.
    pub grpc: SocketAddr,
    /// For people and programs.
    pub rest: SocketAddr,
}

/// A controller has left for good: its row goes. One that is not there is fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveController {
    /// Its Raft id: never used again, so that whoever comes back under its name is not meant.
    pub id: ControllerId,
}

/// How patient the controllers that choose by themselves are with each other, from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTiming {
    /// Between two signs of life of the leader, in milliseconds.
    pub heartbeat_ms: u32,
}

/// Cluster-wide settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSettings {
    /// Default host names are `APP.BASE_DOMAIN`.
    pub base_domain: String,
}

/// Changes the labels of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLabels {
    /// Whose.
    pub app: AppName,
    /// Names and new values.
    pub set: Labels,
    /// Names to remove; one that is not there is fine.
    pub unset: Vec<String>,
}

/// Makes the authority that the cluster's certificates come from known to all controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundTrust {
    /// The cluster's name.
    pub cluster: String,
    /// How long certificates are good for, in seconds.
    pub certificate_life: u64,
    /// sha256 of the authority's certificate.
    pub fingerprint: Digest,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Secret,
}

/// Makes a token that lets machines in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateJoinToken {
    /// sha256 of its secret.
    pub secret: Digest,
    /// As what.
    pub role: MachineRole,
    /// Only there.
    pub site: Option<SiteName>,
    /// How long it is good for.
    pub life: Duration,
    /// For how many machines.
    pub uses: u32,
}

/// A token lets nobody in any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeJoinToken {
    /// The first digits of its secret's hash, as people see it.
    pub id: String,
}

/// Lets a machine in. Asked again with the same key it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitMachine {
    /// sha256 of the token's secret.
    pub token: Digest,
    /// As what.
    pub role: MachineRole,
    /// Its name.
    pub name: String,
    /// Where it stands, if it said so.
    pub site: Option<SiteName>,
    /// sha256 of its public key.
    pub key: Digest,
    /// Which authority signed its certificate.
    pub signed_by: Digest,
    /// When that ends.
    pub certificate_ends: Timestamp,
}

/// A machine that belongs has a new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteCertificate {
    /// As what.
    pub role: MachineRole,
    /// Whose.
    pub name: String,
    /// sha256 of its public key.
    pub key: Digest,
    /// Which authority signed it.
    pub signed_by: Digest,
    /// When it ends.
    pub certificate_ends: Timestamp,
}

/// Shuts a machine out for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeMachine {
    /// As what it belonged.
    pub role: MachineRole,
    /// Its name.
    pub name: String,
}

/// Another authority signs from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateAuthority {
    /// Fingerprint of the one that signs now, and has signed the new one.
    pub follows: Digest,
    /// sha256 of the new one's certificate.
    pub fingerprint: Digest,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its certificate as the one before it signed it, PEM.
    pub crossed: String,
    /// Its key, PEM.
    pub key: Secret,
}

/// An authority that no longer signs is no longer trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireAuthority {
    /// Which.
    pub fingerprint: Digest,
    /// Even if that shuts out machines.
    pub force: bool,
}

/// Values are sealed with another key from now on, which a majority of the controllers has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptSealingKey {
    /// The newest one as whoever proposes this knows it.
    pub follows: Option<SealingKeyId>,
    /// The next.
    pub id: SealingKeyId,
}

/// A key that nothing is sealed with any more is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireSealingKey {
    /// Which.
    pub id: SealingKeyId,
}

/// A value that is kept otherwise, and is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resealed {
    /// Where.
    pub place: SecretPlace,
    /// As it is kept there: what is another by now stays.
    pub from: Secret,
    /// Sealed with the newest key.
    pub to: Secret,
}

/// Values that were plain, or sealed with a former key, are sealed with the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseal {
    /// Which.
    pub values: Vec<Resealed>,
}

/// Allows what all members can read by now: see [`crate::level`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaiseFeatureLevel {
    /// One more than the level is.
    pub to: u32,
}

/// Makes an API token; the row is found by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateApiToken {
    /// sha256 of the token.
    pub hash: Digest,
    /// What it is for.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// How long, from the time of its entry on; absent: until it is revoked.
    pub ttl: Option<Duration>,
}

/// Makes the token of a controller's `token_file` the first one, for everything; nothing once there is any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptApiToken {
    /// sha256 of the token.
    pub hash: Digest,
}

/// Ends an API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeApiToken {
    /// Which.
    pub id: TokenId,
}

/// API tokens were used, after a while without a note of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteTokenUse {
    /// Which, and when.
    pub uses: Vec<(TokenId, Timestamp)>,
}

/// An app is reached by a domain too. One that it has already is fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddDomain {
    /// Whose.
    pub app: AppName,
    /// Which.
    pub domain: Domain,
}

/// An app is reached by a domain no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveDomain {
    /// Whose.
    pub app: AppName,
    /// Which.
    pub domain: Domain,
}

/// How an app's requests are treated, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTraffic {
    /// Whose.
    pub app: AppName,
    /// How.
    pub traffic: Traffic,
    /// Refused unless the settings have this version: for who has changed a part of what it read.
    pub after: Option<u64>,
}

/// A certificate for balancers to show. One that is there already is fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutCertificate {
    /// It; checked by who proposes.
    pub certificate: Certificate,
}

/// A certificate is shown no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveCertificate {
    /// Which.
    pub fingerprint: Digest,
}

/// Balancers make cookies and session tickets with another key, and still take those of the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateEdgeKeys {
    /// sha256 of the newest key; none if there is none yet.
    pub follows: Option<Digest>,
    /// The next.
    pub key: Secret,
}

/// Where certificates are ordered from now on, or that none are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAcme {
    /// All of it; none ends the ordering.
    pub settings: Option<AcmeSettings>,
}

/// What has become of the cluster's account with the authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteAcmeAccount {
    /// Refused unless the settings have this version: it is of those.
    pub of: u64,
    /// None where there is none (any more).
    pub account: Option<AcmeAccount>,
    /// What went wrong, if anything.
    pub trouble: Option<Trouble>,
}

/// Where the order of a certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteOrder {
    /// For which host name.
    pub host: String,
    /// None: begin it when it is due, whatever was before.
    pub order: Option<OrderRow>,
}

/// What balancers show the authority for a host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetChallenge {
    /// Which host name.
    pub host: String,
    /// None: nothing any more.
    pub challenge: Option<Challenge>,
}

/// A balancer's session began: how other balancers reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterPeer {
    /// Which; it is registered already.
    pub name: BalancerName,
    /// None: they do not.
    pub reach: Option<Reach>,
}

/// An app's process is reached at a port of every balancer. One that has a port keeps it, and gets the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPort {
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessName,
    /// This one; without it the first of `range` that is free.
    pub port: Option<u16>,
    /// First and last.
    pub range: (u16, u16),
    /// How its connections are treated.
    pub settings: PortSettings,
}

/// No longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovePort {
    /// Whose.
    pub app: AppName,
    /// Which.
    pub port: u16,
}

/// A release runs beside the live one, or gets another part of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBeside {
    /// Whose.
    pub app: AppName,
    /// Which: one that is built.
    pub release: ReleaseNumber,
    /// How many of 100 requests it gets, up to 99; 0: only those to its own host name.
    pub share: u8,
    /// How many servos; absent: as its share asks for.
    pub count: Option<u32>,
}

/// A release runs beside the live one no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndBeside {
    /// Whose.
    pub app: AppName,
    /// Which.
    pub release: ReleaseNumber,
    /// Whether it becomes the live one, with the servos it has.
    pub promote: bool,
}

/// Builds a stored source; the result runs beside the live release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartBuildBeside {
    /// Whose.
    pub app: AppName,
    /// The source: already on a majority of the controllers.
    pub source: BlobRef,
    /// Detected from it.
    pub language: Language,
    /// What the release will start.
    pub processes: BTreeMap<ProcessName, Process>,
    /// How its servos show that they are ready.
    pub health: HealthCheck,
    /// As in [`SetBeside`].
    pub share: u8,
    /// As in [`SetBeside`].
    pub count: Option<u32>,
}

/// Stands for what a later version of Pontoon adds: only a test's build has it.
#[cfg(feature = "next-level")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextLevelProbe {
    /// Whose note.
    pub app: AppName,
    /// The note.
    pub note: String,
}

/// A batch of the leader's decisions; what no longer fits is dropped and planned again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyPlan {
    /// In order.
    pub ops: Vec<Op>,
}

macro_rules! commands {
    ($($(#[$cfg:meta])? $kind:literal, $version:literal => $name:ident,)*) => {
        /// A change that may enter the Raft log.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Command {
            $($(#[$cfg])? #[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        impl Command {
            /// Every command's kind, version and name: the table that golden tests go through.
            pub const KINDS: &[(u16, u16, &str)] = &[$($(#[$cfg])? ($kind, $version, stringify!($name)),)*];

            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $($(#[$cfg])? Self::$name(_) => stringify!($name),)* }
            }

            /// The feature level from which it may be proposed.
            pub fn level(&self) -> u32 {
                match self { $($(#[$cfg])? Self::$name(_) => level::needed($kind, $version),)* }
            }

            /// Its envelope.
            pub fn encode(&self) -> Result<Vec<u8>, WireError> {
                self.encode_after(Vec::new())
            }

            /// Its envelope, behind what `bytes` holds already.
            pub fn encode_after(&self, bytes: Vec<u8>) -> Result<Vec<u8>, WireError> {
                match self {
                    $($(#[$cfg])? Self::$name(command) => wire::seal_after(bytes, $kind, $version, command),)*
                }
            }

            /// Reads one command from the front of `bytes`; returns it and what follows.
            pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
                let (envelope, rest) = Envelope::read(bytes)?;
                let command = match (envelope.kind, envelope.version) {
                    $($(#[$cfg])? ($kind, $version) => Self::$name(envelope.decode()?),)*
                    (kind, version) => return Err(WireError::TooNew { kind, version }),
                };
                match command {
                    // Who went on would reject it, and differ from those who did not.
                    Self::RaiseFeatureLevel(RaiseFeatureLevel { to: level }) if level > level::NEWEST => {
                        Err(WireError::LevelTooNew { level })
                    }
                    command => Ok((command, rest)),
                }
            }
        }

        $($(#[$cfg])? impl From<$name> for Command {
            fn from(command: $name) -> Self { Self::$name(command) }
        })*
    };
}

commands! {
    100, 1 => CreateApp,
    101, 1 => DestroyApp,
    102, 1 => SetScale,
    103, 1 => ChangeEnv,
    104, 1 => StartBuild,
    105, 1 => Rollback,
    106, 1 => Restart,
    107, 1 => RunOneOff,
    108, 1 => EndOneOff,
    110, 1 => RegisterHost,
    111, 1 => ReportServos,
    112, 1 => ReportBuild,
    113, 1 => RegisterBalancer,
    114, 1 => RegisterController,
    115, 1 => ChangeSettings,
    116, 1 => ChangeLabels,
    117, 1 => RaiseFeatureLevel,
    118, 1 => Reseal,
    140, 1 => FoundTrust,
    141, 1 => CreateJoinToken,
    142, 1 => RevokeJoinToken,
    143, 1 => AdmitMachine,
    144, 1 => NoteCertificate,
    145, 1 => RevokeMachine,
    146, 1 => RotateAuthority,
    147, 1 => RetireAuthority,
    148, 1 => AdoptSealingKey,
    149, 1 => RetireSealingKey,
    120, 1 => ApplyPlan,
    130, 1 => RemoveController,
    150, 1 => CreateApiToken,
    151, 1 => AdoptApiToken,
    152, 1 => RevokeApiToken,
    153, 1 => NoteTokenUse,
    160, 1 => SetTiming,
    170, 1 => AddDomain,
    171, 1 => RemoveDomain,
    172, 1 => SetTraffic,
    173, 1 => PutCertificate,
    174, 1 => RemoveCertificate,
    175, 1 => RotateEdgeKeys,
    176, 1 => SetAcme,
    177, 1 => NoteAcmeAccount,
    178, 1 => NoteOrder,
    179, 1 => SetChallenge,
    180, 1 => AddPort,
    181, 1 => RemovePort,
    182, 1 => SetBeside,
    183, 1 => EndBeside,
    184, 1 => StartBuildBeside,
    185, 1 => RegisterPeer,
    #[cfg(feature = "next-level")]
    290, 1 => NextLevelProbe,
}
