//! What clients send.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_model::labels::Labels;
use pontoon_model::{
    AppName, ControllerName, CpuMillis, Digest, MemoryBytes, ProcessName, ReleaseNumber, Scope, SiteName,
};
use serde::{Deserialize, Serialize};

use crate::beside::SetBeside;

/// Makes an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateApp {
    /// Its name.
    pub name: AppName,
}

/// Builds an uploaded source and deploys the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartBuild {
    /// What `POST source` answered.
    pub source: Digest,
    /// Whether it runs beside the live release, and how; without it, it becomes the live one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<SetBeside>,
}

/// Makes an older release live again, as a new release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Which; without it the one that was live before.
    #[serde(default)]
    pub to: Option<ReleaseNumber>,
}

/// Changes the wanted number or size of the servos of one process type. Absent fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetScale {
    /// Which process type; `web` if absent.
    #[serde(default)]
    pub process: Option<ProcessName>,
    /// How many, wherever they fit.
    #[serde(default)]
    pub count: Option<u32>,
    /// How many in which site, besides `count`.
    #[serde(default)]
    pub sites: Option<BTreeMap<SiteName, u32>>,
    /// Memory of each, in bytes.
    #[serde(default)]
    pub memory: Option<MemoryBytes>,
    /// CPU of each, in thousandths of a core.
    #[serde(default)]
    pub cpu: Option<CpuMillis>,
}

/// Changes an app's environment; makes a new release if one is live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeEnv {
    /// Names and new values.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Names to remove.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Changes an app's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeLabels {
    /// Names and new values.
    #[serde(default)]
    pub set: Labels,
    /// Names to remove.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// One item of a list of changes: the labels of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelItem {
    /// Whose.
    pub app: AppName,
    /// Names and new values.
    #[serde(default)]
    pub set: Labels,
    /// Names to remove.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Runs a command once, in a servo of the live release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOneOff {
    /// A line for `/bin/sh -c`; a simple command takes the shell's place.
    pub command: String,
}

/// Hands leadership over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// To which controller; without it to the one that has most of the log.
    #[serde(default)]
    pub to: Option<ControllerName>,
}

/// Makes a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is for; without it, its scopes.
    #[serde(default)]
    pub name: Option<String>,
    /// What it allows: `admin`, `read`, `deploy:APP`.
    pub scopes: BTreeSet<Scope>,
    /// How long; without it, until it is revoked.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}
