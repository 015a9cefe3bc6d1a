//! Changing the table, one change at a time; waking apps that are asked for, and letting them sleep again.
//!
//! An app is awake or asleep with all of its routes: a servo is shared by routes of its app only, so that whoever is awake
//! knows all routes that lead to a servo. Were it not so, a servo would be counted twice, and one that left an app would drain
//! although another still leads there; no request would get to one that is gone.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use pontoon_model::{AppName, RouteVersion, Traffic};
use tokio::sync::Notify;

use super::app::{App, Settings};
use super::packed::{Packed, Row};
use super::route::Route;
use super::routes::Routes;
use super::servo::{Key, Servo};
use super::sites::Sites;
use super::target::Target;
use crate::millis;

/// Routes of an app that are looked at for servos which a new one may have from them: an app has its own, five of releases
/// beside it, and those of its ports.
const MOST_BESIDE: usize = 32;

/// What only the one who changes the table knows.
pub(super) struct Updater {
    sites: Arc<Sites>,
    /// Those of apps that are awake, by id and address, which are in them: a key of its own for each would take as much
    /// as the servo.
    servos: HashTable<Arc<Servo>>,
    /// All routes, by the name of their app.
    by_app: HashTable<Arc<Route>>,
    hasher: RandomState,
    /// Those with settings, also while they have no routes.
    treated: HashMap<AppName, Arc<App>>,
    /// Those that are awake, with how many requests they had had when they were looked at last.
    awake: HashMap<AppName, Option<u64>>,
    /// How apps without settings are treated.
    defaults: Arc<Settings>,
    /// Servos that no route named at some moment of the change under way.
    unused: Vec<Key>,
    /// Removed with requests in flight, each with the version that removed it.
    draining: Vec<(RouteVersion, Arc<Servo>)>,
    /// Replaced targets, freed here and not by the request that happens to read one last.
    retired: Vec<Arc<Target>>,
    drained: Arc<Notify>,
    /// Host names that were changed since somebody began to list the routes.
    noted: Option<HashSet<Box<str>>>,
}

impl Updater {
    pub(super) fn new(sites: Arc<Sites>, drained: Arc<Notify>) -> Self {
        Self {
            sites,
            servos: HashTable::new(),
            by_app: HashTable::new(),
            hasher: RandomState::new(),
            treated: HashMap::new(),
            awake: HashMap::new(),
            defaults: Arc::new(Settings::new(Traffic::default())),
            unused: Vec::new(),
            draining: Vec::new(),
            retired: Vec::new(),
            drained,
            noted: None,
        }
    }

    /// Puts a new or changed route in place and returns it.
    pub(super) fn put(&mut self, routes: &Routes, new: &pontoon_model::Route) -> Arc<Route> {
        let before = routes.get(&new.host);
        let packed = self.pack(before.as_ref(), new);
        match before {
            Some(route) if route.app.name == new.app => {
                if route.packed() != packed {
                    self.note(&route.host);
                    let target = (!route.is_asleep()).then(|| self.target(&packed));
                    route.set_packed(packed);
                    self.release(target.and_then(|target| route.replace(target)));
                }
                route
            }
            // Statistics belong to an app: a host name that moves to another one begins anew.
            before => {
                self.note(&new.host);
                let route = Arc::new(Route::new(&new.host, self.app(&new.app), packed));
                if self.awake.contains_key(&new.app) {
                    self.wake_route(&route);
                }
                let hash = self.hasher.hash_one(&new.app);
                let rehash = |route: &Arc<Route>| self.hasher.hash_one(&route.app.name);
                self.by_app.insert_unique(hash, route.clone(), rehash);
                routes.put(route.clone());
                if let Some(before) = before {
                    self.forget(&before);
                }
                route
            }
        }
    }

    /// Takes a host name out.
    pub(super) fn take(&mut self, routes: &Routes, host: &str) {
        if let Some(route) = routes.take(host) {
            self.note(host);
            self.forget(&route);
        }
    }

