//! The agent with servos as processes of this machine.

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use pontoon_agent::config::RuntimeChoice;
use pontoon_kit::Authority;
use pontoon_model::*;
use pontoon_proto::LogSource;
use support::{Controller, Host, bundle, servo, taken, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Scene {
    controller: Controller,
    host: Host,
}

impl Scene {
    async fn new(ports: &str) -> Option<Self> {
        if Command::new("python3").arg("--version").output().is_err() {
            println!("SKIPPED: there is no python3 to run as a servo");
            return None;
        }
        let authority = Authority::create().unwrap();
        let controller = Controller::start(&authority).await;
        let mut host = Host::new(&authority, &[controller.address], RuntimeChoice::Process, ports);
        host.start();
        Some(Self { controller, host })
    }

    /// Ends what the test started, through the agent itself.
    async fn end(mut self) {
        self.host.stop().await;
        pontoon_agent::remove_everything(&self.host.config).await.unwrap();
        let servos = std::fs::read_dir(self.host.config.data_dir.join("servos")).unwrap();
        assert_eq!(servos.count(), 0);
    }
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_servo_lives_through_its_whole_life_as_a_process() {
    let Some(mut scene) = Scene::new("23000-23049").await else { return };
    let bundle = scene.controller.put(bundle::server());
    let spec = servo(1, bundle, "python3 server.py");
    scene.controller.assign(vec![spec.clone()], vec![]);
    let ready = scene.controller.until_servo(1, "ready").await;
    let address = ready.address.unwrap();
    assert_eq!(get(address, "/").await.unwrap(), "hello from guestbook");
    assert!(!ready.limits_enforced);

    let _ = get(address, "/die").await;
    scene
        .controller
        .until("its end is told with its last lines", |heard| {
            let told = |report: &ServoReport| {
                matches!(&report.status, ServoStatus::Exited(exit)
                    if exit.code == 3 && exit.last_lines.iter().any(|line| line == "a word on stderr"))
            };
            heard.reports.iter().any(told).then_some(()).ok_or_else(|| format!("{:?}", heard.servos))
        })
        .await;
    let again = scene.controller.until_servo(1, "ready").await;
    assert_eq!((again.address, again.restarts), (ready.address, 1));

    // The agent is killed; the process serves on, is adopted, and its end is noticed by the new agent too.
    scene.host.kill().await;
    assert_eq!(get(address, "/").await.unwrap(), "hello from guestbook");
    let reports = scene.controller.heard(|heard| heard.reports.len());
    scene.host.start();
    scene
        .controller
        .until("it is adopted", |heard| match &heard.reports[reports..] {
            [] => Err("no report".into()),
            [first, ..] => {
                assert_eq!((&first.status, first.address), (&ServoStatus::Ready, Some(address)));
                Ok(())
            }
        })
        .await;
    let _ = get(address, "/die").await;
    scene.controller.until_servo(1, "exited").await;
    scene.controller.until_servo(1, "ready").await;

    scene.controller.want_log(1, LogSource::Servo(ServoId(1)), false, None);
    let (lines, end) = scene.controller.until_log_end(1).await;
    assert_eq!(lines.iter().filter(|line| line.starts_with("listening on")).count(), 3, "{lines:?}");
    assert_eq!(end, "");

    scene.controller.assign(vec![ServoSpec { desired: Desired::Stop, ..spec }], vec![]);
    scene.controller.until_servo(1, "gone").await;
    assert!(get(address, "/").await.is_err());
    scene.end().await;
}

#[tokio::test]
async fn a_port_that_another_program_took_is_exchanged() {
    let Some(scene) = Scene::new("23200-23219").await else { return };
    let bundle = scene.controller.put(bundle::server());
    scene.controller.assign(vec![servo(1, bundle, "python3 server.py")], vec![]);
    let before = scene.controller.until_servo(1, "ready").await.address.unwrap();
    let _ = get(before, "/die").await;
    // It is started again a second after its end.
    let other = taken(before.port()).await;
    scene.controller.until_servo(1, "exited").await;
    let after = scene.controller.until_servo(1, "ready").await.address.unwrap();
    assert_ne!(after, before);
    assert_eq!(get(after, "/").await.unwrap(), "hello from guestbook");
    drop(other);
    scene.end().await;
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_with_its_children() {
    let Some(scene) = Scene::new("23050-23099").await else { return };
    let script = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\npid = os.fork()\n\
        if pid: print('child', pid, flush=True)\ntime.sleep(1000)\n";
    let bundle = scene.controller.put(bundle::bundle(&[("stubborn.py", script)]));
    let grace = Duration::from_millis(200);
    let spec = ServoSpec { listens: false, grace, ..servo(1, bundle, "python3 stubborn.py") };
    scene.controller.assign(vec![spec.clone()], vec![]);
    scene.controller.until_servo(1, "ready").await;
    let out = scene.host.config.data_dir.join("servos/s1/out.log");
    let mut child = String::new();
    until("it has a child", || {
        child = std::fs::read_to_string(&out).unwrap_or_default().trim().trim_start_matches("child ").to_owned();
        if child.is_empty() { Err("no output".into()) } else { Ok(()) }
    })
    .await;
    scene.controller.assign(vec![ServoSpec { desired: Desired::Stop, ..spec }], vec![]);
    scene.controller.until_servo(1, "gone").await;
    until("its child ended", || {
        // Whoever is init here may not reap it at once.
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z") { Ok(()) } else { Err(stat) }
    })
    .await;
    scene.end().await;
}

#[tokio::test]
async fn a_static_site_is_served() {
    let Some(scene) = Scene::new("23100-23149").await else { return };
    let bundle = scene.controller.put(bundle::bundle(&[("public/index.html", "a page")]));
    scene
        .controller
        .assign(vec![ServoSpec { language: Language::Static, ..servo(1, bundle, "/pontoon/serve-static") }], vec![]);
    let ready = scene.controller.until_servo(1, "ready").await;
    assert_eq!(get(ready.address.unwrap(), "/").await.unwrap(), "a page");
    scene.end().await;
}

fn build(id: u64, source: BlobRef, language: Language) -> BuildSpec {
    BuildSpec {
        id: BuildId(id),
        app: AppName::new("guestbook").unwrap(),
        source,
        language,
        env: Default::default(),
        size: Size::default(),
        timeout: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn source_without_a_build_step_becomes_a_bundle_and_other_source_is_refused() {
    let Some(scene) = Scene::new("23150-23199").await else { return };
    let plain =
        scene.controller.put(bundle::source(&[("hello.py", "print('hello')"), ("requirements.txt", "# none\n")]));
    let pip = scene.controller.put(bundle::source(&[("requirements.txt", "flask\n")]));
    let npm = scene.controller.put(bundle::source(&[("package.json", r#"{"dependencies":{"left-pad":"1"}}"#)]));
    scene.controller.assign(
        vec![],
        vec![build(1, plain, Language::Python), build(2, pip, Language::Python), build(3, npm, Language::Node)],
    );
    for (id, step) in [(2, "pip install"), (3, "npm install")] {
        let outcome = scene.controller.until_build(id).await;
        let BuildOutcome::Failed { reason, .. } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(&format!("needs a build step ({step})")) && reason.contains("Docker"), "{reason}");
    }
    let outcome = scene.controller.until_build(1).await;
    let BuildOutcome::Succeeded { bundle } = outcome else { panic!("{outcome:?}") };
    let one_off = ServoSpec { one_off: true, listens: false, ..servo(1, bundle, "python3 hello.py") };
    scene.controller.assign(vec![one_off], vec![]);
    let report = scene.controller.until_servo(1, "exited").await;
    assert!(matches!(&report.status, ServoStatus::Exited(exit) if exit.code == 0), "{report:?}");
    scene.controller.want_log(1, LogSource::Servo(ServoId(1)), true, None);
    assert_eq!(scene.controller.until_log_end(1).await, (vec!["hello".to_owned()], String::new()));
    scene.end().await;
}

#[tokio::test]
async fn every_shell_line_is_run_to_its_end() {
    let Some(scene) = Scene::new("23250-23299").await else { return };
    let bundle = scene.controller.put(bundle::server());
    let lines = [
        ("true && python3 -c 'raise SystemExit(7)'", 7),
        ("X=1 env | grep -q '^X=1$'", 0),
        ("cd / && test \"$(pwd)\" = /", 0),
        ("echo a; exit 5", 5),
        ("(exit 3)", 3),
        ("no-such-program", 127),
    ];
    let servos =
        (1..).zip(lines).map(|(id, (line, _))| ServoSpec { one_off: true, listens: false, ..servo(id, bundle, line) });
    scene.controller.assign(servos.collect(), vec![]);
    for (id, (line, code)) in (1..).zip(lines) {
        let report = scene.controller.until_servo(id, "exited").await;
        assert!(matches!(&report.status, ServoStatus::Exited(exit) if exit.code == code), "{line}: {report:?}");
    }
    scene.end().await;
}

#[tokio::test]
async fn what_a_compound_line_started_has_the_grace() {
    let Some(scene) = Scene::new("23300-23349").await else { return };
    let script = "import signal, sys, time\n\
        def end(*_):\n    time.sleep(0.3)\n    open(sys.argv[1], 'w').close()\n    sys.exit(0)\n\
        signal.signal(signal.SIGTERM, end)\nprint('waits', flush=True)\ntime.sleep(1000)\n";
    let bundle = scene.controller.put(bundle::bundle(&[("calm.py", script)]));
    let ended = tempfile::tempdir().unwrap();
    let file = |name: &str| ended.path().join(name).display().to_string();
    let lines = [
        format!("true && python3 calm.py {}", file("one")),
        format!("python3 calm.py {} & python3 calm.py {} & wait", file("two"), file("three")),
    ];
    let servo = |id, line: &str| ServoSpec { listens: false, ..servo(id, bundle, line) };
    let specs = || (1..).zip(&lines).map(|(id, line)| servo(id, line)).collect::<Vec<_>>();
    scene.controller.assign(specs(), vec![]);
    for (id, waiting) in [(1, 1), (2, 2)] {
        let out = scene.host.config.data_dir.join(format!("servos/s{id}/out.log"));
        until("its programs wait", || {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            if text.matches("waits").count() == waiting { Ok(()) } else { Err(text) }
        })
        .await;
    }
    let stopped = specs().into_iter().map(|spec| ServoSpec { desired: Desired::Stop, ..spec });
    scene.controller.assign(stopped.collect(), vec![]);
    for id in [1, 2] {
        scene.controller.until_servo(id, "gone").await;
    }
    assert_eq!(std::fs::read_dir(ended.path()).unwrap().count(), 3, "all of them ended in peace");
    scene.end().await;
}
