//! States of any size in which nothing is left to do: made by the commands that a cluster would apply.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use pontoon_core::command::{
    ApplyPlan, Command, CreateApp, RegisterHost, ReportBuild, ReportServos, SetScale, StartBuild,
};
use pontoon_core::{Entry, HostSign, Observed, Op, Reply, Stamped, State};
use pontoon_model::{
    AppName, BlobRef, BuildId, BuildOutcome, Capacity, CpuMillis, DeploymentId, Digest, Exit, HealthCheck, HostName,
    IdempotencyKey, Incarnation, Language, MemoryBytes, Process, ProcessName, RuntimeKind, ServoReport, ServoStatus,
    Size, Timestamp,
};

/// Ops and reports of one command at most.
const AT_A_TIME: usize = 1_000;

/// How large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) apps: usize,
    pub(crate) hosts: usize,
    pub(crate) servos_per_app: usize,
}

impl Extent {
    /// A million servos: 1,000 apps with 1,000 each, on 10,000 hosts.
    pub(crate) const MILLION: Self = Self { apps: 1_000, hosts: 10_000, servos_per_app: 1_000 };

    pub(crate) fn servos(self) -> usize {
        self.apps * self.servos_per_app
    }
}

/// What is being made.
struct Maker {
    state: State,
    extent: Extent,
    key: u128,
}

/// A state of that extent: every app is live with its servos ready, evenly over all hosts.
pub(crate) fn state(extent: Extent) -> Result<State> {
    let mut maker = Maker { state: State::default(), extent, key: 0 };
    for n in 0..extent.hosts {
        maker.apply(RegisterHost {
            name: host(n),
            site: format!("bench.site-{}", n % 10).parse()?,
            incarnation: Incarnation(1),
            capacity: Capacity { memory: MemoryBytes::mib(1024 * 1024), cpu: CpuMillis(64_000) },
            runtime: RuntimeKind::Docker,
        })?;
    }
    for n in 0..extent.apps {
        maker.app(n)?;
    }
    ensure!(maker.state.servos().count() == extent.servos(), "not all servos were placed");
    Ok(maker.state)
}

/// The same state after one servo has exited and left its route.
pub(crate) fn with_one_servo_silent(state: &State) -> Result<State> {
    let servo = state.servos().next().map(|servo| (servo.id, servo.host.clone()));
    let (id, host) = servo.ok_or_else(|| anyhow::anyhow!("no servo"))?;
    let mut maker =
        Maker { state: state.clone(), extent: Extent { apps: 0, hosts: 0, servos_per_app: 0 }, key: u128::MAX - 1 };
    let exit = Exit { code: 1, reason: "ended".into(), last_lines: Vec::new() };
    let status = ServoStatus::exited(exit);
    let report = ServoReport { servo: id, status, address: None, restarts: 1, limits_enforced: true };
    maker.apply(ReportServos { host, incarnation: Incarnation(1), reports: vec![report] })?;
    Ok(maker.state)
}

/// Signs of all hosts of a state, as a leader has them.
pub(crate) fn observed(state: &State, now: Timestamp) -> Observed {
    let sign = |incarnation| HostSign { incarnation, heard_at: now, free_memory: MemoryBytes::mib(1024) };
    let hosts = state.hosts().map(|host| (host.name.clone(), sign(host.incarnation))).collect();
    Observed { hosts, ..Observed::default() }
}

fn host(n: usize) -> HostName {
    format!("host-{n}").parse().expect("a host name")
}

/// The name that the benches' writes go to.
pub(crate) fn app_name(n: usize) -> AppName {
    crate::workload::app(n).parse().expect("an app name")
}

impl Maker {
    fn apply(&mut self, command: impl Into<Command>) -> Result<Reply> {
        self.key += 1;
        let index = self.state.index() + 1;
        let commands = vec![Stamped { key: IdempotencyKey(self.key), command: command.into() }];
        let outcome = self.state.apply(index, &Entry { time: Timestamp(index), commands }).remove(0);
        outcome.map_err(|rejected| anyhow::anyhow!("{rejected:?}"))
    }

    /// One app, from its creation to its last servo's being ready.
    fn app(&mut self, n: usize) -> Result<()> {
        let (app, process) = (app_name(n), ProcessName::web());
        let count = self.extent.servos_per_app;
        self.apply(CreateApp { name: app.clone() })?;
        let (anywhere, memory) = (Some(u32::try_from(count)?), Some(MemoryBytes::mib(64)));
        let scale = SetScale { app: app.clone(), process: process.clone(), anywhere, in_site: None, memory, cpu: None };
        self.apply(scale)?;
        let deployment = self.deploy(&app)?;
        let size = Size { memory: MemoryBytes::mib(64), ..Size::default() };
        let place = |at: usize| Op::PlaceServo {
            app: app.clone(),
            process: process.clone(),
            deployment,
            host: host((n + at * self.extent.hosts / count) % self.extent.hosts),
            size,
        };
        let ops: Vec<_> = (0..count).map(place).collect();
        for ops in ops.chunks(AT_A_TIME) {
            self.apply(ApplyPlan { ops: ops.to_vec() })?;
        }
        self.report_ready(&app)?;
        let version = |state: &State| state.deployment(deployment).map_or(0, |row| row.version);
        let switch = Op::SwitchDeployment { deployment, version: version(&self.state) };
        self.apply(ApplyPlan { ops: vec![switch] })?;
        let finish = Op::FinishDeployment { deployment, version: version(&self.state) };
        self.apply(ApplyPlan { ops: vec![finish] })?;
        Ok(())
    }

    fn deploy(&mut self, app: &AppName) -> Result<DeploymentId> {
        let source = BlobRef { digest: Digest([7; 32]), size: MemoryBytes(1_000) };
        let processes = BTreeMap::from([(ProcessName::web(), Process { command: "serve".into() })]);
        let build = StartBuild {
            app: app.clone(),
            source,
            language: Language::Python,
            processes,
            health: HealthCheck::default(),
        };
        let Reply::Build(build) = self.apply(build)? else { anyhow::bail!("no build") };
        self.place_build(build)?;
        let outcome = BuildOutcome::Succeeded { bundle: source };
        self.apply(ReportBuild { host: host(0), build, outcome })?;
        let row = self.state.app(app).and_then(|app| app.deployment);
        row.ok_or_else(|| anyhow::anyhow!("no deployment"))
    }

    fn place_build(&mut self, build: BuildId) -> Result<()> {
        let version = self.state.build(build).map_or(0, |row| row.version);
        self.apply(ApplyPlan { ops: vec![Op::PlaceBuild { build, version, host: host(0) }] }).map(drop)
    }

    fn report_ready(&mut self, app: &AppName) -> Result<()> {
        let servos: Vec<_> = self.state.servos_of(app).map(|servo| (servo.host.clone(), servo.id)).collect();
        for (host, servo) in servos {
            // Ports repeat on different hosts only: 10,000 hosts have their own address each.
            let n = servo.0;
            let address = SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 20_000));
            let report = ServoReport {
                servo,
                status: ServoStatus::Ready,
                address: Some(address),
                restarts: 0,
                limits_enforced: true,
            };
            self.apply(ReportServos { host, incarnation: Incarnation(1), reports: vec![report] })?;
        }
        Ok(())
    }
}
