//! Controllers that hold a million servos: how soon after a start they serve reads, their memory, and what writers feel
//! while a snapshot is built.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_cli::dev::provision::ClusterFiles;
use pontoon_controller::raft::{Member, seed};
use pontoon_kit::{Credentials, Identity};
use pontoon_testbed::until;

use crate::controllers::{Controllers, Shape};
use crate::figure::{self, RUNS};
use crate::heartbeats::Heartbeats;
use crate::newcomer::Newcomer;
use crate::settled::{self, Extent};
use crate::timeline::{self, Met, Timeline};
use crate::usage;

const LIMIT: Duration = Duration::from_secs(120);
/// Writers whose latency is looked at while snapshots are built.
const CLIENTS: usize = 16;
/// A snapshot is made after 64 MiB of log: what these writers fill in about a minute.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(400);
/// Writers are at work for this long before a controller joins; the second half of it is what is compared with.
const BEFORE_JOIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a snapshot is being written.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn run() -> Result<()> {
    let (mut cluster, _heartbeats) = start()?;
    restarts(&mut cluster)?;
    let folders: Vec<PathBuf> = cluster.data_dirs().map(|data| data.join("raft").join("snapshots")).collect();
    snapshots(&cluster, &folders)
}

/// A fourth controller with an empty store is let in, to follow: from its start until it serves what the others hold. It does
/// not get to vote here, since the state's bundles are not there for it to fetch.
pub(crate) fn join() -> Result<()> {
    let (mut cluster, _heartbeats) = start()?;
    let mut times = Vec::new();
    for round in 0..RUNS {
        // Each has a key of its own, and so a name.
        let newcomer = Newcomer::start(&cluster, &format!("south-{round}"))?;
        let started = Instant::now();
        let path = format!("/v1/apps/{}", settled::app_name(500));
        until("reads to be served", LIMIT, || newcomer.get(&path).map(drop))?;
        times.push(started.elapsed());
        newcomer.remove(&mut cluster)?;
    }
    figure::print("million_join_to_reads", figure::median_seconds(&times), "s");
    writes_while_one_joins(&mut cluster)
}

/// What writers feel while the snapshot of a million servos is sent to a newcomer, installed there, and what came meanwhile
/// follows.
fn writes_while_one_joins(cluster: &mut Controllers) -> Result<()> {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for round in 0..RUNS {
        let leader = cluster.leader()?;
        let load = Timeline::start(cluster.rest()[leader], cluster.token(), CLIENTS);
        std::thread::sleep(BEFORE_JOIN);
        let started = Instant::now();
        let newcomer = Newcomer::start(cluster, &format!("centre-{round}"))?;
        let path = format!("/v1/apps/{}", settled::app_name(500));
        until("reads to be served", LIMIT, || newcomer.get(&path).map(drop))?;
        let served = Instant::now();
        let goal = cluster.get(leader, "/v1/status")?["index"].as_u64().context("no index")?;
        // It answers when it is there: to ask again and again would be work for the processors that are looked at.
        until("the newcomer to catch up", LIMIT, || newcomer.get(&format!("{path}?at_index={goal}")).map(drop))?;
        let Met { before: (p99_before, most_before), meanwhile: (p99, most), took, writes } =
            Met::by(load, cluster, leader, BEFORE_JOIN, started)?;
        // One after the other: the snapshot travels and is installed, then the entries that came meanwhile follow.
        let (installing, following) =
            (timeline::within(&writes, started, served).0, timeline::within(&writes, served, started + took).0);
        eprintln!(
            "  join {round}: reads after {:.1} s, p99 {installing:.1} ms until then and {following:.1} ms after it",
            (served - started).as_secs_f64()
        );
        eprintln!(
            "  join {round}: {:.1} s; p99 {p99:.1} ms, longest {most:.1} ms; before: {p99_before:.1} and {most_before:.1} ms",
            took.as_secs_f64()
        );
        before.push(p99_before);
        during.push(p99);
        newcomer.remove(cluster)?;
    }
    let (before, during) = (figure::median(before), figure::median(during));
    figure::print_beside("million_join_write_p99", during, "ms", "before", before);
    Ok(())
}

