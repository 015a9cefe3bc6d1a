//! A world in words: a state, what the leader has heard, and a clock that only moves when told.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_core::command::*;
use pontoon_core::plan::{HostsSeen, plan_again, plan_everything};
use pontoon_core::{
    BalancerSign, Command, Entry, HostSign, Observed, Op, Outcome, Plan, PlanInput, RejectedKind, Reply, Row, RowKey,
    Stamped, State, check, plan, view,
};
use pontoon_model::*;

/// Passes after which a plan must have settled.
pub const MOST_PASSES: usize = 60;

/// A command was refused so, with this in its sentence.
#[track_caller]
pub fn refused(outcome: Outcome, kind: RejectedKind, part: &str) {
    let rejected = outcome.expect_err(part);
    assert_eq!(rejected.kind, kind, "{rejected}");
    assert!(rejected.message.contains(part), "{part}: {rejected}");
}

pub struct World {
    pub state: State,
    pub observed: Observed,
    pub now: Timestamp,
    pub leader_since: Timestamp,
    pub silent: Vec<HostName>,
    pub deaf: Vec<BalancerName>,
    seen: Option<HostsSeen>,
    /// The rows as the changes of each entry tell of them.
    mirror: BTreeMap<RowKey, Row>,
    next_key: u128,
    next_port: u16,
}

/// A host's generation belongs to its assignment and is told to nobody.
fn seen(row: Row) -> Row {
    match row {
        Row::Host(host) => Row::Host(Host { generation: 0, ..Host::clone(&host) }.into()),
        row => row,
    }
}

fn rows(state: &State, mirror: &BTreeMap<RowKey, Row>) -> BTreeMap<RowKey, Row> {
    let apps = state.apps().cloned().map(|row| (RowKey::App(row.name.clone()), Row::App(row)));
    let releases = state.apps().flat_map(|app| state.releases(&app.name)).cloned();
    let releases = releases.map(|row| (RowKey::Release(row.app.clone(), row.number), Row::Release(row)));
    let builds = state.builds().cloned().map(|row| (RowKey::Build(row.id), Row::Build(row)));
    let deployments = state.deployments().cloned().map(|row| (RowKey::Deployment(row.id), Row::Deployment(row)));
    let servos = state.servos().cloned().map(|row| (RowKey::Servo(row.id), Row::Servo(row)));
    let hosts = state.hosts().cloned().map(|row| (RowKey::Host(row.name.clone()), seen(Row::Host(row))));
    let balancers = state.balancers().cloned().map(|row| (RowKey::Balancer(row.name.clone()), Row::Balancer(row)));
    let controllers = state.controllers().cloned().map(|row| (RowKey::Controller(row.id), Row::Controller(row)));
    let certificates = state.edge().certificates().cloned();
    let certificates = certificates.map(|row| (RowKey::Certificate(row.fingerprint), Row::Certificate(row)));
    let orders = state.acme().orders().cloned().map(|row| (RowKey::Order(row.host.clone()), Row::Order(row)));
    let domains = state.edge().domains().cloned().map(|row| (RowKey::Domain(row.domain.clone()), Row::Domain(row)));
    let ports = state.edge().ports().cloned();
    let ports = ports.map(|row| (RowKey::Port(row.app.clone(), row.process.clone()), Row::Port(row)));
    let traffic = state.edge().traffic().cloned().map(|row| (RowKey::Traffic(row.app.clone()), Row::Traffic(row)));
    let beside = state.edge().beside().cloned().map(|row| (RowKey::Beside(row.app.clone()), Row::Beside(row)));
    // Always there, told of when it changes first.
    let cluster = Row::Cluster(state.settings().clone(), state.feature_level());
    let cluster = mirror.contains_key(&RowKey::Cluster).then_some((RowKey::Cluster, cluster));
    let all = apps.chain(releases).chain(builds).chain(deployments).chain(servos);
    all.chain(hosts)
        .chain(balancers)
        .chain(controllers)
        .chain(certificates)
        .chain(orders)
        .chain(cluster)
        .chain(domains)
        .chain(ports)
        .chain(traffic)
        .chain(beside)
        .collect()
}

impl World {
    /// With the apps `shop` and `blog`, at the newest level.
    pub fn with_apps() -> Self {
        let mut world = Self::new();
        for to in 2..=3 {
            world.apply(RaiseFeatureLevel { to }).unwrap();
        }
        for app in ["shop", "blog"] {
            world.apply(CreateApp { name: app.parse().unwrap() }).unwrap();
        }
        world
    }

    pub fn new() -> Self {
        Self {
            state: State::default(),
            observed: Observed::default(),
            now: Timestamp(1_000_000),
            leader_since: Timestamp(1_000_000),
            silent: Vec::new(),
            deaf: Vec::new(),
            seen: None,
            mirror: BTreeMap::new(),
            next_key: 0,
            next_port: 20_000,
        }
    }

