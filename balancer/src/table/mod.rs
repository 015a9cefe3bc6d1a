//! Host name → servos, read by every request and changed while requests run.
//!
//! What the controllers may rely on:
//! - once [`Table::progress`] says `applied = V`, no request picks a servo that V or an older version took out of
//!   the table, however long ago that request began;
//! - once it says `drained = V`, no request (or upgraded connection) is in flight to such a servo.

mod app;
mod choose;
mod domains;
mod edge;
mod route;
mod servo;
mod split;
mod update;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_model::{EdgeEntry, EdgeKey, EdgeTable, RouteTable, RouteVersion, ServoId, SiteName};
use pontoon_proto::{BalancerAck, EdgeDelta, RouteDelta};
use tokio::sync::{Notify, watch};

pub use app::{App, Settings};
use choose::Choice;
pub use choose::Wish;
use domains::Domains;
pub use edge::PortEntry;
use edge::{Change, Edge};
pub use route::{Counted, LATENCY_BOUNDS, Route, Statistics, Target, Waiting};
use servo::Refused;
pub use servo::{Failure, InFlight, Servo};
pub use split::Split;
use split::Splits;
use update::Updater;

use crate::peers::Peers;
use crate::secrets::Secrets;

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
    /// Those that are left have as many requests as they may have.
    Full,
    /// The host name left the table meanwhile.
    Gone,
}

/// The route table.
pub struct Table {
    routes: papaya::HashMap<Box<str>, Arc<Route>>,
    domains: Domains,
    splits: Splits,
    /// Certificates and keys.
    secrets: Arc<Secrets>,
    /// The balancers of other sites.
    peers: Arc<Peers>,
    /// Serializes changes; never taken by a request.
    updater: Mutex<Updater>,
    /// Taken after `updater`, if both are.
    edge: Mutex<Edge>,
    applied: AtomicU64,
    applied_watch: watch::Sender<RouteVersion>,
    edge_changed: watch::Sender<RouteVersion>,
    drained: Arc<Notify>,
}

impl Table {
    /// An empty table, version 0, of a balancer in `site`.
    pub fn new(site: SiteName) -> Self {
        let drained = Arc::<Notify>::default();
        Self {
            routes: papaya::HashMap::new(),
            domains: Domains::default(),
            splits: Splits::default(),
            secrets: Arc::default(),
            peers: Arc::new(Peers::new(site.clone())),
            edge: Mutex::default(),
            updater: Mutex::new(Updater::new(site, drained.clone())),
            applied: AtomicU64::new(0),
            applied_watch: watch::Sender::new(RouteVersion(0)),
            edge_changed: watch::Sender::new(RouteVersion(0)),
            drained,
        }
    }

    /// The route of `host` (lower case, no port).
    pub fn route(&self, host: &str) -> Option<Arc<Route>> {
        self.routes.pin().get(host).cloned()
    }

    /// The route that answers for `path` on `host` (lower case, no port): by a domain, by the host name of a route, or by
    /// a wildcard.
    pub fn find(&self, host: &str, path: &str) -> Option<Arc<Route>> {
        // Nearly all requests of small clusters end here.
        if self.domains.is_empty() {
            return self.route(host);
        }
        let route = |host: &str| self.route(host);
        let exact = self.domains.exact(host, path, route).flatten();
        exact.or_else(|| self.route(host)).or_else(|| self.domains.wild(host, path, route).flatten())
    }

    /// Picks a servo of `route` and counts the request in. When the table changed meanwhile, `route` becomes its successor.
    pub fn pick(&self, route: &mut Arc<Route>, wish: &Wish<'_>) -> Picked {
        let mut split = self.split_of(route);
        loop {
            {
                let target = route.target();
                let beside = split.as_ref().map(|(_, beside)| beside.target());
                let choice = match (&split, &beside) {
                    (Some((split, _)), Some(beside)) => split.choose(&target, beside, wish),
                    _ => target.choose(wish),
                };
                let servo = match choice {
                    Choice::Servo(servo) => servo,
                    Choice::Full => return Picked::Full,
                    Choice::Nobody if target.is_empty() && beside.as_ref().is_none_or(|beside| beside.is_empty()) => {
                        return Picked::Empty(target.reason.to_string());
                    }
                    Choice::Nobody => return Picked::Exhausted,
                };
                match Servo::enter(servo, wish.most) {
                    Ok(in_flight) => return Picked::Servo(in_flight),
                    // Others were faster: the next look sees that it is full.
                    Err(Refused::Full) => continue,
                    Err(Refused::Removed) => {}
                }
            }
            // The servo was removed after `target` was read. New targets are in place before servos are marked
            // as removed, so reading again finds another; each round needs another change of the table.
            match self.route(&route.host) {
                Some(newer) => *route = newer,
                None => return Picked::Gone,
            }
            split = self.split_of(route);
        }
    }

