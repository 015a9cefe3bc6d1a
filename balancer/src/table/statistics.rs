//! What happened on one host name.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pontoon_proto::RequestCounts;

/// Counts since the route came into the table.
#[derive(Debug, Default)]
pub struct Statistics {
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
    /// Those that came from other sites' balancers, which count them.
    joined: AtomicU64,
    /// Answers by the first digit of their status, from 1.
    answers: [AtomicU64; 5],
    /// Made with the first answer.
    latency: OnceLock<Box<Latency>>,
}

pub use pontoon_proto::LATENCY_BOUNDS;

/// How long answers took to begin.
#[derive(Debug, Default)]
struct Latency {
    counts: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Statistics {
    /// The answer to a request begins, with this status and so long after the request came.
    pub fn answered(&self, status: u16, after: Duration) {
        if let Some(answers) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
        if status >= 500 {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let micros = after.as_micros() as u64;
        let latency = self.latency.get_or_init(Box::default);
        let at = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        latency.counts[at].fetch_add(1, Ordering::Relaxed);
        latency.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// Answers so far by the first digit of their status, from 1.
    pub fn answers(&self) -> [u64; 5] {
        self.answers.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// How many answers took at most as long as each of [`LATENCY_BOUNDS`], all of them, and their sum in microseconds; none
    /// before the first.
    pub fn latency(&self) -> Option<([u64; LATENCY_BOUNDS.len()], u64, u64)> {
        let latency = self.latency.get()?;
        let mut so_far = 0;
        let mut next = |count: &AtomicU64| {
            so_far += count.load(Ordering::Relaxed);
            so_far
        };
        let mut counts = [0; LATENCY_BOUNDS.len()];
        for (to, count) in counts.iter_mut().zip(&latency.counts) {
            *to = next(count);
        }
        let all = next(&latency.counts[LATENCY_BOUNDS.len()]);
        Some((counts, all, latency.sum.load(Ordering::Relaxed)))
    }

    /// All that was counted so far.
    pub fn counts(&self) -> RequestCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let latency = self.latency.get().map_or([0; LATENCY_BOUNDS.len() + 1], |all| all.counts.each_ref().map(load));
        RequestCounts { requests: self.requests(), statuses: self.answers(), latency }
    }

    pub(super) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn join(&self) {
        self.joined.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far, wherever they are counted.
    pub(super) fn arrived(&self) -> u64 {
        self.requests().wrapping_add(self.joined.load(Ordering::Relaxed))
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is counted anew elsewhere.
    pub(super) fn forget(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Answers of 500 and above so far, the servos' and our own.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_status_and_time() {
        let statistics = Statistics::default();
        assert_eq!(statistics.latency(), None);
        for (status, micros) in [(200, 1_000), (204, 1_001), (301, 3_000_000), (503, 60_000_000), (999, 1)] {
            statistics.answered(status, Duration::from_micros(micros));
        }
        assert_eq!((statistics.answers(), statistics.errors()), ([0, 2, 1, 0, 1], 2));
        let (counts, all, sum) = statistics.latency().unwrap();
        assert_eq!((counts[0], counts[1], counts[10], counts[11], counts[12]), (2, 3, 3, 4, 4));
        assert_eq!((all, sum), (5, 63_002_002));
    }
}
