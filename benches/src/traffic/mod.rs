//! Requests per second of processor time through the balancer, beside HAProxy and nginx: each alone on one core, the load and
//! an nginx that answers on another, in turns within each round.

pub(crate) mod clients;
pub(crate) mod handover;
pub(crate) mod killed;
pub(crate) mod p99;
mod paced;
mod proxies;
pub(crate) mod table;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use proxies::{Proxies, Proxy};

use crate::figure::{self, median};

pub(crate) use proxies::serve_balancer;

/// Rounds: the machine is shared, and each round's ratio is taken within it.
const ROUNDS: usize = 5;
const EACH: Duration = Duration::from_secs(3);
/// Where the proxies run, and where everything else does.
const PROXY_CORE: usize = 0;
const OTHER_CORE: usize = 1;

/// A load of `wrk`.
struct Load {
    name: &'static str,
    connections: usize,
    path: &'static str,
    tls: bool,
    close: bool,
}

const LOADS: [Load; 6] = [
    Load { name: "64", connections: 64, path: "/", tls: false, close: false },
    Load { name: "512", connections: 512, path: "/", tls: false, close: false },
    Load { name: "tls_64", connections: 64, path: "/", tls: true, close: false },
    Load { name: "close_64", connections: 64, path: "/", tls: false, close: true },
    Load { name: "10mb_8", connections: 8, path: "/large", tls: false, close: false },
    Load { name: "10mb_tls_8", connections: 8, path: "/large", tls: true, close: false },
];

/// One run of one proxy.
#[derive(Debug, Clone, Copy)]
struct Run {
    per_cpu_second: f64,
    per_second: f64,
    p99_ms: f64,
}

pub(crate) fn run() -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        eprintln!("SKIPPED traffic: it needs a core for the proxy and one for the load, and there is one");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let proxies = Proxies::start(folder.path(), PROXY_CORE, OTHER_CORE)?;
    for load in &LOADS {
        let mut runs: [Vec<Run>; 3] = Default::default();
        for round in 0..ROUNDS {
            // Another one begins each time: whoever comes first meets a cooler machine.
            for turn in 0..3 {
                let at = (round + turn) % 3;
                runs[at].push(once(&proxies.all[at], load)?);
            }
        }
        for (proxy, runs) in proxies.all.iter().zip(&runs) {
            let of = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
            let (cpu, rate, p99) = (of(|run| run.per_cpu_second), of(|run| run.per_second), of(|run| run.p99_ms));
            eprintln!("  {} {}: {cpu:.0} per CPU second, {rate:.0}/s, p99 {p99:.2} ms", load.name, proxy.name);
        }
        let [ours, haproxy, nginx] = &runs;
        let rate = |runs: &[Run]| median(runs.iter().map(|run| run.per_cpu_second).collect());
        let name = format!("traffic_per_cpu_second_{}", load.name);
        figure::print_beside(&name, rate(ours), "1/s", "haproxy", rate(haproxy));
        figure::print_beside(&name, rate(ours), "1/s", "nginx", rate(nginx));
    }
    Ok(())
}

fn once(proxy: &Proxy, load: &Load) -> Result<Run> {
    let (scheme, address) = if load.tls { ("https", proxy.tls) } else { ("http", proxy.plain) };
    let mut wrk = Command::new("taskset");
    wrk.args(["-c", &OTHER_CORE.to_string(), "wrk", "-t1", "--latency"]);
    wrk.args([format!("-c{}", load.connections), format!("-d{}s", EACH.as_secs())]);
    if load.close {
        wrk.args(["-H", "Connection: close"]);
    }
    wrk.arg(format!("{scheme}://localhost:{}{}", address.port(), load.path));
    let before = proxy.cpu()?;
    let output = wrk.stdin(Stdio::null()).output().context("wrk does not start; install Debian's wrk")?;
    let cpu = proxy.cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    if let Some(bad) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        // With a connection per request wrk counts the end of each as an error of reading.
        ensure!(load.close && bad.contains("Socket errors"), "{} {}: {bad}", proxy.name, load.name);
    }
    let requests: f64 = word(&text, "requests in", -1)?.parse()?;
    let p99 = word(&text, "\n     99%", 1)?;
    let per_second: f64 = word(&text, "Requests/sec:", 1)?.parse()?;
    Ok(Run { per_cpu_second: requests / cpu.as_secs_f64(), per_second, p99_ms: milliseconds(&p99)? })
}

/// The word before (-1) or after (1) `what`.
fn word(text: &str, what: &str, which: i32) -> Result<String> {
    let (before, after) = text.split_once(what).with_context(|| format!("wrk says nothing of {what:?}: {text}"))?;
    let word = if which < 0 { before.split_whitespace().next_back() } else { after.split_whitespace().next() };
    Ok(word.with_context(|| format!("nothing beside {what:?}"))?.to_owned())
}

fn milliseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("{text} is no time of wrk's")
}

/// Nanoseconds of all threads of a process, by the scheduler.
fn scheduled(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        nanos += first_number(&path)?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn first_number(path: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.split_whitespace().next().context("an empty file")?.parse()?)
}
