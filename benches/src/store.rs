//! Committed writes per second through the public API of three controllers, beside three members of etcd: the same
//! keys and values, the same disk, in turns. A write is a label of 200 bytes.

use std::time::Duration;

use anyhow::Result;

use crate::controllers::{Controllers, Shape};
use crate::etcd::Etcd;
use crate::figure::{self, RUNS};
use crate::load::{Measured, median_latency_ms, median_rate};
use crate::{usage, workload};

const MEASURED: Duration = Duration::from_secs(3);
const BATCH: usize = 100;

/// Names the loads that are run, with commas between; all without it.
const ONLY: &str = "PONTOON_BENCH_STORE";

/// A load: name, clients, writes per request, and whether it is spread over all members.
const LOADS: [(&str, usize, usize, bool); 5] = [
    ("1", 1, 1, false),
    ("64", 64, 1, false),
    ("1024", 1_024, 1, false),
    ("64_spread", 64, 1, true),
    ("64_batches_of_100", 64, BATCH, false),
];

pub(crate) fn run() -> Result<()> {
    let controllers = Controllers::start(Shape::LAN)?;
    workload::with_apps(&controllers)?;
    let etcd = Etcd::start(None, &[])?;
    let only = std::env::var(ONLY).ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|wanted| wanted == name));
    for (name, clients, batch, spread) in LOADS.into_iter().filter(|load| wanted(load.0)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            ours.push(ours_once(&controllers, name, clients, batch, spread)?);
            theirs.push(theirs_once(&etcd, name, clients, batch, spread)?);
        }
        let rate = |runs: &[Measured]| median_rate(runs) * batch as f64;
        figure::print_beside(&format!("store_writes_{name}"), rate(&ours), "1/s", "etcd", rate(&theirs));
        let p99 = |runs: &[Measured]| median_latency_ms(runs, 99.0);
        figure::print_beside(&format!("store_p99_{name}"), p99(&ours), "ms", "etcd", p99(&theirs));
    }
    Ok(())
}

fn ours_once(controllers: &Controllers, name: &str, clients: usize, batch: usize, spread: bool) -> Result<Measured> {
    let leader = [controllers.rest()[controllers.leader()?]];
    let addresses = if spread { controllers.rest() } else { &leader };
    let run = workload::ours(addresses, controllers.token(), clients, batch, MEASURED);
    with_cost(&format!("ours {name}"), &controllers.pids(), batch, || workload::runtime()?.block_on(run))
}

fn theirs_once(etcd: &Etcd, name: &str, clients: usize, batch: usize, spread: bool) -> Result<Measured> {
    let leader = [etcd.clients()[etcd.leader()?]];
    let addresses = if spread { etcd.clients() } else { &leader };
    let run = workload::theirs(addresses, clients, batch, MEASURED);
    with_cost(&format!("etcd {name}"), &etcd.pids(), batch, || workload::runtime()?.block_on(run))
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
