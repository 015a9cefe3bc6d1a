//! The layouts that [`App`] had before: frozen, since rows in them are on people's disks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{App, AppName, DeploymentId, Live, ProcessName, ReleaseNumber, Scale, Secret, Timestamp};

/// Until feature level 1: without labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppV1 {
    name: AppName,
    created_at: Timestamp,
    version: u64,
    env: BTreeMap<String, Secret>,
    scale: BTreeMap<ProcessName, Scale>,
    been_live: BTreeSet<ReleaseNumber>,
    releases_made: u32,
    live: Option<Live>,
    deployment: Option<DeploymentId>,
}

impl From<AppV1> for App {
    fn from(old: AppV1) -> Self {
        Self {
            version: old.version,
            env: old.env,
            scale: old.scale,
            been_live: old.been_live,
            releases_made: old.releases_made,
            live: old.live,
            deployment: old.deployment,
            ..Self::new(old.name, old.created_at)
        }
    }
}

impl From<&App> for AppV1 {
    fn from(app: &App) -> Self {
        Self {
            name: app.name.clone(),
            created_at: app.created_at,
            version: app.version,
            env: app.env.clone(),
            scale: app.scale.clone(),
            been_live: app.been_live.clone(),
            releases_made: app.releases_made,
            live: app.live,
            deployment: app.deployment,
        }
    }
}

/// Feature level 2: with labels.
#[cfg(feature = "next-level")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppV2 {
    name: AppName,
    created_at: Timestamp,
    version: u64,
    env: BTreeMap<String, Secret>,
    scale: BTreeMap<ProcessName, Scale>,
    been_live: BTreeSet<ReleaseNumber>,
    releases_made: u32,
    live: Option<Live>,
    deployment: Option<DeploymentId>,
    labels: crate::labels::Labels,
}

#[cfg(feature = "next-level")]
impl From<AppV2> for App {
    fn from(old: AppV2) -> Self {
        Self {
            version: old.version,
            env: old.env,
            scale: old.scale,
            been_live: old.been_live,
            releases_made: old.releases_made,
            live: old.live,
            deployment: old.deployment,
            labels: old.labels,
            ..Self::new(old.name, old.created_at)
        }
    }
}

#[cfg(feature = "next-level")]
impl From<&App> for AppV2 {
    fn from(app: &App) -> Self {
        Self {
            name: app.name.clone(),
            created_at: app.created_at,
            version: app.version,
            env: app.env.clone(),
            scale: app.scale.clone(),
            been_live: app.been_live.clone(),
            releases_made: app.releases_made,
            live: app.live,
            deployment: app.deployment,
            labels: app.labels.clone(),
        }
    }
}
