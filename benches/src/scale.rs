//! From `scale 20` until all 20 servos are routed, beside `docker run -d -p` of the same image and command,
//! four at a time, until all 20 ports answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Options, app, docker, until};

use crate::figure::{self, RUNS};

const SERVOS: usize = 20;
const AT_A_TIME: usize = 4;
const LIMIT: Duration = Duration::from_secs(120);
const APP: &str = "procfile-hello";

pub(crate) fn run() -> Result<()> {
    let cluster = Cluster::start(Options::docker())?;
    cluster.run(&["deploy", app::example(APP).to_str().context("path")?])?.ok()?;
    let (mut ours, mut dockers) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(scale_up(&cluster)?);
        scale_to(&cluster, 1)?;
        dockers.push(docker_run(&cluster)?);
    }
    let name = format!("scale_to_{SERVOS}_routed");
    figure::print_beside(&name, figure::median_seconds(&ours), "s", "docker-run", figure::median_seconds(&dockers));
    Ok(())
}

fn routed(cluster: &Cluster) -> Result<usize> {
    let routes = cluster.json(&["routes"])?;
    let route = routes.as_array().into_iter().flatten().find(|route| route["app"] == APP).context("no route")?;
    Ok(route["servos"].as_array().map_or(0, Vec::len))
}

fn scale_to(cluster: &Cluster, servos: usize) -> Result<()> {
    cluster.run(&["scale", &servos.to_string(), "--memory", "64M", "--app", APP])?.ok()?;
    until(&format!("{servos} servos and their containers"), LIMIT, || {
        let (routed, running) = (routed(cluster)?, docker::containers(cluster.name(), &["status=running"])?.len());
        ensure!(routed == servos && running == servos, "{routed} routed, {running} run");
        Ok(())
    })
}

/// From the command until the routes hold all.
fn scale_up(cluster: &Cluster) -> Result<Duration> {
    scale_to(cluster, 1)?;
    let begun = Instant::now();
    cluster.run(&["scale", &(SERVOS + 1).to_string(), "--app", APP])?.ok()?;
    until("all servos to be routed", LIMIT, || {
        let routed = routed(cluster)?;
        ensure!(routed == SERVOS + 1, "{routed} are");
        Ok(())
    })?;
    Ok(begun.elapsed())
}

/// The same image, command and limits through the engine's own command line.
fn docker_run(cluster: &Cluster) -> Result<Duration> {
    let servo = docker::containers(cluster.name(), &["status=running"])?.first().context("no servo")?.clone();
    let image = docker::docker(&["inspect", "--format", "{{.Config.Image}}", &servo])?.trim().to_owned();
    let label = format!("pontoon.cluster={}", cluster.name());
    let command = format!("exec {}", command_of(&servo)?);
    let begun = Instant::now();
    let start = |count: usize| -> Result<Vec<SocketAddr>> {
        let (image, label, command) = (image.as_str(), label.as_str(), command.as_str());
        (0..count)
            .map(|_| {
                let id = docker::docker(&[
                    "run",
                    "-d",
                    "-p",
                    "127.0.0.1:0:8080",
                    "-e",
                    "PORT=8080",
                    "-u",
                    "10001",
                    "--memory",
                    "64m",
                    "--label",
                    label,
                    "--label",
                    "bench=docker-run",
                    "--entrypoint",
                    "/bin/sh",
                    image,
                    "-c",
                    command,
                ])?;
                let port = docker::docker(&["port", id.trim(), "8080"])?;
                port.lines().next().context("no port")?.trim().parse().context("not an address")
            })
            .collect()
    };
    let addresses = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(|| start(SERVOS / AT_A_TIME))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    for address in addresses.into_iter().flatten() {
        until(&format!("{address} to answer"), LIMIT, || answers(address))?;
    }
    let elapsed = begun.elapsed();
    for id in docker::containers(cluster.name(), &["label=bench=docker-run"])? {
        docker::docker(&["rm", "-f", &id])?;
    }
    Ok(elapsed)
}

/// What the servo runs: the last argument of its command, without `exec`.
fn command_of(servo: &str) -> Result<String> {
    let args = docker::docker(&["inspect", "--format", "{{json .Args}}", servo])?;
    let args: Vec<String> = serde_json::from_str(&args)?;
    let last = args.last().context("no arguments")?;
    Ok(last.strip_prefix("exec ").unwrap_or(last).to_owned())
}

/// An HTTP answer, not a mere connect: the engine's port proxy accepts before the app listens.
fn answers(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut first = [0; 12];
    stream.read_exact(&mut first)?;
    ensure!(first.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first));
    Ok(())
}
