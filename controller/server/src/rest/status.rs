//! The cluster at a glance.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State as Context;
use axum::response::Response;
use pontoon_api::Status;
use pontoon_core::State;
use pontoon_model::{App, AppName, ControllerId, HostState, ProcessName, Servo, ServoStatus};

use super::Api;
use super::caller::Caller;
use super::error::ApiResult;
use super::extract::Snapshot;
use super::large::listed;
use crate::raft::MemberStatus;

/// Who sees one app only is told what is the matter with it, and whether anybody leads.
pub(super) async fn show(Context(api): Context<Api>, caller: Caller, Snapshot(state): Snapshot) -> ApiResult<Response> {
    // Every servo is looked at.
    listed(move || glance(&api, &caller, &state)).await
}

fn glance(api: &Api, caller: &Caller, state: &State) -> Status {
    let (members, leadership) = (api.consensus.members(), *api.leadership.borrow());
    let leader = leadership.leader.map(|id| name_of(id, &members));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut problems = leadership.leader.is_none().then(|| nobody_leads(&members)).into_iter().collect::<Vec<_>>();
    if caller.sees_all() {
        problems.extend(machine_problems(state));
        let warning = api.consensus.timing().warning;
        problems
            .extend(warning.map(|warning| format!("the timing of controller {} is too short: {warning}", api.name)));
    }
    let waiting = api.waiting.sentences(state);
    let apps: Vec<_> = state.apps().filter(|app| caller.sees(&app.name)).collect();
    let servos = match caller.sees_all() {
        true => Servos::of(state, &apps, state.servos()),
        false => Servos::of(state, &apps, apps.iter().flat_map(|app| state.servos_of(&app.name))),
    };
    problems.extend(apps.iter().filter_map(|app| app_problem(state, app, &servos)));
    let waiting = waiting.iter().filter(|(app, _)| caller.sees(app));
    problems.extend(waiting.flat_map(|(app, sentences)| sentences.iter().map(move |why| format!("{app}: {why}"))));
    Status {
        version: pontoon_model::VERSION.to_owned(),
        controller: api.name.to_string(),
        leader,
        index: state.index(),
        controllers: count(members.len()),
        hosts_up: count(state.hosts().filter(|host| host.state == HostState::Up).count()),
        hosts: count(state.hosts_that_belong().count()),
        balancers: count(state.balancers().count()),
        apps: count(apps.len()),
        servos_ready: count(servos.ready),
        servos: count(servos.all),
        feature_level: state.feature_level(),
        base_domain: state.settings().base_domain.clone(),
        problems,
    }
}

/// How many servos there are, each looked at once.
struct Servos<'a> {
    all: usize,
    ready: usize,
    /// Live ones of `web` that can be asked, of apps that have a live release.
    serving: HashMap<&'a AppName, usize>,
}

impl<'a> Servos<'a> {
    fn of(state: &State, apps: &[&'a Arc<App>], servos: impl Iterator<Item = &'a Arc<Servo>>) -> Self {
        let live = apps.iter().filter(|app| app.live.is_some());
        let mut serving: HashMap<_, _> = live.map(|app| (&app.name, (app, 0))).collect();
        let (mut all, mut ready) = (0, 0);
        let web = ProcessName::web();
        for servo in servos {
            all += 1;
            ready += usize::from(servo.status == ServoStatus::Ready);
            if servo.process == web
                && servo.takes_requests()
                && let Some((app, serving)) = serving.get_mut(&servo.app)
            {
                *serving += usize::from(state.is_live_of(app, servo));
            }
        }
        Self { all, ready, serving: serving.into_iter().map(|(name, (_, count))| (name, count)).collect() }
    }
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

fn app_problem(state: &State, app: &App, servos: &Servos) -> Option<String> {
    let web = ProcessName::web();
    let live = app.live?;
    state.release(&app.name, live.release)?.processes.contains_key(&web).then_some(())?;
    let wanted = app.scale_of(&web).count.total();
    let ready = servos.serving.get(&app.name).copied().unwrap_or_default();
    (ready < wanted as usize).then(|| {
        format!("{}: {ready} of {wanted} web servos are ready; `pontoon ps --app {}` shows them", app.name, app.name)
    })
}

#[cfg(test)]
mod tests {
    use pontoon_model::{DeploymentId, Desired, Live, ReleaseNumber, ServoId, Size, Timestamp};

    use super::*;

    const LIVE: DeploymentId = DeploymentId(5);

    fn servo(id: u64, change: impl FnOnce(&mut Servo)) -> Arc<Servo> {
        let mut servo = Servo {
            id: ServoId(id),
            app: "shop".parse().unwrap(),
            process: ProcessName::web(),
            release: ReleaseNumber(1),
            deployment: LIVE,
            host: "h".parse().unwrap(),
            site: "s".parse().unwrap(),
            size: Size::default(),
            created_at: Timestamp(0),
            version: 0,
            one_off: None,
            desired: Desired::Run,
            status: ServoStatus::Ready,
            address: Some("127.0.0.1:1".parse().unwrap()),
            restarts: 0,
            last_exit: None,
            limits_enforced: true,
        };
        change(&mut servo);
        Arc::new(servo)
    }

    #[test]
    fn an_apps_own_live_servos_of_web_that_can_be_asked_serve_it() {
        let mut shop = App::new("shop".parse().unwrap(), Timestamp(0));
        shop.live = Some(Live { release: ReleaseNumber(1), deployment: LIVE });
        let (shop, new) = (Arc::new(shop), Arc::new(App::new("new".parse().unwrap(), Timestamp(0))));
        let servos = [
            servo(1, |_| {}),
            servo(2, |_| {}),
            servo(3, |servo| servo.status = ServoStatus::Starting),
            servo(4, |servo| servo.address = None),
            servo(5, |servo| servo.desired = Desired::Stop),
            servo(6, |servo| servo.deployment = DeploymentId(6)),
            servo(7, |servo| servo.process = "worker".parse().unwrap()),
            servo(8, |servo| servo.one_off = Some("ls".into())),
            servo(9, |servo| servo.app = new.name.clone()),
            servo(10, |servo| servo.app = "gone".parse().unwrap()),
        ];
        let counted = Servos::of(&State::default(), &[&shop, &new], servos.iter());
        assert_eq!((counted.all, counted.ready), (10, 9));
        assert_eq!(counted.serving, HashMap::from([(&shop.name, 2)]));
    }
}
