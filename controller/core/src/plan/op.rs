//! The leader's decisions. Each names the version of the row it read; a row that changed since refuses it.

use pontoon_model::{
    AppName, BalancerName, BuildId, DeploymentId, HostName, HostState, ProcessName, ReleaseNumber, ServoId, Size,
};
use serde::{Deserialize, Serialize};

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A host is heard, silent, or lost.
    SetHostState {
        /// Which.
        host: HostName,
        /// As read.
        version: u64,
        /// What it is now.
        state: HostState,
    },
    /// A new servo. Re-checked: the deployment is wanted, the host is up and has the memory.
    PlaceServo {
        /// Whose.
        app: AppName,
        /// Which process type.
        process: ProcessName,
        /// For which deployment.
        deployment: DeploymentId,
        /// Where.
        host: HostName,
        /// How large.
        size: Size,
    },
    /// A servo leaves the routes.
    DrainServo {
        /// Which.
        servo: ServoId,
        /// As read.
        version: u64,
    },
    /// A drained servo ends.
    StopServo {
        /// Which.
        servo: ServoId,
        /// As read.
        version: u64,
    },
    /// A stopped servo's host is lost: nobody will report its end.
    ForgetServo {
        /// Which.
        servo: ServoId,
        /// As read.
        version: u64,
    },
    /// A build begins.
    PlaceBuild {
        /// Which.
        build: BuildId,
        /// As read.
        version: u64,
        /// Where.
        host: HostName,
    },
    /// A build's host is lost: it waits for another.
    QueueBuild {
        /// Which.
        build: BuildId,
        /// As read.
        version: u64,
    },
    /// A build cannot be placed.
    FailBuild {
        /// Which.
        build: BuildId,
        /// As read.
        version: u64,
        /// For its user.
        reason: String,
    },
    /// There is no room beside the old servos: replace them in turns.
    MixDeployment {
        /// Which.
        deployment: DeploymentId,
        /// As read.
        version: u64,
    },
    /// Traffic goes to the new release. Re-checked: all its servos are ready.
    SwitchDeployment {
        /// Which.
        deployment: DeploymentId,
        /// As read.
        version: u64,
    },
    /// Every balancer has the switch.
    FinishDeployment {
        /// Which.
        deployment: DeploymentId,
        /// As read.
        version: u64,
    },
    /// The old release stays live.
    FailDeployment {
        /// Which.
        deployment: DeploymentId,
        /// As read.
        version: u64,
        /// For its user.
        reason: String,
        /// Of a servo that failed.
        last_lines: Vec<String>,
    },
    /// An old release nobody can want back by default.
    ForgetRelease {
        /// Whose.
        app: AppName,
        /// Which.
        number: ReleaseNumber,
    },
    /// An old build's record.
    ForgetBuild {
        /// Which.
        build: BuildId,
    },
    /// An old deployment's record.
    ForgetDeployment {
        /// Which.
        deployment: DeploymentId,
    },
    /// A balancer that has been silent for a day.
    ForgetBalancer {
        /// Which.
        name: BalancerName,
        /// As read.
        version: u64,
    },
}
