//! One process of the balancer after another, with a large table: what clients see of it that come anew for each request.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_testbed::process::Process;
use pontoon_testbed::until;

use super::proxies::Proxies;
use super::{OTHER_CORE, PROXY_CORE, clients, table};
use crate::figure::{self, RUNS};

const CLIENTS: usize = 8;
/// Between the requests of one client: what is looked at is who waits, not how much can be carried.
const EVERY: Duration = Duration::from_millis(4);
/// As long before a handover as is compared with it.
const BEFORE: Duration = Duration::from_secs(3);
/// A table of a million servos is made, stored, read.
const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let proxies = Proxies::before(folder.path(), PROXY_CORE, OTHER_CORE, 1, &[(table::LARGE, "still")])?;
    let stored = folder.path().join("balancer/routes");
    until("the large table to be stored", LIMIT, || {
        let len = std::fs::metadata(&stored)?.len();
        ensure!(len > table::HOSTS * 100, "{len} bytes so far");
        Ok(())
    })?;
    // The one that made the table goes, the servo stays; the others are what people run.
    let [made, ..] = proxies.all;
    let address = made.plain;
    drop(made);
    let config = configure(folder.path(), address)?;
    let mut running = start(&config, folder.path(), 0)?;
    until("the stored table to be served", LIMIT, || clients::client(address).map(drop))?;

    let (mut took, mut failed) = (Vec::new(), 0);
    let (mut before, mut during) = (Duration::ZERO, Duration::ZERO);
    for round in 1..=RUNS {
        let stop = AtomicBool::new(false);
        let (begun, ended, seen) = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(address, &stop))).collect();
            std::thread::sleep(BEFORE);
            let begun = Instant::now();
            let ended = hand_over(&mut running, || start(&config, folder.path(), round));
            // Whatever came of it: the clients go on until they are told.
            stop.store(true, Ordering::Relaxed);
            let seen = clients.into_iter().flat_map(|client| client.join().expect("a client does not panic"));
            let seen: Vec<Answer> = seen.collect();
            anyhow::Ok((begun, ended?, seen))
        })?;
        for answer in seen.iter().filter_map(|answer| answer.error.as_ref()) {
            eprintln!("    {answer}");
        }
        failed += seen.iter().filter(|answer| answer.error.is_some()).count();
        let longest = |of: &dyn Fn(&&Answer) -> bool| seen.iter().filter(of).map(|answer| answer.took).max();
        before = before.max(longest(&|answer| answer.begun < begun).unwrap_or_default());
        during = during.max(longest(&|answer| answer.begun >= begun).unwrap_or_default());
        took.push(ended - begun);
        eprintln!("  handover {round}: {:.1} s, {} requests", (ended - begun).as_secs_f64(), seen.len());
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    figure::print("balancer_handover_million_failed", failed as f64, "requests");
    figure::print("balancer_handover_million_took", figure::median_seconds(&took), "s");
    figure::print_beside("balancer_handover_million_longest", millis(during), "ms", "before", millis(before));
    Ok(())
}

/// Starts the next process, which takes over; when the former one had ended.
fn hand_over(running: &mut Process, start: impl FnOnce() -> Result<Process>) -> Result<Instant> {
    let mut former = std::mem::replace(running, start()?);
    let code = until("the former process to end", LIMIT, || former.exit_code()?.context("it still runs"))?;
    ensure!(code == 0, "the former process ended with {code}");
    Ok(Instant::now())
}

/// One request on a connection of its own.
struct Answer {
    begun: Instant,
    took: Duration,
    error: Option<String>,
}

fn client(address: SocketAddr, stop: &AtomicBool) -> Vec<Answer> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let error = clients::client(address).err().map(|error| format!("{error:#}"));
        seen.push(Answer { begun, took: begun.elapsed(), error });
        std::thread::sleep(EVERY);
    }
    seen
}

/// For the folder of the balancer that made the table.
fn configure(folder: &Path, address: SocketAddr) -> Result<String> {
    let path = folder.join("balancer.toml");
    let place = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "name = \"b1\"\nsite = \"here\"\ndata_dir = {:?}\ntls_dir = {:?}\ncontrollers = [\"127.0.0.1:1\"]\n\
         listen = \"{address}\"\nworkers = 1\n",
        place("balancer"),
        place("balancer-tls")
    );
    std::fs::write(&path, text)?;
    Ok(path.to_str().context("a path that is not UTF-8")?.to_owned())
}

fn start(config: &str, folder: &Path, number: usize) -> Result<Process> {
    let log = folder.join(format!("balancer-{number}.log"));
    Process::start(&format!("balancer {number}"), &["balancer", "--config", config], log)
}
