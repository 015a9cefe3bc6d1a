//! How a request gets its servo, and what that wakes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;
use pontoon_kit::CancellationToken;
use pontoon_model::ServoId;

use super::choose::{Choice, Wish};
use super::route::{Counted, Route};
use super::servo::{Refused, Servo};
use super::split::Split;
use super::{Picked, Table};

/// An app whose routes had no request for between one and two such times sleeps again.
const QUIET: Duration = Duration::from_secs(600);

impl Table {
    /// Picks a servo of `route` and counts the request in. When the table changed meanwhile, `route` becomes its successor.
    pub fn pick(&self, route: &mut Arc<Route>, wish: &Wish<'_>) -> Picked {
        let mut split = self.split_of(route);
        loop {
            if let Some(picked) = pick_of(route, split.as_ref(), wish) {
                return picked;
            }
            match self.woken(&route.host) {
                Some(newer) => *route = newer,
                None => return Picked::Gone,
            }
            split = self.split_of(route);
        }
    }

    /// The route of `host`, awake.
    fn woken(&self, host: &str) -> Option<Arc<Route>> {
        let route = self.route(host)?;
        if route.is_asleep() { self.updater.lock().wake(&self.routes, host) } else { Some(route) }
    }

    /// Counts a request of `route` in; it ends when the returned value is dropped.
    pub fn begin(&self, route: &Arc<Route>) -> Counted {
        self.wake(route);
        route.begin()
    }

    /// The same for a request that is counted elsewhere: who waits for room is told of its end.
    pub fn join(&self, route: &Arc<Route>) -> Counted {
        self.wake(route);
        route.join()
    }

    /// What counts requests looks at those that are awake.
    fn wake(&self, route: &Route) {
        if route.is_asleep() {
            // One that has left the table is counted by nobody.
            self.woken(&route.host);
        }
    }

    /// Where a part of a route's requests goes, and how large it is.
    fn split_of(&self, route: &Route) -> Option<(Arc<Split>, Arc<Route>)> {
        // Nearly all requests end here.
        if self.splits.is_empty() {
            return None;
        }
        let split = self.splits.of(&route.host)?;
        let beside = self.woken(&split.beside)?;
        Some((split, beside))
    }

    /// Whether a part of the route's requests goes to another release.
    pub(crate) fn is_split(&self, route: &Route) -> bool {
        !self.splits.is_empty() && self.splits.of(&route.host).is_some()
    }

    /// Counts an answer for the release that gave it, where the route's requests are split.
    pub fn answered(&self, route: &Route, servo: ServoId, status: u16) {
        if let Some((split, beside)) = self.split_of(route) {
            split.answered(beside.target().as_ref().is_some_and(|target| target.has(servo)), status);
        }
    }

    /// Lets apps sleep that nobody asks for, until `shutdown`.
    pub(crate) async fn let_sleep(self: Arc<Self>, shutdown: CancellationToken) {
        while tokio::time::timeout(QUIET, shutdown.cancelled()).await.is_err() {
            self.let_quiet_sleep();
        }
    }

    /// Lets apps sleep that nobody has asked for since this was called last.
    pub(super) fn let_quiet_sleep(&self) {
        let turn = self.turn();
        // The end of a change that is under way marks servos as removed, and must find them.
        if turn.is_some() {
            return;
        }
        let mut updater = self.updater.lock();
        for app in updater.awake() {
            updater.let_sleep(&app);
            MutexGuard::bump(&mut updater);
        }
    }
}

/// Picks a servo of what `route` leads to and counts the request in; none if that has changed, or sleeps.
fn pick_of(route: &Route, split: Option<&(Arc<Split>, Arc<Route>)>, wish: &Wish<'_>) -> Option<Picked> {
    let (target, beside) = (route.target(), split.map(|(split, beside)| (split, beside.target())));
    let target = target.as_ref()?;
    loop {
        let choice = match &beside {
            Some((split, beside)) => split.choose(target, beside.as_ref()?, wish),
            None => target.choose(wish),
        };
        let is_empty = || {
            target.is_empty() && beside.iter().all(|(_, beside)| beside.as_ref().is_none_or(|beside| beside.is_empty()))
        };
        let servo = match choice {
            Choice::Servo(servo) => servo,
            Choice::Full => return Some(Picked::Full),
            Choice::Nobody if is_empty() => return Some(Picked::Empty(target.reason.to_string())),
            Choice::Nobody => return Some(Picked::Exhausted),
        };
        match Servo::enter(servo, wish.most) {
            Ok(in_flight) => return Some(Picked::Servo(in_flight)),
            // Others were faster: the next look sees that it is full.
            Err(Refused::Full) => {}
            // The servo was removed after `target` was read. New targets are in place before servos are marked as removed, so
            // reading again finds another; each round needs another change of the table.
            Err(Refused::Removed) => return None,
        }
    }
}
