//! Writing the state: the only functions that touch tables and the indexes derived from them.

use std::sync::Arc;

use imbl::OrdSet;
use pontoon_model::{
    ApiToken, App, AppName, Balancer, BalancerName, BesideRow, Build, BuildId, BuildState, Certificate, Controller,
    ControllerId, Deployment, DeploymentId, Digest, Domain, DomainRow, Host, HostName, HostState, OrderRow, Phase,
    PortRow, ProcessName, Release, ReleaseNumber, RouteVersion, Servo, ServoId, TokenId, Traffic, TrafficRow,
};

use super::{Acme, Edge, Row, RowKey, Settings, State, Trust};

/// What of a servo reaches its host: a change of it is a new generation of the host's assignment.
fn spec_part(servo: &Servo) -> (ServoId, pontoon_model::Desired) {
    (servo.id, servo.desired)
}

/// An index of a million servos in the order of their names: each goes beside the one before, where it is cheap to put.
fn by_name<'a, N: Ord + Clone + 'a>(servos: impl Iterator<Item = (&'a N, ServoId)>) -> OrdSet<(N, ServoId)> {
    let mut keys: Vec<(&N, ServoId)> = servos.collect();
    keys.sort();
    keys.into_iter().map(|(name, id)| (name.clone(), id)).collect()
}

impl State {
    pub(crate) fn next_id(&mut self) -> u64 {
        self.header.last_id += 1;
        self.header.last_id
    }

    /// Routes change with this entry.
    pub(crate) fn touch_routes(&mut self) {
        self.header.route_version = RouteVersion(self.header.index);
    }

    fn touch_assignment(&mut self, host: &HostName) {
        if let Some(host) = self.hosts.get_mut(host) {
            Arc::make_mut(host).generation = self.header.index;
        }
    }

    pub(crate) fn put_app(&mut self, mut app: App) {
        app.version = self.header.index;
        let (name, app) = (app.name.clone(), Arc::new(app));
        let old = self.apps.insert(name.clone(), app.clone());
        if old.as_ref().map(|old| (old.live, old.deployment)) != Some((app.live, app.deployment)) {
            self.touch_routes();
        }
        self.index_app(old.as_deref(), Some(&app), &name);
        self.touched.put(RowKey::App(name), Row::App(app));
    }

    /// Changes the labels of an app, at which neither routes nor the planner look, if `change` makes another row of it. None if
    /// there is no such app. Looks it up once: with `put_app` it would be twice.
    pub(crate) fn relabel<E>(
        &mut self,
        name: &AppName,
        change: impl FnOnce(&App) -> Result<Option<App>, E>,
    ) -> Option<Result<(), E>> {
        let row = self.apps.get_mut(name)?;
        Some(change(row).map(|changed| {
            if let Some(mut app) = changed {
                app.version = self.header.index;
                *row = Arc::new(app);
                self.touched.put(RowKey::App(name.clone()), Row::App(row.clone()));
            }
        }))
    }

    pub(crate) fn remove_app(&mut self, name: &AppName) {
        self.touched.remove(RowKey::App(name.clone()), None);
        let old = self.apps.remove(name);
        self.index_app(old.as_deref(), None, name);
        self.touch_routes();
    }

    pub(crate) fn put_release(&mut self, release: Release) {
        let app = release.app.clone();
        let (number, release) = (release.number, Arc::new(release));
        self.touched.put(RowKey::Release(app.clone(), number), Row::Release(release.clone()));
        self.releases.insert((app.clone(), number), release);
        self.index_release(&app);
    }

    pub(crate) fn remove_release(&mut self, app: &AppName, number: ReleaseNumber) {
        self.touched.remove(RowKey::Release(app.clone(), number), None);
        self.releases.remove(&(app.clone(), number));
        self.index_release(app);
    }

    pub(crate) fn put_build(&mut self, mut build: Build) {
        build.version = self.header.index;
        let runs_on = |build: &Build| match build.state {
            BuildState::Running { .. } => build.host.clone(),
            _ => None,
        };
        let (old, new) = (self.builds.get(&build.id).and_then(|old| runs_on(old)), runs_on(&build));
        if old != new {
            for host in old.iter().chain(new.iter()) {
                self.touch_assignment(host);
            }
        }
        self.index_build(&build.app, build.id, Some(&build));
        let (id, build) = (build.id, Arc::new(build));
        self.touched.put(RowKey::Build(id), Row::Build(build.clone()));
        self.builds.insert(id, build);
    }

    pub(crate) fn remove_build(&mut self, id: BuildId) {
        let Some(build) = self.builds.remove(&id) else { return };
        self.touched.remove(RowKey::Build(id), Some(build.app.clone()));
        self.index_build(&build.app, id, None);
        if let Some(host) = &build.host {
            self.touch_assignment(host);
        }
    }

    pub(crate) fn put_deployment(&mut self, mut deployment: Deployment) {
        deployment.version = self.header.index;
        let mixed = |deployment: &Deployment| matches!(deployment.phase, Phase::Mixed);
        if self.deployments.get(&deployment.id).is_some_and(|old| mixed(old)) != mixed(&deployment) {
            self.touch_routes();
        }
        self.index_deployment(&deployment.app, deployment.id, Some(&deployment));
        let (id, deployment) = (deployment.id, Arc::new(deployment));
        self.touched.put(RowKey::Deployment(id), Row::Deployment(deployment.clone()));
        self.deployments.insert(id, deployment);
    }

    pub(crate) fn remove_deployment(&mut self, id: DeploymentId) {
        if let Some(row) = self.deployments.remove(&id) {
            self.touched.remove(RowKey::Deployment(id), Some(row.app.clone()));
            self.index_deployment(&row.app, id, None);
        }
    }

    pub(crate) fn put_servo(&mut self, mut servo: Servo) {
        servo.version = self.header.index;
        let old = self.servos.get(&servo.id).cloned();
        let target = |servo: &Servo| self.is_routed(servo).then_some(servo.address);
        if old.as_deref().and_then(target) != target(&servo) {
            self.touch_routes();
        }
        if old.as_deref().map(spec_part) != Some(spec_part(&servo)) {
            self.touch_assignment(&servo.host);
        }
        self.index_servo(old.as_deref(), Some(&servo));
        self.servos_by_app.insert((servo.app.clone(), servo.id));
        self.servos_by_host.insert((servo.host.clone(), servo.id));
        let (id, servo) = (servo.id, Arc::new(servo));
        self.touched.put(RowKey::Servo(id), Row::Servo(servo.clone()));
        self.servos.insert(id, servo);
    }

    pub(crate) fn remove_servo(&mut self, id: ServoId) {
        let Some(servo) = self.servos.get(&id).cloned() else { return };
        if self.is_routed(&servo) {
            self.touch_routes();
        }
        self.touch_assignment(&servo.host);
        self.servos_by_app.remove(&(servo.app.clone(), id));
        self.servos_by_host.remove(&(servo.host.clone(), id));
        self.touched.remove(RowKey::Servo(id), Some(servo.app.clone()));
        self.servos.remove(&id);
        self.index_servo(Some(&servo), None);
    }

    pub(crate) fn put_host(&mut self, mut host: Host) {
        host.version = self.header.index;
        let old = self.hosts.get(&host.name).map(|old| (old.state, old.site.clone()));
        if old.is_none() {
            host.generation = self.header.index;
        }
        // Routes show which servos stand on a silent host.
        if old != Some((host.state, host.site.clone())) && self.servos_on(&host.name).next().is_some() {
            self.touch_routes();
        }
        let lost = |state: Option<HostState>| state == Some(HostState::Lost);
        self.index_host(&host.name, lost(old.map(|(state, _)| state)), host.state == HostState::Lost);
        let (name, host) = (host.name.clone(), Arc::new(host));
        self.touched.put(RowKey::Host(name.clone()), Row::Host(host.clone()));
        self.hosts.insert(name, host);
    }

    pub(crate) fn put_balancer(&mut self, mut balancer: Balancer) {
        balancer.version = self.header.index;
        let (name, balancer) = (balancer.name.clone(), Arc::new(balancer));
        self.touched.put(RowKey::Balancer(name.clone()), Row::Balancer(balancer.clone()));
        self.balancers.insert(name, balancer);
        self.touch_plan();
    }

    pub(crate) fn remove_balancer(&mut self, name: &BalancerName) {
        self.touched.remove(RowKey::Balancer(name.clone()), None);
        self.balancers.remove(name);
        self.end_peer(name);
        self.touch_plan();
    }

    /// No balancer sends requests through this one any more.
    pub(crate) fn end_peer(&mut self, name: &BalancerName) {
        if self.edge.peers.contains_key(name) {
            self.change_edge(|edge| edge.peers.remove(name));
        }
    }

    pub(crate) fn put_controller(&mut self, mut controller: Controller) {
        controller.version = self.header.index;
        let (id, controller) = (controller.id, Arc::new(controller));
        self.touched.put(RowKey::Controller(id), Row::Controller(controller.clone()));
        self.controllers.insert(id, controller);
    }

    pub(crate) fn remove_controller(&mut self, id: ControllerId) {
        self.touched.remove(RowKey::Controller(id), None);
        self.controllers.remove(&id);
    }

    // Tokens are told to nobody who follows the changes: they are no rows of theirs.
    pub(crate) fn put_api_token(&mut self, mut token: ApiToken) {
        token.version = self.header.index;
        let token = Arc::new(token);
        self.tokens_by_hash.insert(token.hash, token.clone());
        self.api_tokens.insert(token.id, token);
    }

    pub(crate) fn remove_api_token(&mut self, id: TokenId) {
        if let Some(token) = self.api_tokens.remove(&id) {
            self.tokens_by_hash.remove(&token.hash);
        }
    }

    pub(crate) fn put_settings(&mut self, settings: Settings) {
        self.header.settings = settings;
        // Domains lead to host names below the base domain, and parts of requests do.
        let splits = || self.edge.beside.keys().any(|app| self.edge.split_of(app).is_some());
        if !self.edge.domains.is_empty() || splits() {
            self.change_edge(|_| ());
        }
        self.touch_header();
    }

    pub(crate) fn put_feature_level(&mut self, level: u32) {
        self.header.feature_level = level;
        self.touch_header();
    }

    pub(crate) fn change_trust<T>(&mut self, change: impl FnOnce(&mut Trust) -> T) {
        change(Arc::make_mut(&mut self.trust));
    }

    /// What balancers know besides the routes changes with this entry.
    pub(crate) fn change_edge<T>(&mut self, change: impl FnOnce(&mut Edge) -> T) -> T {
        let edge = Arc::make_mut(&mut self.edge);
        edge.version = RouteVersion(self.header.index);
        change(edge)
    }

    pub(crate) fn put_domain_row(&mut self, row: DomainRow) {
        let row = Arc::new(row);
        self.touched.put(RowKey::Domain(row.domain.clone()), Row::Domain(row.clone()));
        self.change_edge(|edge| edge.put_domain(row));
    }

    pub(crate) fn remove_domain_row(&mut self, domain: &Domain) {
        let app = self.edge.domain(domain).map(|row| row.app.clone());
        self.touched.remove(RowKey::Domain(domain.clone()), app);
        self.change_edge(|edge| edge.take_domain(domain));
    }

    /// The defaults have no row.
    pub(crate) fn put_traffic_row(&mut self, row: TrafficRow) {
        if row.traffic == Traffic::default() {
            return self.remove_traffic_row(&row.app);
        }
        let (app, row) = (row.app.clone(), Arc::new(row));
        self.touched.put(RowKey::Traffic(app.clone()), Row::Traffic(row.clone()));
        self.change_edge(|edge| edge.traffic.insert(app, row));
    }

    pub(crate) fn remove_traffic_row(&mut self, app: &AppName) {
        self.touched.remove(RowKey::Traffic(app.clone()), None);
        self.change_edge(|edge| edge.traffic.remove(app));
    }

    pub(crate) fn put_port_row(&mut self, row: PortRow) {
        let (key, row) = ((row.app.clone(), row.process.clone()), Arc::new(row));
        self.touched.put(RowKey::Port(key.0.clone(), key.1.clone()), Row::Port(row.clone()));
        self.change_edge(|edge| edge.ports.insert(key, row));
    }

    pub(crate) fn remove_port_row(&mut self, app: &AppName, process: &ProcessName) {
        self.touched.remove(RowKey::Port(app.clone(), process.clone()), None);
        self.change_edge(|edge| edge.ports.remove(&(app.clone(), process.clone())));
    }

    pub(crate) fn put_certificate_row(&mut self, row: Certificate) {
        let (fingerprint, row) = (row.fingerprint, Arc::new(row));
        self.touched.put(RowKey::Certificate(fingerprint), Row::Certificate(row.clone()));
        self.change_edge(|edge| edge.certificates.insert(fingerprint, row));
    }

    pub(crate) fn remove_certificate_row(&mut self, fingerprint: &Digest) {
        self.touched.remove(RowKey::Certificate(*fingerprint), None);
        self.change_edge(|edge| edge.certificates.remove(fingerprint));
    }

    pub(crate) fn put_order(&mut self, row: OrderRow) {
        let (host, row) = (row.host.clone(), Arc::new(row));
        self.touched.put(RowKey::Order(host.clone()), Row::Order(row.clone()));
        self.change_acme(|acme| acme.orders.insert(host, row));
    }

    /// One that is not there is fine.
    pub(crate) fn remove_order(&mut self, host: &str) {
        if self.acme.orders.contains_key(host) {
            self.touched.remove(RowKey::Order(host.to_owned()), None);
            self.change_acme(|acme| acme.orders.remove(host));
        }
    }

    pub(crate) fn change_acme<T>(&mut self, change: impl FnOnce(&mut Acme) -> T) -> T {
        change(Arc::make_mut(&mut self.acme))
    }

    /// What runs beside an app's live release changes with this entry.
    pub(crate) fn write_beside(&mut self, app: &AppName, row: Option<BesideRow>) {
        if row.is_none() && !self.edge.beside.contains_key(app) {
            return;
        }
        let before = self.edge.split_of(app);
        let row = row.map(Arc::new);
        match &row {
            Some(row) => self.touched.put(RowKey::Beside(app.clone()), Row::Beside(row.clone())),
            None => self.touched.remove(RowKey::Beside(app.clone()), None),
        }
        let edge = Arc::make_mut(&mut self.edge);
        match row {
            Some(row) => edge.beside.insert(app.clone(), row),
            None => edge.beside.remove(app),
        };
        // Balancers know the rest from the routes.
        if edge.split_of(app) != before {
            edge.version = RouteVersion(self.header.index);
        }
        self.touch_routes();
        self.index_beside(app);
    }

    fn touch_header(&mut self) {
        self.touched.put(RowKey::Cluster, Row::Cluster(self.settings().clone(), self.feature_level()));
    }

    /// Builds the derived indexes anew from the tables.
    pub(crate) fn rebuild_indexes(&mut self) {
        self.servos_by_app = by_name(self.servos.values().map(|servo| (&servo.app, servo.id)));
        self.servos_by_host = by_name(self.servos.values().map(|servo| (&servo.host, servo.id)));
        self.tokens_by_hash = self.api_tokens.values().map(|token| (token.hash, token.clone())).collect();
        self.rebuild_unsettled();
    }
}
