//! Servos: containers of a release on a host. Three writers, three parts: what it is (fixed at
//! placement), `desired` (the leader's planner), `status` (the host's agent).

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{AppName, DeploymentId, HostName, ProcessName, ReleaseNumber, ServoId, SiteName, Size, Timestamp};

/// One container of one release on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servo {
    /// Never reused.
    pub id: ServoId,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessName,
    /// Which release.
    pub release: ReleaseNumber,
    /// For which deployment it was placed: decides whether it is live.
    pub deployment: DeploymentId,
    /// Where.
    pub host: HostName,
    /// The host's site.
    pub site: SiteName,
    /// Its limits.
    pub size: Size,
    /// When it was placed.
    pub created_at: Timestamp,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// For a one-off servo: the command in place of the process's. It gets no traffic and no restart.
    // Rare in a table of a million rows: a pointer, and no room for a `String`.
    pub one_off: Option<Box<str>>,
    /// What the planner wants of it.
    pub desired: Desired,
    /// What its agent last said of it.
    pub status: ServoStatus,
    /// Where it listens, once ready: the host's address and the published port.
    pub address: Option<SocketAddr>,
    /// How often its process was started again.
    pub restarts: u32,
    /// How its process last ended, though it runs again.
    pub last_exit: Option<Box<Exit>>,
    /// Whether its memory limit is enforced (`process` runtimes may not be able to).
    pub limits_enforced: bool,
}

impl Servo {
    /// Whether it could be sent requests: wanted, ready, and at a known address.
    pub fn takes_requests(&self) -> bool {
        self.desired.is_run() && self.status == ServoStatus::Ready && self.address.is_some()
    }
}

/// What the planner wants of a servo. Only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Desired {
    /// Run, and take traffic when ready and live.
    Run,
    /// Take no new traffic; keep running until balancers have let go.
    Drain {
        /// Raft index at which it left the routes.
        since_version: u64,
        /// When that was.
        since: Timestamp,
    },
    /// End: SIGTERM, grace, SIGKILL, removed.
    Stop,
}

impl Desired {
    /// Whether the servo shall stay.
    pub fn is_run(self) -> bool {
        matches!(self, Self::Run)
    }
}

/// What an agent says of a servo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServoStatus {
    /// Not yet seen by its agent.
    Placed,
    /// Being fetched, created or started; not ready.
    Starting,
    /// Its check succeeded.
    Ready,
    /// Its process ended; its agent may start it again.
    // Boxed, for the many that run: an `Exit` would make every servo's row 40 bytes larger.
    Exited(Box<Exit>),
    /// It ended for good and its agent keeps nothing of it; the row is about to go.
    Gone,
}

impl ServoStatus {
    /// [`Self::Exited`].
    pub fn exited(exit: Exit) -> Self {
        Self::Exited(Box::new(exit))
    }

    /// One word for tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Exited(_) => "exited",
            Self::Gone => "gone",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when it was signalled; -1 when it never started.
    pub code: i32,
    /// What happened, in words, e.g. `exited with code 1 after 0.2 s` or `not ready within 60 s`.
    pub reason: String,
    /// The last lines it printed, oldest first (at most [`Exit::MAX_LINES`], each at most [`Exit::MAX_LINE`] bytes).
    pub last_lines: Vec<String>,
}

impl Exit {
    /// Enough to see a traceback; small enough for the replicated state.
    pub const MAX_LINES: usize = 20;
    /// Longest kept line, in bytes.
    pub const MAX_LINE: usize = 400;
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// A change of one servo, as its agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServoReport {
    /// Which.
    pub servo: ServoId,
    /// Its new status: `Starting`, `Ready`, `Exited` or `Gone`.
    pub status: ServoStatus,
    /// Where it listens; set with `Ready`.
    pub address: Option<SocketAddr>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether its memory limit is enforced.
    pub limits_enforced: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_small() {
        // A million of them are kept in memory.
        assert!(size_of::<Servo>() <= 224, "{}", size_of::<Servo>());
    }
}
