//! What each consumer may see of the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pontoon_model::{
    App, AppName, Assignment, Beside, Build, BuildSpec, CpuMillis, EdgeEntry, EdgeKey, EdgeTable, HealthCheck, Host,
    HostName, HostState, MemoryBytes, PortRow, ProcessName, Release, ReleaseNumber, Route, RouteServo, RouteTable,
    Secret, SecretPlace, Servo, ServoSpec, Size, beside,
};

use crate::State;

/// Time between SIGTERM and SIGKILL, as Heroku and Kubernetes have it.
pub const STOP_GRACE: Duration = Duration::from_secs(30);
/// A build that takes longer has hung: the slowest honest ones compile native modules on a Pi.
pub const BUILD_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// What a build reserves and is limited to: pip and npm need up to a gigabyte.
pub const fn build_size() -> Size {
    Size { memory: MemoryBytes::mib(1024), cpu: CpuMillis(2000) }
}

/// Everything a host shall run. An unknown host shall run nothing. `open` gives the values of environments as they are; where it
/// cannot, there is no assignment, since one without them would be another.
pub fn assignment<E>(
    state: &State,
    name: &HostName,
    mut open: impl FnMut(&SecretPlace, &Secret) -> Result<String, E>,
) -> Result<Assignment, E> {
    let host = state.host(name);
    let mut servos = Vec::new();
    for (host, servo) in host.into_iter().flat_map(|host| state.servos_on(name).map(move |servo| (host, servo))) {
        servos.extend(servo_spec(state, host, servo, &mut open)?);
    }
    let builds = state.builds_on(name).map(|build| build_spec(state, build, &mut open)).collect::<Result<_, E>>()?;
    Ok(Assignment { host: name.clone(), generation: host.map_or(0, |host| host.generation), servos, builds })
}

fn opened<E>(
    app: &AppName,
    env: &BTreeMap<String, Secret>,
    mut open: impl FnMut(&SecretPlace, &Secret) -> Result<String, E>,
) -> Result<BTreeMap<String, String>, E> {
    let place = |name: &String| SecretPlace::Env { app: app.clone(), name: name.clone() };
    env.iter().map(|(name, value)| Ok((name.clone(), open(&place(name), value)?))).collect()
}

fn servo_spec<E>(
    state: &State,
    host: &Host,
    servo: &Servo,
    open: impl FnMut(&SecretPlace, &Secret) -> Result<String, E>,
) -> Result<Option<ServoSpec>, E> {
    let Some(release) = state.release(&servo.app, servo.release) else { return Ok(None) };
    let command = match &servo.one_off {
        Some(command) => command.to_string(),
        None => match release.processes.get(&servo.process) {
            Some(process) => process.command.clone(),
            None => return Ok(None),
        },
    };
    let mut env = opened(&servo.app, &release.env, open)?;
    for (key, value) in [
        ("PONTOON_APP", servo.app.to_string()),
        ("PONTOON_RELEASE", servo.release.to_string()),
        ("PONTOON_PROCESS", servo.process.to_string()),
        ("PONTOON_SERVO", servo.id.to_string()),
        ("PONTOON_HOST", host.name.to_string()),
        ("PONTOON_SITE", host.site.to_string()),
    ] {
        env.insert(key.to_owned(), value);
    }
    let tcp = servo.process.is_tcp();
    // What speaks another protocol answers no GET.
    let path = release.health.path.clone().filter(|_| !tcp);
    let health = HealthCheck { path, ..release.health.clone() };
    Ok(Some(ServoSpec {
        id: servo.id,
        app: servo.app.clone(),
        process: servo.process.clone(),
        release: servo.release,
        deployment: servo.deployment,
        language: release.language,
        bundle: release.bundle,
        command,
        env,
        size: servo.size,
        health,
        listens: servo.one_off.is_none() && (tcp || servo.process == ProcessName::web()),
        one_off: servo.one_off.is_some(),
        desired: servo.desired,
        grace: STOP_GRACE,
    }))
}

fn build_spec<E>(
    state: &State,
    build: &Build,
    open: impl FnMut(&SecretPlace, &Secret) -> Result<String, E>,
) -> Result<BuildSpec, E> {
    let env = state.app(&build.app).map(|app| opened(&build.app, &app.env, open)).transpose()?;
    Ok(BuildSpec {
        id: build.id,
        app: build.app.clone(),
        source: build.source,
        language: build.language,
        env: env.unwrap_or_default(),
        size: build_size(),
        timeout: BUILD_TIMEOUT,
    })
}

/// The host name under which an app is reached.
pub fn default_host(state: &State, app: &App) -> String {
    default_host_of(state, &app.name)
}

/// The same of an app that may not be there.
pub fn default_host_of(state: &State, app: &AppName) -> String {
    format!("{app}.{}", state.settings().base_domain)
}

