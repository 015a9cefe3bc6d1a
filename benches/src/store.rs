//! Committed writes per second through the public API of three controllers, beside three members of etcd: the same
//! keys and values, the same disk, in turns. A write is a label of 200 bytes.

use std::time::Duration;

use anyhow::Result;

use crate::controllers::{Controllers, Shape};
use crate::etcd::Etcd;
use crate::figure::{self, RUNS};
use crate::load::{Measured, median_latency_ms, median_rate};
use crate::workload::Sharing;
use crate::{usage, workload};

const MEASURED: Duration = Duration::from_secs(3);
const BATCH: usize = 100;

/// Names the loads that are run, with commas between; all without it.
const ONLY: &str = "PONTOON_BENCH_STORE";

/// A load.
struct Load {
    name: &'static str,
    clients: usize,
    /// Writes per request.
    batch: usize,
    /// Over all members, or only the leader.
    spread: bool,
    sharing: Sharing,
}

const fn load(name: &'static str, clients: usize, batch: usize, spread: bool, sharing: Sharing) -> Load {
    Load { name, clients, batch, spread, sharing }
}

const LOADS: [Load; 7] = [
    load("1", 1, 1, false, Sharing::Few),
    load("64", 64, 1, false, Sharing::Few),
    load("1024", 1_024, 1, false, Sharing::Few),
    load("64_spread", 64, 1, true, Sharing::Few),
    load("64_batches_of_100", 64, BATCH, false, Sharing::Few),
    load("64_http1", 64, 1, false, Sharing::None),
    load("1024_http1", 1_024, 1, false, Sharing::None),
];

pub(crate) fn run() -> Result<()> {
    let controllers = Controllers::start(Shape::LAN)?;
    workload::with_apps(&controllers)?;
    let etcd = Etcd::start(None, &[])?;
    let only = std::env::var(ONLY).ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|wanted| wanted == name));
    for load in LOADS.iter().filter(|load| wanted(load.name)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(ours_once(&controllers, load)?);
            theirs.push(theirs_once(&etcd, load)?);
        }
        let rate = |runs: &[Measured]| median_rate(runs) * load.batch as f64;
        let name = load.name;
        figure::print_beside(&format!("store_writes_{name}"), rate(&ours), "1/s", "etcd", rate(&theirs));
        let p99 = |runs: &[Measured]| median_latency_ms(runs, 99.0);
        figure::print_beside(&format!("store_p99_{name}"), p99(&ours), "ms", "etcd", p99(&theirs));
    }
    Ok(())
}

fn ours_once(controllers: &Controllers, load: &Load) -> Result<Measured> {
    let at = controllers.leader()?;
    let leader = [controllers.rest()[at]];
    let addresses = if load.spread { controllers.rest() } else { &leader };
    let index = || controllers.get(at, "/v1/status").map(|status| status["index"].as_u64().unwrap_or_default());
    let before = index()?;
    let run = workload::ours(addresses, controllers.token(), load.clients, load.batch, load.sharing, MEASURED);
    let name = format!("ours {}", load.name);
    let measured = with_cost(&name, &controllers.pids(), load.batch, || workload::runtime()?.block_on(run))?;
    eprintln!("    {} entries of the log, warm-up included", index()? - before);
    Ok(measured)
}

fn theirs_once(etcd: &Etcd, load: &Load) -> Result<Measured> {
    let leader = [etcd.clients()[etcd.leader()?]];
    let addresses = if load.spread { etcd.clients() } else { &leader };
    let run = workload::theirs(addresses, load.clients, load.batch, MEASURED);
    with_cost(&format!("etcd {}", load.name), &etcd.pids(), load.batch, || workload::runtime()?.block_on(run))
}

/// Says on stderr what a run cost the servers and this process, the load.
fn with_cost(name: &str, servers: &[u32], batch: usize, run: impl FnOnce() -> Result<Measured>) -> Result<Measured> {
    let load = std::process::id();
    let (servers_before, load_before) = (usage::cpu_of(servers)?, usage::cpu(load)?);
    let measured = run()?;
    let (servers, load) = (usage::cpu_of(servers)? - servers_before, usage::cpu(load)? - load_before);
    eprintln!(
        "  {name}: {} ({} in each); processor time: servers {:.2} s, load {:.2} s",
        measured.line(),
        batch,
        servers.as_secs_f64(),
        load.as_secs_f64()
    );
    Ok(measured)
}
