//! Servos that die under load: what clients see of it, beside HAProxy and nginx.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::proxies::Proxies;
use super::{OTHER_CORE, PROXY_CORE, clients};
use crate::figure;

const CLIENTS: usize = 32;
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// Of the failures of one run so many are told.
const SHOWN: usize = 5;

pub(crate) fn run() -> Result<()> {
    for (name, servos, killed) in [("one_of_two", 2, 1), ("nine_of_ten", 10, 9)] {
        let mut seen = Vec::new();
        for at in 0..3 {
            let folder = tempfile::tempdir()?;
            let proxies = Proxies::before(folder.path(), PROXY_CORE, OTHER_CORE, servos, &[])?;
            seen.push(under_load(proxies, at, killed)?);
        }
        let [ours, haproxy, nginx] = seen[..] else { anyhow::bail!("three proxies") };
        for (peer, of_peer) in [("haproxy", haproxy), ("nginx", nginx)] {
            figure::print_beside(&format!("errors_{name}_killed"), ours.errors, "requests", peer, of_peer.errors);
            figure::print_beside(&format!("longest_{name}_killed"), ours.longest_ms, "ms", peer, of_peer.longest_ms);
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Seen {
    errors: f64,
    longest_ms: f64,
}

fn under_load(mut proxies: Proxies, at: usize, killed: usize) -> Result<Seen> {
    let (address, stop) = (proxies.all[at].plain, AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(address, &stop))).collect();
        std::thread::sleep(BEFORE);
        for servo in proxies.upstreams.iter_mut().take(killed) {
            servo.kill()?;
        }
        std::thread::sleep(AFTER);
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect::<Vec<_>>(),
        )
    })?;
    let requests: usize = seen.iter().map(|(requests, ..)| requests).sum();
    let errors: Vec<_> = seen.iter().flat_map(|(_, errors, _)| errors).collect();
    let longest = seen.iter().map(|(.., longest)| *longest).max().unwrap_or_default();
    let name = proxies.all[at].name;
    eprintln!("  {name}: {} of {requests} failed, the longest took {longest:?}", errors.len());
    for error in errors.iter().take(SHOWN) {
        eprintln!("    {error}");
    }
    Ok(Seen { errors: errors.len() as f64, longest_ms: longest.as_secs_f64() * 1e3 })
}

/// Requests one after another, on one connection as long as that lives: how many, what those were told that failed, how long
/// the longest took.
fn client(address: SocketAddr, stop: &AtomicBool) -> (usize, Vec<String>, Duration) {
    let (mut requests, mut errors, mut longest) = (0, Vec::new(), Duration::ZERO);
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        requests += 1;
        if let Err(error) = ask(&mut connection, address) {
            errors.push(format!("after {:?}: {error:#}", begun.elapsed()));
            connection = None;
        }
        longest = longest.max(begun.elapsed());
    }
    (requests, errors, longest)
}

fn ask(connection: &mut Option<TcpStream>, address: SocketAddr) -> Result<()> {
    match connection {
        Some(open) => clients::ask(open, address),
        None => {
            *connection = Some(clients::client(address)?);
            Ok(())
        }
    }
}
