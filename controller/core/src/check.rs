//! What must hold of every state; run after every apply in tests and simulation.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_model::{App, BalancerName, BesideOf, BuildState, Scope, ServoStatus};

use crate::State;
use crate::apply::tokens::is_lasting_admin;

/// Every broken invariant, one sentence each; empty for a state that `apply` made.
pub fn violations(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    let mut fresh = state.clone();
    fresh.rebuild_indexes();
    if fresh != *state {
        found.push("a derived index differs from its recomputation".to_owned());
    }
    if state.route_version().0 > state.index() {
        found.push(format!("route version {} is ahead of index {}", state.route_version(), state.index()));
    }
    found.extend(state.answers.violation(state.index()));
    found.extend(state.trust.violations());
    found.extend(state.sealing_violations());
    let site_of = |balancer: &BalancerName| state.balancer(balancer).map(|row| &row.site);
    found.extend(state.edge.violations(state.index(), |app| state.app(app).is_some(), site_of));
    found.extend(state.acme.violations(state.index(), |host| state.edge.domains_at(host).next().is_some()));
    domains(state, &mut found);
    apps(state, &mut found);
    servos(state, &mut found);
    deployments(state, &mut found);
    builds(state, &mut found);
    tokens(state, &mut found);
    found
}

fn apps(state: &State, found: &mut Vec<String>) {
    for app in state.apps() {
        if let Some(live) = app.live
            && state.release(&app.name, live.release).is_none()
        {
            found.push(format!("{}: live release {} is not there", app.name, live.release));
        }
        if let Some(id) = app.deployment {
            match state.deployment(id) {
                None => found.push(format!("{}: deployment {id} is not there", app.name)),
                Some(row) if row.phase.is_over() => found.push(format!("{}: deployment {id} is over", app.name)),
                Some(row) if row.app != app.name => {
                    found.push(format!("{}: deployment {id} is of {}", app.name, row.app))
                }
                Some(_) => {}
            }
        }
        if app.been_live.iter().any(|number| state.release(&app.name, *number).is_none()) {
            found.push(format!("{}: a release that was live is gone but named", app.name));
        }
        if state.releases(&app.name).any(|release| release.number.0 > app.releases_made) {
            found.push(format!("{}: a release is newer than releases_made", app.name));
        }
    }
    for (app, beside) in state.edge.beside.values().flat_map(|row| row.all.iter().map(move |one| (&row.app, one))) {
        let is_there = match beside.what {
            BesideOf::Build(id) => {
                state.build(id).is_some_and(|row| row.app == *app && !matches!(row.state, BuildState::Ended { .. }))
            }
            BesideOf::Release { number, deployment, .. } => {
                state.release(app, number).is_some()
                    && state.deployment(deployment).is_some_and(|row| row.app == *app && row.release == number)
                    && state.app(app).is_some_and(|row| row.live.is_none_or(|live| live.deployment != deployment))
            }
        };
        if !is_there {
            found.push(format!("{app}: what runs beside its live release is not there: {beside:?}"));
        }
    }
    for release in state.releases.values().filter(|release| state.app(&release.app).is_none()) {
        found.push(format!("release {} of {}: no such app", release.number, release.app));
    }
}

fn servos(state: &State, found: &mut Vec<String>) {
    let mut addresses = BTreeMap::new();
    for servo in state.servos() {
        let id = servo.id;
        if state.app(&servo.app).is_none() || state.release(&servo.app, servo.release).is_none() {
            found.push(format!("{id}: its app or release is not there"));
        }
        match state.host(&servo.host) {
            None => found.push(format!("{id}: its host {} is not there", servo.host)),
            Some(host) if host.generation > state.index() => {
                found.push(format!("{}: generation ahead of index", host.name))
            }
            Some(_) => {}
        }
        if state.is_routed(servo)
            && let Some(address) = servo.address
            && let Some(other) = addresses.insert((servo.host.clone(), address), id)
        {
            found.push(format!("{id} and {other} take traffic at the same address {address}"));
        }
        if servo.status == ServoStatus::Gone && servo.one_off.is_none() {
            found.push(format!("{id}: gone, but its row is there"));
        }
        if servo.id.0 > state.header.last_id {
            found.push(format!("{id}: newer than the last id"));
        }
    }
}

fn deployments(state: &State, found: &mut Vec<String>) {
    for row in state.deployments().filter(|row| !row.phase.is_over()) {
        let is_known = |app: &Arc<App>| app.deployment == Some(row.id) || state.beside(&row.app, row.id).is_some();
        if !state.app(&row.app).is_some_and(is_known) {
            found.push(format!("{}: under way, but {} does not know it", row.id, row.app));
        }
        if state.release(&row.app, row.release).is_none() {
            found.push(format!("{}: its release is not there", row.id));
        }
    }
}

fn builds(state: &State, found: &mut Vec<String>) {
    for build in state.builds() {
        let placed = build.host.is_some();
        let fits = match build.state {
            BuildState::Queued => !placed,
            BuildState::Running { .. } => placed,
            BuildState::Ended { .. } => true,
        };
        if !fits || state.app(&build.app).is_none() {
            found.push(format!("{}: its state, host or app do not fit together", build.id));
        }
    }
}

fn domains(state: &State, found: &mut Vec<String>) {
    for row in state.edge.domains() {
        if let Some(other) = state.whose_default_host(row.domain.host()).filter(|other| *other != row.app) {
            found.push(format!("{} is of {}, and where {other} is reached", row.domain, row.app));
        }
    }
}

fn tokens(state: &State, found: &mut Vec<String>) {
    if state.api_tokens.len() != state.tokens_by_hash.len() {
        found.push("two API tokens have the same hash".to_owned());
    }
    if state.api_tokens().next().is_some() && !state.api_tokens().any(|token| is_lasting_admin(token)) {
        found.push("there are API tokens, but none for everything that does not expire".to_owned());
    }
    for token in state.api_tokens() {
        let gone = |scope: &&Scope| matches!(scope, Scope::Deploy(app) if state.app(app).is_none());
        if let Some(scope) = token.scopes.iter().find(gone) {
            found.push(format!("{}: there is no app for {scope}", token.id));
        }
        if token.scopes.is_empty() || token.id.0 > state.header.last_id {
            found.push(format!("{}: it allows nothing, or is newer than the last id", token.id));
        }
    }
}
