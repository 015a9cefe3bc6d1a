//! openraft takes its times once, when it starts. So that they can follow what was measured, its clock is slowed instead:
//! it counts in milliseconds of its own, each as long as one or more of everybody's (docs/decisions/0016).
//!
//! Nothing that must be true depends on a clock: Raft's safety never does, and reads ask a quorum (`read.rs`).

use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::impls::TokioRuntime;
use pontoon_core::State;
use pontoon_model::ChosenTiming;

use super::super::config::Timing;

type TokioInstant = <TokioRuntime as AsyncRuntime>::Instant;

/// Of everybody's clock: thousandths of a millisecond in one of openraft's.
const SAME: u32 = 1_000;

tokio::task_local! {
    /// Of the controller whose consensus the task belongs to. Its tasks hand it on to those they start.
    static PACE: Pace;
}

/// How long one of openraft's milliseconds is, for one controller. Clones share it.
#[derive(Debug, Clone)]
pub(in super::super) struct Pace {
    permille: Arc<AtomicU32>,
    /// What openraft was started with.
    base: Timing,
    auto: bool,
}

impl Pace {
    /// As `base` says: for good, or if `auto` until something else is chosen, for which `base` must be
    /// [`Timing::lan`].
    pub(in super::super) fn new(base: Timing, auto: bool) -> Self {
        Self { permille: Arc::new(AtomicU32::new(SAME)), base, auto }
    }

    /// Whether this controller's times are those that were chosen for the cluster.
    pub(in super::super) fn is_auto(&self) -> bool {
        self.auto
    }

    /// The times in force.
    pub(in super::super) fn timing(&self) -> Timing {
        let Timing { heartbeat, election_min, election_max } = self.base;
        Timing {
            heartbeat: self.real(heartbeat),
            election_min: self.real(election_min),
            election_max: self.real(election_max),
        }
    }

    /// Takes what `state` says was chosen.
    pub(in super::super) fn follow(&self, state: &State) {
        let Some(chosen) = state.chosen_timing().filter(|_| self.auto) else { return };
        let permille = chosen.heartbeat_ms.saturating_mul(SAME) / ChosenTiming::LEAST_MS;
        let permille = permille.max(SAME);
        if self.permille.swap(permille, Ordering::Relaxed) != permille {
            let Timing { heartbeat, election_min, election_max } = self.timing();
            let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                heartbeat_ms = milliseconds(heartbeat),
                election_min_ms = milliseconds(election_min),
                election_max_ms = milliseconds(election_max),
                "the controllers' timing is another from now on"
            );
        }
    }

    /// Runs `work` of openraft by this clock.
    pub(in super::super) fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        PACE.scope(self.clone(), work)
    }

    /// That of the task which asks, if it is one of openraft's.
    pub(in super::super) fn current() -> Option<Self> {
        PACE.try_with(Clone::clone).ok()
    }

    fn real(&self, own: Duration) -> Duration {
        match self.permille.load(Ordering::Relaxed) {
            SAME => own,
            permille => own.saturating_mul(permille) / SAME,
        }
    }

    fn own(&self, real: Duration) -> Duration {
        match self.permille.load(Ordering::Relaxed) {
            SAME => real,
            permille => real.saturating_mul(SAME) / permille,
        }
    }
}

/// How long one of openraft's durations is by everybody's clock; elsewhere than in its tasks they are the same.
pub(in super::super) fn real(own: Duration) -> Duration {
    PACE.try_with(|pace| pace.real(own)).unwrap_or(own)
}

fn own(real: Duration) -> Duration {
    PACE.try_with(|pace| pace.own(real)).unwrap_or(real)
}

/// A moment, as everybody sees it; only what lies between two is counted by openraft's clock. So instants may go between
/// tasks, and a change of the pace counts at once for whatever is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacedInstant(pub(in super::super) TokioInstant);

impl openraft::Instant for PacedInstant {
    fn now() -> Self {
        Self(TokioInstant::now())
    }
}

impl Add<Duration> for PacedInstant {
    type Output = Self;

    fn add(self, own: Duration) -> Self {
        Self(self.0 + real(own))
    }
}

impl AddAssign<Duration> for PacedInstant {
    fn add_assign(&mut self, own: Duration) {
        self.0 += real(own);
    }
}

impl Sub<Duration> for PacedInstant {
    type Output = Self;

    fn sub(self, own: Duration) -> Self {
        Self(self.0 - real(own))
    }
}

impl SubAssign<Duration> for PacedInstant {
    fn sub_assign(&mut self, own: Duration) {
        self.0 -= real(own);
    }
}

impl Sub for PacedInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        own(self.0 - earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use openraft::Instant as _;
    use pontoon_core::command::{RaiseFeatureLevel, SetTiming};
    use pontoon_core::{Entry, Stamped};
    use pontoon_model::{IdempotencyKey, Timestamp};

    use super::*;

    fn chosen(heartbeat_ms: u32) -> State {
        let mut state = State::default();
        let commands =
            [2, 3].map(|to| RaiseFeatureLevel { to }.into()).into_iter().chain([SetTiming { heartbeat_ms }.into()]);
        let stamped = (1..).zip(commands).map(|(n, command)| Stamped { key: IdempotencyKey::born(0, n), command });
        state.apply(1, &Entry { time: Timestamp(1), commands: stamped.collect() });
        state
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_chosen_counts_at_once_and_only_for_who_follows_it() {
        let (fixed, auto) = (Pace::new(Timing::lan(), false), Pace::new(Timing::lan(), true));
        for pace in [&fixed, &auto] {
            pace.follow(&State::default());
            assert_eq!(pace.timing(), Timing::lan());
            pace.follow(&chosen(250));
        }
        assert_eq!(fixed.timing(), Timing::lan());
        let millis = Duration::from_millis;
        let wide = Timing { heartbeat: millis(250), election_min: millis(750), election_max: millis(1_250) };
        assert_eq!(auto.timing(), wide);
        auto.follow(&chosen(100));
        assert_eq!(auto.timing(), Timing::lan(), "and back");
    }

    #[tokio::test(start_paused = true)]
    async fn openrafts_milliseconds_are_longer_in_its_tasks_and_moments_are_the_same_everywhere() {
        let pace = Pace::new(Timing::lan(), true);
        pace.follow(&chosen(250));
        let begun = PacedInstant::now();
        let (deadline, elapsed) = pace
            .scope(async {
                let deadline = begun + Duration::from_millis(100);
                super::super::super::runtime::Runtime::sleep_until(deadline).await;
                (deadline, begun.elapsed())
            })
            .await;
        assert_eq!(elapsed.as_millis(), 100, "by its own clock");
        assert_eq!((deadline - begun).as_millis(), 250, "by everybody's");
        assert!((250..=251).contains(&begun.elapsed().as_millis()));
    }
}
