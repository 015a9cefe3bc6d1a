//! Releases that run beside an app's live one: canaries, which get a share of its requests, and previews, which get none.

use serde::{Deserialize, Serialize};

use crate::{AppName, BuildId, DeploymentId, ReleaseNumber, Timestamp};

/// The releases of an app that run, or will run, beside its live one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BesideRow {
    /// Whose.
    pub app: AppName,
    /// Raft index of the last change of this row.
    pub version: u64,
    /// In the order in which they were asked for; at most one has a share.
    pub all: Vec<Beside>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// What it is.
    pub what: BesideOf,
    /// How many of 100 requests to the app it gets; 0: only those to its own host name.
    pub share: u8,
    /// How many servos it has; none: as its share asks for.
    pub count: Option<u32>,
    /// Since when it is wanted.
    pub since: Timestamp,
}

/// What runs beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BesideOf {
    /// What this build will make.
    Build(BuildId),
    /// A release.
    Release {
        /// Which.
        number: ReleaseNumber,
        /// Its servos are those of this deployment.
        deployment: DeploymentId,
        /// Whether all of them were ready once: it is reached since then.
        serving: bool,
    },
}

impl Beside {
    /// Most of an app at the same time: each has servos of its own.
    pub const MOST: usize = 5;
    /// Largest share: a release that gets all requests is the live one.
    pub const MOST_SHARE: u8 = 99;

    /// Which release it is, once that is built.
    pub fn release(&self) -> Option<ReleaseNumber> {
        match self.what {
            BesideOf::Build(_) => None,
            BesideOf::Release { number, .. } => Some(number),
        }
    }

    /// Whose servos are its own, once it is built.
    pub fn deployment(&self) -> Option<DeploymentId> {
        match self.what {
            BesideOf::Build(_) => None,
            BesideOf::Release { deployment, .. } => Some(deployment),
        }
    }

    /// Whether it is reached.
    pub fn is_serving(&self) -> bool {
        matches!(self.what, BesideOf::Release { serving: true, .. })
    }

    /// How many servos it shall have beside `live` of the live release: its share of them, and one at least.
    pub fn wanted(&self, live: u32) -> u32 {
        let of_share = u64::from(live) * u64::from(self.share);
        self.count.unwrap_or_else(|| u32::try_from(of_share.div_ceil(100)).unwrap_or(u32::MAX).max(1))
    }
}

/// The first label of the host name at which a release is reached beside the live one: one label, so that the certificate
/// `*.BASE_DOMAIN` is good for it, as it is for the app's own.
pub fn label(app: &AppName, release: ReleaseNumber) -> String {
    format!("{app}--{release}")
}

/// The app and release that such a label is of.
pub fn of_label(text: &str) -> Option<(AppName, ReleaseNumber)> {
    let (app, release) = text.rsplit_once("--")?;
    let (app, release): (AppName, ReleaseNumber) = (app.parse().ok()?, release.parse().ok()?);
    (label(&app, release) == text).then_some((app, release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_servos_is_rounded_up_and_one_at_least() {
        let beside = |share, count| Beside { what: BesideOf::Build(BuildId(1)), share, count, since: Timestamp(0) };
        for (share, live, wanted) in
            [(10, 20, 2), (10, 21, 3), (1, 1, 1), (0, 50, 1), (99, 0, 1), (50, u32::MAX, 1 << 31)]
        {
            assert_eq!(beside(share, None).wanted(live), wanted, "{share} % of {live}");
        }
        assert_eq!(beside(10, Some(4)).wanted(1), 4);
    }

    #[test]
    fn a_label_reads_back_in_one_spelling_only() {
        let app = AppName::new("my--app").unwrap();
        assert_eq!(label(&app, ReleaseNumber(12)), "my--app--v12");
        assert_eq!(of_label("my--app--v12"), Some((app, ReleaseNumber(12))));
        for other in ["app", "app-v1", "app--1", "app--v01", "app--v", "--v1", "app--v1.x", "app--v99999999999"] {
            assert_eq!(of_label(other), None, "{other}");
        }
        let longest = AppName::new(&"x".repeat(AppName::MAX_LEN)).unwrap();
        assert!(label(&longest, ReleaseNumber(u32::MAX)).len() <= 63, "a label of the DNS");
    }
}
