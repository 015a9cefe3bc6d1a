//! What one host shall run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    AppName, BlobRef, BuildId, DeploymentId, Desired, HealthCheck, HostName, Language, ProcessName, ReleaseNumber,
    ServoId, Size,
};

/// Everything one host shall run; what is not listed shall not be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// For whom.
    pub host: HostName,
    /// Raft index of its last change: an older one is stale and ignored.
    pub generation: u64,
    /// The servos, ordered by id.
    pub servos: Vec<ServoSpec>,
    /// The builds, ordered by id.
    pub builds: Vec<BuildSpec>,
}

/// All an agent needs to run one servo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServoSpec {
    /// Which.
    pub id: ServoId,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessName,
    /// Which release.
    pub release: ReleaseNumber,
    /// For which deployment.
    pub deployment: DeploymentId,
    /// Which run image.
    pub language: Language,
    /// Its files: a tar.zst.
    pub bundle: BlobRef,
    /// A line for `/bin/sh -c`; a simple command takes the shell's place.
    pub command: String,
    /// Its environment, with what the platform adds, but without PORT.
    pub env: BTreeMap<String, String>,
    /// Its limits.
    pub size: Size,
    /// When it is ready. Only servos that take HTTP traffic (`listens`) are checked.
    pub health: HealthCheck,
    /// Whether it listens on PORT: gets an outside port and is checked. Others are ready when started.
    pub listens: bool,
    /// Runs once, is not restarted.
    pub one_off: bool,
    /// What is wanted of it.
    pub desired: Desired,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// All an agent needs for one build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// Which.
    pub id: BuildId,
    /// Whose.
    pub app: AppName,
    /// The source: a tar.gz.
    pub source: BlobRef,
    /// Which build image.
    pub language: Language,
    /// The app's environment, given to the build.
    pub env: BTreeMap<String, String>,
    /// Its limits.
    pub size: Size,
    /// It fails when it takes longer.
    pub timeout: Duration,
}