    /// Where a part of a route's requests goes, and how large it is.
    fn split_of(&self, route: &Route) -> Option<(Arc<Split>, Arc<Route>)> {
        // Nearly all requests end here.
        if self.splits.is_empty() {
            return None;
        }
        let split = self.splits.of(&route.host)?;
        let beside = self.route(&split.beside)?;
        Some((split, beside))
    }

    /// Counts an answer for the release that gave it, where the route's requests are split.
    pub fn answered(&self, route: &Route, servo: ServoId, status: u16) {
        if let Some((split, beside)) = self.split_of(route) {
            split.answered(beside.target().has(servo), status);
        }
    }

    /// Every split, with the host name of its route.
    pub fn splits(&self) -> Vec<(Box<str>, Arc<Split>)> {
        self.splits.all()
    }

    /// Certificates and keys.
    pub(crate) fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// The balancers of other sites.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Everything but routes, as controllers send it.
    pub fn edge(&self) -> EdgeTable {
        self.lock_edge().table()
    }

    /// The ports that lead to apps.
    pub fn ports(&self) -> BTreeMap<u16, PortEntry> {
        self.lock_edge().ports()
    }

    /// Makes `table` what counts besides the routes.
    pub fn apply_edge(&self, table: &EdgeTable) -> Result<(), ApplyError> {
        let mut updater = self.updater();
        let mut edge = self.lock_edge();
        if table.version < edge.version() {
            return Err(ApplyError::Older { given: table.version, have: edge.version() });
        }
        edge.become_table(table, |change| self.take_in(&mut updater, change));
        updater.forget_apps(|app| edge.has(app));
        self.edge_changed.send_replace(edge.version());
        Ok(())
    }

    /// Applies the difference to what counts besides the routes.
    pub fn apply_edge_delta(&self, delta: &EdgeDelta) -> Result<(), ApplyError> {
        let mut updater = self.updater();
        let mut edge = self.lock_edge();
        if delta.from != edge.version() || delta.to < edge.version() {
            return Err(ApplyError::Gap { from: delta.from, have: edge.version() });
        }
        edge.change(delta.to, &delta.changed, &delta.removed, |change| self.take_in(&mut updater, change));
        updater.forget_apps(|app| edge.has(app));
        self.edge_changed.send_replace(edge.version());
        Ok(())
    }

    fn take_in(&self, updater: &mut Updater, change: Change<'_>) {
        match change {
            Change::Put(entry) => match &**entry {
                EdgeEntry::Domain { domain, route } => self.domains.put(domain, route),
                EdgeEntry::App { app, traffic } => updater.treat(app, Some(traffic.clone())),
                EdgeEntry::Certificate(certificate) => self.secrets.put_certificate(certificate),
                EdgeEntry::Keys(keys) => self.secrets.set_keys(keys),
                EdgeEntry::Challenge(challenge) => self.secrets.put_challenge(challenge),
                EdgeEntry::Peer(row) => self.peers.put(row),
                // Whoever listens follows the version and looks.
                EdgeEntry::Port { .. } => {}
                EdgeEntry::Split { app, route, beside, share } => {
                    self.splits.put(app, route, beside, *share);
                    self.ring_beside(beside);
                }
            },
            Change::Take(key) => match key {
                EdgeKey::Domain(domain) => self.domains.take(domain),
                EdgeKey::App(app) => updater.treat(app, None),
                EdgeKey::Certificate(fingerprint) => self.secrets.take_certificate(fingerprint),
                EdgeKey::Keys => self.secrets.set_keys(&[]),
                EdgeKey::Challenge(host) => self.secrets.take_challenge(host),
                EdgeKey::Peer(name) => self.peers.take(name),
                EdgeKey::Port(_) => {}
                EdgeKey::Split(app) => self.splits.take(app),
            },
        }
    }

    fn lock_edge(&self) -> MutexGuard<'_, Edge> {
        // Each entry is complete in itself, and the next whole table mends whatever a panic has left undone.
        self.edge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of what counts besides the routes.
    pub fn edge_version(&self) -> RouteVersion {
        *self.edge_changed.borrow()
    }

    /// Follows the version of what counts besides the routes.
    pub fn watch_edge(&self) -> watch::Receiver<RouteVersion> {
        self.edge_changed.subscribe()
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

    /// Whether `wanted` says so of any route; looks no further.
    pub(crate) fn any_route(&self, mut wanted: impl FnMut(&Route) -> bool) -> bool {
        self.routes.pin().values().any(|route| wanted(route))
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
            self.ring_beside(&route.host);
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
            self.ring_beside(&route.host);
        }
        self.settle(&mut updater, delta.to);
        Ok(())
    }

    /// A route has changed: whoever waits for a servo of the one that shares its requests with it looks again.
    fn ring_beside(&self, host: &str) {
        if self.splits.is_empty() {
            return;
        }
        if let Some(sharing) = self.splits.leading_to(host).and_then(|host| self.route(&host)) {
            sharing.ring();
        }
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
