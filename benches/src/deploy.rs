//! A warm `deploy` (nothing new to install): command to the new version served, beside one container start.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Options, app, docker, until};

use crate::figure::{self, RUNS};

const HOST: &str = "guestbook.localhost";

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = app::copy_of("guestbook", folder.path())?;
    let path = source.to_str().context("path")?;
    let cluster = Cluster::start(Options::docker())?;
    cluster.run(&["deploy", path])?.ok()?;
    let (mut deploys, mut starts) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        std::fs::write(source.join("changed.txt"), format!("run {run}"))?;
        let release = format!("v{}", run + 2);
        let begun = Instant::now();
        cluster.run(&["deploy", path])?.ok()?;
        until("the new version", Duration::from_secs(60), || {
            let (status, body) = cluster.get(0, HOST, "/")?;
            ensure!(status == 200 && body.contains(&release), "{status}");
            Ok(())
        })?;
        deploys.push(begun.elapsed());
        starts.push(container_start()?);
    }
    let (deploy, start) = (figure::median_seconds(&deploys), figure::median_seconds(&starts));
    figure::print_beside("warm_deploy", deploy, "s", "docker-run-true", start);
    figure::print("warm_deploy_above_container_start", deploy - start, "s");
    Ok(())
}

/// `docker run` of the smallest command, to its end.
fn container_start() -> Result<Duration> {
    let begun = Instant::now();
    docker::docker(&["run", "--rm", "pontoon/run-python:1", "true"])?;
    Ok(begun.elapsed())
}
