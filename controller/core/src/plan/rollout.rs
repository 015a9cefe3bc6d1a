//! Step 3: every app gets the servos it wants; deployments move forward.
//!
//! A deployment starts its servos beside the live ones and switches when all are ready. Where there is no
//! room for all, ready new servos take traffic and old ones leave in turns ([`Phase::Mixed`]).

use std::time::Duration;

use pontoon_model::{
    App, AppName, Beside, Deployment, DeploymentId, HostState, Phase, ProcessName, Release, ReleaseNumber, Scale,
    Servo, ServoStatus, SiteName,
};

use super::{Draft, Op, drain};
use crate::State;
use crate::placement::{self, NoFit, Want};

/// How long a deployment waits for room before it fails: long enough for servos that are ending to be gone.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub(super) fn step(draft: &mut Draft<'_>) {
    for name in &draft.apps() {
        if let Some(app) = draft.state.app(name).cloned() {
            advance(draft, &app);
        }
        // What is live keeps its wanted number, while a deployment starts beside it too.
        if let Some(app) = draft.state.app(name).cloned() {
            keep_live(draft, &app);
            keep_beside(draft, &app);
        }
    }
}

/// Moves the deployment under way by what is due.
fn advance(draft: &mut Draft<'_>, app: &App) {
    let Some(deployment) = app.deployment.and_then(|id| draft.state.deployment(id)).cloned() else { return };
    match deployment.phase {
        Phase::Starting | Phase::Mixed => start(draft, app, &deployment),
        Phase::Switched { .. } => drain::finish(draft, &deployment),
        Phase::Done { .. } | Phase::Failed { .. } => {}
    }
}

fn start(draft: &mut Draft<'_>, app: &App, deployment: &Deployment) {
    if let Some(no_fit) = begin(draft, app, deployment) {
        make_room(draft, app, deployment, &no_fit);
    }
}

/// Places the servos of a deployment and switches to it when they are ready; says why some have no place.
fn begin(draft: &mut Draft<'_>, app: &App, deployment: &Deployment) -> Option<NoFit> {
    if let Some(servo) = first_failure(&draft.state, deployment) {
        let ServoStatus::Exited(exit) = &servo.status else { return None };
        let reason = format!("servo {} ({}) on {} {exit}", servo.id, servo.process, servo.host);
        fail(draft, deployment, reason, exit.last_lines.clone());
        return None;
    }
    let Some(release) = draft.state.release(&app.name, deployment.release).cloned() else {
        fail(draft, deployment, format!("release {} is gone", deployment.release), Vec::new());
        return None;
    };
    let no_room = place_missing(draft, app, &release, deployment.id);
    if no_room.is_none() && is_ready(&draft.state, deployment) {
        draft.decide(Op::SwitchDeployment { deployment: deployment.id, version: deployment.version });
    }
    no_room
}

/// Keeps what runs beside the live release at its wanted number. There no old servo leaves for it: where there is no room, it fails.
fn keep_beside(draft: &mut Draft<'_>, app: &App) {
    let deployments = draft.state.edge().beside_of(&app.name).iter().filter_map(Beside::deployment);
    // One that is being made live is a deployment like any other.
    let deployments: Vec<_> = deployments.filter(|id| app.deployment != Some(*id)).collect();
    for row in deployments.into_iter().filter_map(|id| draft.state.deployment(id).cloned()).collect::<Vec<_>>() {
        if matches!(row.phase, Phase::Starting) {
            if let Some(no_fit) = begin(draft, app, &row) {
                draft.wait_for(&app.name, format!("{} of {} waits for room: {no_fit}", row.id, app.name));
                wait_or_give_up(draft, &row, &no_fit);
            }
            continue;
        }
        drain::finish(draft, &row);
        let Some(release) = draft.state.release(&app.name, row.release).cloned() else { continue };
        if let Some(no_fit) = place_missing(draft, app, &release, row.id) {
            draft.wait_for(&app.name, format!("not all servos of {} have a place: {no_fit}", row.release));
        }
        release.processes.keys().for_each(|process| drain_surplus(draft, app, process, row.id));
    }
}

