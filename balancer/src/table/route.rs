//! One host name: its servos, in the order they are tried, and its statistics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use pontoon_model::{AppName, ReleaseNumber, RouteServo};

use super::servo::Servo;

/// A host name and what answers for it.
#[derive(Debug)]
pub struct Route {
    /// Lower case, no port.
    pub host: Box<str>,
    /// Whose.
    pub app: AppName,
    /// What happened on it.
    pub statistics: Statistics,
    target: ArcSwap<Target>,
}

/// What a route leads to at one version.
#[derive(Debug)]
pub struct Target {
    /// The live release.
    pub release: Option<ReleaseNumber>,
    /// Why there is no servo; empty if there are some.
    pub reason: Box<str>,
    /// Ordered by tier: this site's, other sites', this site's suspects, other sites' suspects.
    pub(super) servos: Box<[Arc<Servo>]>,
    /// Where each tier ends in `servos`.
    pub(super) tier_ends: [u32; TIERS],
}

/// See [`Target::servos`].
pub(super) const TIERS: usize = 4;
/// Servos of this tier and later ones are suspect.
const FIRST_SUSPECT_TIER: usize = 2;

impl Route {
    pub(super) fn new(host: &str, app: AppName, target: Arc<Target>) -> Self {
        Self { host: host.into(), app, statistics: Statistics::default(), target: ArcSwap::new(target) }
    }

    /// What it leads to now.
    pub fn target(&self) -> Guard<Arc<Target>> {
        self.target.load()
    }

    /// Puts `target` in place and returns what was there.
    pub(super) fn replace(&self, target: Arc<Target>) -> Arc<Target> {
        self.target.swap(target)
    }

    /// As the controller sent it.
    pub(super) fn to_model(&self) -> pontoon_model::Route {
        let target = self.target();
        let first_suspect = target.tier_ends[FIRST_SUSPECT_TIER - 1] as usize;
        let servos = target.servos.iter().enumerate().map(|(at, servo)| RouteServo {
            id: servo.id,
            site: servo.site.clone(),
            address: servo.address,
            suspect: at >= first_suspect,
        });
        pontoon_model::Route {
            host: self.host.to_string(),
            app: self.app.clone(),
            release: target.release,
            servos: servos.collect(),
            reason: target.reason.to_string(),
        }
    }
}

impl Target {
    /// `servos`: each with its tier.
    pub(super) fn new(release: Option<ReleaseNumber>, reason: &str, mut servos: Vec<(usize, Arc<Servo>)>) -> Self {
        servos.sort_by_key(|(tier, servo)| (*tier, servo.id));
        let mut tier_ends = [0; TIERS];
        for (tier, end) in tier_ends.iter_mut().enumerate() {
            *end = servos.partition_point(|(of, _)| *of <= tier) as u32;
        }
        let servos = servos.into_iter().map(|(_, servo)| servo).collect();
        Self { release, reason: reason.into(), servos, tier_ends }
    }

    /// The tier of a servo.
    pub(super) fn tier(local: bool, suspect: bool) -> usize {
        if suspect { FIRST_SUSPECT_TIER + usize::from(!local) } else { usize::from(!local) }
    }

    /// How many servos there are.
    pub fn len(&self) -> usize {
        self.servos.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.servos.is_empty()
    }
}

/// Counts since the route came into the table.
#[derive(Debug, Default)]
pub struct Statistics {
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
}

impl Statistics {
    /// A request came in; it ends when the returned value is dropped.
    pub fn begin(route: &Arc<Route>) -> Counted {
        route.statistics.requests.fetch_add(1, Ordering::Relaxed);
        route.statistics.in_flight.fetch_add(1, Ordering::Relaxed);
        Counted { route: route.clone() }
    }

    /// A request was answered with a status of 500 or above.
    pub fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Answers of 500 and above so far, the servos' and our own.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// A request counted in flight on its route.
#[derive(Debug)]
pub struct Counted {
    route: Arc<Route>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.route.statistics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
