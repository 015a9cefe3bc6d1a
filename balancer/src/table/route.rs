//! One host name: what it leads to, and what there is of it once it is asked for.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use pontoon_model::{ReleaseNumber, RouteServo};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::app::App;
use super::packed::Packed;
use super::sites::Sites;
use super::statistics::Statistics;
use super::target::Target;

/// A host name and what answers for it.
///
/// It *sleeps* until its app is asked for: then there is nothing of it but what the controllers said, in few bytes.
#[derive(Debug)]
pub struct Route {
    /// Lower case, no port.
    pub host: Box<str>,
    /// Whose.
    pub app: Arc<App>,
    /// What it leads to; changed by the updater only.
    packed: Mutex<Packed>,
    asked: OnceLock<Box<Asked>>,
}

/// What there is of a route only once it is asked for.
#[derive(Debug, Default)]
struct Asked {
    statistics: Statistics,
    /// What it leads to, as requests need it; none while it sleeps. Changed by the updater only.
    target: ArcSwapOption<Target>,
    /// Requests that wait for a servo, or for one with room.
    waiting: AtomicU32,
    /// Rung when there may be one.
    changed: Notify,
}

/// Requests of one route that wait at the same time; one more is answered at once. Each holds its connection and the
/// beginning of its body.
const MOST_WAITING: u32 = 1_000;

impl Route {
    pub(super) fn new(host: &str, app: Arc<App>, packed: Packed) -> Self {
        Self { host: host.into(), app, packed: Mutex::new(packed), asked: OnceLock::new() }
    }

    fn asked(&self) -> &Asked {
        self.asked.get_or_init(Box::default)
    }

    /// What happened on it.
    pub fn statistics(&self) -> &Statistics {
        &self.asked().statistics
    }

    /// What it leads to now; none while it sleeps.
    pub fn target(&self) -> Guard<Option<Arc<Target>>> {
        self.asked.get().map_or_else(|| Guard::from_inner(None), |asked| asked.target.load())
    }

    /// Whether it has no target.
    pub(super) fn is_asleep(&self) -> bool {
        self.target().is_none()
    }

    /// The live release.
    pub fn release(&self) -> Option<ReleaseNumber> {
        self.packed().release()
    }

    pub(super) fn packed(&self) -> Packed {
        // It is replaced as a whole.
        self.packed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_packed(&self, packed: Packed) {
        *self.packed.lock().unwrap_or_else(PoisonError::into_inner) = packed;
    }

    /// Puts `target` in place and returns what was there.
    pub(super) fn replace(&self, target: Arc<Target>) -> Option<Arc<Target>> {
        let before = self.asked().target.swap(Some(target));
        self.ring();
        before
    }

    /// Takes the target away.
    pub(super) fn sleep(&self) {
        self.asked().target.store(None);
    }

    /// Whoever waits looks again: another has come into the route's place.
    pub(super) fn ring(&self) {
        if let Some(asked) = self.asked.get() {
            asked.changed.notify_waiters();
        }
    }

    /// A place among those who wait; none if too many do.
    pub fn wait(self: &Arc<Self>) -> Option<Waiting> {
        // Dropping it gives the place back.
        let waiting = Waiting { route: self.clone() };
        (self.asked().waiting.fetch_add(1, Ordering::AcqRel) < MOST_WAITING).then_some(waiting)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.asked.get().map_or(0, |asked| asked.waiting.load(Ordering::Acquire))
    }

    /// Counts a request in; it ends when the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Counted {
        self.statistics().begin();
        Counted { route: self.clone() }
    }

    /// The same for a request that is counted elsewhere: who waits for room is told of its end.
    pub(super) fn join(self: &Arc<Self>) -> Counted {
        self.statistics().join();
        Counted { route: self.clone() }
    }
}

/// As a controller sent a route, from what is kept of it.
pub(super) fn to_model(route: &Route, packed: &Packed, sites: &Sites) -> pontoon_model::Route {
    let servos = packed.rows().map(|row| RouteServo {
        id: row.id,
        site: sites.name(row.site),
        address: row.address,
        suspect: row.suspect,
    });
    pontoon_model::Route {
        host: route.host.to_string(),
        app: route.app.name.clone(),
        release: packed.release(),
        servos: servos.collect(),
        reason: packed.reason(),
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
        self.route.asked().changed.notified()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.route.asked().waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request counted in flight on its route.
#[derive(Debug)]
pub struct Counted {
    route: Arc<Route>,
}

impl Counted {
    /// It is counted anew.
    pub(crate) fn forget(self) {
        self.route.statistics().forget();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let asked = self.route.asked();
        asked.statistics.end();
        // After the servo has counted the request out, for who waits for room: whoever holds both drops this last.
        if asked.waiting.load(Ordering::Acquire) > 0 {
            asked.changed.notify_one();
        }
    }
}