    /// A route is no longer in the table.
    fn forget(&mut self, route: &Arc<Route>) {
        let hash = self.hasher.hash_one(&route.app.name);
        if let Ok(entry) = self.by_app.find_entry(hash, |one| Arc::ptr_eq(one, route)) {
            entry.remove();
        }
        if self.of_app(&route.app.name).next().is_none() {
            self.awake.remove(&route.app.name);
        }
        route.ring();
        self.release(route.target().clone());
    }

    /// How an app's requests are treated from now on; by the defaults, if nothing is said.
    pub(super) fn treat(&mut self, name: &AppName, traffic: Option<Traffic>) {
        let app = self.app(name);
        match traffic {
            Some(traffic) => {
                app.set(Arc::new(Settings::new(traffic)));
                self.treated.insert(name.clone(), app);
            }
            None => {
                app.set(self.defaults.clone());
                self.treated.remove(name);
            }
        }
    }

    fn app(&self, name: &AppName) -> Arc<App> {
        let known = self.of_app(name).next().map(|route| &route.app).or_else(|| self.treated.get(name));
        known.cloned().unwrap_or_else(|| Arc::new(App::new(name.clone(), self.defaults.clone())))
    }

    fn of_app<'a>(&'a self, app: &'a AppName) -> impl Iterator<Item = &'a Arc<Route>> {
        self.by_app.iter_hash(self.hasher.hash_one(app)).filter(move |route| route.app.name == *app)
    }

    /// Ends a change: marks as removed what no route names any more. All new targets are in place by now.
    pub(super) fn settle(&mut self, version: RouteVersion) {
        for key in std::mem::take(&mut self.unused) {
            if let Some(servo) = self.withdraw(key)
                && servo.remove()
            {
                self.draining.push((version, servo));
            }
        }
        self.free();
    }

    fn free(&mut self) {
        self.retired.retain(|target| Arc::strong_count(target) > 1);
    }

    /// Takes a servo out that no target has.
    fn withdraw(&mut self, key: Key) -> Option<Arc<Servo>> {
        let entry = self.servos.find_entry(self.hasher.hash_one(key), |servo| servo.key() == key).ok()?;
        (entry.get().uses() == 0).then(|| entry.remove().0)
    }

    /// The newest version whose removed servos, and those of all before, have no request in flight.
    pub(super) fn drained(&mut self, applied: RouteVersion) -> RouteVersion {
        self.draining.retain(|(_, servo)| servo.in_flight() > 0);
        let oldest = self.draining.iter().map(|(version, _)| *version).min();
        oldest.map_or(applied, |version| RouteVersion(version.0.saturating_sub(1)))
    }

    /// In few bytes. A servo that the route, or another of the app, names already came when they say.
    fn pack(&self, before: Option<&Arc<Route>>, new: &pontoon_model::Route) -> Packed {
        let all = before.into_iter().chain(self.of_app(&new.app).take(MOST_BESIDE));
        let rows = all.flat_map(|route| route.packed().rows().collect::<Vec<_>>());
        let mut known: Vec<(Key, u64)> = rows.map(|row| (row.key(), row.since)).collect();
        known.sort_unstable();
        let now = millis::now();
        let since = |key| known.binary_search_by_key(&key, |(key, _)| *key).map_or(now, |at| known[at].1);
        Packed::new(new, &self.sites, since)
    }

    /// The route of `host`, awake.
    pub(super) fn wake(&mut self, routes: &Routes, host: &str) -> Option<Arc<Route>> {
        let route = routes.get(host)?;
        if route.is_asleep() {
            let name = &route.app.name;
            let all: Vec<_> = self.of_app(name).cloned().collect();
            all.iter().for_each(|route| self.wake_route(route));
            self.awake.insert(name.clone(), None);
        }
        Some(route)
    }

