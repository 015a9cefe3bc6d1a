//! The cluster at a glance.

use axum::extract::State as Context;
use pontoon_api::Status;
use pontoon_core::State;
use pontoon_model::{ControllerId, HostState, ProcessName, ServoStatus};

use super::Api;
use super::caller::Caller;
use super::extract::{Json, Snapshot};
use crate::raft::MemberStatus;

/// Who sees one app only is told what is the matter with it, and whether anybody leads.
pub(super) async fn show(Context(api): Context<Api>, caller: Caller, Snapshot(state): Snapshot) -> Json<Status> {
    let (members, leadership) = (api.consensus.members(), *api.leadership.borrow());
    let leader = leadership.leader.map(|id| name_of(id, &members));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut problems = leadership.leader.is_none().then(|| nobody_leads(&members)).into_iter().collect::<Vec<_>>();
    if caller.sees_all() {
        problems.extend(machine_problems(&state));
        let warning = api.consensus.timing().warning;
        problems
            .extend(warning.map(|warning| format!("the timing of controller {} is too short: {warning}", api.name)));
    }
    let waiting = api.waiting.sentences(&state);
    problems.extend(app_problems(&state, &caller));
    let waiting = waiting.iter().filter(|(app, _)| caller.sees(app));
    problems.extend(waiting.flat_map(|(app, sentences)| sentences.iter().map(move |why| format!("{app}: {why}"))));
    let servos = || state.servos().filter(|servo| caller.sees(&servo.app));
    Json(Status {
        version: pontoon_model::VERSION.to_owned(),
        controller: api.name.to_string(),
        leader,
        index: state.index(),
        controllers: count(members.len()),
        hosts_up: count(state.hosts().filter(|host| host.state == HostState::Up).count()),
        hosts: count(state.hosts_that_belong().count()),
        balancers: count(state.balancers().count()),
        apps: count(state.apps().filter(|app| caller.sees(&app.name)).count()),
        servos_ready: count(servos().filter(|servo| servo.status == ServoStatus::Ready).count()),
        servos: count(servos().count()),
        feature_level: state.feature_level(),
        base_domain: state.settings().base_domain.clone(),
        problems,
    })
}

fn name_of(id: ControllerId, members: &[MemberStatus]) -> String {
    members.iter().find(|member| member.id == id).map_or_else(|| id.to_string(), |member| member.name.to_string())
}

fn nobody_leads(members: &[MemberStatus]) -> String {
    format!(
        "no controller leads: more than half of the {} controllers must run and reach each other; until then apps go on \
         serving, and nothing can be changed",
        members.len()
    )
}

fn machine_problems(state: &State) -> Vec<String> {
    let mut problems = Vec::new();
    for host in state.hosts_that_belong() {
        let what = match host.state {
            HostState::Up => continue,
            HostState::Suspect => "has been silent for some seconds; it gets no new servos",
            HostState::Lost => "is lost: it has not been heard, and its servos are placed elsewhere",
        };
        problems.push(format!("host {} in {} {what}", host.name, host.site));
    }
    if state.hosts_that_belong().next().is_none() {
        problems.push("no host has joined: nothing can run until an agent is started".into());
    }
    problems
}

fn app_problems(state: &State, caller: &Caller) -> Vec<String> {
    let web = ProcessName::web();
    let short = |app: &std::sync::Arc<pontoon_model::App>| {
        let live = app.live?;
        state.release(&app.name, live.release)?.processes.contains_key(&web).then_some(())?;
        let wanted = app.scale_of(&web).count.total();
        let ready = state.servos_of(&app.name).filter(|servo| state.is_routed(servo) && state.is_live(servo)).count();
        (ready < wanted as usize).then(|| {
            format!(
                "{}: {ready} of {wanted} web servos are ready; `pontoon ps --app {}` shows them",
                app.name, app.name
            )
        })
    };
    state.apps().filter(|app| caller.sees(&app.name)).filter_map(short).collect()
}
