//! Waiting times between tries.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Doubling waits with jitter, from `first` to `most`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits begin at `first` and never exceed `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next wait: between half and all of the current step, so that many waiters spread out.
    pub fn wait(&mut self) -> Duration {
        self.wait_by(&mut rand::rng())
    }

    /// As [`Backoff::wait`], with the jitter drawn from `rng`.
    pub fn wait_by(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// After a success: begin with `first` again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_start_over() {
        let (first, most) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<Duration> = (0..4).map(|_| backoff.wait()).collect();
        assert!(waits[0] <= first && waits[0] >= first / 2, "{waits:?}");
        assert!(waits[3] <= most && waits[3] >= most / 2, "{waits:?}");
        backoff.reset();
        assert!(backoff.wait() <= first);
    }
}
