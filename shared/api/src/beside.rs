//! Releases that run beside an app's live one: canaries and previews.

use pontoon_model::{BuildId, DeploymentId, ReleaseNumber};
use serde::{Deserialize, Serialize};

/// How a release runs beside the live one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBeside {
    /// How many of 100 requests to the app it gets, up to 99; 0: only those to its own host name.
    #[serde(default)]
    pub share: u8,
    /// How many servos; absent: its share of the live release's, rounded up, one at least.
    #[serde(default)]
    pub servos: Option<u32>,
}

/// A release that runs beside the live one, or will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Which; none while it is built.
    pub release: Option<ReleaseNumber>,
    /// What builds it, until it is built.
    pub build: Option<BuildId>,
    /// What brought it, or makes it live.
    pub deployment: Option<DeploymentId>,
    /// `building`, `starting`, `serving`, or `promoting` while it is being made live.
    pub state: String,
    /// How many of 100 requests it gets.
    pub share: u8,
    /// How many servos it shall have.
    pub servos: u32,
    /// How many of them are ready.
    pub ready: u32,
    /// Where it alone is reached; none while it is built, and while there is no balancer.
    pub urls: Vec<String>,
    /// Unix milliseconds.
    pub since: u64,
}