/// All routes.
pub fn route_table(state: &State) -> RouteTable {
    let mut routes: Vec<_> = state.apps().flat_map(|app| routes_of(state, app)).map(Arc::new).collect();
    routes.sort_by(|a, b| a.host.cmp(&b.host));
    RouteTable { version: state.route_version(), routes }
}

/// All routes, where `table` are those of an older state: the same as [`route_table`], at the cost of what changed.
pub fn route_table_after(table: &RouteTable, old: &State, new: &State) -> RouteTable {
    if old.settings() != new.settings() {
        return route_table(new);
    }
    let mut routes = table.routes.clone();
    for name in new.apps_routed_otherwise(old) {
        let place = |routes: &[Arc<Route>], host: &str| routes.binary_search_by(|route| route.host.as_str().cmp(host));
        let wanted: Vec<Route> = new.app(&name).map(|app| routes_of(new, app).collect()).unwrap_or_default();
        for host in old.app(&name).map(|app| hosts_of(old, app)).unwrap_or_default() {
            if let Ok(at) = place(&routes, &host)
                && wanted.iter().all(|route| route.host != host)
            {
                routes.remove(at);
            }
        }
        for route in wanted {
            match place(&routes, &route.host) {
                Ok(at) => routes[at] = Arc::new(route),
                Err(at) => routes.insert(at, Arc::new(route)),
            }
        }
    }
    RouteTable { version: new.route_version(), routes }
}

/// The host name under which a release is reached beside the live one.
pub fn host_of_beside(state: &State, app: &AppName, release: ReleaseNumber) -> String {
    format!("{}.{}", beside::label(app, release), state.settings().base_domain)
}

/// What leads to an app: its host name, those of what runs beside the live release, and each process of it that has a port.
fn routes_of<'a>(state: &'a State, app: &'a App) -> impl Iterator<Item = Route> + 'a {
    let ports = state.edge().ports_of(&app.name);
    let of_port = |row: &'a Arc<PortRow>| {
        let name = Route::name_of_process(&app.name, &row.process);
        route(state, app, name, &row.process)
    };
    let web = route(state, app, default_host(state, app), &ProcessName::web());
    let beside = state.edge().beside_of(&app.name).iter().filter_map(|beside| route_beside(state, app, beside));
    std::iter::once(web).chain(beside).chain(ports.map(of_port))
}

fn route_beside(state: &State, app: &App, beside: &Beside) -> Option<Route> {
    let (number, deployment) = (beside.release()?, beside.deployment()?);
    let is_its =
        |servo: &&Arc<Servo>| servo.deployment == deployment && state.is_beside(servo) && state.is_routed(servo);
    let servos: Vec<_> = state.servos_of(&app.name).filter(is_its).filter_map(|servo| target(state, servo)).collect();
    let reason = if servos.is_empty() { Route::NOT_READY.to_owned() } else { String::new() };
    let host = host_of_beside(state, &app.name, number);
    Some(Route { host, app: app.name.clone(), release: Some(number), servos, reason })
}

/// The names of [`routes_of`].
fn hosts_of(state: &State, app: &App) -> Vec<String> {
    let ports = state.edge().ports_of(&app.name).map(|row| Route::name_of_process(&app.name, &row.process));
    let beside = state.edge().beside_of(&app.name).iter().filter_map(Beside::release);
    let beside = beside.map(|number| host_of_beside(state, &app.name, number));
    std::iter::once(default_host(state, app)).chain(beside).chain(ports).collect()
}

fn route(state: &State, app: &App, host: String, process: &ProcessName) -> Route {
    let servos: Vec<RouteServo> = state
        .servos_of(&app.name)
        .filter(|servo| servo.process == *process && state.is_routed(servo) && state.is_live(servo))
        .filter_map(|servo| target(state, servo))
        .collect();
    let reason = if servos.is_empty() { why_no_servo(state, app, process) } else { String::new() };
    Route { host, app: app.name.clone(), release: app.live.map(|live| live.release), servos, reason }
}

fn target(state: &State, servo: &Servo) -> Option<RouteServo> {
    let suspect = !state.host_is(&servo.host, HostState::Up);
    servo.address.map(|address| RouteServo { id: servo.id, site: servo.site.clone(), address, suspect })
}

/// For the 503 page. Says nothing that changes while the routes do not.
fn why_no_servo(state: &State, app: &App, process: &ProcessName) -> String {
    let Some(live) = app.live else { return "nothing has been deployed yet".to_owned() };
    let release: Option<&Arc<Release>> = state.release(&app.name, live.release);
    if release.is_some_and(|release| !release.processes.contains_key(process)) {
        return format!("it has no {process} process");
    }
    if app.scale_of(process).count.total() == 0 {
        return "it is scaled to zero".to_owned();
    }
    Route::NOT_READY.to_owned()
}