/// Some new servos have no place: let old ones leave in turns, or wait, or give up.
fn make_room(draft: &mut Draft<'_>, app: &App, deployment: &Deployment, no_fit: &NoFit) {
    draft.wait_for(&app.name, format!("{} of {} waits for room: {no_fit}", deployment.id, app.name));
    let new: Vec<_> = of_deployment(&draft.state, app, deployment.id).collect();
    let old: Vec<_> = app
        .live
        .into_iter()
        .flat_map(|live| of_deployment(&draft.state, app, live.deployment))
        .filter(|servo| servo.process == ProcessName::web())
        .collect();
    let ready = |servos: &[Servo]| servos.iter().filter(|servo| servo.status == ServoStatus::Ready).count();
    let (ready_new, ready_old) = (ready(&new), ready(&old));
    let room_is_coming = draft.state.servos_of(&app.name).any(|servo| !servo.desired.is_run());
    let new_are_settled = ready_new == new.len();
    if new_are_settled && !room_is_coming && !old.is_empty() && ready_new + ready_old >= 2 {
        if matches!(deployment.phase, Phase::Starting) {
            draft.decide(Op::MixDeployment { deployment: deployment.id, version: deployment.version });
        }
        // The least useful one first; among equals the youngest.
        let leaves = old.iter().min_by_key(|servo| (servo.status == ServoStatus::Ready, std::cmp::Reverse(servo.id)));
        if let Some(servo) = leaves {
            draft.decide(Op::DrainServo { servo: servo.id, version: servo.version });
        }
        return;
    }
    if !room_is_coming && new_are_settled {
        wait_or_give_up(draft, deployment, no_fit);
    }
}

fn wait_or_give_up(draft: &mut Draft<'_>, deployment: &Deployment, no_fit: &NoFit) {
    let until = deployment.started_at.plus(PATIENCE);
    if draft.input.now >= until {
        let reason = format!("there is no room for its servos: {no_fit}. Free memory, add a host, or scale down");
        fail(draft, deployment, reason, Vec::new());
    } else {
        draft.wake(until);
    }
}

fn fail(draft: &mut Draft<'_>, deployment: &Deployment, reason: String, last_lines: Vec<String>) {
    draft.decide(Op::FailDeployment { deployment: deployment.id, version: deployment.version, reason, last_lines });
}

/// Keeps the live deployment at its wanted number.
fn keep_live(draft: &mut Draft<'_>, app: &App) {
    let Some(live) = app.live else { return };
    let mixed = app.deployment.filter(|id| *id != live.deployment).and_then(|id| draft.state.deployment(id));
    if mixed.is_some_and(|deployment| matches!(deployment.phase, Phase::Mixed)) {
        return; // The old servos are leaving on purpose.
    }
    let Some(release) = draft.state.release(&app.name, live.release).cloned() else { return };
    if let Some(no_fit) = place_missing(draft, app, &release, live.deployment) {
        draft.wait_for(&app.name, format!("not all servos have a place: {no_fit}"));
    }
    for process in release.processes.keys() {
        drain_surplus(draft, app, process, live.deployment);
    }
}

/// Places what is missing of a deployment; returns why something could not be placed.
fn place_missing(draft: &mut Draft<'_>, app: &App, release: &Release, deployment: DeploymentId) -> Option<NoFit> {
    let mut no_room = None;
    for process in release.processes.keys() {
        let scale = draft.state.scale_of(app, deployment, process);
        let bound = scale.count.in_site.iter().map(|(site, n)| (Some(site.clone()), *n));
        for (site, wanted) in bound.chain([(None, scale.count.total())]) {
            let have = healthy(&draft.state, app, process, deployment)
                .filter(|servo| site.as_ref().is_none_or(|site| servo.site == *site))
                .count() as u32;
            for _ in have..wanted {
                if let Err(no_fit) = place_one(draft, app, process, deployment, &scale, site.as_ref()) {
                    no_room = Some(no_fit);
                    break;
                }
            }
        }
    }
    no_room
}

fn place_one(
    draft: &mut Draft<'_>,
    app: &App,
    process: &ProcessName,
    deployment: DeploymentId,
    scale: &Scale,
    site: Option<&SiteName>,
) -> Result<(), NoFit> {
    let want = Want { app: &app.name, process, deployment, size: scale.size, site };
    let host = placement::choose(&draft.state, &want)?;
    let fits = draft.decide(Op::PlaceServo {
        app: app.name.clone(),
        process: process.clone(),
        deployment,
        host: host.name.clone(),
        size: scale.size,
    });
    if fits { Ok(()) } else { Err(NoFit::default()) }
}

