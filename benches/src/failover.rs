//! The leader is killed with -9, alone or with another: how long until the next write is committed.
//!
//! From the kill on, a new write goes to each of those that are left every few milliseconds; the first that is acknowledged
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
    measure("failover_lan", &mut Controllers::start(Shape::LAN)?, &mut Etcd::start(None, &[])?, 1)
}

/// With 80 ms of round trip: the `wan` profile, beside etcd's defaults.
pub(crate) fn wan() -> Result<()> {
    let mut ours = Controllers::start(Shape { timing: "wan", delay: Some(DELAY), ..Shape::LAN })?;
    measure("failover_wan", &mut ours, &mut Etcd::start(Some(DELAY), &[])?, 1)
}

/// Five on a local network, of which the leader and one that follows are killed at once.
pub(crate) fn two_of_five() -> Result<()> {
    let (mut ours, mut theirs) = (Controllers::start(Shape::LAN_OF_FIVE)?, Etcd::of(5, None, &[])?);
    measure("failover_two_of_five", &mut ours, &mut theirs, 2)
}

fn measure(name: &str, ours: &mut Controllers, theirs: &mut Etcd, together: usize) -> Result<()> {
    workload::with_apps(ours)?;
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for round in 0..KILLS {
        our_times.push(kill_ours(ours, together, round)?);
        their_times.push(kill_theirs(theirs, together, round)?);
    }
    say(name, &our_times, &their_times);
    Ok(())
}

/// The leader and, of the others, each in turn; the leader first.
fn victims(leader: usize, count: usize, together: usize, round: usize) -> Vec<usize> {
    let others = (0..together - 1).map(|more| (leader + 1 + (round + more) % (count - 1)) % count);
    std::iter::once(leader).chain(others).collect()
}

fn say(name: &str, ours: &[Duration], theirs: &[Duration]) {
    let list = |times: &[Duration]| {
        let mut times: Vec<_> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64())).collect();
        times.sort();
        times.join(" ")
    };
    eprintln!("  ours: {}", list(ours));
    eprintln!("  etcd: {}", list(theirs));
    figure::print_beside(name, figure::median_seconds(ours), "s", "etcd", figure::median_seconds(theirs));
}

fn kill_ours(cluster: &mut Controllers, together: usize, round: usize) -> Result<Duration> {
    let killed = victims(cluster.leader()?, cluster.rest().len(), together, round);
    let token = cluster.token().to_owned();
    let survivors = others(cluster.rest(), &killed);
    let begun = Instant::now();
    killed.iter().try_for_each(|at| cluster.process(*at).kill())?;
    let write = move |address: SocketAddr, n: u64| {
        let token = token.clone();
        async move {
            let mut connection = Connection::open(address, &token).await?;
            let body = format!("{{\"set\":{{\"failover\":\"{n:0>200}\"}},\"unset\":[]}}");
            connection.ok("PATCH", &workload::labels_path(0), &body).await.map(drop)
        }
    };
    let committed = workload::runtime()?.block_on(first_write(survivors, write))?;
    killed.iter().try_for_each(|at| cluster.process(*at).restart())?;
    cluster.until_whole()?;
    Ok(committed - begun)
}

fn kill_theirs(cluster: &mut Etcd, together: usize, round: usize) -> Result<Duration> {
    let killed = victims(cluster.leader()?, cluster.clients().len(), together, round);
    let survivors = others(cluster.clients(), &killed);
    let begun = Instant::now();
    killed.iter().try_for_each(|at| cluster.kill(*at))?;
    let write = |address: SocketAddr, n: u64| async move {
        let mut client = etcd::Client::open(address).await?;
        client.put(b"/failover", format!("{n:0>200}").as_bytes()).await
    };
    let committed = workload::runtime()?.block_on(first_write(survivors, write))?;
    killed.iter().try_for_each(|at| cluster.restart(*at))?;
    until("etcd to be whole", LIMIT, || cluster.leader())?;
    Ok(committed - begun)
}

fn others(addresses: &[SocketAddr], killed: &[usize]) -> Vec<SocketAddr> {
    addresses.iter().enumerate().filter(|(at, _)| !killed.contains(at)).map(|(_, address)| *address).collect()
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

#[test]
fn the_leader_is_killed_first_and_with_it_each_of_the_others_in_turn() {
    assert_eq!(victims(2, 3, 1, 5), [2]);
    let second: std::collections::BTreeSet<_> = (0..4).map(|round| victims(3, 5, 2, round)[1]).collect();
    assert_eq!(second, [0, 1, 2, 4].into());
    assert_eq!(victims(4, 5, 3, 3), [4, 3, 0]);
}
