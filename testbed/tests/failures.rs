//! What is killed, and what goes on: separate processes, real Docker.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Load, Options, app, cluster::PATIENCE, docker, skip::docker_or_skip, until};

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";

fn deployed(servos: usize) -> Result<Cluster> {
    let cluster = Cluster::start(Options::docker())?;
    let source = app::example(APP);
    cluster.run(&["deploy", source.to_str().context("path")?])?.ok()?;
    cluster.run(&["scale", &servos.to_string(), "--app", APP])?.ok()?;
    cluster.until_routed(APP, servos)?;
    Ok(cluster)
}

#[test]
fn the_leader_killed_during_a_deployment_is_not_missed() -> Result<()> {
    if !docker_or_skip("leader killed") {
        return Ok(());
    }
    let mut cluster = deployed(2)?;
    let load = Load::start(&cluster.listen, HOST, "/");
    let leader = cluster.leader()?;
    let folder = tempfile::tempdir()?;
    let source = app::copy_of(APP, folder.path())?;
    std::fs::write(source.join("changed"), "yes")?;
    let deploy = cluster
        .command(&["deploy", source.to_str().context("path")?])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    until("the build to run", PATIENCE, || {
        let builds = docker::containers(cluster.name(), &["label=pontoon.build"])?;
        ensure!(!builds.is_empty(), "no build container");
        Ok(())
    })?;
    cluster.controllers[leader].kill()?;
    let output = deploy.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.until_serves(HOST, "v2")?;
    cluster.controllers[leader].restart()?;
    cluster.until_whole()?;
    // It was away when the bundle was stored on the other two, and fetches it.
    cluster.until_bundles_everywhere(APP)?;
    load.stop_without_failure()?;
    Ok(())
}

#[test]
fn an_agent_killed_leaves_its_servos_serving_and_adopts_them_again() -> Result<()> {
    if !docker_or_skip("agent killed") {
        return Ok(());
    }
    let mut cluster = deployed(2)?;
    let before = docker::containers(cluster.name(), &["status=running"])?;
    let load = Load::start(&cluster.listen, HOST, "/");
    cluster.agents[0].kill()?;
    until("its host to be missed", PATIENCE, || {
        let hosts = cluster.json(&["hosts"])?;
        ensure!(hosts.as_array().into_iter().flatten().any(|host| host["state"] == "suspect"), "{hosts}");
        Ok(())
    })?;
    cluster.agents[0].restart()?;
    cluster.until_whole()?;
    let after = docker::containers(cluster.name(), &["status=running"])?;
    ensure!(before == after, "the same containers run: {before:?} {after:?}");
    load.stop_without_failure()?;
    Ok(())
}

#[test]
fn a_host_that_is_lost_has_its_servos_replaced_elsewhere() -> Result<()> {
    if !docker_or_skip("host lost") {
        return Ok(());
    }
    let mut cluster = deployed(2)?;
    let load = Load::start(&cluster.listen, HOST, "/");
    cluster.agents[0].kill()?;
    until("two servos on the other host", PATIENCE, || {
        let ps = cluster.json(&["ps", "--app", APP])?;
        let there = |servo: &&serde_json::Value| servo["routed"] == true && servo["host"] == "host-west";
        ensure!(ps.as_array().into_iter().flatten().filter(there).count() == 2, "{ps}");
        Ok(())
    })?;
    cluster.agents[0].restart()?;
    cluster.until_whole()?;
    // The returning agent ends what is no longer assigned to it.
    cluster.until_containers(2)?;
    load.stop_without_failure()?;
    Ok(())
}

#[test]
fn a_killed_servo_is_started_again_without_a_failed_request() -> Result<()> {
    if !docker_or_skip("servo killed") {
        return Ok(());
    }
    let cluster = deployed(2)?;
    let load = Load::start(&cluster.listen, HOST, "/");
    for kills in 1..=3 {
        let running = docker::containers(cluster.name(), &["status=running"])?;
        docker::docker(&["kill", running.first().context("no servo runs")?])?;
        until("the killed servo to have been started again", PATIENCE, || {
            let ps = cluster.json(&["ps", "--app", APP])?;
            let restarts: u64 =
                ps.as_array().into_iter().flatten().filter_map(|servo| servo["restarts"].as_u64()).sum();
            ensure!(restarts == kills, "{restarts} of {kills}: {ps}");
            Ok(())
        })?;
        cluster.until_routed(APP, 2)?;
    }
    load.stop_without_failure()?;
    Ok(())
}

#[test]
fn apps_go_on_without_controllers_and_through_a_restarted_balancer() -> Result<()> {
    if !docker_or_skip("no controllers") {
        return Ok(());
    }
    let mut cluster = deployed(2)?;
    for controller in &mut cluster.controllers {
        controller.kill()?;
    }
    let untouched = Load::start(&cluster.listen[1..], HOST, "/");
    cluster.balancers[0].kill()?;
    cluster.balancers[0].restart()?;
    cluster.until_serves(HOST, "v1")?;
    let running = docker::containers(cluster.name(), &["status=running"])?;
    docker::docker(&["kill", running.first().context("no servo runs")?])?;
    cluster.until_running(2)?;
    cluster.until_serves(HOST, "v1")?;
    untouched.stop_without_failure()?;
    for controller in &mut cluster.controllers {
        controller.restart()?;
    }
    cluster.until_whole()?;
    cluster.until_serves(HOST, "v1")
}

#[test]
fn the_whole_set_killed_and_started_again_serves_all_apps() -> Result<()> {
    if !docker_or_skip("whole set") {
        return Ok(());
    }
    let mut cluster = deployed(2)?;
    let Cluster { controllers, agents, balancers, .. } = &mut cluster;
    for process in controllers.iter_mut().chain(agents.iter_mut()).chain(balancers.iter_mut()) {
        process.kill()?;
    }
    // A machine that went down takes its containers with it.
    for container in docker::containers(cluster.name(), &["status=running"])? {
        docker::docker(&["kill", &container])?;
    }
    let Cluster { controllers, agents, balancers, .. } = &mut cluster;
    for process in controllers.iter_mut().chain(agents.iter_mut()).chain(balancers.iter_mut()) {
        process.restart()?;
    }
    cluster.until_whole()?;
    cluster.until_serves(HOST, "v1")?;
    let ps = cluster.json(&["ps", "--app", APP])?;
    ensure!(ps.as_array().is_some_and(|servos| servos.len() == 2), "{ps}");
    cluster.run(&["scale", "3", "--app", APP])?.ok()?;
    cluster.until_running(3)
}
