//! Runs one seed from beginning to end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pontoon_core::check;

use super::client::{self, Clients, contents};
use super::controller::start;
use super::events::{Event, Op};
use super::judge::Violation;
use super::plan::{Plan, Planted};
use super::world::World;
use super::{hash_of_state, nemesis};
use crate::raft::Progress;

/// Once all is healed, a write commits within this: an election, dead connections, a slow disk's backlog.
const ALIVE_WITHIN: Duration = Duration::from_secs(30);

/// And all have it within this: a snapshot may have to come first.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);

/// What became of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ran {
    pub(super) seed: u64,
    pub(super) trace: u64,
    pub(super) acknowledged: u64,
    pub(super) virtual_time: Duration,
    pub(super) violation: Option<Violation>,
}

/// Memory if there is such a folder: nothing here has to survive.
fn folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let prefix = tempfile::Builder::new().prefix("pontoon-sim-").to_owned();
    let made = if memory.is_dir() { prefix.tempdir_in(memory) } else { prefix.tempdir() };
    made.expect("a temporary folder")
}

/// Runs `seed`.
pub(super) fn run(seed: u64, planted: Planted, print: bool) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime of this thread");
    let folder = folder();
    runtime.block_on(async {
        let plan = Plan::new(seed, planted);
        let world = World::new(plan, folder.path(), print);
        world.observe(Event::Trouble(format!("{plan:?}")));
        let clients = Arc::new(Clients::default());
        let ended = tokio::select! {
            biased;
            () = world.violated.notified() => Ok(()),
            ended = live(&world, &clients) => ended,
        };
        let violation = match (world.violation(), ended) {
            (Some(violation), _) | (None, Err(violation)) => Some(violation),
            (None, Ok(())) => world.conclude().err(),
        };
        let ran = Ran {
            seed,
            trace: world.trace_hash(),
            acknowledged: clients.acknowledged.load(Ordering::Relaxed),
            virtual_time: world.now(),
            violation,
        };
        world.clear();
        ran
    })
}

async fn live(world: &Arc<World>, clients: &Arc<Clients>) -> Result<(), Violation> {
    (0..world.plan.nodes).for_each(|node| start(world, node));
    let running: Vec<_> =
        (0..world.plan.clients).map(|_| tokio::spawn(client::run(world.clone(), clients.clone()))).collect();
    nemesis::run(world.clone()).await;
    nemesis::heal(world);
    clients.stop.store(true, Ordering::Relaxed);
    for client in running {
        client.await.map_err(|error| broken("that clients end", error.to_string()))?;
    }
    // What was to end later has ended; what was to start later has started.
    tokio::time::sleep(Duration::from_secs(6)).await;
    nemesis::heal(world);
    settle(world, clients).await
}

fn broken(invariant: &'static str, what: String) -> Violation {
    Violation { invariant, what }
}

/// Whoever was removed comes back.
async fn let_all_in(world: &Arc<World>) {
    for node in 0..world.plan.nodes {
        let change = nemesis::join(node);
        let asked = || {
            // One that was cut off while it handed over may take itself for a leader still: it hears nothing from who removed it.
            let leaders = world.slots.iter().filter(|slot| slot.leads()).filter_map(|slot| slot.consensus());
            let (_, newest) = leaders.max_by_key(|(_, consensus)| consensus.position().term)?;
            Some(newest.membership().ask(&change))
        };
        while asked() != Some(Progress::Done) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Everybody agrees, and goes on working.
async fn settle(world: &Arc<World>, clients: &Clients) -> Result<(), Violation> {
    if tokio::time::timeout(EQUAL_WITHIN, let_all_in(world)).await.is_err() {
        let what = format!("not all are members again within {EQUAL_WITHIN:?}");
        return Err(broken("that a healed cluster works", what));
    }
    let Some(index) = client::write(world, clients, clients.commands(world), ALIVE_WITHIN).await else {
        return Err(broken("that a healed cluster works", format!("no write is answered within {ALIVE_WITHIN:?}")));
    };
    for (node, slot) in world.slots.iter().enumerate() {
        let state = async {
            loop {
                if let Some((_, consensus)) = slot.consensus() {
                    let feed = consensus.feed();
                    let state = feed.snapshot();
                    if state.index() >= index {
                        return state;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let Ok(state) = tokio::time::timeout(EQUAL_WITHIN, state).await else {
            let what = format!("controller {node} does not have entry {index} within {EQUAL_WITHIN:?}");
            return Err(broken("that a healed cluster works", what));
        };
        let op = Op(u64::MAX - node as u64);
        world.observe(Event::Read { op, node, index: state.index(), found: contents(&state) });
        world.observe(Event::State { node, index: state.index(), hash: hash_of_state(&state) });
        if let Some(found) = check::violations(&state).into_iter().next() {
            return Err(broken("that states are sound", format!("controller {node}: {found}")));
        }
    }
    Ok(())
}
