//! An hour of everything at the same time: does the balancer's memory stay as it is, and is every request answered?
//!
//! One balancer, the real binary, with a controller that is led by this bench: routes change 50 times a second, clients keep
//! their connections, close them, read slowly and speak another protocol, servos are killed or drained and replaced.
//! `PONTOON_SOAK_SECONDS` sets how long (3,600).

mod clients;
mod controller;
mod servos;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_kit::{Authority, Credentials, Role};
use pontoon_testbed::process::Process;
use tokio::time;

use crate::figure::{self, median};
use crate::usage;
use clients::{Clients, Tally};
use controller::Controller;
use servos::Fleet;

/// Route changes a second, those of servos that are replaced apart.
const CHANGES: u32 = 50;
/// Between the ends of servos, killed and drained in turns.
const REPLACE: Duration = Duration::from_secs(2);
/// Between looks at the memory.
const LOOK: Duration = Duration::from_secs(5);
/// Memory is flat if what it is at the end is at most this much more than after the first quarter: allocators give back late.
const GROWTH: f64 = 0.10;
const GROWTH_MB: f64 = 2.0;
/// The balancer is there and has its routes by then, also one that is not optimized.
const BEGIN: Duration = Duration::from_secs(30);

pub(crate) fn run() -> Result<()> {
    let seconds = match std::env::var("PONTOON_SOAK_SECONDS") {
        Ok(text) => text.parse().context("PONTOON_SOAK_SECONDS is no number of seconds")?,
        Err(_) => 3_600,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(soak(Duration::from_secs(seconds)))
}

async fn soak(length: Duration) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::create()?;
    authority.issue(Role::Balancer, "b1")?.save(&folder.path().join("tls"))?;
    let credentials = Credentials::new(authority.issue(Role::Controller, "c1")?)?;
    let controller = Arc::new(Controller::start(credentials).await?);
    let mut fleet = Fleet::start(controller.clone()).await?;
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = folder.path().join("balancer.toml");
    fs::write(&config, configuration(folder.path(), listen, controller.address))?;
    let config = config.to_str().context("a path that is not UTF-8")?;
    let mut balancer = Process::start("balancer", &["balancer", "--config", config], folder.path().join("log"))?;
    let pid = balancer.pid().context("the balancer does not run")?;
    time::timeout(BEGIN, controller.acknowledged(controller.version())).await.context("the balancer has no routes")?;

    let clients = Clients::start(listen);
    let soaked = keep_going(length, pid, &controller, &mut fleet, clients.tally()).await;
    let tally = clients.stop().await;
    let memory = soaked.inspect_err(|_| eprintln!("{}", balancer.log_tail()))?;
    balancer.stop()?;
    report(&memory, &tally, &controller, &fleet)
}

fn configuration(folder: &Path, listen: std::net::SocketAddr, controller: std::net::SocketAddr) -> String {
    let (data, tls) = (folder.join("data"), folder.join("tls"));
    format!(
        "name = \"b1\"\nsite = \"here\"\ndata_dir = {data:?}\ntls_dir = {tls:?}\ncontrollers = [\"{controller}\"]\n\
         listen = \"{listen}\"\nworkers = 2\n"
    )
}

/// Changes routes and replaces servos for `length`; the balancer's memory in MB, every few seconds.
async fn keep_going(
    length: Duration,
    pid: u32,
    controller: &Controller,
    fleet: &mut Fleet,
    tally: Arc<Tally>,
) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut changes = time::interval(Duration::from_secs(1) / CHANGES);
    let mut ends = time::interval(REPLACE);
    let mut looks = time::interval(LOOK);
    let mut memory = Vec::new();
    while begun.elapsed() < length {
        tokio::select! {
            _ = changes.tick() => controller.change_one(),
            _ = ends.tick() => fleet.replace_one().await?,
            _ = looks.tick() => {
                memory.push(usage::memory_mb(pid, "VmRSS")?);
                let (answered, failed) = (tally.answered(), tally.failed.load(Ordering::Relaxed));
                eprintln!("  {:>5} s: {:.1} MB, {answered} answers, {failed} failures", begun.elapsed().as_secs(), memory[memory.len() - 1]);
            }
        }
    }
    Ok(memory)
}

fn report(memory: &[f64], tally: &Tally, controller: &Controller, fleet: &Fleet) -> Result<()> {
    ensure!(memory.len() >= 8, "too short to tell whether the memory is flat: at least {} s", 8 * LOOK.as_secs());
    let quarter = memory.len() / 4;
    let early = median(memory[quarter..2 * quarter].to_vec());
    let late = median(memory[memory.len() - quarter..].to_vec());
    for (name, count) in tally.by_kind() {
        figure::print(&format!("soak_answers_{name}"), count as f64, "answers");
        ensure!(count > 0, "no {name} request was answered: the soak proves nothing");
    }
    let failed = tally.failed.load(Ordering::Relaxed);
    figure::print("soak_failed", failed as f64, "requests");
    figure::print("soak_route_changes", controller.changes() as f64, "changes");
    figure::print("soak_servos_killed", fleet.killed as f64, "servos");
    figure::print("soak_servos_drained", fleet.drained as f64, "servos");
    figure::print("soak_rss_early", early, "MB");
    figure::print("soak_rss_late", late, "MB");
    figure::print("soak_rss_max", memory.iter().copied().fold(0.0, f64::max), "MB");
    ensure!(failed == 0, "{failed} requests failed, the first: {}", tally.first_failure());
    let most = early * (1.0 + GROWTH) + GROWTH_MB;
    ensure!(late <= most, "the memory grows: {early:.1} MB after the first quarter, {late:.1} MB at the end");
    Ok(())
}
