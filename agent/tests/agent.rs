//! The agent against a scripted controller, with a pretended engine.

mod support;

use std::sync::Arc;

use pontoon_agent::AgentError;
use pontoon_agent::config::RuntimeChoice;
use pontoon_agent::journal::Journal;
use pontoon_agent::runtime::fake::FakeRuntime;
use pontoon_kit::{Authority, CancellationToken, Identity, LockError};
use pontoon_model::epoch::beginning_of;
use pontoon_model::*;
use pontoon_proto::{AgentDirective, LogSource};
use support::{Controller, Host, bundle, servo, taken, until};

struct Scene {
    authority: Authority,
    controller: Controller,
    host: Host,
    engine: FakeRuntime,
    bundle: BlobRef,
}

impl Scene {
    async fn new(ports: &str) -> Self {
        let authority = Authority::create().unwrap();
        let controller = Controller::start(&authority).await;
        let bundle = controller.put(bundle::server());
        let mut host = Host::new(&authority, &[controller.address], RuntimeChoice::Process, ports);
        let engine = FakeRuntime::new([127, 0, 0, 1].into());
        host.start_with(Arc::new(engine.clone()));
        Self { authority, controller, host, engine, bundle }
    }

    fn servo(&self, id: u64) -> ServoSpec {
        servo(id, self.bundle, "serve")
    }

    fn start_agent(&mut self) {
        self.host.start_with(Arc::new(self.engine.clone()));
    }
}

#[tokio::test]
async fn an_agent_says_who_it_is_and_that_it_lives() {
    let scene = Scene::new("21000-21009").await;
    scene
        .controller
        .until("two heartbeats came", |heard| match heard.heartbeats {
            0 | 1 => Err(format!("{} so far", heard.heartbeats)),
            _ => Ok(()),
        })
        .await;
    scene.controller.heard(|heard| {
        let hello = &heard.hellos[0];
        assert!(hello.incarnation > Incarnation(0));
        assert_eq!(hello.generation, 0);
        assert_eq!(hello.capacity.memory, MemoryBytes::mib(2048));
    });
}

/// Its cluster has placed them elsewhere and routes nobody here.
#[tokio::test]
async fn a_revoked_host_stops_what_it_runs_says_so_and_starts_nothing_again() {
    let mut scene = Scene::new("21190-21199").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    let identity = Identity::load(&scene.host.config.tls_dir).unwrap();
    scene.controller.revoke(identity.key_id().unwrap());
    let told = scene.host.ended().await;
    assert!(matches!(told, AgentError::Revoked { .. }), "{told}");
    let key = scene.host.config.tls_dir.join("key.pem").display().to_string();
    assert!(told.to_string().contains("host h1 was revoked") && told.to_string().contains(&key), "{told}");
    assert_eq!(scene.engine.calls(), ["start s1", "stop s1", "remove s1"]);
    scene.start_agent();
    assert!(matches!(scene.host.ended().await, AgentError::Revoked { .. }));
    assert_eq!(scene.engine.calls().len(), 3, "nothing was started in between: {:?}", scene.engine.calls());
}

/// Its start would count as the newest, and the first agent's word for nothing until that one is restarted.
#[tokio::test]
async fn a_second_agent_on_the_same_folder_is_refused_and_changes_nothing() {
    let scene = Scene::new("21180-21189").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    let second =
        pontoon_agent::run_with(scene.host.config.clone(), Arc::new(scene.engine.clone()), CancellationToken::new());
    let error = second.await.unwrap_err();
    assert!(matches!(error, AgentError::Lock(LockError::Held { holder: Some(_), .. })), "{error}");
    assert!(error.to_string().contains("stop the agent"), "{error}");
}

