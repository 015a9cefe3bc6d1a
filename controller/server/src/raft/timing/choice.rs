//! Which timing what was measured asks for: pure.

use std::time::Duration;

use pontoon_model::ChosenTiming;
use tokio::time::Instant;

/// A sign of life must come through in one interval even if its connection has just broken: a new one takes three round
/// trips (TCP, TLS, the request).
const ROUND_TRIPS: u32 = 3;

/// What may be chosen, each a quarter more than the one before: a finer choice would follow every breath of a network.
const STEPS: [u32; 11] = [ChosenTiming::LEAST_MS, 125, 160, 200, 250, 320, 400, 500, 630, 800, ChosenTiming::MOST_MS];

/// Between two choices: each is an entry in everybody's log.
const LEAST_BETWEEN: Duration = Duration::from_secs(60);

/// A shorter one is chosen once so much shorter a one would do.
const SPARE: (u64, u64) = (5, 4);

/// What was measured of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Measured {
    /// The longest round trip to a voter.
    pub(super) round_trip: Duration,
    /// The slowest flush of a voter's log.
    pub(super) flush: Duration,
    /// Whether every voter has been measured for as long as it takes to trust that nothing slower comes.
    pub(super) whole: bool,
}

impl Measured {
    /// What the interval between signs of life should be at least.
    pub(super) fn wanted(&self) -> Duration {
        self.round_trip * ROUND_TRIPS + self.flush
    }

    /// What it must be at least: a shorter one makes elections without need.
    pub(super) fn needed(&self) -> Duration {
        self.round_trip + self.flush
    }
}

/// Remembers when it chose last, so that what changes to and fro is not followed.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    chosen: Option<Instant>,
    shorter_since: Option<Instant>,
}

impl Chooser {
    /// What is to be chosen instead of `present`, if anything.
    pub(super) fn choose(&mut self, now: Instant, present: ChosenTiming, measured: &Measured) -> Option<ChosenTiming> {
        let wanted = millis_up(measured.wanted());
        let longer = (wanted > u64::from(present.heartbeat_ms)).then(|| step_for(wanted));
        let shorter = step_for((wanted * SPARE.0).div_ceil(SPARE.1));
        let shorter = (measured.whole && shorter < present.heartbeat_ms).then_some(shorter);
        match shorter {
            None => self.shorter_since = None,
            Some(_) => drop(self.shorter_since.get_or_insert(now)),
        }
        let passed = |since: Instant| now.saturating_duration_since(since) >= LEAST_BETWEEN;
        if !self.chosen.is_none_or(passed) {
            return None;
        }
        let shorter = shorter.filter(|_| self.shorter_since.is_some_and(passed));
        let heartbeat_ms = longer.or(shorter).filter(|step| *step != present.heartbeat_ms)?;
        self.chosen = Some(now);
        self.shorter_since = None;
        Some(ChosenTiming { heartbeat_ms })
    }
}

fn millis_up(duration: Duration) -> u64 {
    duration.as_micros().div_ceil(1_000).try_into().unwrap_or(u64::MAX)
}

fn step_for(wanted: u64) -> u32 {
    STEPS.into_iter().find(|step| u64::from(*step) >= wanted).unwrap_or(ChosenTiming::MOST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(round_trip: f64, flush: f64) -> Measured {
        let millis = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        Measured { round_trip: millis(round_trip), flush: millis(flush), whole: true }
    }

    fn present(heartbeat_ms: u32) -> ChosenTiming {
        ChosenTiming { heartbeat_ms }
    }

    #[test]
    fn a_new_leader_chooses_at_once_what_is_too_short() {
        let cases = [
            ("one switch between them", 0.3, 0.5, None),
            ("a house with wireless links", 8.0, 12.0, None),
            ("just what `lan` stands for", 30.0, 10.0, None),
            ("what `wan` stands for", 80.0, 10.0, Some(250)),
            ("two continents", 250.0, 5.0, Some(800)),
            ("an SD card", 0.5, 180.0, Some(200)),
            ("one slow member of three", 40.0, 60.0, Some(200)),
            ("a satellite and an SD card", 600.0, 300.0, Some(1_000)),
        ];
        for (what, round_trip, flush, heartbeat) in cases {
            let chosen = Chooser::default().choose(Instant::now(), present(100), &measured(round_trip, flush));
            assert_eq!(chosen.map(|chosen| chosen.heartbeat_ms), heartbeat, "{what}");
        }
    }

    /// What is chosen in ten minutes of one measurement a second.
    fn ten_minutes(begin: u32, at: impl Fn(u64) -> Measured) -> Vec<(u64, u32)> {
        let (began, mut chooser, mut now, mut chosen) =
            (Instant::now(), Chooser::default(), present(begin), Vec::new());
        for second in 0..600 {
            if let Some(next) = chooser.choose(began + Duration::from_secs(second), now, &at(second)) {
                chosen.push((second, next.heartbeat_ms));
                now = next;
            }
        }
        chosen
    }

    #[test]
    fn what_goes_to_and_fro_is_not_followed() {
        assert_eq!(ten_minutes(100, |second| measured(if second % 2 == 0 { 1.0 } else { 80.0 }, 10.0)), [(1, 250)]);
        assert_eq!(
            ten_minutes(250, |second| measured(78.0 + (second % 5) as f64, 10.0)),
            [(3, 320)],
            "once up, never back"
        );
        assert_eq!(ten_minutes(250, |second| measured(if second % 50 == 0 { 75.0 } else { 1.0 }, 1.0)), []);
    }

    #[test]
    fn it_follows_what_lasts_and_at_most_once_a_minute() {
        assert_eq!(ten_minutes(250, |_| measured(1.0, 1.0)), [(60, 100)], "a minute of less");
        let rising = ten_minutes(100, |second| measured(second as f64, 0.0));
        assert_eq!(rising, [(34, 125), (94, 320), (154, 500), (214, 800), (274, 1_000)]);
    }

    #[test]
    fn nothing_shorter_is_chosen_while_a_voter_is_away() {
        assert_eq!(ten_minutes(250, |_| Measured { whole: false, ..measured(1.0, 1.0) }), []);
    }

    #[test]
    fn a_choice_is_kept_until_a_quarter_less_would_do() {
        for step in STEPS {
            let almost = f64::from(step) * 0.85 / 3.0;
            assert_eq!(ten_minutes(step, |_| measured(almost, 0.0)), [], "{step}");
        }
    }
}
