//! Changed rows as events tell of them: the fields of the REST answer that the row itself holds. What an answer derives
//! from other rows is not there, since it changes with them.

use pontoon_core::{Change, Row, RowKey};
use pontoon_model::{
    App, Beside, BesideOf, Build, BuildOutcome, BuildState, Deployment, Desired, Exit, Host, Phase, Release, Scale,
    Servo, ServoStatus, TrafficRow,
};
use serde_json::{Value, json};

pub(super) fn change(change: &Change) -> Value {
    let (table, key) = name(&change.key);
    json!({ "table": table, "key": key, "row": change.row.as_ref().map(row) })
}

fn name(key: &RowKey) -> (&'static str, String) {
    match key {
        RowKey::App(name) => ("apps", name.to_string()),
        RowKey::Release(app, number) => ("releases", format!("{app}/{number}")),
        RowKey::Build(id) => ("builds", id.to_string()),
        RowKey::Deployment(id) => ("deployments", id.to_string()),
        RowKey::Servo(id) => ("servos", id.to_string()),
        RowKey::Host(name) => ("hosts", name.to_string()),
        RowKey::Balancer(name) => ("balancers", name.to_string()),
        RowKey::Controller(id) => ("controllers", id.to_string()),
        RowKey::Certificate(fingerprint) => ("certificates", fingerprint.to_string()),
        RowKey::Order(host) => ("orders", host.clone()),
        RowKey::Domain(domain) => ("domains", domain.to_string()),
        RowKey::Traffic(app) => ("traffic", app.to_string()),
        RowKey::Port(app, process) => ("ports", format!("{app}/{process}")),
        RowKey::Beside(app) => ("beside", app.to_string()),
        RowKey::Cluster => ("cluster", "cluster".to_owned()),
    }
}

fn row(row: &Row) -> Value {
    match row {
        Row::App(row) => app(row),
        Row::Release(row) => release(row),
        Row::Build(row) => build(row),
        Row::Deployment(row) => deployment(row),
        Row::Servo(row) => servo(row),
        Row::Host(row) => host(row),
        Row::Balancer(row) => json!({ "name": row.name, "site": row.site, "listen": row.listen }),
        Row::Controller(row) => json!({
            "id": row.id.to_string(), "name": row.name, "site": row.site, "grpc": row.grpc, "rest": row.rest,
        }),
        // Never the key.
        Row::Certificate(row) => json!({
            "fingerprint": row.fingerprint, "names": row.names, "begins": row.begins, "ends": row.ends, "origin": row.origin,
        }),
        Row::Order(row) => json!({
            "host": row.host, "begun_at": row.begun_at, "next": row.next_try,
            "failures": row.trouble.as_ref().map_or(0, |trouble| trouble.failures),
            "error": row.trouble.as_ref().map(|trouble| &trouble.error),
        }),
        Row::Domain(row) => json!({ "domain": row.domain.to_string(), "app": row.app, "added_at": row.added_at }),
        Row::Traffic(row) => traffic(row),
        Row::Port(row) => json!({
            "port": row.port, "app": row.app, "process": row.process, "proxy_protocol": row.settings.proxy_protocol,
            "idle_ms": row.settings.idle_ms, "connections": row.settings.connections, "added_at": row.added_at,
        }),
        Row::Beside(row) => json!({ "app": row.app, "beside": row.all.iter().map(beside).collect::<Vec<_>>() }),
        Row::Cluster(settings, level) => json!({ "base_domain": settings.base_domain, "feature_level": level }),
    }
}

/// Never the environment.
fn app(row: &App) -> Value {
    let scale = |scale: &Scale| {
        let (count, size) = (&scale.count, scale.size);
        json!({ "count": count.anywhere, "sites": count.in_site, "memory": size.memory, "cpu": size.cpu })
    };
    let scale: serde_json::Map<_, _> =
        row.scale.iter().map(|(process, wanted)| (process.to_string(), scale(wanted))).collect();
    json!({
        "name": row.name,
        "created_at": row.created_at,
        "live": row.live.map(|live| live.release),
        "deployment": row.deployment,
        "scale": scale,
        "labels": row.labels,
    })
}

