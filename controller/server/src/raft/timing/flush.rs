//! How long the flushes of this controller's log took.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The slowest but one of so many is about the 99.9th of a hundred parts.
const KEPT: usize = 1_024;

/// What is older says nothing of the disk as it is now.
const RECENT: Duration = Duration::from_secs(600);

/// The last flushes. Clones share them.
#[derive(Debug, Clone, Default)]
pub(in crate::raft) struct FlushTimes {
    kept: Arc<Mutex<VecDeque<(Instant, Duration)>>>,
}

impl FlushTimes {
    /// One that began at `begun` has ended.
    pub(in crate::raft) fn note(&self, begun: Instant) {
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((now, now - begun));
    }

    /// The slowest of the last, without the very slowest: one is an accident, two are the disk.
    pub(in crate::raft) fn slow(&self) -> Duration {
        let now = Instant::now();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = kept.iter().filter(|(at, _)| now.saturating_duration_since(*at) < RECENT);
        let (_, second) = recent.fold((Duration::ZERO, Duration::ZERO), |(first, second), (_, took)| {
            if *took > first { (*took, first) } else { (first, second.max(*took)) }
        });
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_slow_flush_is_an_accident_and_two_are_the_disk_for_ten_minutes() {
        let (times, millis) = (FlushTimes::default(), Duration::from_millis);
        assert_eq!(times.slow(), Duration::ZERO);
        let took = async |ms: u64| {
            let begun = Instant::now();
            tokio::time::advance(millis(ms)).await;
            times.note(begun);
        };
        took(1).await;
        took(1).await;
        took(300).await;
        assert_eq!(times.slow(), millis(1));
        took(200).await;
        assert_eq!(times.slow(), millis(200));
        tokio::time::advance(RECENT).await;
        took(2).await;
        took(2).await;
        assert_eq!(times.slow(), millis(2));
        for _ in 0..2 * KEPT {
            took(1).await;
        }
        assert_eq!((times.slow(), times.kept.lock().unwrap().len()), (millis(1), KEPT));
    }
}
