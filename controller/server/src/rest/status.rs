//! The cluster at a glance.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Context;
use axum::response::Response;
use pontoon_api::{Controller, Status};
use pontoon_core::State;
use pontoon_model::{App, AppName, ControllerId, HostState, MachineRole, ProcessName, Servo, ServoStatus};

use super::Api;
use super::caller::Caller;
use super::controllers::{self, is_voter, mend, to_spare};
use super::error::ApiResult;
use super::extract::Snapshot;
use super::large::listed;
use super::upgrade::{FREE, LAG};
use crate::peers::connected_all;
use crate::raft::MemberStatus;

/// Who sees one app only is told what is the matter with it, and whether anybody leads.
pub(super) async fn show(Context(api): Context<Api>, caller: Caller, Snapshot(state): Snapshot) -> ApiResult<Response> {
    let seen = if caller.sees_all() { Seen::gather(&api, &state).await } else { Seen::default() };
    // Every servo is looked at.
    listed(move || glance(&api, &caller, &state, &seen)).await
}

/// What machines say, of which the state tells nothing.
#[derive(Default)]
struct Seen {
    controllers: Vec<Controller>,
    /// Balancers that are connected to a controller that answers.
    balancers: BTreeSet<String>,
}

impl Seen {
    /// Takes as long as `GET /v1/controllers`: a second where one does not answer.
    async fn gather(api: &Api, state: &State) -> Self {
        let others = api.members.peers.others();
        let (controllers, told) =
            tokio::join!(controllers::rows(api, state), connected_all(api.consensus.id(), &others));
        let machines = told.into_iter().chain([api.connected.list()]).flat_map(|reply| reply.machines);
        let balancers = machines.filter(|machine| machine.role == MachineRole::Balancer).map(|machine| machine.name);
        Self { controllers, balancers: balancers.collect() }
    }
}