    /// Past all checks, which take long where there are many of a thing.
    pub fn apply_unchecked(&mut self, command: impl Into<Command>) -> Outcome {
        let entry = self.entry(command);
        let outcome = self.state.apply(self.state.index() + 1, &entry).remove(0);
        self.follow(&entry);
        outcome
    }

    fn entry(&mut self, command: impl Into<Command>) -> Entry {
        self.next_key += 1;
        let key = IdempotencyKey(self.next_key);
        Entry { time: self.now, commands: vec![Stamped { key, command: command.into() }] }
    }

    /// Takes what the newest entry changed into the mirror.
    fn follow(&mut self, entry: &Entry) {
        for change in self.state.take_changes() {
            if matches!(change.key, RowKey::Build(_) | RowKey::Deployment(_) | RowKey::Servo(_) | RowKey::Domain(_)) {
                assert!(change.app().is_some(), "{change:?} says whose it is or was, after {entry:?}");
            }
            match change.row {
                Some(row) => self.mirror.insert(change.key, seen(row)),
                None => self.mirror.remove(&change.key),
            };
        }
    }

    pub fn apply(&mut self, command: impl Into<Command>) -> Outcome {
        let entry = self.entry(command);
        // What is applied has been through bytes, as in the log.
        let entry = Entry::decode(&entry.encode().unwrap()).unwrap();
        let (before, mut replica) = (self.state.clone(), self.state.clone());
        let outcome = self.state.apply(self.state.index() + 1, &entry).remove(0);
        self.follow(&entry);
        assert_eq!(self.mirror, rows(&self.state, &self.mirror), "changes tell of every row, after {entry:?}");
        replica.apply(replica.index() + 1, &entry);
        assert_eq!(replica, self.state, "two replicas differ after {entry:?}");
        assert_eq!(check::violations(&self.state), Vec::<String>::new(), "after {entry:?}");
        let routes = view::route_table_after(&view::route_table(&before), &before, &self.state);
        assert_eq!(routes, view::route_table(&self.state), "the routes after {entry:?}");
        let (older, newer) = (view::edge_table(&before), view::edge_table(&self.state));
        assert_eq!(view::edge_table_after(&older, &before, &self.state), newer, "the edge after {entry:?}");
        let mut edge: BTreeMap<EdgeKey, _> = older.entries.iter().map(|entry| (entry.key(), entry.clone())).collect();
        let (changed, removed) = view::edge_delta(&older, &newer);
        assert_eq!(older.version == newer.version, changed.is_empty() && removed.is_empty(), "after {entry:?}");
        removed.iter().for_each(|gone| assert!(edge.remove(gone).is_some()));
        edge.extend(changed.into_iter().map(|entry| (entry.key(), entry)));
        assert!(edge.into_values().eq(newer.entries), "the difference leads to the newer, after {entry:?}");
        outcome
    }

    pub fn input(&self) -> PlanInput {
        PlanInput { now: self.now, leader_since: self.leader_since }
    }

    /// Plans once, in the three ways there are, which must agree.
    pub fn plan(&mut self) -> Plan {
        let input = self.input();
        let plan = plan(&self.state, &self.observed, &input);
        let everything = plan_everything(&self.state, &self.observed, &input);
        assert_eq!(plan, everything, "the index of what is unsettled lacks something");
        let again = plan_again(&self.state, &self.observed, &input, &mut self.seen);
        assert_eq!((&again.ops, &again.waiting), (&plan.ops, &plan.waiting), "a host was not looked at");
        let earlier = again.wake_at.zip(plan.wake_at).is_none_or(|(again, plan)| again <= plan);
        assert!(earlier && again.wake_at.is_some() == plan.wake_at.is_some(), "{again:?} wakes later than {plan:?}");
        plan
    }

    /// Plans until nothing more is to be done; returns the ops.
    pub fn settle(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..MOST_PASSES {
            let plan = self.plan();
            if plan.ops.is_empty() {
                return ops;
            }
            ops.extend(plan.ops.clone());
            for command in plan.into_commands() {
                self.apply(command).unwrap();
            }
        }
        panic!("the plan does not settle: {:?}", plan(&self.state, &self.observed, &self.input()).ops);
    }

    /// Lets time pass, with heartbeats of all that is not silent.
    pub fn tick(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        self.hear();
    }

    pub fn hear(&mut self) {
        let hosts: Vec<_> = self.state.hosts().cloned().collect();
        for host in hosts.iter().filter(|host| !self.silent.contains(&host.name)) {
            let sign = HostSign { incarnation: host.incarnation, heard_at: self.now, free_memory: MemoryBytes(0) };
            self.observed.hosts.insert(host.name.clone(), sign);
        }
        let version = self.state.route_version();
        let balancers: Vec<_> = self.state.balancers().cloned().collect();
        for balancer in balancers.iter().filter(|balancer| !self.deaf.contains(&balancer.name)) {
            let sign = BalancerSign { applied: version, drained: version, heard_at: self.now };
            self.observed.balancers.insert(balancer.name.clone(), sign);
        }
    }

