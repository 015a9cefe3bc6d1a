//! A large route table in the balancer: what it takes, and what its changes cost the requests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use pontoon_balancer::table::Table;
use pontoon_model::{Route, RouteServo, RouteTable, RouteVersion, ServoId};
use pontoon_proto::RouteDelta;

use super::proxies::Proxies;
use super::{Load, OTHER_CORE, PROXY_CORE, once};
use crate::figure::{self, median};

pub(super) const HOSTS: u64 = 100_000;
const SERVOS_EACH: u64 = 10;
/// Changes per second, each of one host's servos.
const CHANGES: u32 = 1_000;
const ROUNDS: usize = 5;
/// The table is full by then.
const FILLED: Duration = Duration::from_secs(4);
/// Told to start with the large table, and told to change it.
pub(super) const LARGE: &str = "PONTOON_BENCH_LARGE_TABLE";
pub(super) const CHANGING: &str = "changing";

pub(crate) fn run() -> Result<()> {
    let load = Load { name: "64", connections: 64, path: "/", tls: false, close: false };
    let mut p99s = [Vec::new(), Vec::new()];
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let changing = (round + turn) % 2;
            let folder = tempfile::tempdir()?;
            let ours = start(folder.path(), changing == 1)?;
            std::thread::sleep(FILLED);
            memory.push(ours.all[0].memory_mb()?);
            p99s[changing].push(once(&ours.all[0], &load)?.p99_ms);
        }
    }
    let [still, changing] = p99s.map(median);
    figure::print("balancer_rss_million_servos", median(memory), "MB");
    figure::print_beside("balancer_p99_1000_changes_per_second", changing, "ms", "still", still);
    Ok(())
}

fn start(folder: &Path, changing: bool) -> Result<Proxies> {
    Proxies::before(folder, PROXY_CORE, OTHER_CORE, 1, &[(LARGE, if changing { CHANGING } else { "still" })])
}

/// Fills the table beside what is in it; changes it without end if `changing`.
pub(super) fn fill(table: &Table, changing: bool, first: Arc<Route>) -> Result<()> {
    let routes = (0..HOSTS).map(|host| Arc::new(route(host, 0))).chain([first]);
    table.apply_table(&RouteTable { version: RouteVersion(2), routes: routes.collect() })?;
    if !changing {
        return Ok(());
    }
    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    for change in 0.. {
        let at = begun + Duration::from_secs(1) * change / CHANGES;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let (from, to) = (RouteVersion(2 + u64::from(change)), RouteVersion(3 + u64::from(change)));
        let changed = vec![Arc::new(route(u64::from(change) * 7919 % HOSTS, u64::from(change) + 1))];
        let one = Instant::now();
        table.apply_delta(&RouteDelta { from, to, changed, removed: Vec::new() })?;
        slowest = slowest.max(one.elapsed());
        if change % (CHANGES * 2) == CHANGES {
            eprintln!("  the slowest change so far was applied in {slowest:?}");
        }
    }
    Ok(())
}

/// One servo of it is another at each `turn`.
fn route(host: u64, turn: u64) -> Route {
    let servo = |at: u64| {
        let id = if at == 0 { HOSTS * SERVOS_EACH * turn + host } else { host * SERVOS_EACH + at };
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + (id % 0x00ff_ffff) as u32);
        let site = "here".parse().expect("a site's name");
        RouteServo { id: ServoId(id + 10), site, address: (address, 20_000 + at as u16).into(), suspect: false }
    };
    Route {
        host: format!("app-{host}.example.org"),
        app: format!("app-{host}").parse().expect("an app's name"),
        release: None,
        servos: (0..SERVOS_EACH).map(servo).collect(),
        reason: String::new(),
    }
}
