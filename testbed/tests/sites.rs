//! Two sites, and an app in one of them: users of the other reach it, whatever becomes of its balancer.

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Load, Options, app, cluster::PATIENCE, until};

const APP: &str = "procfile-hello";
const HOST: &str = "procfile-hello.localhost";
const EAST: usize = 0;
const WEST: usize = 1;

#[test]
fn an_app_of_another_site_is_reached_through_its_balancer_and_without_it() -> Result<()> {
    let mut cluster = Cluster::start(Options::process())?;
    let source = app::example(APP);
    cluster.run(&["deploy", source.to_str().context("UTF-8")?])?.ok()?;
    cluster.run(&["scale", "0", "--site", "test.east=1", "--app", APP])?.ok()?;
    cluster.until_routed(APP, 1)?;
    let log = cluster.note_requests(EAST)?;
    let through_east = || -> Result<usize> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(text.lines().filter(|line| line.contains("peer/2")).count())
    };
    let until_through_east = |cluster: &Cluster, from: usize| {
        until("requests of west to go through the balancer of east", PATIENCE, || {
            let (status, body) = cluster.get(WEST, HOST, "/")?;
            ensure!(status == 200, "{status} {body:.200}");
            let seen = through_east()?;
            ensure!(seen > from, "{seen} of them");
            Ok(())
        })
    };
    until_through_east(&cluster, 0)?;

    let until_sent = |load: &Load, count: u64| {
        let wanted = load.sent() + count;
        until("more requests to be answered", PATIENCE, || {
            ensure!(load.sent() >= wanted, "{} of {wanted}", load.sent());
            Ok(())
        })
    };
    let load = Load::start(&[cluster.listen[WEST]], HOST, "/");
    until_sent(&load, 200)?;
    cluster.balancers[EAST].kill()?;
    // Its servo is asked itself.
    until_sent(&load, 200)?;
    load.stop_without_failure()?;
    let before = through_east()?;
    cluster.balancers[EAST].restart()?;
    until_through_east(&cluster, before)
}