/// Controllers take the highest for the host's agent, and refuse what is below as a former start.
#[tokio::test]
async fn each_start_is_a_later_one_also_without_memory_of_those_before() {
    let mut scene = Scene::new("21290-21299").await;
    let mut before = Incarnation(0);
    for life in ["the first", "the next", "without its data folder", "after the clock was set back"] {
        scene
            .controller
            .until(life, |heard| match heard.hellos.last().map(|hello| hello.incarnation) {
                Some(this) if this > before => {
                    before = this;
                    Ok(())
                }
                other => Err(format!("{other:?} after {before}")),
            })
            .await;
        scene.host.stop().await;
        let data_dir = &scene.host.config.data_dir;
        match life {
            "the next" => std::fs::remove_dir_all(data_dir).unwrap(),
            "without its data folder" => {
                let mut journal = Journal::open(data_dir).unwrap();
                before = Incarnation(u64::MAX / 2);
                journal.change(|memory| memory.incarnation = before).unwrap();
            }
            _ => {}
        }
        scene.start_agent();
    }
}

#[tokio::test]
async fn a_servo_is_started_reported_and_stopped() {
    let scene = Scene::new("21010-21019").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    let report = scene.controller.until_servo(1, "ready").await;
    let address = report.address.unwrap();
    assert!((21_010..=21_019).contains(&address.port()), "{address}");
    tokio::net::TcpStream::connect(address).await.unwrap();

    scene.controller.assign(vec![ServoSpec { desired: Desired::Stop, ..scene.servo(1) }], vec![]);
    scene.controller.until_servo(1, "gone").await;
    assert_eq!(scene.engine.calls(), ["start s1", "stop s1", "remove s1"]);
}