fn glance(api: &Api, caller: &Caller, state: &State, seen: &Seen) -> Status {
    let (members, leadership) = (api.consensus.members(), *api.leadership.borrow());
    let leader = leadership.leader.map(|id| name_of(id, &members));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut problems = leadership.leader.is_none().then(|| nobody_leads(&members)).into_iter().collect::<Vec<_>>();
    if caller.sees_all() {
        problems.extend(controller_problems(&seen.controllers));
        problems.extend(machine_problems(state));
        // Where most do not answer, the balancers may well be connected to those.
        if to_spare(&seen.controllers).is_some() {
            problems.extend(balancer_problems(state, &seen.balancers));
        }
        problems.extend(clock_problem(api.name.as_str(), api.feed.ahead()));
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
        leader_silent: seen.controllers.iter().any(|row| row.role == "leader" && !row.reachable),
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

/// The cluster's time goes on from the latest that a leader's clock has ever shown, and never back.
fn clock_problem(name: &str, ahead: Duration) -> Option<String> {
    let ahead = match ahead.as_secs() {
        0 => return None,
        seconds if seconds < 7_200 => format!("{seconds} s"),
        seconds => format!("{} h", (seconds + 1_800) / 3_600),
    };
    Some(format!(
        "the cluster's time is {ahead} ahead of the clock of controller {name}: that one is behind, or a leader's clock was fast once. \
         Tokens end by the cluster's time; set the clocks right (`pontoon controllers` shows how they differ)"
    ))
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

/// Who does not answer, who cannot keep up, and whether there are as many as there should be.
fn controller_problems(all: &[Controller]) -> Vec<String> {
    let voters = all.iter().filter(|row| is_voter(row)).count();
    let left = match to_spare(all) {
        Some(0) => "and no other voter may fail before it is back".to_owned(),
        Some(more) => format!("and {more} more may fail before it is back"),
        None => "and too few voters are left to change anything".to_owned(),
    };
    // Only the leader knows how far the others' disks are.
    let end = all.iter().find(|row| row.role == "leader").and_then(|row| row.matched);
    let mut problems = Vec::new();
    for row in all.iter().filter(|row| row.role != "removed") {
        let (name, what) = (&row.name, if row.role == "leader" { ", which is named as the leader," } else { "" });
        match (row.reachable, is_voter(row)) {
            (true, true) => problems.extend(voter_problem(row, end)),
            (true, false) => {}
            (false, true) => {
                problems.push(format!("controller {name}{what} does not answer, {left}: {}", mend(row, all)));
            }
            (false, false) => {
                problems.push(format!("controller {name}, which follows only, does not answer: {}", mend(row, all)));
            }
        }
    }
    if voters > 0 && voters % 2 == 0 {
        problems.push(match voters {
            2 => "2 of the controllers vote: the loss of either stops all changes; let a third join (`pontoon controller join`)"
                .to_owned(),
            _ => format!(
                "{voters} of the controllers vote, of which no more may fail than of {}: let another join (`pontoon controller \
                 join`), or remove one",
                voters - 1
            ),
        });
    }
    problems
}

/// What a voter that answers lacks: it votes, and counts for nothing where an entry must be kept.
fn voter_problem(row: &Controller, end: Option<u64>) -> Option<String> {
    let name = &row.name;
    if let Some(free) = row.free_disk.filter(|free| free.0 < FREE) {
        return Some(format!(
            "controller {name} has {free} free on its disk: when it is full it keeps no change, and counts as lost; make room"
        ));
    }
    let not_kept = end.and_then(|end| Some(end.saturating_sub(row.matched?)));
    row.lag.max(not_kept).filter(|lag| *lag > LAG).map(|lag| {
        format!(
            "controller {name} lacks {lag} entries of the log: until it has caught up it counts as lost; if it does not, see \
             its log, its disk and the link to it"
        )
    })
}

fn balancer_problems(state: &State, connected: &BTreeSet<String>) -> Vec<String> {
    let away = state.balancers().filter(|row| !connected.contains(row.name.as_str()));
    away.map(|row| {
        format!(
            "balancer {} in {} is connected to no controller: if it runs, it serves by the routes that it has, which grow old; \
             start it, or see its log. One that is gone for good is forgotten after a day, or at once by `pontoon revoke \
             balancer {}`",
            row.name, row.site, row.name
        )
    })
    .collect()
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
    use pontoon_model::{DeploymentId, Desired, Live, MemoryBytes, ReleaseNumber, ServoId, Size, Timestamp};

    use super::*;
    use crate::rest::controllers::tests::row;

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

    fn three() -> Vec<Controller> {
        [("a", "leader"), ("b", "voter"), ("c", "voter")].map(|(name, role)| row(name, name, role)).into()
    }

    fn said(break_it: impl FnOnce(&mut Vec<Controller>)) -> Vec<String> {
        let mut rows = three();
        break_it(&mut rows);
        controller_problems(&rows)
    }

    fn joined(rows: &mut Vec<Controller>, names: &[&str]) {
        rows.extend(names.iter().map(|name| row(name, name, "voter")));
    }

    #[test]
    fn a_controller_that_does_not_answer_is_named_with_what_that_means() {
        assert!(said(|_| {}).is_empty() && said(|rows| rows.truncate(1)).is_empty());
        assert!(said(|rows| rows.push(Controller { reachable: false, ..row("old", "x", "removed") })).is_empty());
        assert_eq!(
            said(|rows| rows[2].reachable = false),
            [
                "controller c does not answer, and no other voter may fail before it is back: start it, or `pontoon controller \
              remove c` if it is gone for good"
            ]
        );
        let two = said(|rows| rows.iter_mut().skip(1).for_each(|row| row.reachable = false));
        assert!(
            two.len() == 2 && two[0].contains("too few voters are left") && two[0].contains("recover --from-this-copy")
        );
        assert!(two.iter().all(|line| !line.contains("controller remove")), "{two:?}");
        let five = said(|rows| {
            joined(rows, &["d", "e"]);
            rows[0].reachable = false;
        });
        assert!(five[0].contains("named as the leader, does not answer, and 1 more may fail"), "{five:?}");
        let learner = said(|rows| rows.push(Controller { reachable: false, ..row("l", "x", "learner") }));
        assert!(learner[0].contains("follows only"), "{learner:?}");
    }

    #[test]
    fn voters_that_cannot_keep_up_and_an_even_number_of_them_are_said() {
        type Break = fn(&mut Vec<Controller>);
        let cases: [(Break, &str); 5] = [
            (|rows| rows[1].free_disk = Some(MemoryBytes(FREE - 1)), "controller b has 511M free on its disk"),
            (|rows| rows[2].lag = Some(LAG + 1), "controller c lacks 5001 entries"),
            (|rows| (rows[0].matched, rows[2].matched) = (Some(LAG + 9), Some(8)), "controller c lacks 5001 entries"),
            (|rows| drop(rows.pop()), "2 of the controllers vote: the loss of either"),
            (|rows| joined(rows, &["d"]), "no more may fail than of 3"),
        ];
        for (break_it, part) in cases {
            let lines = said(break_it);
            assert!(lines.len() == 1 && lines[0].contains(part), "{part}: {lines:?}");
        }
        let well = said(|rows| {
            rows.iter_mut().for_each(|row| (row.free_disk, row.lag) = (Some(MemoryBytes(FREE)), Some(LAG)));
            (rows[0].matched, rows[1].matched) = (Some(LAG + 1), None);
        });
        assert!(well.is_empty(), "{well:?}");
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
