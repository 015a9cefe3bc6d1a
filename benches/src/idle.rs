//! Memory of each role as a process of an idle cluster, and the size of the binary.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_testbed::{Cluster, Options, binary, docker, process::Process};

use crate::figure;

/// How long the cluster idles before it is measured: several heartbeats, ticks and audits.
const IDLE: Duration = Duration::from_secs(10);

/// Resident memory of a process, in MB (10^6 bytes).
fn rss_mb(process: &Process) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid().context("it does not run")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

pub(crate) fn run() -> Result<()> {
    let options = match docker::usable() {
        Ok(()) => Options::docker(),
        Err(why) => {
            eprintln!("  without Docker ({why:#}): these agents run processes, and hold no connection to an engine");
            Options::process()
        }
    };
    let cluster = Cluster::start(options)?;
    let begun = Instant::now();
    while begun.elapsed() < IDLE {
        std::thread::sleep(Duration::from_millis(100));
    }
    for (name, processes) in
        [("controller", &cluster.controllers), ("agent", &cluster.agents), ("balancer", &cluster.balancers)]
    {
        let sizes = processes.iter().map(rss_mb).collect::<Result<Vec<_>>>()?;
        figure::print(&format!("idle_rss_{name}"), sizes.into_iter().fold(0.0, f64::max), "MB");
    }
    figure::print("binary_size", std::fs::metadata(binary::pontoon()?)?.len() as f64 / 1e6, "MB");
    Ok(())
}
