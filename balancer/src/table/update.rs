//! Changing the table, one change at a time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashTable;
use pontoon_model::{AppName, RouteServo, RouteVersion, ServoId, SiteName, Traffic};
use tokio::sync::Notify;

use super::app::App;
use super::route::{Route, Target};
use super::servo::Servo;

type Routes = papaya::HashMap<Box<str>, Arc<Route>>;
/// A servo that comes back at another address is another one to us: the old one drains by itself.
type Key = (ServoId, SocketAddr);

/// What only the one who changes the table knows.
pub(super) struct Updater {
    site: SiteName,
    /// Each site name once, shared by its servos.
    sites: HashSet<SiteName>,
    /// By id and address, which are in them: a key of its own for each would take as much as the servo.
    servos: HashTable<Arc<Servo>>,
    hasher: RandomState,
    /// Those with routes or settings, shared by their routes.
    apps: HashMap<AppName, Arc<App>>,
    /// Servos that no route named at some moment of the change under way.
    unused: Vec<Key>,
    /// Removed with requests in flight, each with the version that removed it.
    draining: Vec<(RouteVersion, Arc<Servo>)>,
    /// Replaced targets, freed here and not by the request that happens to read one last.
    retired: Vec<Arc<Target>>,
    drained: Arc<Notify>,
}

fn key_of(servo: &Arc<Servo>) -> Key {
    (servo.id, servo.address)
}

impl Updater {
    pub(super) fn new(site: SiteName, drained: Arc<Notify>) -> Self {
        Self {
            site,
            sites: HashSet::new(),
            servos: HashTable::new(),
            hasher: RandomState::new(),
            apps: HashMap::new(),
            unused: Vec::new(),
            draining: Vec::new(),
            retired: Vec::new(),
            drained,
        }
    }

    /// Puts a new or changed route in place.
    pub(super) fn put(&mut self, routes: &Routes, new: &pontoon_model::Route) {
        let servos = new
            .servos
            .iter()
            .map(|servo| (Target::tier(servo.site == self.site, servo.suspect), self.hold(servo)))
            .collect();
        let target = Arc::new(Target::new(new.release, &new.reason, servos));
        let routes = routes.pin();
        let old = match routes.get(new.host.as_str()) {
            Some(route) if route.app.name == new.app => Some(route.replace(target)),
            // Statistics belong to an app: a host name that moves to another one begins anew.
            other => {
                let old = other.map(|route| Arc::clone(&route.target()));
                let app = self.app(&new.app);
                let before = routes.insert(new.host.as_str().into(), Arc::new(Route::new(&new.host, app, target)));
                before.inspect(|before| before.ring());
                old
            }
        };
        if let Some(old) = old {
            self.release(old);
        }
    }

    /// Takes a host name out.
    pub(super) fn take(&mut self, routes: &Routes, host: &str) {
        let routes = routes.pin();
        if let Some(route) = routes.remove(host) {
            route.ring();
            let target = Arc::clone(&route.target());
            self.release(target);
        }
    }

    /// How an app's requests are treated from now on; by the defaults, if nothing is said.
    pub(super) fn treat(&mut self, app: &AppName, traffic: Option<Traffic>) {
        self.app(app).set(traffic.unwrap_or_default());
    }

    fn app(&mut self, name: &AppName) -> Arc<App> {
        let new = || Arc::new(App::new(name.clone(), Traffic::default()));
        self.apps.entry(name.clone()).or_insert_with(new).clone()
    }

    /// Ends a change: marks as removed what no route names any more. All new targets are in place by now.
    pub(super) fn settle(&mut self, version: RouteVersion) {
        for key in self.unused.drain(..) {
            let Ok(entry) = self.servos.find_entry(self.hasher.hash_one(key), |servo| key_of(servo) == key) else {
                continue;
            };
            if entry.get().uses() > 0 {
                continue;
            }
            let (servo, _) = entry.remove();
            if servo.remove() {
                self.draining.push((version, servo));
            }
        }
        self.retired.retain(|target| Arc::strong_count(target) > 1);
    }

    /// Forgets apps that have neither routes nor settings.
    pub(super) fn forget_apps(&mut self, has_settings: impl Fn(&AppName) -> bool) {
        self.apps.retain(|name, app| Arc::strong_count(app) > 1 || has_settings(name));
    }

    /// The newest version whose removed servos, and those of all before, have no request in flight.
    pub(super) fn drained(&mut self, applied: RouteVersion) -> RouteVersion {
        self.draining.retain(|(_, servo)| servo.in_flight() > 0);
        let oldest = self.draining.iter().map(|(version, _)| *version).min();
        oldest.map_or(applied, |version| RouteVersion(version.0.saturating_sub(1)))
    }

    fn hold(&mut self, servo: &RouteServo) -> Arc<Servo> {
        let site = match self.sites.get(&servo.site) {
            Some(site) => site.clone(),
            None => {
                self.sites.insert(servo.site.clone());
                servo.site.clone()
            }
        };
        let key = (servo.id, servo.address);
        let hash = self.hasher.hash_one(key);
        let rehash = |servo: &Arc<Servo>| self.hasher.hash_one(key_of(servo));
        let entry = self.servos.entry(hash, |held| key_of(held) == key, rehash);
        let new = || Arc::new(Servo::new(servo.id, site, servo.address, self.drained.clone()));
        let held = entry.or_insert_with(new).into_mut();
        held.use_once_more();
        held.clone()
    }

    fn release(&mut self, target: Arc<Target>) {
        for servo in &target.servos {
            if servo.use_once_less() {
                self.unused.push(key_of(servo));
            }
        }
        self.retired.push(target);
    }
}
