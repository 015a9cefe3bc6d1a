//! One host name: its servos, in the order they are tried, and its statistics.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use pontoon_model::{ReleaseNumber, RouteServo};
use pontoon_proto::RequestCounts;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::app::App;
use super::servo::Servo;

/// A host name and what answers for it.
#[derive(Debug)]
pub struct Route {
    /// Lower case, no port.
    pub host: Box<str>,
    /// Whose.
    pub app: Arc<App>,
    /// What happened on it.
    pub statistics: Statistics,
    target: ArcSwap<Target>,
    /// Requests that wait for a servo, or for one with room.
    waiting: AtomicU32,
    /// Rung when there may be one.
    changed: Notify,
}

/// Requests of one route that wait at the same time; one more is answered at once. Each holds its connection and the
/// beginning of its body.
const MOST_WAITING: u32 = 1_000;

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
    pub(super) fn new(host: &str, app: Arc<App>, target: Arc<Target>) -> Self {
        Self {
            host: host.into(),
            app,
            statistics: Statistics::default(),
            target: ArcSwap::new(target),
            waiting: AtomicU32::new(0),
            changed: Notify::new(),
        }
    }

    /// A place among those who wait; none if too many do.
    pub fn wait(self: &Arc<Self>) -> Option<Waiting> {
        // Dropping it gives the place back.
        let waiting = Waiting { route: self.clone() };
        (self.waiting.fetch_add(1, Ordering::AcqRel) < MOST_WAITING).then_some(waiting)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Acquire)
    }

    /// What it leads to now.
    pub fn target(&self) -> Guard<Arc<Target>> {
        self.target.load()
    }

    /// Puts `target` in place and returns what was there.
    pub(super) fn replace(&self, target: Arc<Target>) -> Arc<Target> {
        let before = self.target.swap(target);
        self.ring();
        before
    }

    /// Whoever waits looks again: another has come into the route's place.
    pub(super) fn ring(&self) {
        self.changed.notify_waiters();
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
            app: self.app.name.clone(),
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

    /// All of them, in the order of their tiers.
    pub fn servos(&self) -> &[Arc<Servo>] {
        &self.servos
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

/// A request that waits for a servo.
#[derive(Debug)]
pub struct Waiting {
    route: Arc<Route>,
}

impl Waiting {
    /// Completes when it is worth looking again. To be made *before* looking, so that nothing is missed.
    pub fn again(&self) -> Notified<'_> {
        self.route.changed.notified()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.route.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts since the route came into the table.
#[derive(Debug, Default)]
pub struct Statistics {
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
    /// Answers by the first digit of their status, from 1.
    answers: [AtomicU64; 5],
    /// Made with the first answer: most host names of a large cluster are quiet.
    latency: OnceLock<Box<Latency>>,
}

pub use pontoon_proto::LATENCY_BOUNDS;

/// How long answers took to begin.
#[derive(Debug, Default)]
struct Latency {
    counts: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Statistics {
    /// The answer to a request begins, with this status and so long after the request came.
    pub fn answered(&self, status: u16, after: Duration) {
        if let Some(answers) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
        if status >= 500 {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let micros = after.as_micros() as u64;
        let latency = self.latency.get_or_init(Box::default);
        let at = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        latency.counts[at].fetch_add(1, Ordering::Relaxed);
        latency.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// Answers so far by the first digit of their status, from 1.
    pub fn answers(&self) -> [u64; 5] {
        self.answers.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// How many answers took at most as long as each of [`LATENCY_BOUNDS`], all of them, and their sum in microseconds; none
    /// before the first.
    pub fn latency(&self) -> Option<([u64; LATENCY_BOUNDS.len()], u64, u64)> {
        let latency = self.latency.get()?;
        let mut so_far = 0;
        let mut next = |count: &AtomicU64| {
            so_far += count.load(Ordering::Relaxed);
            so_far
        };
        let mut counts = [0; LATENCY_BOUNDS.len()];
        for (to, count) in counts.iter_mut().zip(&latency.counts) {
            *to = next(count);
        }
        let all = next(&latency.counts[LATENCY_BOUNDS.len()]);
        Some((counts, all, latency.sum.load(Ordering::Relaxed)))
    }

    /// All that was counted so far.
    pub fn counts(&self) -> RequestCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let latency = self.latency.get().map_or([0; LATENCY_BOUNDS.len() + 1], |all| all.counts.each_ref().map(load));
        RequestCounts { requests: self.requests(), statuses: self.answers(), latency }
    }

    /// A request came in; it ends when the returned value is dropped.
    pub fn begin(route: &Arc<Route>) -> Counted {
        route.statistics.requests.fetch_add(1, Ordering::Relaxed);
        route.statistics.in_flight.fetch_add(1, Ordering::Relaxed);
        Counted { route: route.clone() }
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
        // After the servo has counted the request out, for who waits for room: whoever holds both drops this last.
        if self.route.waiting.load(Ordering::Acquire) > 0 {
            self.route.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_status_and_time() {
        let statistics = Statistics::default();
        assert_eq!(statistics.latency(), None);
        for (status, micros) in [(200, 1_000), (204, 1_001), (301, 3_000_000), (503, 60_000_000), (999, 1)] {
            statistics.answered(status, Duration::from_micros(micros));
        }
        assert_eq!((statistics.answers(), statistics.errors()), ([0, 2, 1, 0, 1], 2));
        let (counts, all, sum) = statistics.latency().unwrap();
        assert_eq!((counts[0], counts[1], counts[10], counts[11], counts[12]), (2, 3, 3, 4, 4));
        assert_eq!((all, sum), (5, 63_002_002));
    }
}
