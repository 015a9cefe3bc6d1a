//! What a seed stands for, apart from the random numbers drawn on the way.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::network::Delays;
use crate::raft::config::Timing;

/// A fault put in on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Planted {
    #[default]
    Nothing,
    /// Everything is acknowledged before it is synced, also the journal: it is lost in a power cut.
    AcknowledgedEarly,
    /// The database is acknowledged before it is synced, the journal is not: what is lost can be noticed.
    SyncLies,
    /// The vote is not among what survives a restart.
    VoteForgotten,
    /// Reads that should see all do not ask the leader.
    StaleReads,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) planted: Planted,
    /// 3 or 5.
    pub(super) nodes: usize,
    pub(super) delays: Delays,
    pub(super) timing: Timing,
    /// Whether the leader chooses it.
    pub(super) auto_timing: bool,
    /// What a sync takes, mostly.
    pub(super) sync: Duration,
    pub(super) clients: usize,
    /// How long there is trouble.
    pub(super) trouble: Duration,
    /// Between one trouble and the next.
    pub(super) pause: (u64, u64),
}

impl Plan {
    pub(super) fn new(seed: u64, planted: Planted) -> Self {
        // Another stream than the world's.
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5349_4d50_4c41_4e53);
        let micros = Duration::from_micros;
        let millis = Duration::from_millis;
        let far = rng.random_range(0..5) == 0;
        let delays = if far {
            Delays { least: millis(15), jitter: millis(25), lost: 4, again: millis(250) }
        } else {
            let least = [0, 100, 1_000][rng.random_range(0..3)];
            let jitter = [0, 900, 4_000][rng.random_range(0..3)];
            Delays {
                least: micros(least),
                jitter: micros(jitter),
                lost: [0, 2, 10][rng.random_range(0..3)],
                again: millis(200),
            }
        };
        // Not drawn: seeds stand for what they stood for.
        let auto_timing = seed.is_multiple_of(2);
        Self {
            seed,
            planted,
            nodes: if rng.random_range(0..3) == 0 { 5 } else { 3 },
            delays,
            timing: if far && !auto_timing { Timing::wan() } else { Timing::lan() },
            auto_timing,
            sync: micros([200, 1_000, 8_000][rng.random_range(0..3)]),
            clients: rng.random_range(2..=4),
            trouble: Duration::from_secs(rng.random_range(4..=8)),
            pause: [(50, 400), (200, 1_200), (500, 2_500)][rng.random_range(0..3)],
        }
    }
}