/// Maintenance is one of the settings. Without the pages, which may be a hundred times as long as all the rest.
fn traffic(row: &TrafficRow) -> Value {
    let mut settings = json!(row.traffic);
    if let Some(settings) = settings.as_object_mut() {
        settings.retain(|name, _| name != "maintenance_page" && name != "error_page");
    }
    settings["app"] = json!(row.app);
    settings["version"] = json!(row.version);
    settings
}

/// Without what the app's own row says: whether it is being made live.
fn beside(beside: &Beside) -> Value {
    let (build, state) = match beside.what {
        BesideOf::Build(build) => (Some(build), "building"),
        BesideOf::Release { serving: true, .. } => (None, "serving"),
        BesideOf::Release { .. } => (None, "starting"),
    };
    json!({
        "release": beside.release(),
        "build": build,
        "deployment": beside.deployment(),
        "state": state,
        "share": beside.share,
        "servos": beside.count,
        "since": beside.since,
    })
}

fn release(row: &Release) -> Value {
    json!({
        "app": row.app,
        "number": row.number,
        "created_at": row.created_at,
        "reason": row.reason.to_string(),
        "language": row.language,
        "bundle": row.bundle.digest,
        "bundle_size": row.bundle.size,
    })
}

fn build(row: &Build) -> Value {
    let (state, reason, last_lines) = match &row.state {
        BuildState::Queued => ("queued", None, None),
        BuildState::Running { .. } => ("running", None, None),
        BuildState::Ended { outcome: BuildOutcome::Succeeded { .. }, .. } => ("succeeded", None, None),
        BuildState::Ended { outcome: BuildOutcome::Failed { reason, last_lines }, .. } => {
            ("failed", Some(reason), Some(last_lines))
        }
    };
    json!({
        "id": row.id,
        "app": row.app,
        "state": state,
        "host": row.host,
        "language": row.language,
        "reason": reason,
        "last_lines": last_lines.map_or(&[][..], Vec::as_slice),
    })
}

fn deployment(row: &Deployment) -> Value {
    let (reason, last_lines) = match &row.phase {
        Phase::Failed { reason, last_lines, .. } => (Some(reason), last_lines.as_slice()),
        _ => (None, &[][..]),
    };
    json!({
        "id": row.id,
        "app": row.app,
        "release": row.release,
        "state": row.phase.to_string(),
        "reason": reason,
        "last_lines": last_lines,
    })
}

fn servo(row: &Servo) -> Value {
    let state = match row.desired {
        Desired::Stop => "stopping",
        Desired::Drain { .. } if row.one_off.is_none() => "draining",
        _ => row.status.word(),
    };
    let exit = match &row.status {
        ServoStatus::Exited(exit) => Some(&**exit),
        _ => row.last_exit.as_deref(),
    };
    let exit =
        exit.map(|exit: &Exit| json!({ "code": exit.code, "reason": exit.reason, "last_lines": exit.last_lines }));
    json!({
        "id": row.id,
        "app": row.app,
        "process": row.process,
        "release": row.release,
        "host": row.host,
        "site": row.site,
        "state": state,
        "address": row.address,
        "memory": row.size.memory,
        "limits_enforced": row.limits_enforced,
        "restarts": row.restarts,
        "created_at": row.created_at,
        "exit": exit,
        "one_off": row.one_off,
    })
}

fn host(row: &Host) -> Value {
    json!({
        "name": row.name,
        "site": row.site,
        "state": row.state.to_string(),
        "runtime": row.runtime.to_string(),
        "memory": row.capacity.memory,
        "cpu": row.capacity.cpu,
    })
}
