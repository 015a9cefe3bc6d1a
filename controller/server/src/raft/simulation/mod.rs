//! A cluster of three or five controllers in one thread, under simulated time, network, disks and crashes. Every
//! choice comes from a seed, so a run that went wrong can be run again.
//!
//! **What is production's**: all of [`super::Consensus`] — openraft, the proposer and batcher, the state machine and
//! `core::State`, the log store's rules (group commit, record layout, journal, recovery), the snapshot files, the
//! gRPC clients and services with their retries and deadlines, and the bytes of every message.
//!
//! **What is simulated**: time (tokio's paused clock: nothing waits), the time of day, random numbers ([`seam`]),
//! processes ([`life`]: a crash, a pause), what HTTP/2 over TCP does with bytes ([`wire`], [`network`]: delays, lost
//! packets, resets, partitions of every kind), and the disk under the log ([`disk`]: what was not synced is lost from
//! some batch on, the journal tears, syncs are slow or stall).
//!
//! **What is not**: TLS, HTTP/2 and tonic's transport; sled and the kernel's file systems (the power-cut tests);
//! snapshot files are real ones in a folder in memory, each whole or not there; clocks that run at different speeds;
//! memory; REST, agents, balancers and the planner. Members are removed and let in again in the middle of other trouble, under the ids that
//! they have: joining by token and a store that is set aside are real processes' tests.
//!
//! Why not turmoil: it simulates hosts and sockets, but openraft's random numbers, the log's thread, fsync and what a
//! crash leaves of a disk would still have to be done here, and those are where the faults are.
//!
//! `make sim` runs thousands of seeds. `PONTOON_SIM_SEED=N make sim` replays one and prints what happened;
//! `PONTOON_SIM_SEEDS=N` says how many, `PONTOON_SIM_FROM=N` which is the first (0).

mod client;
mod controller;
mod disk;
pub(super) mod events;
mod invariants;
mod judge;
mod life;
mod model;
mod nemesis;
mod network;
mod plan;
mod run;
pub(super) mod seam;
mod tests;
mod trace;
pub(super) mod watch;
pub(super) mod wire;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use openraft::EntryPayload;
use pontoon_core::State;
use pontoon_model::ControllerId;

pub(super) use self::controller::open_log;
use self::events::{At, Event};
use self::life::Life;
use super::layout::encode_entry;
use super::types::{Applied, Entry, LogId, SnapshotMeta};

/// States are compared at every so many indexes.
const COMPARE: u64 = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The Raft id of controller `node`.
fn id_of(node: usize) -> ControllerId {
    ControllerId(1_000 * (node as u64 + 1))
}

fn at(id: &LogId) -> At {
    At { term: **id.committed_leader_id(), index: id.index() }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn hash_of_state(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    for record in state.to_records() {
        record.expect("a state can be encoded").hash(&mut hasher);
    }
    hasher.finish()
}

/// The state machine applied `entry`.
pub(super) fn applied(entry: &Entry, applied: &Applied, state: &State) {
    let Some(life) = Life::current() else { return };
    let at = at(&entry.log_id);
    let commands = match &entry.payload {
        EntryPayload::Normal(bytes) => Some(bytes.0.clone()),
        _ => None,
    };
    let seen = events::Entry {
        hash: hash_of(&encode_entry(entry).expect("an entry can be encoded")),
        commands,
        accepted: applied.outcomes.iter().map(Result::is_ok).collect(),
    };
    life.world.observe(Event::Applied { node: life.node, life: life.number, at, entry: seen });
    if at.index.is_multiple_of(COMPARE) {
        life.world.observe(Event::State { node: life.node, index: at.index, hash: hash_of_state(state) });
    }
}

/// The state machine took a snapshot's state.
pub(super) fn installed(meta: &SnapshotMeta, state: &State) {
    let Some(life) = Life::current() else { return };
    let at = meta.last_log_id.as_ref().map(at);
    life.world.observe(Event::Installed { node: life.node, life: life.number, at });
    if let Some(at) = at.filter(|at| at.index % COMPARE == 0) {
        life.world.observe(Event::State { node: life.node, index: at.index, hash: hash_of_state(state) });
    }
}