/// Three controllers that hold a million servos, and the signs of life of their hosts.
fn start() -> Result<(Controllers, Heartbeats)> {
    let state = settled::state(Extent::MILLION)?;
    let (mut identity, mut grpc) = (None, Vec::new());
    let cluster = Controllers::start_on(Shape::LAN, |files| {
        let members = members(files)?;
        for file in &files.controllers {
            seed(&file.data_dir, &members, &state)?;
        }
        identity = Some(Identity::load(&files.controllers[0].config.with_file_name("tls"))?);
        grpc = members.iter().map(|member| member.grpc).collect();
        Ok(())
    })?;
    let identity = identity.context("no identity")?;
    let heartbeats = Heartbeats::start(&state, grpc, Credentials::new(identity)?)?;
    Ok((cluster, heartbeats))
}

/// The members that the configuration files name.
fn members(files: &ClusterFiles) -> Result<Vec<Member>> {
    let config = pontoon_controller::Config::load(&files.controllers[0].config)?;
    let member = |member: pontoon_controller::config::MemberConfig| Member {
        id: member.id,
        name: member.name,
        grpc: member.grpc,
    };
    Ok(config.members.into_iter().map(member).collect())
}

/// A follower is killed and started again.
fn restarts(cluster: &mut Controllers) -> Result<()> {
    let (mut times, mut sizes, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let follower = (cluster.leader()? + 1) % cluster.rest().len();
        cluster.process(follower).kill()?;
        let started = Instant::now();
        cluster.process(follower).restart()?;
        let path = format!("/v1/apps/{}", settled::app_name(500));
        until("reads to be served", LIMIT, || {
            let app = cluster.get(follower, &path)?;
            ensure!(app["live"].is_object() || !app["release"].is_null() || app["name"].is_string(), "{app}");
            Ok(())
        })?;
        times.push(started.elapsed());
        cluster.until_whole()?;
        let pid = cluster.process(follower).pid().context("it does not run")?;
        sizes.push(usage::memory_mb(pid, "VmRSS")?);
        peaks.push(usage::memory_mb(pid, "VmHWM")?);
    }
    figure::print("million_restart_to_reads", figure::median_seconds(&times), "s");
    figure::print("million_rss_follower", figure::median(sizes), "MB");
    figure::print("million_rss_peak_of_start", figure::median(peaks), "MB");
    let leader = cluster.leader()?;
    let pid = cluster.process(leader).pid().context("it does not run")?;
    figure::print("million_rss_leader", usage::memory_mb(pid, "VmRSS")?, "MB");
    Ok(())
}

/// The load goes on until the leader has built a snapshot.
fn snapshots(cluster: &Controllers, folders: &[PathBuf]) -> Result<()> {
    let leader = cluster.leader()?;
    let load = Timeline::start(cluster.rest()[leader], cluster.token(), CLIENTS);
    let begun = Instant::now();
    let building = || -> Result<bool> {
        let files = std::fs::read_dir(&folders[leader])?;
        Ok(files.flatten().any(|file| file.path().extension().is_some_and(|ending| ending == "tmp")))
    };
    let wait_until = |wanted: bool| -> Result<Instant> {
        while building()? != wanted {
            ensure!(begun.elapsed() < SNAPSHOT_LIMIT, "no snapshot in {SNAPSHOT_LIMIT:?}");
            std::thread::sleep(LOOK);
        }
        Ok(Instant::now())
    };
    let (from, to) = (wait_until(true)?, wait_until(false)?);
    let writes = load.end()?;
    let before = timeline::within(&writes, from - (to - from).min(from - begun), from);
    let during = timeline::within(&writes, from, to);
    figure::print("million_snapshot_build", (to - from).as_secs_f64(), "s");
    figure::print_beside("million_snapshot_write_p99", during.0, "ms", "before", before.0);
    figure::print_beside("million_snapshot_write_longest", during.1, "ms", "before", before.1);
    Ok(())
}