#[tokio::test]
async fn a_drained_servo_keeps_running_and_what_is_not_assigned_goes() {
    let scene = Scene::new("21020-21029").await;
    scene.controller.assign(vec![scene.servo(1), scene.servo(2)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.controller.until_servo(2, "ready").await;
    let desired = Desired::Drain { since_version: 1, since: Timestamp(0) };
    scene.controller.assign(vec![ServoSpec { desired, ..scene.servo(1) }], vec![]);
    until("only s1 runs", || match scene.engine.running()[..] {
        [ServoId(1)] => Ok(()),
        ref other => Err(format!("{other:?} run")),
    })
    .await;
}

#[tokio::test]
async fn a_crashed_servo_is_reported_and_started_again() {
    let scene = Scene::new("21030-21039").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    let before = scene.controller.until_servo(1, "ready").await;
    scene.engine.crash(ServoId(1), 3);
    let report = scene.controller.until_servo(1, "exited").await;
    let ServoStatus::Exited(exit) = report.status else { unreachable!() };
    assert!(exit.code == 3 && exit.reason.starts_with("exited with code 3 after"), "{exit:?}");
    assert_eq!(exit.last_lines, ["output of s1"]);
    assert_eq!(report.address, None);
    let after = scene.controller.until_servo(1, "ready").await;
    assert_eq!((after.restarts, after.address), (1, before.address));
}

#[tokio::test]
async fn a_servo_that_never_listens_is_ended_with_the_reason() {
    let scene = Scene::new("21040-21049").await;
    let health = HealthCheck { path: None, timeout: std::time::Duration::from_millis(300) };
    scene.controller.assign(vec![ServoSpec { command: "silent".into(), health, ..scene.servo(1) }], vec![]);
    let report = scene.controller.until_servo(1, "exited").await;
    let ServoStatus::Exited(exit) = report.status else { unreachable!() };
    assert!(exit.code == -1 && exit.reason.contains("nothing listens on port"), "{exit:?}");
    assert_eq!(exit.last_lines, ["output of s1"]);
    until("its process was ended", || match scene.engine.running().is_empty() {
        true => Ok(()),
        false => Err("it runs".into()),
    })
    .await;
}

#[tokio::test]
async fn servos_that_come_up_leave_the_others_their_cpu() {
    const SERVOS: u64 = 60;
    let scene = Scene::new("21400-21499").await;
    let health = HealthCheck { path: None, timeout: std::time::Duration::from_millis(400) };
    let silent = |id| ServoSpec { command: "silent".into(), health: health.clone(), ..scene.servo(id) };
    scene.controller.assign((1..=SERVOS).map(silent).collect(), vec![]);
    // Each gives its place to another when its time is over. Those being stopped may still be seen.
    let mut most = 0;
    until("every servo to have had its turn", || {
        most = most.max(scene.engine.running().len());
        let calls = scene.engine.calls();
        let missing = (1..=SERVOS).filter(|id| !calls.contains(&format!("start s{id}"))).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} were not started")) }
    })
    .await;
    assert!(most <= 2 * 16, "{most} came up at once");
}

#[tokio::test]
async fn a_one_off_runs_once_even_if_its_container_is_taken_away() {
    let mut scene = Scene::new("21050-21059").await;
    let one_off = ServoSpec { one_off: true, listens: false, ..scene.servo(1) };
    scene.controller.assign(vec![one_off.clone()], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.engine.crash(ServoId(1), 0);
    scene.controller.until_servo(1, "exited").await;
    scene.host.stop().await;
    scene.engine.vanish(ServoId(1));
    scene.start_agent();
    scene
        .controller
        .until("the agent is back", |heard| match heard.hellos.len() {
            2 => Ok(()),
            count => Err(format!("{count} hellos")),
        })
        .await;
    // Another servo shows that the assignment was worked on.
    scene.controller.assign(vec![one_off, scene.servo(2)], vec![]);
    scene.controller.until_servo(2, "ready").await;
    scene.controller.until_servo(1, "exited").await;
    assert_eq!(scene.engine.calls(), ["start s1", "start s2"]);
}

#[tokio::test]
async fn how_a_one_off_ended_is_told_the_same_after_its_container_is_gone() {
    let mut scene = Scene::new("21170-21179").await;
    scene.host.stop().await;
    scene.host.config.stop_servos_on_exit = true;
    scene.start_agent();
    let one_off = ServoSpec { one_off: true, listens: false, ..scene.servo(1) };
    scene.controller.assign(vec![one_off], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.engine.crash(ServoId(1), 4);
    let told = scene.controller.until_servo(1, "exited").await;
    assert!(matches!(&told.status, ServoStatus::Exited(exit) if exit.code == 4), "{told:?}");
    scene.host.stop().await;
    let reports = scene.controller.heard(|heard| heard.reports.len());
    scene.start_agent();
    scene
        .controller
        .until("it is told again", |heard| match &heard.reports[reports..] {
            [] => Err("no report".into()),
            [first, ..] => {
                assert_eq!(first.status, told.status);
                Ok(())
            }
        })
        .await;
    assert_eq!(scene.engine.calls(), ["start s1", "stop s1", "remove s1"]);
}

#[tokio::test]
async fn how_a_one_off_ended_is_told_the_same_by_an_agent_that_finds_its_container() {
    let mut scene = Scene::new("21180-21189").await;
    let one_off = ServoSpec { one_off: true, listens: false, ..scene.servo(1) };
    scene.controller.assign(vec![one_off.clone()], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.engine.crash(ServoId(1), 4);
    let told = scene.controller.until_servo(1, "exited").await;
    scene.host.stop().await;
    let reports = scene.controller.heard(|heard| heard.reports.len());
    scene.start_agent();
    // Another servo shows that the agent had the time to say something else.
    scene.controller.assign(vec![one_off, scene.servo(2)], vec![]);
    scene.controller.until_servo(2, "ready").await;
    scene.controller.heard(|heard| {
        let again: Vec<_> = heard.reports[reports..].iter().filter(|report| report.servo == ServoId(1)).collect();
        assert!(!again.is_empty() && again.iter().all(|report| report.status == told.status), "{again:?}");
    });
}

#[tokio::test]
async fn an_agent_that_ends_at_once_keeps_the_exit_it_had_no_time_to_tell() {
    let mut scene = Scene::new("21210-21219").await;
    let one_off = ServoSpec { one_off: true, listens: false, ..scene.servo(1) };
    scene.controller.assign(vec![one_off], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.controller.stop().await;
    scene.host.stop().await;
    scene.engine.crash(ServoId(1), 4);
    scene.host.config.stop_servos_on_exit = true;
    scene.start_agent();
    scene.host.stop().await;
    assert_eq!(scene.engine.calls(), ["start s1", "stop s1", "remove s1"]);
    scene.start_agent();
    scene.controller.start_again().await;
    let told = scene.controller.until_servo(1, "exited").await;
    assert!(matches!(&told.status, ServoStatus::Exited(exit) if exit.code == 4), "{told:?}");
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs_and_never_calls_it_unready() {
    let mut scene = Scene::new("21060-21069").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    let before = scene.controller.until_servo(1, "ready").await;
    scene.host.kill().await;
    let reports = scene.controller.heard(|heard| heard.reports.len());
    scene.start_agent();
    scene
        .controller
        .until("the agent is back", |heard| match &heard.reports[reports..] {
            [] => Err("no report".into()),
            [first, ..] if *first == before => Ok(()),
            other => panic!("reported {other:?}"),
        })
        .await;
    scene.controller.heard(|heard| assert!(heard.hellos.last().unwrap().incarnation > heard.hellos[0].incarnation));
    assert_eq!(scene.engine.calls(), ["start s1"]);
}

#[tokio::test]
async fn a_damaged_journal_costs_no_servo_its_life_or_port() {
    let mut scene = Scene::new("21070-21079").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    let before = scene.controller.until_servo(1, "ready").await;
    scene.host.stop().await;
    std::fs::write(scene.host.config.data_dir.join("journal"), b"nonsense").unwrap();
    let reports = scene.controller.heard(|heard| heard.reports.len());
    scene.start_agent();
    scene
        .controller
        .until("it is reported again", |heard| match heard.reports[reports..].last() {
            Some(report) if *report == before => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    assert_eq!(scene.engine.calls(), ["start s1"]);
}

#[tokio::test]
async fn without_any_controller_servos_run_on_and_crashed_ones_return() {
    let mut scene = Scene::new("21080-21089").await;
    scene.controller.assign(vec![scene.servo(1), scene.servo(2)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.controller.until_servo(2, "ready").await;
    scene.controller.stop().await;
    scene.engine.crash(ServoId(1), 1);
    until("s1 runs again", || match scene.engine.calls().last().map(String::as_str) {
        Some("restart s1") => Ok(()),
        _ => Err(format!("{:?}", scene.engine.calls())),
    })
    .await;
    assert_eq!(scene.engine.running(), [ServoId(1), ServoId(2)]);
    scene.controller.start_again().await;
    let report = scene.controller.until_servo(1, "ready").await;
    assert_eq!(report.restarts, 1);
}

#[tokio::test]
async fn a_restarted_agent_that_reaches_nobody_starts_what_is_missing() {
    let mut scene = Scene::new("21090-21099").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.host.stop().await;
    scene.controller.stop().await;
    scene.engine.vanish(ServoId(1));
    scene.start_agent();
    until("s1 runs", || match scene.engine.running()[..] {
        [ServoId(1)] => Ok(()),
        _ => Err(format!("{:?}", scene.engine.calls())),
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_never_heard_a_controller_removes_nothing() {
    let mut scene = Scene::new("21100-21109").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.host.stop().await;
    // The same engine, an agent without a memory, a controller that has not decided yet.
    let fresh = Controller::start(&scene.authority).await;
    let mut other = Host::new(&scene.authority, &[fresh.address], RuntimeChoice::Process, "21100-21109");
    other.start_with(Arc::new(scene.engine.clone()));
    fresh.until_servo(1, "ready").await;
    assert_eq!(scene.engine.running(), [ServoId(1)]);
    fresh.assign(vec![], vec![]);
    until("now it is removed", || match scene.engine.running().is_empty() {
        true => Ok(()),
        false => Err("it runs".into()),
    })
    .await;
}

#[tokio::test]
async fn an_agent_told_so_takes_its_servos_with_it_and_brings_them_back() {
    let mut scene = Scene::new("21160-21169").await;
    scene.host.stop().await;
    scene.host.config.stop_servos_on_exit = true;
    scene.start_agent();
    scene.controller.assign(vec![scene.servo(1), scene.servo(2)], vec![]);
    let before = scene.controller.until_servo(1, "ready").await;
    scene.controller.stop().await;
    scene.host.stop().await;
    assert_eq!(scene.engine.running(), []);
    scene.start_agent();
    until("both run again, without a controller", || match scene.engine.running().len() {
        2 => Ok(()),
        count => Err(format!("{count} run")),
    })
    .await;
    tokio::net::TcpStream::connect(before.address.unwrap()).await.unwrap();
}

#[tokio::test]
async fn an_older_assignment_is_ignored() {
    let scene = Scene::new("21110-21119").await;
    scene.controller.assign(vec![], vec![]);
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    let old = Assignment { host: HostName::new("h1").unwrap(), generation: 1, servos: vec![], builds: vec![] };
    scene.controller.send(AgentDirective::Assignment(old));
    scene.controller.assign(vec![scene.servo(1), scene.servo(2)], vec![]);
    scene.controller.until_servo(2, "ready").await;
    assert_eq!(scene.engine.calls(), ["start s1", "start s2"]);
}

/// Clusters that were made earlier of the copy that this host's was made of, and the one that they were all before.
#[tokio::test]
async fn a_controller_of_what_the_cluster_was_before_is_left_and_not_obeyed_also_after_a_start() {
    let now = |seconds: u64| Timestamp(1_800_000_000_000 + seconds * 1_000);
    let (restored, lagging) = (beginning_of(1, now(86_400)), beginning_of(1, now(86_400)) - 1_000);
    let assign = |generation, servos| {
        let host = HostName::new("h1").unwrap();
        AgentDirective::Assignment(Assignment { host, generation, servos, builds: vec![] })
    };
    let authority = Authority::create().unwrap();
    let (former, current) = (Controller::start(&authority).await, Controller::start(&authority).await);
    let bundle = current.put(bundle::server());
    let mut host = Host::new(&authority, &[former.address, current.address], RuntimeChoice::Process, "21180-21189");
    let engine = FakeRuntime::new([127, 0, 0, 1].into());
    host.start_with(Arc::new(engine.clone()));
    let hellos = |controller: &Controller| controller.heard(|heard| heard.hellos.len());
    let until_hello = async |controller: &Controller, count: usize| {
        until("a session", || if hellos(controller) >= count { Ok(()) } else { Err("no hello".into()) }).await;
    };
    until_hello(&former, 1).await;
    former.send(AgentDirective::GoElsewhere);
    until_hello(&current, 1).await;
    current.send(assign(restored, vec![servo(1, bundle, "serve")]));
    current.until_servo(1, "ready").await;
    // One that lags is no former one: it catches up, and so it keeps the session.
    current.send(assign(lagging, vec![]));
    let (mut at_former, mut at_current) = (1, 1);
    for (round, generation) in [7, beginning_of(1, now(0)) + 5_000_000, 8].into_iter().enumerate() {
        if round == 2 {
            host.stop().await;
            host.start_with(Arc::new(engine.clone()));
            at_former += 1;
        } else {
            current.send(AgentDirective::GoElsewhere);
            at_former += 1;
        }
        until_hello(&former, at_former).await;
        former.send(assign(generation, vec![]));
        at_current += 1;
        until_hello(&current, at_current).await;
        current.until_servo(1, "ready").await;
    }
    current.send(assign(restored + 1, vec![servo(1, bundle, "serve"), servo(2, bundle, "serve")]));
    current.until_servo(2, "ready").await;
    assert_eq!(engine.calls().iter().filter(|call| call.starts_with("stop")).count(), 0, "{:?}", engine.calls());
}

#[tokio::test]
async fn an_agent_that_is_sent_away_goes_to_another_controller() {
    let authority = Authority::create().unwrap();
    let (first, second) = (Controller::start(&authority).await, Controller::start(&authority).await);
    let mut host = Host::new(&authority, &[first.address, second.address], RuntimeChoice::Process, "21120-21129");
    host.start_with(Arc::new(FakeRuntime::new([127, 0, 0, 1].into())));
    let said_hello = |controller: &Controller| controller.heard(|heard| heard.hellos.len());
    until("the nearest is taken", || match said_hello(&first) {
        1 => Ok(()),
        _ => Err("no hello".into()),
    })
    .await;
    assert_eq!(said_hello(&second), 0);
    first.send(AgentDirective::GoElsewhere);
    until("the other is taken", || match said_hello(&second) {
        1 => Ok(()),
        _ => Err("no hello".into()),
    })
    .await;
}

#[tokio::test]
async fn a_bundle_that_no_controller_has_is_a_clear_failure() {
    let scene = Scene::new("21130-21139").await;
    let missing = BlobRef { digest: Digest::of(b"missing"), size: MemoryBytes(7) };
    scene.controller.assign(vec![servo(1, missing, "serve")], vec![]);
    let report = scene.controller.until_servo(1, "exited").await;
    let ServoStatus::Exited(exit) = report.status else { unreachable!() };
    assert!(exit.reason.contains("no controller gave blob"), "{exit:?}");
    scene.controller.put(b"missing".to_vec());
    scene.controller.until_servo(1, "ready").await;
}

#[tokio::test]
async fn without_a_free_port_a_servo_fails_with_the_reason() {
    let scene = Scene::new("21140-21140").await;
    scene.controller.assign(vec![scene.servo(1), scene.servo(2)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    let report = scene.controller.until_servo(2, "exited").await;
    let ServoStatus::Exited(exit) = report.status else { unreachable!() };
    assert!(exit.reason.contains("no free port in 21140-21140"), "{exit:?}");
}

#[tokio::test]
async fn ports_of_other_programs_are_passed_over() {
    let _others = [taken(21_190).await, taken(21_192).await];
    let scene = Scene::new("21190-21192").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    let report = scene.controller.until_servo(1, "ready").await;
    assert_eq!(report.address.unwrap().port(), 21_191);
}

#[tokio::test]
async fn a_port_that_was_taken_meanwhile_is_exchanged() {
    let scene = Scene::new("21200-21209").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    let before = scene.controller.until_servo(1, "ready").await.address.unwrap();
    scene.engine.crash(ServoId(1), 1);
    let _other = taken(before.port()).await;
    scene.controller.until_servo(1, "exited").await;
    let after = scene.controller.until_servo(1, "ready").await.address.unwrap();
    assert_ne!(after, before);
    assert_eq!(scene.engine.calls(), ["start s1", "restart s1", "start s1"]);
    scene.controller.heard(|heard| {
        let told =
            |report: &&ServoReport| matches!(&report.status, ServoStatus::Exited(exit) if exit.reason.contains("port"));
        assert_eq!(heard.reports.iter().find(told), None, "it is no failure of the app");
    });
}

#[tokio::test]
async fn logs_of_what_is_unknown_end_with_the_reason() {
    let scene = Scene::new("21150-21159").await;
    scene.controller.assign(vec![scene.servo(1)], vec![]);
    scene.controller.until_servo(1, "ready").await;
    scene.controller.want_log(1, LogSource::Servo(ServoId(1)), false, None);
    assert_eq!(scene.controller.until_log_end(1).await, (vec!["output of s1".to_owned()], String::new()));
    scene.controller.want_log(2, LogSource::Servo(ServoId(9)), false, None);
    let (lines, end) = scene.controller.until_log_end(2).await;
    assert!(lines.is_empty() && end.contains("s9 is not on this host"), "{end}");
}
