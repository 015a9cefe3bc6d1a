//! Builds: source in, bundle out, in an ephemeral container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AppName, BlobRef, BuildId, HealthCheck, HostName, Language, Process, ProcessName, Timestamp};

/// One run of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Never reused.
    pub id: BuildId,
    /// Whose.
    pub app: AppName,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// The uploaded source: a tar.gz.
    pub source: BlobRef,
    /// Detected from the source.
    pub language: Language,
    /// What the release will start.
    pub processes: BTreeMap<ProcessName, Process>,
    /// How the release's servos show that they are ready.
    pub health: HealthCheck,
    /// Where it runs, once placed.
    pub host: Option<HostName>,
    /// How far it is.
    pub state: BuildState,
}

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildState {
    /// Waits for a host.
    Queued,
    /// Placed on a host.
    Running {
        /// When it was placed.
        since: Timestamp,
    },
    /// It ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: BuildOutcome,
    },
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BuildOutcome {
    /// The bundle is stored on a majority of the controllers.
    Succeeded {
        /// The bundle: a tar.zst.
        bundle: BlobRef,
    },
    /// No bundle.
    Failed {
        /// What happened and what to do, in one sentence.
        reason: String,
        /// The last lines of its output, oldest first (bounded as in [`crate::Exit`]).
        last_lines: Vec<String>,
    },
}
