//! Host name → servos, read by every request and changed while requests run.
//!
//! What the controllers may rely on:
//! - once [`Table::progress`] says `applied = V`, no request picks a servo that V or an older version took out of
//!   the table, however long ago that request began;
//! - once it says `drained = V`, no request (or upgraded connection) is in flight to such a servo.

mod choose;
mod route;
mod servo;
mod update;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_model::{RouteTable, RouteVersion, SiteName};
use pontoon_proto::{BalancerAck, RouteDelta};
use tokio::sync::{Notify, watch};

pub use route::{Counted, Route, Statistics, Target};
pub use servo::{AVOIDED_FOR, InFlight, Servo};
use update::Updater;

/// Why a table or delta was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The delta begins at another version than the one held.
    #[error("a delta from version {from} does not fit the table of version {have}; the whole table is needed")]
    Gap {
        /// Where the delta begins.
        from: RouteVersion,
        /// What is held.
        have: RouteVersion,
    },
    /// The table is older than the one held: its sender is behind.
    #[error("a table of version {given} is older than version {have}, which is held")]
    Older {
        /// What was given.
        given: RouteVersion,
        /// What is held.
        have: RouteVersion,
    },
}

/// What became of an attempt to pick a servo.
#[derive(Debug)]
pub enum Picked {
    /// This one; it counts the request until dropped.
    Servo(InFlight),
    /// The route has none, for this reason.
    Empty(String),
    /// All of them were tried.
    Exhausted,
    /// The host name left the table meanwhile.
    Gone,
}

/// The route table.
pub struct Table {
    routes: papaya::HashMap<Box<str>, Arc<Route>>,
    /// Serializes changes; never taken by a request.
    updater: Mutex<Updater>,
    applied: AtomicU64,
    applied_watch: watch::Sender<RouteVersion>,
    drained: Arc<Notify>,
}

impl Table {
    /// An empty table, version 0, of a balancer in `site`.
    pub fn new(site: SiteName) -> Self {
        let drained = Arc::<Notify>::default();
        Self {
            routes: papaya::HashMap::new(),
            updater: Mutex::new(Updater::new(site, drained.clone())),
            applied: AtomicU64::new(0),
            applied_watch: watch::Sender::new(RouteVersion(0)),
            drained,
        }
    }

    /// The route of `host` (lower case, no port).
    pub fn route(&self, host: &str) -> Option<Arc<Route>> {
        self.routes.pin().get(host).cloned()
    }

    /// Picks a servo of `route` that is not among `tried` and counts the request in. When the table changed
    /// meanwhile, `route` becomes its successor.
    pub fn pick(&self, route: &mut Arc<Route>, tried: &[Arc<Servo>]) -> Picked {
        loop {
            {
                let target = route.target();
                let Some(servo) = target.choose(tried) else {
                    return if target.is_empty() {
                        Picked::Empty(target.reason.to_string())
                    } else {
                        Picked::Exhausted
                    };
                };
                if let Some(in_flight) = Servo::enter(servo) {
                    return Picked::Servo(in_flight);
                }
            }
            // The servo was removed after `target` was read. New targets are in place before servos are marked
            // as removed, so reading again finds another; each round needs another change of the table.
            match self.route(&route.host) {
                Some(newer) => *route = newer,
                None => return Picked::Gone,
            }
        }
    }

    /// The version new requests are routed by.
    pub fn version(&self) -> RouteVersion {
        RouteVersion(self.applied.load(Ordering::Acquire))
    }

    /// How far this balancer is.
    pub fn progress(&self) -> BalancerAck {
        let mut updater = self.updater();
        let applied = self.version();
        BalancerAck { applied, drained: updater.drained(applied) }
    }

    /// Returns when `drained` may have grown without a change of the table. For one waiter.
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Follows the version.
    pub fn watch(&self) -> watch::Receiver<RouteVersion> {
        self.applied_watch.subscribe()
    }

    /// How many host names there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Every route, in no order.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.pin().values().cloned().collect()
    }

    /// The whole table as controllers send it, ordered by host name.
    pub fn snapshot(&self) -> RouteTable {
        // Held so that no change comes between two routes.
        let _updater = self.updater();
        let mut routes: Vec<_> = self.routes.pin().values().map(|route| Arc::new(route.to_model())).collect();
        routes.sort_by(|one, other| one.host.cmp(&other.host));
        RouteTable { version: self.version(), routes }
    }

    /// Makes `table` the table.
    pub fn apply_table(&self, table: &RouteTable) -> Result<(), ApplyError> {
        let mut updater = self.updater();
        let have = self.version();
        if table.version < have {
            return Err(ApplyError::Older { given: table.version, have });
        }
        let mut gone: std::collections::HashSet<Box<str>> = self.routes.pin().keys().cloned().collect();
        for route in &table.routes {
            gone.remove(route.host.as_str());
            updater.put(&self.routes, route);
        }
        for host in gone {
            updater.take(&self.routes, &host);
        }
        self.settle(&mut updater, table.version);
        Ok(())
    }

    /// Applies the difference to the version held.
    pub fn apply_delta(&self, delta: &RouteDelta) -> Result<(), ApplyError> {
        let mut updater = self.updater();
        let have = self.version();
        if delta.from != have || delta.to < have {
            return Err(ApplyError::Gap { from: delta.from, have });
        }
        for host in &delta.removed {
            updater.take(&self.routes, host);
        }
        for route in &delta.changed {
            updater.put(&self.routes, route);
        }
        self.settle(&mut updater, delta.to);
        Ok(())
    }

    fn settle(&self, updater: &mut Updater, version: RouteVersion) {
        updater.settle(version);
        // After the removals: whoever reads this version can no longer pick what it removed.
        self.applied.store(version.0, Ordering::Release);
        self.applied_watch.send_replace(version);
    }

    fn updater(&self) -> MutexGuard<'_, Updater> {
        // The updater's changes are each complete in themselves; a panic between them costs at most a drain.
        self.updater.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