/// Drains what is too many: first what is not ready or stands on a lost host, from the fullest site; a ready
/// servo only while more than wanted are ready.
fn drain_surplus(draft: &mut Draft<'_>, app: &App, process: &ProcessName, deployment: DeploymentId) {
    let scale = draft.state.scale_of(app, deployment, process);
    let wanted = scale.count.total() as usize;
    loop {
        let all: Vec<Servo> = of_process(&draft.state, app, process, deployment).collect();
        let is_lost = |servo: &Servo| draft.state.host_is(&servo.host, HostState::Lost);
        let is_ready = |servo: &Servo| servo.status == ServoStatus::Ready && !is_lost(servo);
        let healthy = all.iter().filter(|servo| !is_lost(servo)).count();
        let ready = all.iter().filter(|servo| is_ready(servo)).count();
        // The site that has most beyond what is bound to it.
        let beyond = |servo: &Servo| {
            let here = all.iter().filter(|other| other.site == servo.site && !is_lost(other)).count() as i64;
            here - i64::from(scale.count.in_site.get(&servo.site).copied().unwrap_or(0))
        };
        let victim = all
            .iter()
            .filter(|servo| if is_lost(servo) { ready >= wanted } else { healthy > wanted && beyond(servo) > 0 })
            .filter(|servo| !is_ready(servo) || ready > wanted)
            .max_by_key(|servo| (is_lost(servo), !is_ready(servo), beyond(servo), servo.id));
        let Some(victim) = victim else { return };
        if !draft.decide(Op::DrainServo { servo: victim.id, version: victim.version }) {
            return;
        }
    }
}

/// An app's servos that shall run, of one deployment; one-offs apart.
fn of_deployment<'a>(state: &'a State, app: &'a App, deployment: DeploymentId) -> impl Iterator<Item = Servo> + 'a {
    state
        .servos_of(&app.name)
        .filter(move |servo| servo.deployment == deployment && servo.one_off.is_none() && servo.desired.is_run())
        .map(|servo| Servo::clone(servo))
}

fn of_process<'a>(
    state: &'a State,
    app: &'a App,
    process: &'a ProcessName,
    deployment: DeploymentId,
) -> impl Iterator<Item = Servo> + 'a {
    of_deployment(state, app, deployment).filter(move |servo| servo.process == *process)
}

/// Those of them whose host is not lost.
fn healthy<'a>(
    state: &'a State,
    app: &'a App,
    process: &'a ProcessName,
    deployment: DeploymentId,
) -> impl Iterator<Item = Servo> + 'a {
    of_process(state, app, process, deployment).filter(move |servo| !state.host_is(&servo.host, HostState::Lost))
}

/// The servo whose end fails the deployment, if any.
fn first_failure(state: &State, deployment: &Deployment) -> Option<Servo> {
    let app = state.app(&deployment.app)?;
    of_deployment(state, app, deployment.id)
        .filter(|servo| !state.host_is(&servo.host, HostState::Lost))
        .find(|servo| matches!(servo.status, ServoStatus::Exited(_)))
}

/// Whether every wanted servo of a deployment is ready.
pub(crate) fn is_ready(state: &State, deployment: &Deployment) -> bool {
    let (Some(app), Some(release)) = (state.app(&deployment.app), state.release(&deployment.app, deployment.release))
    else {
        return false;
    };
    release.processes.keys().all(|process| {
        let ready = healthy(state, app, process, deployment.id).filter(|servo| servo.status == ServoStatus::Ready);
        ready.count() >= state.scale_of(app, deployment.id, process).count.total() as usize
    })
}

/// The release of a deployment that may get servos: the live one, the one under way, or one beside.
pub(crate) fn release_of(state: &State, app: &App, deployment: DeploymentId) -> Option<ReleaseNumber> {
    if let Some(live) = app.live.filter(|live| live.deployment == deployment) {
        return Some(live.release);
    }
    if let Some(release) = state.beside(&app.name, deployment).and_then(Beside::release) {
        return Some(release);
    }
    let under_way = state.deployment(deployment).filter(|row| app.deployment == Some(row.id) && !row.phase.is_over());
    under_way.map(|row| row.release)
}

/// Whether a release is live or beside that, being deployed, running somewhere, or among the newest.
pub(crate) fn needs_release(state: &State, app: &AppName, number: ReleaseNumber) -> bool {
    let Some(row) = state.app(app) else { return false };
    let live = row.live.is_some_and(|live| live.release == number);
    let under_way = row.deployment.and_then(|id| state.deployment(id)).is_some_and(|row| row.release == number);
    let runs = state.servos_of(app).any(|servo| servo.release == number);
    let newest = state.releases(app).rev().take(super::gc::KEPT_PER_APP).any(|release| release.number == number);
    let beside = state.edge().beside_of(app).iter().any(|beside| beside.release() == Some(number));
    live || under_way || beside || runs || newest
}
