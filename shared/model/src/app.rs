//! What a user owns.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::{AppName, CpuMillis, DeploymentId, MemoryBytes, ProcessName, ReleaseNumber, Secret, SiteName, Timestamp};

/// An application: its name, where it is reached, its configuration and how much of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Unique in the cluster.
    pub name: AppName,
    /// When it was created.
    pub created_at: Timestamp,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// Environment of the next release.
    pub env: BTreeMap<String, Secret>,
    /// Wanted number and size of servos, by process type.
    pub scale: BTreeMap<ProcessName, Scale>,
    /// Releases that took traffic at some time and are still kept: what a rollback may go back to.
    pub been_live: BTreeSet<ReleaseNumber>,
    /// How many releases were ever made: the next one's number is one more.
    pub releases_made: u32,
    /// What receives traffic now.
    pub live: Option<Live>,
    /// The deployment under way, if any.
    pub deployment: Option<DeploymentId>,
    /// What people and programs note about it; Pontoon itself does not look at them.
    pub labels: Labels,
    /// Stands for what a later version of Pontoon adds: only a test's build has it.
    #[cfg(feature = "next-level")]
    pub note: String,
}

impl App {
    /// A new one, with nothing set.
    pub fn new(name: AppName, created_at: Timestamp) -> Self {
        Self {
            name,
            created_at,
            version: 0,
            env: BTreeMap::new(),
            scale: BTreeMap::new(),
            been_live: BTreeSet::new(),
            releases_made: 0,
            live: None,
            deployment: None,
            labels: Labels::default(),
            #[cfg(feature = "next-level")]
            note: String::new(),
        }
    }

    /// The release that a rollback goes to if none is named: the newest before the live one that took traffic.
    pub fn rolls_back_to(&self) -> Option<ReleaseNumber> {
        self.been_live.range(..self.live?.release).next_back().copied()
    }

    /// Wanted number and size of a process type. Before anyone scales it: one `web`, none of the others (as Heroku does).
    pub fn scale_of(&self, process: &ProcessName) -> Scale {
        self.scale.get(process).cloned().unwrap_or_else(|| {
            let count = Count::anywhere(u32::from(*process == ProcessName::web()));
            Scale { count, size: Size::default() }
        })
    }
}

/// The release that receives traffic, and the deployment that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The release.
    pub release: ReleaseNumber,
    /// Servos made for this deployment (or by scaling since) are the live ones.
    pub deployment: DeploymentId,
}

/// Wanted number and size of the servos of one process type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// How many, and where.
    pub count: Count,
    /// How large each.
    pub size: Size,
}

/// Wanted number of servos: `anywhere` are spread over all sites, the rest belong to a site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// To be spread over the sites.
    pub anywhere: u32,
    /// Bound to a site.
    pub in_site: BTreeMap<SiteName, u32>,
}

impl Count {
    /// `n` servos, wherever they fit.
    pub fn anywhere(n: u32) -> Self {
        Self { anywhere: n, in_site: BTreeMap::new() }
    }

    /// All wanted servos.
    pub fn total(&self) -> u32 {
        self.in_site.values().fold(self.anywhere, |sum, n| sum.saturating_add(*n))
    }
}

/// The size of one servo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Hard limit; placement reserves it.
    pub memory: MemoryBytes,
    /// Hard limit; placement does not reserve it.
    pub cpu: CpuMillis,
}

impl Size {
    /// Smallest memory a servo may ask for: below it no runtime starts.
    pub const MIN_MEMORY: MemoryBytes = MemoryBytes::mib(16);
}

impl Default for Size {
    /// 256 MiB and one core: what a small web app needs, and four of which fit a 1 GiB machine.
    fn default() -> Self {
        Self { memory: MemoryBytes::mib(256), cpu: CpuMillis(1000) }
    }
}
