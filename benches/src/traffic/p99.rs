//! How long answers take while all three are offered the same load, which is less than each could carry.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::proxies::{Proxies, Proxy};
use super::{Load, OTHER_CORE, PROXY_CORE, ROUNDS, once, paced};
use crate::figure::{self, median};

const CONNECTIONS: usize = 64;
const EACH: Duration = Duration::from_secs(5);
/// Of what HAProxy can carry.
const PART: f64 = 0.7;

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let proxies = Proxies::start(folder.path(), PROXY_CORE, OTHER_CORE)?;
    let load = Load { name: "64", connections: CONNECTIONS, path: "/", tls: false, close: false };
    let most = (0..ROUNDS).map(|_| Ok(once(&proxies.all[1], &load)?.per_second)).collect::<Result<_>>()?;
    let offered = PART * median(most);
    eprintln!("  {offered:.0} requests a second on {CONNECTIONS} connections");
    let mut p99s: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..3 {
            let at = (round + turn) % 3;
            p99s[at].push(offer(&proxies.all[at], offered)?);
        }
    }
    for (proxy, p99s) in proxies.all.iter().zip(&p99s) {
        eprintln!("  {}: p99 {p99s:.3?} ms", proxy.name);
    }
    let [ours, haproxy, nginx] = p99s.map(median);
    figure::print_beside("traffic_p99_at_equal_load", ours, "ms", "haproxy", haproxy);
    figure::print_beside("traffic_p99_at_equal_load", ours, "ms", "nginx", nginx);
    Ok(())
}

/// The 99th percentile that a process on the other core sees.
fn offer(proxy: &Proxy, per_second: f64) -> Result<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", &OTHER_CORE.to_string()]).arg(std::env::current_exe()?);
    command.args(["--paced", &proxy.plain.to_string(), &per_second.to_string()]);
    let output = command.stdin(Stdio::null()).output().context("this program does not start again as a load")?;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {text}{error}", proxy.name);
    Ok(text.trim().parse()?)
}

/// This program started again as a load, by [`offer`]'s arguments.
pub(crate) fn pace(args: &[String]) -> Result<()> {
    let [address, per_second] = args else { anyhow::bail!("not for people") };
    let address: SocketAddr = address.parse()?;
    println!("{}", paced::run(address, CONNECTIONS, per_second.parse()?, EACH)?.p99_ms()?);
    Ok(())
}