    fn wake_route(&mut self, route: &Route) {
        let target = self.target(&route.packed());
        self.release(route.replace(target));
    }

    /// Lets an app sleep that had no request since it was looked at last, and has nothing that would be lost by it.
    pub(super) fn let_sleep(&mut self, app: &AppName) {
        let all: Vec<_> = self.of_app(app).cloned().collect();
        let requests = all.iter().map(|route| route.statistics().arrived()).sum();
        let Some(seen) = self.awake.get_mut(app) else { return };
        let before = seen.replace(requests);
        let targets: Vec<_> = all.iter().filter_map(|route| route.target().clone()).collect();
        let is_quiet = |servo: &Arc<Servo>| servo.in_flight() == 0 && !servo.is_ailing();
        let quiet = targets.iter().flat_map(|target| &target.servos).all(is_quiet);
        if before != Some(requests) || !quiet || all.iter().any(|route| route.waiting() > 0) {
            return;
        }
        // From here on a request finds no target, and waits until this is over.
        all.iter().for_each(|route| route.sleep());
        targets.into_iter().for_each(|target| self.release(Some(target)));
        let mut closed = Vec::new();
        for key in std::mem::take(&mut self.unused) {
            let Some(servo) = self.withdraw(key) else { continue };
            // One that has read the target before may have come in.
            let is_closed = servo.remove_if_idle();
            closed.push((servo, is_closed));
        }
        if closed.iter().all(|(_, is_closed)| *is_closed) {
            self.awake.remove(app);
            return self.free();
        }
        for (servo, is_closed) in closed {
            if is_closed {
                servo.readmit();
            }
            self.keep(servo);
        }
        all.iter().for_each(|route| self.wake_route(route));
    }

    #[cfg(test)]
    pub(super) fn has_no_servo(&self) -> bool {
        self.servos.is_empty()
    }

    /// The apps that are awake.
    pub(super) fn awake(&self) -> Vec<AppName> {
        self.awake.keys().cloned().collect()
    }

    /// Their routes.
    pub(super) fn awake_routes(&self) -> Vec<Arc<Route>> {
        self.awake.keys().flat_map(|app| self.of_app(app)).cloned().collect()
    }

    fn note(&mut self, host: &str) {
        if let Some(noted) = &mut self.noted {
            noted.insert(host.into());
        }
    }

    /// Host names that are changed are noted from now on.
    pub(super) fn begin_notes(&mut self) {
        self.noted = Some(HashSet::new());
    }

    /// Those that were changed since.
    pub(super) fn end_notes(&mut self) -> HashSet<Box<str>> {
        self.noted.take().unwrap_or_default()
    }

    fn target(&mut self, packed: &Packed) -> Arc<Target> {
        let servos = packed.rows().map(|row| (row.tier(), self.hold(&row))).collect();
        Arc::new(Target::new(&packed.reason(), servos))
    }

    fn hold(&mut self, row: &Row) -> Arc<Servo> {
        let key = row.key();
        let rehash = |servo: &Arc<Servo>| self.hasher.hash_one(servo.key());
        let entry = self.servos.entry(self.hasher.hash_one(key), |held| held.key() == key, rehash);
        let new =
            || Arc::new(Servo::new(row.id, self.sites.name(row.site), row.address, row.since, self.drained.clone()));
        let held = entry.or_insert_with(new).into_mut();
        held.use_once_more();
        held.clone()
    }

    fn keep(&mut self, servo: Arc<Servo>) {
        let rehash = |servo: &Arc<Servo>| self.hasher.hash_one(servo.key());
        self.servos.insert_unique(self.hasher.hash_one(servo.key()), servo, rehash);
    }

    fn release(&mut self, target: Option<Arc<Target>>) {
        let Some(target) = target else { return };
        for servo in &target.servos {
            if servo.use_once_less() {
                self.unused.push(servo.key());
            }
        }
        self.retired.push(target);
    }
}
