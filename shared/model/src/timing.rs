//! How patient the controllers are with each other, as they have agreed.

use serde::{Deserialize, Serialize};

/// What was chosen for the whole cluster from measured round trips and flush times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenTiming {
    /// Between two signs of life of the leader, in milliseconds. An election begins after a silence of 3 to 5 of them.
    pub heartbeat_ms: u32,
}

impl ChosenTiming {
    /// For round trips up to 30 ms: what a new cluster begins with. A lost leader is replaced in about a second.
    pub const LEAST_MS: u32 = 100;
    /// For round trips up to 300 ms; a lost leader is replaced in about ten seconds, and more would help nobody.
    pub const MOST_MS: u32 = 1_000;
}

impl Default for ChosenTiming {
    fn default() -> Self {
        Self { heartbeat_ms: Self::LEAST_MS }
    }
}
