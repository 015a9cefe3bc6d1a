//! Clients: they write and read through any controller, try again when they are not answered, and tell what
//! they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pontoon_core::command::{ChangeEnv, CreateApp};
use pontoon_core::{Command, Outcome, Stamped, State};
use pontoon_model::{IdempotencyKey, Secret};
use tokio::time::{Instant, timeout};

use super::events::{Event, Op};
use super::plan::Planted;
use super::world::World;

/// Apps that all clients write to.
const APPS: u64 = 2;
/// Variables that all clients overwrite, per app.
const SHARED: u64 = 2;
/// How long a client tries one operation.
const PATIENCE: Duration = Duration::from_secs(8);

/// Numbers operations, and tells clients when to end.
#[derive(Default)]
pub(super) struct Clients {
    next: AtomicU64,
    pub(super) stop: AtomicBool,
    pub(super) acknowledged: AtomicU64,
}

/// One client until it is told to stop.
pub(super) async fn run(world: Arc<World>, clients: Arc<Clients>) {
    while !clients.stop.load(Ordering::Relaxed) {
        match world.below(10) {
            0..7 => {
                let commands = clients.commands(&world);
                write(&world, &clients, commands, PATIENCE).await;
            }
            7..9 => read(&world, clients.op()).await,
            _ => read_stale(&world, clients.op()),
        }
        tokio::time::sleep(world.millis(0, 120)).await;
    }
}

impl Clients {
    fn op(&self) -> Op {
        Op(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// What one request asks for: mostly one command.
    pub(super) fn commands(&self, world: &World) -> Vec<(Op, Command)> {
        let count = if world.percent(15) { 2 + world.below(4) } else { 1 };
        (0..count).map(|_| self.command(world)).collect()
    }

    fn command(&self, world: &World) -> (Op, Command) {
        let op = self.op();
        let app = |app: u64| format!("app-{app}").parse().expect("a valid name");
        let set = |name: String, value: String| {
            let set = BTreeMap::from([(name, Secret(value))]);
            ChangeEnv { app: app(op.0 % APPS), set, unset: Vec::new() }.into()
        };
        let command = match op.0 {
            0..APPS => CreateApp { name: app(op.0) }.into(),
            _ => match world.below(20) {
                0..2 => CreateApp { name: format!("made-{}", op.0).parse().expect("a valid name") }.into(),
                2..4 => CreateApp { name: app(world.below(APPS)) }.into(),
                4..10 => set(format!("SHARED_{}", world.below(SHARED)), op.0.to_string()),
                // More than one part of a record.
                10 => set("LONG".to_owned(), format!("{}-{}", op.0, "x".repeat(3_000 + world.below(9_000) as usize))),
                _ => set(format!("OWN_{}", op.0), "x".repeat(world.below(200) as usize)),
            },
        };
        (op, command)
    }
}

/// Writes until somebody answers or patience ends; returns the index and whether all was accepted.
pub(super) async fn write(
    world: &Arc<World>,
    clients: &Clients,
    commands: Vec<(Op, Command)>,
    patience: Duration,
) -> Option<u64> {
    let stamp = |(op, command): (Op, Command)| {
        // As a client's header gives it, or as the controller that is asked first draws it.
        let key = match world.percent(50) {
            true => IdempotencyKey::of_client(u128::from(world.random()) << 64 | u128::from(op.0)),
            false => IdempotencyKey::born(world.newest_index(), world.random()),
        };
        world.observe(Event::Asked { op, key });
        (op, Stamped { key, command })
    };
    let (ops, commands): (Vec<Op>, Vec<Stamped>) = commands.into_iter().map(stamp).unzip();
    let deadline = Instant::now() + patience;
    let mut why = "no controller runs".to_owned();
    while Instant::now() < deadline {
        match try_to_write(world, commands.clone()).await {
            Ok((outcomes, index)) => {
                for ((op, stamped), outcome) in ops.iter().zip(&commands).zip(&outcomes) {
                    let done = outcome.is_ok();
                    world.observe(Event::Acknowledged { op: *op, key: stamped.key, index, done });
                }
                clients.acknowledged.fetch_add(ops.len() as u64, Ordering::Relaxed);
                return Some(index);
            }
            Err(error) => why = error,
        }
        tokio::time::sleep(world.millis(5, 150)).await;
    }
    for op in ops {
        world.observe(Event::GaveUp { op, why: why.clone() });
    }
    None
}

/// At one controller, for a while.
async fn try_to_write(world: &World, commands: Vec<Stamped>) -> Result<(Vec<Outcome>, u64), String> {
    let node = world.below(world.plan.nodes as u64) as usize;
    let Some((life, consensus)) = world.slots[node].consensus() else { return Err("it does not run".to_owned()) };
    let proposer = consensus.proposer();
    drop(consensus);
    let asked = life.spawn(async move { proposer.propose_stamped(commands).await });
    let handle = asked.abort_handle();
    match timeout(world.millis(300, 5_000), asked).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("it ended".to_owned()),
        Err(_) => {
            // The connection is closed, which a server may or may not notice before it is done.
            if world.percent(50) {
                handle.abort();
            }
            Err("it does not answer".to_owned())
        }
    }
}

/// Reads what all writes before are in, from any controller.
async fn read(world: &Arc<World>, op: Op) {
    world.observe(Event::ReadBegan { op });
    let stale = world.plan.planted == Planted::StaleReads;
    for _ in 0..4 {
        let node = world.below(world.plan.nodes as u64) as usize;
        if let Some((life, consensus)) = world.slots[node].consensus() {
            let (reads, mut feed) = (consensus.reads(), consensus.feed());
            drop(consensus);
            let asked = life.spawn(async move {
                let index = if stale { 0 } else { reads.index().await.ok()? };
                let mut state = feed.snapshot();
                while state.index() < index {
                    state = feed.changed().await;
                }
                Some(state)
            });
            if let Ok(Ok(Some(state))) = timeout(world.millis(200, 2_000), asked).await {
                world.observe(Event::Read { op, node, index: state.index(), found: contents(&state) });
                return;
            }
        }
        tokio::time::sleep(world.millis(5, 100)).await;
    }
    world.observe(Event::GaveUp { op, why: "no read was answered".to_owned() });
}

/// Reads what a controller has, however old.
fn read_stale(world: &Arc<World>, op: Op) {
    let node = world.below(world.plan.nodes as u64) as usize;
    if let Some((_, consensus)) = world.slots[node].consensus() {
        let state = consensus.feed().snapshot();
        world.observe(Event::Read { op, node, index: state.index(), found: contents(&state) });
    }
}

/// Every app and its variables.
pub(super) fn contents(state: &State) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for app in state.apps() {
        found.push((format!("{}/", app.name), String::new()));
        found.extend(app.env.iter().map(|(name, value)| (format!("{}/{name}", app.name), value.0.clone())));
    }
    found
}
