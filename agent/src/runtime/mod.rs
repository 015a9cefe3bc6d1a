//! How servos are run: what the reconciler asks of Docker, of plain processes, or of a pretended engine.

pub mod docker;
pub mod fake;
pub mod process;
mod shell;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use pontoon_model::{BuildSpec, Digest, MemoryBytes, RuntimeKind, ServoId, ServoSpec, Timestamp};
use pontoon_proto::LogLine;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::diff::Origin;

/// A servo as its runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub servo: ServoId,
    /// What it was made from, where its labels say so.
    pub origin: Option<Origin>,
    /// What it does.
    pub state: FoundState,
    /// The outside port it is published on.
    pub port: Option<u16>,
    /// Where this host reaches the servo's own port, past any proxy that accepts before the servo does.
    pub probe: Option<SocketAddr>,
    /// Whether its memory limit is enforced.
    pub limits_enforced: bool,
}

/// What a found servo does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundState {
    /// Its process runs.
    Running,
    /// Its process ended, or was never started (no code).
    Ended {
        /// Exit code, or 128 + signal.
        code: Option<i32>,
        /// It used more memory than it may.
        out_of_memory: bool,
    },
}

/// What is needed to make a servo.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The servo.
    pub spec: ServoSpec,
    /// Its files: a tar.zst that was checked.
    pub bundle: PathBuf,
    /// Its outside port, if it listens.
    pub port: Option<u16>,
}

/// What is needed for a build.
#[derive(Debug)]
pub struct BuildJob {
    /// The build.
    pub spec: BuildSpec,
    /// Its source: a tar.gz that was checked.
    pub source: PathBuf,
    /// Where the bundle is to be written (a tar.zst).
    pub bundle: PathBuf,
    /// Takes its output, line by line.
    pub output: mpsc::Sender<LogLine>,
    /// Ends it early.
    pub cancel: CancellationToken,
}

/// What happened in the runtime, so that nobody has to poll it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something of ours began, ended or went away: look again.
    Changed,
    /// A servo's process ended; said at once, where looking would still find it running.
    Ended {
        /// Which.
        servo: ServoId,
        /// Exit code, or 128 + signal.
        code: Option<i32>,
        /// It used more memory than it may.
        out_of_memory: bool,
        /// When.
        at: Timestamp,
    },
}

/// Why a runtime could not do what it was asked; the text goes to the user.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime does not answer.
    #[error("{runtime} does not answer: {why}")]
    Unreachable {
        /// Which.
        runtime: RuntimeKind,
        /// What it said.
        why: String,
    },
    /// An image is missing.
    #[error("image {0} is not on this host; run `pontoon images build` there")]
    ImageMissing(String),
    /// The outside port is in use by something else.
    #[error("port {0} is already in use on this host")]
    PortTaken(u16),
    /// A servo could not be made or started.
    #[error("cannot start servo {servo}: {why}")]
    Start {
        /// Which.
        servo: ServoId,
        /// Why.
        why: String,
    },
    /// A servo could not be stopped or removed.
    #[error("cannot stop servo {servo}: {why}")]
    Stop {
        /// Which.
        servo: ServoId,
        /// Why.
        why: String,
    },
    /// A bundle could not be made ready to run.
    #[error("cannot prepare bundle {bundle:?}: {why}")]
    Prepare {
        /// Which.
        bundle: Digest,
        /// Why.
        why: String,
    },
    /// A build ended without a bundle; the text is the whole reason.
    #[error("{0}")]
    Build(String),
    /// There is no log: nothing of the servo is there, or it is just being removed.
    #[error("servo {0} has no log on this host")]
    NoLog(ServoId),
    /// A log could not be read.
    #[error("cannot read the log of servo {servo}: {why}")]
    Log {
        /// Which.
        servo: ServoId,
        /// Why.
        why: String,
    },
}

/// Runs servos and builds. Every call names what it works on, and may be repeated.
pub trait Runtime: Send + Sync + 'static {
    /// Which kind it is.
    fn kind(&self) -> RuntimeKind;

    /// All servos of this agent, running or not.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>>;

    /// Makes and starts a servo.
    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>>;

    /// Starts an ended servo's process again.
    fn restart(&self, launch: Launch) -> BoxFuture<'_, Result<Found, RuntimeError>>;

    /// Ends a servo's process: SIGTERM, SIGKILL after `grace`. Returns when it has ended.
    fn stop(&self, servo: ServoId, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Removes everything of a servo, which is ended if it still runs.
    fn remove(&self, servo: ServoId) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Sends what happens from now on, until the receiver is dropped.
    fn events(&self) -> mpsc::Receiver<RuntimeEvent>;

    /// A servo's output: the newest `tail` lines or all, later than `since`, then, with `follow`, what comes until it ends.
    fn logs(
        &self,
        servo: ServoId,
        tail: Option<u32>,
        since: Option<Timestamp>,
        follow: bool,
    ) -> BoxStream<'static, Result<LogLine, RuntimeError>>;

    /// Runs a build to its end. On success the bundle is where the job says.
    fn build(&self, job: BuildJob) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Removes what builds of an earlier life left.
    fn clear_builds(&self) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Forgets prepared bundles that are not in `keep`, but the newest.
    fn collect_garbage(&self, keep: Vec<Digest>) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Removes what only exists for servos and is shared with other agents of the cluster, as far as none of them uses
    /// it; with `caches`, the builds' caches too.
    fn leave(&self, caches: bool) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Memory that is used or reserved by what is not ours.
    fn foreign_memory(&self) -> BoxFuture<'_, Result<MemoryBytes, RuntimeError>>;
}
