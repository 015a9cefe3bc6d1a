//! From source to served, in Docker: the examples, a change under load, scaling, one-offs, logs.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pontoon_testbed::{Cluster, Load, Options, app, cluster::PATIENCE, docker, skip::docker_or_skip, until};

fn path(folder: &std::path::Path) -> &str {
    folder.to_str().expect("test folders are UTF-8")
}

#[test]
fn guestbook_is_deployed_changed_and_deployed_again_without_a_failed_request() -> Result<()> {
    if !docker_or_skip("guestbook under load") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(Options::docker())?;
    let source = app::copy_of("guestbook", folder.path())?;
    cluster.run(&["deploy", path(&source)])?.ok()?;
    cluster.until_serves("guestbook.localhost", "v1")?;

    let load = Load::start(&cluster.listen, "guestbook.localhost", "/");
    let page = source.join("templates/book.html");
    let text = std::fs::read_to_string(&page)?;
    std::fs::write(&page, text.replace("<body", "<!-- a changed page --><body"))?;
    cluster.run(&["deploy", path(&source)])?.ok()?;
    // `deploy` has returned, so every balancer has the new route: no old page from now on.
    let (_, body) = cluster.get(0, "guestbook.localhost", "/")?;
    ensure!(body.contains("a changed page") && body.contains("v2"), "{body:.400}");
    cluster.until_containers(2)?;
    // Configuration and rollback take the same path.
    cluster.run(&["env", "set", "COLOR=blue", "--app", "guestbook"])?.ok()?;
    cluster.until_serves("guestbook.localhost", "v3")?;
    cluster.run(&["rollback", "v1", "--app", "guestbook"])?.ok()?;
    cluster.until_serves("guestbook.localhost", "v4")?;
    cluster.run(&["restart", "--app", "guestbook"])?.ok()?;
    cluster.until_containers(2)?;
    let tally = load.stop_without_failure()?;
    ensure!(tally.bodies.iter().any(|body| body.contains("a changed page")), "the load never saw the new page");
    cluster.run(&["app", "destroy", "guestbook", "--yes"])?.ok()?;
    cluster.until_containers(0)
}

#[test]
fn every_example_is_deployed_from_source() -> Result<()> {
    if !docker_or_skip("examples") {
        return Ok(());
    }
    let cluster = Cluster::start(Options::docker())?;
    for name in ["node-hello", "static-site", "procfile-hello"] {
        cluster.run(&["deploy", path(&app::example(name))])?.ok()?;
        cluster.until_serves(&format!("{name}.localhost"), "")?;
    }
    ensure!(cluster.get(0, "nobody.localhost", "/")?.0 == 404, "an unknown host is a 404");
    cluster.run(&["app", "create", "empty"])?.ok()?;
    until("the empty app's 503", PATIENCE, || {
        let (status, body) = cluster.get(1, "empty.localhost", "/")?;
        ensure!(status == 503 && body.contains("deployed"), "{status} {body}");
        Ok(())
    })
}

#[test]
fn scale_logs_run_and_ps_do_what_they_say() -> Result<()> {
    if !docker_or_skip("scale, logs, run") {
        return Ok(());
    }
    let cluster = Cluster::start(Options::docker())?;
    let on = |args: &[&str]| cluster.run(&[args, &["--app", "procfile-hello"]].concat());
    cluster.run(&["deploy", path(&app::example("procfile-hello"))])?.ok()?;
    on(&["scale", "4", "--memory", "64M"])?.ok()?;
    until("four servos that take traffic", PATIENCE, || {
        let servos = cluster.json(&["ps", "--app", "procfile-hello"])?;
        let routed = servos.as_array().into_iter().flatten().filter(|servo| servo["routed"] == true);
        let sites: std::collections::BTreeSet<_> = routed.clone().map(|servo| servo["site"].to_string()).collect();
        ensure!(routed.count() == 4 && sites.len() == 2, "{servos}");
        Ok(())
    })?;
    // The larger ones it replaced are gone.
    cluster.until_containers(4)?;
    let memory = docker::docker(&[
        "inspect",
        "--format",
        "{{.HostConfig.Memory}} {{.HostConfig.CapDrop}} {{.HostConfig.PidsLimit}} {{.Config.User}}",
        &docker::containers(cluster.name(), &["status=running"])?[0],
    ])?;
    ensure!(memory.starts_with("67108864 [ALL] ") && memory.contains("10001"), "limits: {memory}");
    let hello = cluster.run(&[
        "run",
        "--app",
        "procfile-hello",
        "--",
        "sh",
        "-c",
        "echo to stdout; echo release $PONTOON_RELEASE; exit 7",
    ])?;
    ensure!(hello.code == 7, "{hello:?}");
    ensure!(hello.stdout.contains("to stdout") && hello.stdout.contains("release v1"), "{hello:?}");
    cluster.get(0, "procfile-hello.localhost", "/")?;
    let logs = on(&["logs", "--tail", "50"])?;
    ensure!(logs.code == 0 && !logs.stdout.trim().is_empty(), "{logs:?}");
    let mut sleeper = cluster.command(&["run", "--app", "procfile-hello", "--", "sleep", "600"])?.spawn()?;
    let running = cluster.until_running(5);
    kill(Pid::from_raw(sleeper.id() as i32), Signal::SIGINT)?;
    ensure!(sleeper.wait()?.code() == Some(130), "Ctrl-C is said by the exit code");
    running?;
    cluster.until_running(4)?;
    on(&["scale", "0"])?.ok()?;
    until("503 when scaled to zero", PATIENCE, || {
        let (status, body) = cluster.get(0, "procfile-hello.localhost", "/")?;
        ensure!(status == 503 && body.contains("scaled to zero"), "{status} {body}");
        Ok(())
    })?;
    until("its servos to end", Duration::from_secs(90), || {
        let left = docker::containers(cluster.name(), &["status=running"])?.len();
        ensure!(left == 0, "{left} still run");
        Ok(())
    })
}
