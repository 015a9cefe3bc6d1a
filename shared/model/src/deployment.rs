//! Deployments: the moving of an app from one release to another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AppName, DeploymentId, ReleaseNumber, Timestamp};

/// One move of an app to a release (or to fresh servos of the same one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Never reused.
    pub id: DeploymentId,
    /// Whose.
    pub app: AppName,
    /// Where to.
    pub release: ReleaseNumber,
    /// When it began.
    pub started_at: Timestamp,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// How far it is.
    pub phase: Phase,
}

/// How far a deployment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// New servos are placed and started beside the old ones; they get no traffic.
    Starting,
    /// There is no room for all new servos beside the old: ready new ones take traffic while old ones leave, in turns.
    Mixed,
    /// Traffic goes to the new release only; waits until every balancer has that route version.
    Switched {
        /// Raft index of the switch.
        at_version: u64,
        /// When that was.
        at: Timestamp,
    },
    /// It ended well.
    Done {
        /// When.
        at: Timestamp,
    },
    /// It ended; the release that was live before still is.
    Failed {
        /// When.
        at: Timestamp,
        /// What happened and what to do.
        reason: String,
        /// Last lines of a servo that failed, oldest first.
        last_lines: Vec<String>,
    },
}

impl Phase {
    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed { .. })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Mixed => "replacing",
            Self::Switched { .. } => "switching",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
        })
    }
}
