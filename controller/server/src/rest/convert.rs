//! Records of the state as REST answers.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_api as api;
use pontoon_core::{State, view};
use pontoon_model::{
    App, AppName, Balancer, Build, BuildOutcome, BuildState, Deployment, Exit, Host, Phase, ProcessName, Reach,
    Release, Route, Scale, Servo, ServoStatus,
};
use pontoon_proto::{BalancerAck, LogLine};

type Waiting = BTreeMap<AppName, Vec<String>>;

pub(super) fn app(state: &State, app: &App, waiting: &Waiting) -> api::App {
    let host = view::default_host(state, app);
    let newest =
        app.live.and_then(|live| state.release(&app.name, live.release)).or_else(|| state.releases(&app.name).last());
    let processes: BTreeSet<&ProcessName> =
        app.scale.keys().chain(newest.into_iter().flat_map(|release| release.processes.keys())).collect();
    let scale = processes.into_iter().map(|process| {
        let Scale { count, size } = app.scale_of(process);
        let scale = api::AppScale { count: count.anywhere, sites: count.in_site, memory: size.memory, cpu: size.cpu };
        (process.clone(), scale)
    });
    let ready =
        state.servos_of(&app.name).filter(|servo| servo.status == ServoStatus::Ready && state.is_live(servo)).count();
    api::App {
        name: app.name.clone(),
        created_at: app.created_at.0,
        urls: urls(state, &host),
        live: app.live.map(|live| live.release),
        deployment: app.deployment,
        scale: scale.collect(),
        labels: app.labels.clone(),
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        waiting: waiting.get(&app.name).cloned().unwrap_or_default(),
        domains: vec![host],
    }
}

/// Where a host name is reached.
pub(super) fn urls(state: &State, host: &str) -> Vec<String> {
    let ports: BTreeSet<u16> = state.balancers().map(|balancer| balancer.listen.port()).collect();
    let url = |port| match port {
        80 => format!("http://{host}/"),
        port => format!("http://{host}:{port}/"),
    };
    ports.into_iter().map(url).collect()
}

pub(super) fn build(state: &State, build: &Build, waiting: &Waiting) -> api::Build {
    let (word, reason, last_lines) = match &build.state {
        BuildState::Queued => ("queued", waiting.get(&build.app).map(|sentences| sentences.join("; ")), Vec::new()),
        BuildState::Running { .. } => ("running", None, Vec::new()),
        BuildState::Ended { outcome: BuildOutcome::Succeeded { .. }, .. } => ("succeeded", None, Vec::new()),
        BuildState::Ended { outcome: BuildOutcome::Failed { reason, last_lines }, .. } => {
            ("failed", Some(reason.clone()), last_lines.clone())
        }
    };
    let release = state.release_of_build(&build.app, build.id).map(|release| release.number);
    let deployment = release.and_then(|release| state.deployment_of(&build.app, release)).map(|row| row.id);
    api::Build {
        id: build.id,
        app: build.app.clone(),
        state: word.to_owned(),
        host: build.host.clone(),
        language: build.language,
        reason,
        last_lines,
        release,
        deployment,
    }
}

pub(super) fn deployment(state: &State, app: &App, row: &Deployment, waiting: &Waiting) -> api::Deployment {
    let (reason, last_lines) = match &row.phase {
        Phase::Failed { reason, last_lines, .. } => (Some(reason.clone()), last_lines.clone()),
        Phase::Done { .. } => (None, Vec::new()),
        _ => (waiting.get(&row.app).map(|sentences| sentences.join("; ")), Vec::new()),
    };
    let processes = state.release(&row.app, row.release).map(|release| release.processes.keys());
    let wanted =
        processes.into_iter().flatten().map(|process| state.scale_of(app, row.id, process).count.total()).sum();
    let ready = state.servos_of(&row.app).filter(|servo| {
        servo.deployment == row.id
            && servo.one_off.is_none()
            && servo.desired.is_run()
            && servo.status == ServoStatus::Ready
    });
    api::Deployment {
        id: row.id,
        app: row.app.clone(),
        release: row.release,
        state: row.phase.to_string(),
        ready: u32::try_from(ready.count()).unwrap_or(u32::MAX),
        wanted,
        reason,
        last_lines,
    }
}

pub(super) fn release(app: &App, release: &Release) -> api::Release {
    api::Release {
        number: release.number,
        created_at: release.created_at.0,
        live: app.live.is_some_and(|live| live.release == release.number),
        reason: release.reason.to_string(),
        language: release.language,
        bundle: release.bundle.digest,
        bundle_size: release.bundle.size.0,
    }
}

pub(super) fn servo(state: &State, servo: &Servo) -> api::Servo {
    let exit =
        |exit: &Exit| api::Exit { code: exit.code, reason: exit.reason.clone(), last_lines: exit.last_lines.clone() };
    api::Servo {
        id: servo.id,
        app: servo.app.clone(),
        process: servo.process.clone(),
        release: servo.release,
        host: servo.host.clone(),
        site: servo.site.clone(),
        state: state.servo_word(servo).to_owned(),
        routed: state.is_routed(servo),
        address: servo.address.map(|address| address.to_string()),
        memory: servo.size.memory,
        limits_enforced: servo.limits_enforced,
        restarts: servo.restarts,
        created_at: servo.created_at.0,
        exit: match &servo.status {
            ServoStatus::Exited(how) => Some(exit(how)),
            _ => servo.last_exit.as_deref().map(exit),
        },
        one_off: servo.one_off.as_deref().map(str::to_owned),
    }
}

pub(super) fn host(state: &State, host: &Host) -> api::Host {
    api::Host {
        name: host.name.clone(),
        site: host.site.clone(),
        state: if host.is_shut_out() { "revoked".to_owned() } else { host.state.to_string() },
        runtime: host.runtime.to_string(),
        memory: host.capacity.memory,
        memory_used: state.reserved_memory(&host.name),
        cpu: host.capacity.cpu,
        servos: u32::try_from(state.servos_on(&host.name).count()).unwrap_or(u32::MAX),
    }
}

pub(super) fn balancer(balancer: &Balancer, ack: Option<BalancerAck>, reach: Option<Reach>) -> api::Balancer {
    api::Balancer {
        name: balancer.name.clone(),
        site: balancer.site.clone(),
        listen: balancer.listen.to_string(),
        applied: ack.map(|ack| ack.applied.0),
        peer: reach.map(|reach| reach.to_string()),
    }
}

pub(super) fn route(route: &Route) -> api::Route {
    let target = |servo: &pontoon_model::RouteServo| api::RouteTarget {
        id: servo.id,
        site: servo.site.clone(),
        address: servo.address.to_string(),
        suspect: servo.suspect,
        in_flight: None,
        ejected_by: None,
    };
    api::Route {
        host: route.host.clone(),
        app: route.app.clone(),
        release: route.release,
        servos: route.servos.iter().map(target).collect(),
        rate: None,
        in_flight: None,
    }
}

pub(super) fn log_line(source: &str, line: LogLine) -> api::LogLine {
    api::LogLine { at: line.at.map(|at| at.0), source: source.to_owned(), stderr: line.stderr, text: line.text }
}
