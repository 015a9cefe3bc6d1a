//! The cluster's time, as a leader gives it to entries and plans by it: never before what was given, and going on from there.
//!
//! A leader whose clock is an hour fast gives the cluster that hour. The next one, whose clock is right, must not wait for its own
//! to catch up: all timeouts would stand still for an hour, and every sign of life would seem an hour old.

use std::sync::{Arc, Mutex, PoisonError};

use pontoon_model::Timestamp;
use tokio::time::Instant;

use super::runtime;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ClusterClock {
    last: Arc<Mutex<Option<(Instant, Timestamp)>>>,
}

impl ClusterClock {
    /// The time now: that of this machine's clock, unless the cluster is ahead of it. `given` was given to an entry.
    pub(super) fn now(&self, given: Timestamp) -> Timestamp {
        self.at(Instant::now(), Timestamp(runtime::unix_millis()), given)
    }

    fn at(&self, instant: Instant, own: Timestamp, given: Timestamp) -> Timestamp {
        // Plain data: a panic elsewhere leaves it usable.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let gone_on = last.map_or(own, |(then, time)| time.plus(instant.saturating_duration_since(then)));
        let now = gone_on.max(own).max(given);
        *last = Some((instant, now));
        now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn after_a_leader_whose_clock_was_fast_time_goes_on_and_never_back() {
        let (clock, begin) = (ClusterClock::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let time = |seconds: u64| Timestamp(seconds * 1_000);
        let fast = time(10_000);
        assert_eq!(clock.at(begin, time(6_400), fast), fast);
        assert_eq!(clock.at(after(10), time(6_410), fast), time(10_010), "it does not stand still");
        assert_eq!(clock.at(after(20), time(3_000), time(10_012)), time(10_020), "nor goes back with this machine's");
        assert_eq!(clock.at(after(30), time(20_000), time(10_025)), time(20_000), "one that is right again counts");
    }
}
