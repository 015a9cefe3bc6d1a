//! A follower that was away for 100,000 entries: how long it takes to catch up, and what writers feel meanwhile.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_testbed::until;

use crate::controllers::{Controllers, Shape};
use crate::figure;
use crate::timeline::{self, Met, Timeline};
use crate::workload;

const ENTRIES: u64 = 100_000;
/// More log than the bench writes.
const KEPT_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Few writes share an entry, so that there are many entries.
const WRITERS: usize = 4;
/// The load whose latency is looked at.
const CLIENTS: usize = 64;
/// The whole cluster under that load, and what is left of it without the follower, for comparison.
const BEFORE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn run() -> Result<()> {
    let mut cluster = Controllers::start_on(Shape::LAN, |files| {
        files.controllers.iter().try_for_each(|file| keep_entries(&file.config))
    })?;
    workload::with_apps(&cluster)?;
    let leader = cluster.leader()?;
    let follower = (leader + 1) % cluster.rest().len();
    let load = Timeline::start(cluster.rest()[leader], cluster.token(), CLIENTS);
    std::thread::sleep(BEFORE);
    let whole = Instant::now();
    let (p99_whole, most_whole) = timeline::within(&load.end()?, whole - BEFORE / 2, whole);
    cluster.process(follower).stop()?;
    let begun = index(&cluster, leader)?;
    let load = Timeline::start(cluster.rest()[leader], cluster.token(), WRITERS);
    until("the entries", LIMIT, || {
        let entries = index(&cluster, leader)? - begun;
        ensure!(entries >= ENTRIES, "there are {entries}");
        Ok(())
    })?;
    load.end()?;

    let load = Timeline::start(cluster.rest()[leader], cluster.token(), CLIENTS);
    std::thread::sleep(BEFORE);
    let started = Instant::now();
    cluster.process(follower).restart()?;
    let goal = index(&cluster, leader)?;
    until("the follower to catch up", LIMIT, || {
        let at = index(&cluster, follower)?;
        ensure!(at >= goal, "it is at {at} of {goal}");
        Ok(())
    })?;
    let Met { before: (p99_before, most_before), meanwhile: (p99, most), took, .. } =
        Met::by(load, &cluster, leader, BEFORE, started)?;
    eprintln!(
        "  longest write: {most_whole:.1} ms of three, {most_before:.1} ms of two, {most:.1} ms while the third catches up"
    );
    figure::print("catch_up_100000_entries", took.as_secs_f64(), "s");
    figure::print_beside("catch_up_write_p99", p99, "ms", "of-three-before", p99_whole);
    figure::print_beside("catch_up_write_p99", p99, "ms", "of-two-before", p99_before);
    Ok(())
}

/// No snapshot while the bench runs: it would bring a follower up to date in place of the entries.
fn keep_entries(config: &Path) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(config)?;
    Ok(write!(file, "\n[store]\nsnapshot_bytes = {KEPT_BYTES}\nkept_bytes = {KEPT_BYTES}\n")?)
}

/// What a controller has applied.
fn index(cluster: &Controllers, at: usize) -> Result<u64> {
    cluster.get(at, "/v1/status")?["index"].as_u64().context("no index")
}
