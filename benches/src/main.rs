//! Figures, each beside a peer in the same run where there is one. `benches/README.md` lists them.

mod catchup;
mod ceiling;
mod controllers;
mod delay;
mod deploy;
mod etcd;
mod failover;
mod figure;
mod handshake;
mod heartbeats;
mod http;
mod http2;
mod idle;
mod load;
mod million;
mod newcomer;
mod planner;
mod ports;
mod scale;
mod settled;
mod soak;
mod store;
mod timeline;
mod traffic;
mod transfer;
mod usage;
mod workload;

use anyhow::{Result, bail};

/// As `pontoon` has it: balancers and controllers that are measured run in processes of this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Bench = (&'static str, fn() -> Result<()>);

/// Name and body of each bench.
const BENCHES: [Bench; 20] = [
    ("scale", scale::run),
    ("deploy", deploy::run),
    ("idle", idle::run),
    ("store", store::run),
    ("ceiling", ceiling::run),
    ("failover", failover::lan),
    ("failover-wan", failover::wan),
    ("failover-five", failover::two_of_five),
    ("transfer", transfer::run),
    ("handshake", handshake::run),
    ("catchup", catchup::run),
    ("traffic", traffic::run),
    ("traffic-clients", traffic::clients::run),
    ("traffic-table", traffic::table::run),
    ("traffic-handover", traffic::handover::run),
    ("traffic-killed", traffic::killed::run),
    ("traffic-p99", traffic::p99::run),
    ("planner", planner::run),
    ("million", million::run),
    ("million-join", million::join),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match wanted.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("--balancer", args)) => return traffic::serve_balancer(args),
        Some(("--paced", args)) => return traffic::p99::pace(args),
        _ => {}
    }
    // An hour long: never one of all.
    if wanted == ["soak"] {
        return soak::run();
    }
    if let Some(unknown) = wanted.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        bail!("no bench is called {unknown}; there are {}", BENCHES.map(|(name, _)| name).join(", "));
    }
    for (name, run) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("bench {name}");
            run()?;
        }
    }
    Ok(())
}