    pub fn host(&mut self, name: &str, site: &str, memory: MemoryBytes) {
        let capacity = Capacity { memory, cpu: CpuMillis(2000) };
        let (name, site) = (name.parse().unwrap(), site.parse().unwrap());
        let incarnation = Incarnation(1);
        self.apply(RegisterHost { name, site, incarnation, capacity, runtime: RuntimeKind::Docker }).unwrap();
        self.hear();
    }

    pub fn balancer(&mut self, name: &str, site: &str) {
        let listen = "127.0.0.1:8000".parse().unwrap();
        self.apply(RegisterBalancer { name: name.parse().unwrap(), site: site.parse().unwrap(), listen }).unwrap();
        self.hear();
    }

    /// Builds and reports the bundle, as an agent would.
    pub fn build(&mut self, app: &AppName) -> Outcome {
        self.build_of(app, &["web"])
    }

    /// The same of a source that starts these processes.
    pub fn build_of(&mut self, app: &AppName, processes: &[&str]) -> Outcome {
        let reply = self.start(app, processes)?;
        self.built(reply)
    }

    /// Begins a build, and does not end it.
    pub fn start_build(&mut self, app: &AppName) -> Outcome {
        self.start(app, &["web"])
    }

    fn start(&mut self, app: &AppName, processes: &[&str]) -> Outcome {
        let process = |name: &&str| (name.parse().unwrap(), Process { command: "serve".into() });
        self.apply(StartBuild {
            app: app.clone(),
            source: BlobRef { digest: Digest([7; 32]), size: MemoryBytes(1000) },
            language: Language::Python,
            processes: processes.iter().map(process).collect(),
            health: HealthCheck::default(),
        })
    }

    /// The same of what shall run beside the live release.
    pub fn build_beside(&mut self, app: &AppName, share: u8, count: Option<u32>) -> Outcome {
        let process = |name: &str| (name.parse().unwrap(), Process { command: "serve".into() });
        let reply = self.apply(StartBuildBeside {
            app: app.clone(),
            source: BlobRef { digest: Digest([7; 32]), size: MemoryBytes(1000) },
            language: Language::Python,
            processes: ["web", "worker"].map(process).into(),
            health: HealthCheck::default(),
            share,
            count,
        })?;
        self.built(reply)
    }

    fn built(&mut self, reply: Reply) -> Outcome {
        let blob = BlobRef { digest: Digest([7; 32]), size: MemoryBytes(1000) };
        let Reply::Build(build) = reply else { panic!("{reply:?}") };
        self.settle();
        let row = self.state.build(build).unwrap().clone();
        let Some(host) = row.host.clone() else { return Ok(reply) };
        self.apply(ReportBuild { host, build, outcome: BuildOutcome::Succeeded { bundle: blob } })
    }

    pub fn report(&mut self, servo: ServoId, status: ServoStatus) {
        let Some(row) = self.state.servo(servo).cloned() else { return };
        let host = self.state.host(&row.host).unwrap().clone();
        let address = (status == ServoStatus::Ready).then(|| {
            row.address.unwrap_or_else(|| {
                self.next_port += 1;
                ([127, 0, 0, 1], self.next_port).into()
            })
        });
        let report = ServoReport { servo, status, address, restarts: row.restarts, limits_enforced: true };
        self.apply(ReportServos { host: host.name.clone(), incarnation: host.incarnation, reports: vec![report] })
            .unwrap();
    }

    /// What agents that are heard would report: all that shall run is ready, all that shall stop is gone.
    pub fn obey(&mut self) {
        let hosts: Vec<_> = self.state.hosts().filter(|host| !self.silent.contains(&host.name)).cloned().collect();
        for host in hosts {
            for spec in assignment(&self.state, &host.name).servos {
                let status = self.state.servo(spec.id).unwrap().status.clone();
                match (spec.desired, status) {
                    (Desired::Run, ServoStatus::Placed | ServoStatus::Starting) => {
                        self.report(spec.id, ServoStatus::Ready)
                    }
                    (Desired::Stop, _) => self.report(spec.id, ServoStatus::Gone),
                    _ => {}
                }
            }
        }
    }

    /// Plans and obeys in turns until both have nothing left to do.
    pub fn converge(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..MOST_PASSES {
            let before = self.state.index();
            ops.extend(self.settle());
            self.hear();
            self.obey();
            if self.state.index() == before {
                return ops;
            }
        }
        panic!("plan and agents do not converge");
    }
}

/// A host's assignment, where nothing is sealed or the seal does not matter.
pub fn assignment(state: &State, host: &HostName) -> Assignment {
    let as_kept = |_: &SecretPlace, value: &Secret| Ok::<_, std::convert::Infallible>(value.0.clone());
    view::assignment(state, host, as_kept).unwrap()
}
