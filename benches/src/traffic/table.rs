//! A large route table in the balancer: what it takes, and what its changes cost the requests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_balancer::table::Table;
use pontoon_kit::file;
use pontoon_model::{Route, RouteServo, RouteVersion, ServoId};
use pontoon_proto::{RouteDelta, RoutePiece};

use super::proxies::Proxies;
use super::{Load, OTHER_CORE, PROXY_CORE, once};
use crate::figure::{self, median};

pub(super) const HOSTS: u64 = 100_000;
const SERVOS_EACH: u64 = 10;
/// Hosts of one piece: about a mebibyte of a controller's message.
const HOSTS_EACH: usize = 3_000;
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
    let (mut memory, mut applied, mut slowest) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let changing = (round + turn) % 2;
            let folder = tempfile::tempdir()?;
            let ours = start(folder.path(), changing == 1)?;
            std::thread::sleep(FILLED);
            memory.push(ours.all[0].memory_mb()?);
            p99s[changing].push(once(&ours.all[0], &load)?.p99_ms);
            if changing == 1 {
                let took = Took::read(folder.path())?;
                applied.push(took.p99_ms);
                slowest.push(took.longest_ms);
            }
        }
    }
    let [still, changing] = p99s.map(median);
    figure::print("balancer_rss_million_servos", median(memory), "MB");
    figure::print("balancer_change_applied_p99", median(applied), "ms");
    figure::print("balancer_change_applied_longest", slowest.into_iter().fold(0.0, f64::max), "ms");
    figure::print_beside("balancer_p99_1000_changes_per_second", changing, "ms", "still", still);
    Ok(())
}

fn start(folder: &Path, changing: bool) -> Result<Proxies> {
    Proxies::before(folder, PROXY_CORE, OTHER_CORE, 1, &[(LARGE, if changing { CHANGING } else { "still" })])
}

/// Fills the table beside what is in it; changes it without end if `changing`.
pub(super) fn fill(table: &Table, folder: &Path, changing: bool, first: Arc<Route>) -> Result<()> {
    let version = RouteVersion(2);
    table.apply_piece(&RoutePiece { version, first: true, last: false, routes: vec![first] })?;
    for begin in (0..HOSTS).step_by(HOSTS_EACH) {
        let routes: Vec<_> = (begin..HOSTS).take(HOSTS_EACH).map(|host| Arc::new(route(host, 0))).collect();
        let last = begin + routes.len() as u64 == HOSTS;
        table.apply_piece(&RoutePiece { version, first: false, last, routes })?;
    }
    if !changing {
        return Ok(());
    }
    let mut times = Vec::new();
    let begun = Instant::now();
    for change in 0.. {
        let at = begun + Duration::from_secs(1) * change / CHANGES;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let (from, to) = (RouteVersion(2 + u64::from(change)), RouteVersion(3 + u64::from(change)));
        let changed = vec![Arc::new(route(u64::from(change) * 7919 % HOSTS, u64::from(change) + 1))];
        let one = Instant::now();
        table.apply_delta(&RouteDelta { from, to, changed, removed: Vec::new() })?;
        times.push(one.elapsed());
        if change % CHANGES == CHANGES - 1 {
            Took::of(&times).write(folder)?;
        }
    }
    Ok(())
}

/// How long changes took from their arrival until new requests were routed by them.
struct Took {
    p99_ms: f64,
    longest_ms: f64,
}

impl Took {
    const FILE: &str = "changes";

    fn of(times: &[Duration]) -> Self {
        let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let at =
            |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).copied().unwrap_or_default();
        Self { p99_ms: at(99), longest_ms: at(100) }
    }

    /// For the one who measures, which is another process.
    fn write(&self, folder: &Path) -> Result<()> {
        let text = format!("{} {}", self.p99_ms, self.longest_ms);
        Ok(file::replace(&folder.join(Self::FILE), text.as_bytes(), 0o600)?)
    }

    fn read(folder: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(folder.join(Self::FILE)).context("no change was applied within the time")?;
        let (p99, longest) = text.split_once(' ').context("not what was written")?;
        Ok(Self { p99_ms: p99.parse()?, longest_ms: longest.parse()? })
    }
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
