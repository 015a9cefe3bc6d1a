//! One simulated cluster: its seed, its clock, its parts, and what has been seen of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::controller::Slot;
use super::disk::SimDisk;
use super::events::Event;
use super::judge::{Judge, Violation};
use super::lock;
use super::network::Network;
use super::plan::Plan;
use super::trace::Trace;
use crate::raft::network::tap;

/// Refused connections in a second between two controllers that are still no spinning: a few streams, votes, and
/// every client's tries.
const REFUSED_MOST: u32 = 200;

/// What the wall clocks show when a simulation begins.
const DAWN: u64 = 1_700_000_000_000;

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) network: Network,
    pub(super) slots: Vec<Slot>,
    /// Set when something was violated.
    pub(super) violated: Notify,
    folder: PathBuf,
    began: Instant,
    rng: Mutex<SmallRng>,
    seen: Mutex<Seen>,
    /// How far each controller's wall clock is ahead, in milliseconds.
    skew: Mutex<Vec<i64>>,
    /// Refused connections from one controller to another, in which second.
    refused: Mutex<BTreeMap<(usize, usize), (u64, u32)>>,
}

struct Seen {
    trace: Trace,
    judge: Judge,
    violation: Option<Violation>,
}

impl World {
    /// A world whose controllers keep their snapshots and identities in `folder`.
    pub(super) fn new(plan: Plan, folder: &Path, print: bool) -> Arc<Self> {
        let slots = (0..plan.nodes).map(|node| Slot::new(SimDisk::new(node))).collect();
        Arc::new(Self {
            network: Network::new(plan.delays),
            slots,
            violated: Notify::new(),
            folder: folder.to_owned(),
            began: Instant::now(),
            rng: Mutex::new(SmallRng::seed_from_u64(plan.seed)),
            seen: Mutex::new(Seen { trace: Trace::new(print), judge: Judge::default(), violation: None }),
            skew: Mutex::new(vec![0; plan.nodes]),
            refused: Mutex::default(),
            plan,
        })
    }

    pub(super) fn random(&self) -> u64 {
        lock(&self.rng).next_u64()
    }

    /// A number under `end`; 0 if that is 0.
    pub(super) fn below(&self, end: u64) -> u64 {
        if end == 0 { 0 } else { lock(&self.rng).random_range(0..end) }
    }

    /// True this many times in a hundred.
    pub(super) fn percent(&self, share: u64) -> bool {
        self.below(100) < share
    }

    /// Between the two, in milliseconds.
    pub(super) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// The newest index that any controller has in its state.
    pub(super) fn newest_index(&self) -> u64 {
        let indexes = self.slots.iter().filter_map(|slot| Some(slot.consensus()?.1.feed().snapshot().index()));
        indexes.max().unwrap_or_default()
    }

    /// Virtual time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn unix_millis(&self, node: usize) -> u64 {
        (DAWN + self.now().as_millis() as u64).saturating_add_signed(lock(&self.skew)[node])
    }

    pub(super) fn set_skew(&self, node: usize, millis: i64) {
        lock(&self.skew)[node] = millis;
    }

    pub(super) fn folder_of(&self, node: usize) -> PathBuf {
        self.folder.join(node.to_string())
    }

    /// What blocking work takes before it is done.
    pub(super) async fn wait_for_a_thread(&self, node: usize) {
        let wait = self.slots[node].disk.read_delay(self);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Bytes leave `from` for `to`, on a gRPC route.
    pub(super) fn saw_bytes(&self, from: usize, to: usize, path: &str, bytes: &[u8]) {
        for message in super::wire::messages(bytes) {
            if let Some(said) = tap::read(super::id_of(to).0, path, message) {
                self.observe(Event::Sent { from, to, said });
            }
        }
    }

    /// A connection was refused: who tries again without a pause burns a core.
    pub(super) fn was_refused(&self, from: usize, to: usize) {
        let second = self.now().as_secs();
        let count = {
            let mut refused = lock(&self.refused);
            let (when, count) = refused.entry((from, to)).or_default();
            *count = if *when == second { *count + 1 } else { 1 };
            *when = second;
            *count
        };
        if count > REFUSED_MOST {
            let what = format!("controller {from} was refused by {to} {count} times within a second");
            let mut seen = lock(&self.seen);
            seen.violation.get_or_insert(Violation { invariant: "that nobody spins", what });
            self.violated.notify_one();
        }
    }

    /// Something happened.
    pub(super) fn observe(&self, event: Event) {
        let now = self.now();
        let mut seen = lock(&self.seen);
        seen.trace.record(now, &event);
        if seen.violation.is_none()
            && let Err(violation) = seen.judge.see(&event)
        {
            seen.trace.note(now, &violation.to_string());
            seen.violation = Some(violation);
            self.violated.notify_one();
        }
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        lock(&self.seen).violation.clone()
    }

    /// Looks at what can be judged only at the end.
    pub(super) fn conclude(&self) -> Result<(), Violation> {
        let mut seen = lock(&self.seen);
        match &seen.violation {
            Some(violation) => Err(violation.clone()),
            None => seen.judge.conclude(),
        }
    }

    pub(super) fn trace_hash(&self) -> u64 {
        lock(&self.seen).trace.hash()
    }

    /// Lets go of what keeps each other alive.
    pub(super) fn clear(&self) {
        self.network.clear();
        self.slots.iter().for_each(Slot::clear);
    }
}