/// What of `new` differs from `old`: changed or new routes, and host names that are gone.
pub fn route_delta(old: &RouteTable, new: &RouteTable) -> (Vec<Arc<Route>>, Vec<String>) {
    let find = |table: &RouteTable, host: &str| {
        table.routes.binary_search_by(|route| route.host.as_str().cmp(host)).ok().map(|at| table.routes[at].clone())
    };
    let changed = new.routes.iter().filter(|route| find(old, &route.host).as_ref() != Some(route)).cloned().collect();
    let removed =
        old.routes.iter().filter(|route| find(new, &route.host).is_none()).map(|route| route.host.clone()).collect();
    (changed, removed)
}

/// What balancers know besides the routes.
pub fn edge_table(state: &State) -> EdgeTable {
    edge_table_after(&EdgeTable::default(), state, state)
}

/// The same, where `table` is that of an older state: entries that are as they were are shared with it.
pub fn edge_table_after(table: &EdgeTable, old: &State, new: &State) -> EdgeTable {
    let (before, now) = (old.edge(), new.edge());
    let mut known = table.entries.iter().peekable();
    let mut entries = Vec::new();
    let mut put = |key: EdgeKey, is_same: bool, make: &dyn Fn() -> EdgeEntry| {
        while known.next_if(|entry| entry.key() < key).is_some() {}
        let kept = known.next_if(|entry| is_same && entry.key() == key);
        entries.push(kept.cloned().unwrap_or_else(|| Arc::new(make())));
    };
    let same_base = old.settings() == new.settings();
    for (domain, row) in &now.domains {
        let is_same = same_base && before.domains.get(domain).is_some_and(|old| old.app == row.app);
        let route = || default_host_of(new, &row.app);
        put(EdgeKey::Domain(domain.clone()), is_same, &|| EdgeEntry::Domain { domain: domain.clone(), route: route() });
    }
    for (app, row) in &now.traffic {
        let is_same = before.traffic.get(app).is_some_and(|old| Arc::ptr_eq(old, row));
        let entry = || EdgeEntry::App { app: app.clone(), traffic: row.traffic.clone() };
        put(EdgeKey::App(app.clone()), is_same, &entry);
    }
    for (fingerprint, row) in &now.certificates {
        let is_same = before.certificates.get(fingerprint).is_some_and(|old| Arc::ptr_eq(old, row));
        put(EdgeKey::Certificate(*fingerprint), is_same, &|| EdgeEntry::Certificate(row.as_ref().clone()));
    }
    if let Some(row) = &now.keys {
        let is_same = before.keys.as_ref().is_some_and(|old| Arc::ptr_eq(old, row));
        put(EdgeKey::Keys, is_same, &|| EdgeEntry::Keys(row.keys.clone()));
    }
    for (host, row) in &now.challenges {
        let is_same = before.challenges.get(host).is_some_and(|old| Arc::ptr_eq(old, row));
        put(EdgeKey::Challenge(host.clone()), is_same, &|| EdgeEntry::Challenge(row.as_ref().clone()));
    }
    for (name, row) in &now.peers {
        let is_same = before.peers.get(name).is_some_and(|old| Arc::ptr_eq(old, row));
        put(EdgeKey::Peer(name.clone()), is_same, &|| EdgeEntry::Peer(row.as_ref().clone()));
    }
    let mut ports: Vec<_> = now.ports.iter().collect();
    ports.sort_by_key(|(_, row)| row.port);
    for (process, row) in ports {
        let is_same = before.ports.get(process).is_some_and(|old| Arc::ptr_eq(old, row));
        let entry = || EdgeEntry::Port {
            port: row.port,
            app: row.app.clone(),
            route: Route::name_of_process(&row.app, &row.process),
            settings: row.settings,
        };
        put(EdgeKey::Port(row.port), is_same, &entry);
    }
    for app in now.beside.keys() {
        let Some((number, share)) = now.split_of(app) else { continue };
        let is_same = same_base && before.split_of(app) == Some((number, share));
        let entry = || EdgeEntry::Split {
            app: app.clone(),
            route: default_host_of(new, app),
            beside: host_of_beside(new, app, number),
            share,
        };
        put(EdgeKey::Split(app.clone()), is_same, &entry);
    }
    EdgeTable { version: now.version(), entries }
}

/// What of `new` differs from `old`: changed or new entries, and the keys of those that are gone.
pub fn edge_delta(old: &EdgeTable, new: &EdgeTable) -> (Vec<Arc<EdgeEntry>>, Vec<EdgeKey>) {
    let (mut changed, mut removed) = (Vec::new(), Vec::new());
    let mut before = old.entries.iter().map(|entry| (entry.key(), entry)).peekable();
    for entry in &new.entries {
        let key = entry.key();
        while let Some((gone, _)) = before.next_if(|(known, _)| *known < key) {
            removed.push(gone);
        }
        match before.next_if(|(known, _)| *known == key) {
            Some((_, known)) if Arc::ptr_eq(known, entry) || known == entry => {}
            _ => changed.push(entry.clone()),
        }
    }
    removed.extend(before.map(|(gone, _)| gone));
    (changed, removed)
}
