//! Host name → servos, read by every request and changed while requests run.
//!
//! What the controllers may rely on:
//! - once [`Table::progress`] says `applied = V`, no request picks a servo that V or an older version took out of
//!   the table, however long ago that request began;
//! - once it says `drained = V`, no request (or upgraded connection) is in flight to such a servo.
//!
//! Most routes of a large table are never asked for: they sleep ([`Route`]).

mod app;
mod change;
mod choose;
mod domains;
mod edge;
mod list;
mod packed;
mod pick;
mod route;
mod routes;
mod servo;
mod sites;
mod split;
mod statistics;
mod target;
mod update;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_model::{EdgeEntry, EdgeKey, EdgeTable, RouteVersion, SiteName};
use pontoon_proto::{BalancerAck, EdgeDelta};
use tokio::sync::{Notify, watch};

pub use app::{App, Settings};
use change::Whole;
pub use choose::{Draw, Wish};
use domains::Domains;
pub use edge::PortEntry;
use edge::{Change, Edge};
pub use list::List;
pub use route::{Counted, Route, Waiting};
use routes::Routes;
pub use servo::{Failure, InFlight, Servo};
use sites::Sites;
pub use split::Split;
use split::Splits;
pub use statistics::{LATENCY_BOUNDS, Statistics};
pub use target::Target;
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
    routes: Routes,
    sites: Arc<Sites>,
    domains: Domains,
    splits: Splits,
    /// Certificates and keys.
    secrets: Arc<Secrets>,
    /// The balancers of other sites.
    peers: Arc<Peers>,
    /// Held for a whole change, or a look at all routes; taken before `updater`. What it holds is a change that has begun.
    turn: Mutex<Option<Whole>>,
    /// Taken for one route at a time, since a request waits for it that wakes an app; by no other request. Fair if asked to be.
    updater: parking_lot::Mutex<Updater>,
    /// Held by whoever lists all routes.
    listing: Mutex<()>,
    /// Taken before `updater`, if both are.
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
        let sites = Arc::new(Sites::new(site.clone()));
        Self {
            routes: Routes::default(),
            domains: Domains::default(),
            splits: Splits::default(),
            secrets: Arc::default(),
            peers: Arc::new(Peers::new(site)),
            turn: Mutex::default(),
            listing: Mutex::default(),
            edge: Mutex::default(),
            updater: parking_lot::Mutex::new(Updater::new(sites.clone(), drained.clone())),
            sites,
            applied: AtomicU64::new(0),
            applied_watch: watch::Sender::new(RouteVersion(0)),
            edge_changed: watch::Sender::new(RouteVersion(0)),
            drained,
        }
    }

    /// The route of `host` (lower case, no port).
    pub fn route(&self, host: &str) -> Option<Arc<Route>> {
        self.routes.get(host)
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
        let mut edge = self.lock_edge();
        if table.version < edge.version() {
            return Err(ApplyError::Older { given: table.version, have: edge.version() });
        }
        edge.become_table(table, |change| self.take_in(change));
        self.edge_changed.send_replace(edge.version());
        Ok(())
    }

    /// Applies the difference to what counts besides the routes.
    pub fn apply_edge_delta(&self, delta: &EdgeDelta) -> Result<(), ApplyError> {
        let mut edge = self.lock_edge();
        if delta.from != edge.version() || delta.to < edge.version() {
            return Err(ApplyError::Gap { from: delta.from, have: edge.version() });
        }
        edge.change(delta.to, &delta.changed, &delta.removed, |change| self.take_in(change));
        self.edge_changed.send_replace(edge.version());
        Ok(())
    }

    fn take_in(&self, change: Change<'_>) {
        match change {
            Change::Put(entry) => match &**entry {
                EdgeEntry::Domain { domain, route } => self.domains.put(domain, route),
                EdgeEntry::App { app, traffic } => self.updater.lock().treat(app, Some(traffic.clone())),
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
                EdgeKey::App(app) => self.updater.lock().treat(app, None),
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
        let mut updater = self.updater.lock();
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
        self.len() == 0
    }

    /// Whether `wanted` says so of any route; looks no further.
    pub(crate) fn any_route(&self, wanted: impl FnMut(&Arc<Route>) -> bool) -> bool {
        self.routes.any(wanted)
    }

    /// Whether `wanted` says so of the site of any of a route's servos, and of the servo itself if the route is awake.
    pub(crate) fn any_servo(&self, route: &Route, wanted: impl Fn(&SiteName, Option<&Servo>) -> bool) -> bool {
        match route.target().as_ref() {
            Some(target) => target.servos().iter().any(|servo| wanted(&servo.site, Some(servo))),
            None => route.packed().rows().any(|row| wanted(&self.sites.name(row.site), None)),
        }
    }

    /// Every route, in no order.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.all()
    }

    /// The routes of apps that were asked for lately, in no order.
    pub fn awake(&self) -> Vec<Arc<Route>> {
        self.updater.lock().awake_routes()
    }
}

#[cfg(test)]
mod tests;
