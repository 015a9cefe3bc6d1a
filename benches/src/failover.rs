//! The leader is killed with -9: how long until the next write is committed.
//!
//! From the kill on, a new write goes to each of the two others every few milliseconds; the first that is acknowledged
//! ends the time. So no client's waiting between tries is measured, for either system.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon_testbed::until;
use tokio::task::JoinSet;

use crate::controllers::{Controllers, Shape};
use crate::etcd::{self, Etcd};
use crate::figure;
use crate::http::Connection;
use crate::workload;

const KILLS: usize = 9;
/// Between two tries at each survivor.
const EVERY: Duration = Duration::from_millis(10);
/// Tries under way at once: a survivor that keeps all of them waiting gets no more until some end.
const TRIES: usize = 400;
/// A try that is not answered is given up: its write may have gone to the dead leader.
const ONE_TRY: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);
/// One way; two make the round trip of the `wan` profile.
const DELAY: Duration = Duration::from_millis(40);

/// The default of each, on a local network.
pub(crate) fn lan() -> Result<()> {
    let mut ours = Controllers::start(Shape::LAN)?;
    workload::with_apps(&ours)?;
    let mut theirs = Etcd::start(None, &[])?;
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        our_times.push(kill_ours(&mut ours)?);
        their_times.push(kill_theirs(&mut theirs)?);
    }
    say("failover_lan", &our_times, Some(&their_times));
    Ok(())
}

/// With 80 ms of round trip: the `wan` profile, beside etcd's defaults.
pub(crate) fn wan() -> Result<()> {
    let mut ours = Controllers::start(Shape { timing: "wan", delay: Some(DELAY), ..Shape::LAN })?;
    workload::with_apps(&ours)?;
    let mut theirs = Etcd::start(Some(DELAY), &[])?;
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        our_times.push(kill_ours(&mut ours)?);
        their_times.push(kill_theirs(&mut theirs)?);
    }
    say("failover_wan", &our_times, Some(&their_times));
    Ok(())
}

fn say(name: &str, ours: &[Duration], theirs: Option<&[Duration]>) {
    let list = |times: &[Duration]| {
        let mut times: Vec<_> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
        times.sort();
        times.join(" ")
    };
    eprintln!("  ours: {}", list(ours));
    let median = figure::median_seconds(ours);
    match theirs {
        Some(theirs) => {
            eprintln!("  etcd: {}", list(theirs));
            figure::print_beside(name, median, "s", "etcd", figure::median_seconds(theirs));
        }
        None => figure::print(name, median, "s"),
    }
}

fn kill_ours(cluster: &mut Controllers) -> Result<Duration> {
    let leader = cluster.leader()?;
    let token = cluster.token().to_owned();
    let survivors = others(cluster.rest(), leader);
    cluster.process(leader).kill()?;
    let killed = Instant::now();
    let write = move |address: SocketAddr, n: u64| {
        let token = token.clone();
        async move {
            let mut connection = Connection::open(address, &token).await?;
            let body = format!("{{\"set\":{{\"failover\":\"{n:0>200}\"}},\"unset\":[]}}");
            connection.ok("PATCH", &workload::labels_path(0), &body).await.map(drop)
        }
    };
    let committed = workload::runtime()?.block_on(first_write(survivors, write))?;
    cluster.process(leader).restart()?;
    cluster.until_whole()?;
    Ok(committed - killed)
}

fn kill_theirs(cluster: &mut Etcd) -> Result<Duration> {
    let leader = cluster.leader()?;
    let survivors = others(cluster.clients(), leader);
    cluster.kill(leader)?;
    let killed = Instant::now();
    let write = |address: SocketAddr, n: u64| async move {
        let mut client = etcd::Client::open(address).await?;
        client.put(b"/failover", format!("{n:0>200}").as_bytes()).await
    };
    let committed = workload::runtime()?.block_on(first_write(survivors, write))?;
    cluster.restart(leader)?;
    until("etcd to be whole", LIMIT, || cluster.leader())?;
    Ok(committed - killed)
}

fn others(addresses: &[SocketAddr], leader: usize) -> Vec<SocketAddr> {
    addresses.iter().enumerate().filter(|(at, _)| *at != leader).map(|(_, address)| *address).collect()
}

/// When the first write was acknowledged by any of `addresses`.
async fn first_write<F, W>(addresses: Vec<SocketAddr>, write: W) -> Result<Instant>
where
    F: Future<Output = Result<()>> + Send + 'static,
    W: Fn(SocketAddr, u64) -> F,
{
    let mut tries = JoinSet::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let limit = tokio::time::sleep(LIMIT);
    tokio::pin!(limit);
    let (mut n, mut last) = (0, None);
    loop {
        tokio::select! {
            _ = ticks.tick(), if tries.len() + addresses.len() <= TRIES => {
                for address in &addresses {
                    n += 1;
                    let once = tokio::time::timeout(ONE_TRY, write(*address, n));
                    tries.spawn(async move { anyhow::Ok(once.await??) });
                }
            }
            Some(tried) = tries.join_next() => match tried? {
                Ok(()) => return Ok(Instant::now()),
                Err(error) => last = Some(error),
            },
            () = &mut limit => {
                return Err(last.unwrap_or_else(|| anyhow::anyhow!("no try ended"))).context("nothing was committed");
            }
        }
    }
}
