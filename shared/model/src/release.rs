//! Releases: bundle and configuration, immutable.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{AppName, BlobRef, BuildId, ProcessName, ReleaseNumber, Secret, Timestamp};

/// A bundle with the configuration it runs under. Never changes after it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Whose.
    pub app: AppName,
    /// v1, v2 …
    pub number: ReleaseNumber,
    /// When it was made.
    pub created_at: Timestamp,
    /// The built files: a tar.zst.
    pub bundle: BlobRef,
    /// Which run image it needs.
    pub language: Language,
    /// What to start, by process type.
    pub processes: BTreeMap<ProcessName, Process>,
    /// Environment of its servos, without what the platform adds.
    pub env: BTreeMap<String, Secret>,
    /// How a servo shows that it is ready.
    pub health: HealthCheck,
    /// Why it was made.
    pub reason: ReleaseReason,
}

/// Why a release exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseReason {
    /// New source was built.
    Deploy {
        /// The build that made the bundle.
        build: BuildId,
    },
    /// The environment changed.
    Env {
        /// Names of the variables that were set or unset.
        keys: Vec<String>,
    },
    /// An older release was asked for again.
    Rollback {
        /// The release that was copied.
        to: ReleaseNumber,
    },
}

impl fmt::Display for ReleaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy { build } => write!(f, "deploy (build {build})"),
            Self::Env { keys } => write!(f, "env: {}", keys.join(", ")),
            Self::Rollback { to } => write!(f, "rollback to {to}"),
        }
    }
}

/// One process type of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// A line for `/bin/sh -c`, so `$PORT` expands; a simple command takes the shell's place.
    pub command: String,
}

/// When a servo counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Ready when `GET path` answers 200 to 399; without it, when a TCP connect succeeds.
    pub path: Option<String>,
    /// How long a new servo may take.
    pub timeout: Duration,
}

impl Default for HealthCheck {
    /// A TCP connect within 60 s: long enough for a JVM on a Raspberry Pi.
    fn default() -> Self {
        Self { path: None, timeout: Duration::from_secs(60) }
    }
}

/// What an app's source is written in: chooses its build and run images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `requirements.txt` through pip.
    Python,
    /// `package.json` through npm.
    Node,
    /// Files served as they are.
    Static,
    /// Whatever its `Procfile` says.
    Procfile,
}

impl Language {
    /// The image in which its source is built.
    pub fn build_image(self) -> &'static str {
        match self {
            Self::Python => "pontoon/build-python:1",
            Self::Node => "pontoon/build-node:1",
            Self::Static => "pontoon/build-static:1",
            Self::Procfile => "pontoon/build-base:1",
        }
    }

    /// The image in which its servos run.
    pub fn run_image(self) -> &'static str {
        match self {
            Self::Python => "pontoon/run-python:1",
            Self::Node => "pontoon/run-node:1",
            Self::Static => "pontoon/run-static:1",
            Self::Procfile => "pontoon/run-base:1",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Static => "static",
            Self::Procfile => "procfile",
        })
    }
}
