//! What the agent remembers of one servo while it lives.

use std::time::Duration;

use pontoon_model::{Exit, ServoId, ServoReport, ServoSpec, ServoStatus, Timestamp};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::diff::{Container, Origin, RESTART_FORGIVEN, State, restart_wait};
use crate::runtime::{Found, FoundState};

/// What is known and said of one servo.
pub(super) struct Track {
    pub(super) servo: ServoId,
    pub(super) origin: Option<Origin>,
    pub(super) phase: Phase,
    /// When this was last known better than by looking: older looks are ignored.
    pub(super) settled: u64,
    /// Grows with every start: what is said of an earlier one is ignored.
    pub(super) attempt: u64,
    pub(super) crashes: u32,
    pub(super) running_since: Timestamp,
    pub(super) report: ServoReport,
    /// Ends the wait for its readiness when it is dropped.
    pub(super) probe: Option<DropGuard>,
}

/// How far a servo is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of it is here.
    Absent,
    Busy,
    Running,
    Ended {
        retry_at: Timestamp,
    },
    Failed {
        retry_at: Timestamp,
    },
    Spent,
}

impl Track {
    pub(super) fn new(servo: ServoId) -> Self {
        let report =
            ServoReport { servo, status: ServoStatus::Starting, address: None, restarts: 0, limits_enforced: true };
        Self {
            servo,
            origin: None,
            phase: Phase::Absent,
            settled: 0,
            attempt: 0,
            crashes: 0,
            running_since: Timestamp(0),
            report,
            probe: None,
        }
    }

    /// For `diff`; none when there is nothing here.
    pub(super) fn container(&self) -> Option<Container> {
        let state = match self.phase {
            Phase::Absent => return None,
            Phase::Busy => State::Busy,
            Phase::Running => State::Running,
            Phase::Ended { retry_at } => State::Ended { retry_at },
            Phase::Failed { retry_at } => State::Failed { retry_at },
            Phase::Spent => State::Spent,
        };
        Some(Container { servo: self.servo, origin: self.origin.clone(), state })
    }

    /// When something is due without anything happening.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Ended { retry_at } | Phase::Failed { retry_at } => Some(retry_at),
            _ => None,
        }
    }

    /// It runs, found so or started so.
    pub(super) fn runs(&mut self, found: &Found, now: Timestamp) {
        self.phase = Phase::Running;
        self.attempt += 1;
        self.running_since = now;
        self.origin = found.origin.clone().or(self.origin.take());
        self.report.limits_enforced = found.limits_enforced;
        self.report.status = ServoStatus::Starting;
        self.report.address = None;
    }

    /// It crashed; the wait before it may be started again begins.
    pub(super) fn crashed(&mut self, now: Timestamp) -> Timestamp {
        if self.phase == Phase::Running && now.since(self.running_since) >= RESTART_FORGIVEN {
            self.crashes = 0;
        }
        self.crashes = self.crashes.saturating_add(1);
        self.probe = None;
        self.report.address = None;
        now.plus(restart_wait(self.crashes))
    }

    /// A token that lives as long as the wait for its readiness.
    pub(super) fn begin_probe(&mut self) -> CancellationToken {
        let token = CancellationToken::new();
        self.probe = Some(token.clone().drop_guard());
        token
    }
}

/// How a process ended, in words.
pub(super) fn exit(state: FoundState, ran: Option<Duration>, spec: Option<&ServoSpec>) -> Exit {
    let FoundState::Ended { code, out_of_memory } = state else {
        return Exit { code: -1, reason: "it is not known how it ended".into(), last_lines: Vec::new() };
    };
    let after = ran.map_or_else(String::new, |ran| format!(" after {:.1} s", ran.as_secs_f64()));
    let reason = match code {
        _ if out_of_memory => {
            let limit = spec.map_or_else(String::new, |spec| format!(" of {}", spec.size.memory));
            format!("used more than its memory limit{limit} and was killed{after}")
        }
        None => "ended while nobody watched, or was never started".into(),
        Some(code @ 129..=192) => format!("killed by signal {}{after}", code - 128),
        Some(127) => format!("exited with code 127{after}: its command was not found"),
        Some(code) => format!("exited with code {code}{after}"),
    };
    Exit { code: code.unwrap_or(-1), reason, last_lines: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn reason(code: Option<i32>, out_of_memory: bool) -> String {
        let ran = Some(Duration::from_millis(230));
        exit(FoundState::Ended { code, out_of_memory }, ran, Some(&spec(1))).reason
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(reason(Some(1), false), "exited with code 1 after 0.2 s");
        assert_eq!(reason(Some(137), false), "killed by signal 9 after 0.2 s");
        assert_eq!(reason(Some(137), true), "used more than its memory limit of 256M and was killed after 0.2 s");
        assert!(reason(Some(127), false).contains("not found"));
    }

    #[test]
    fn a_minute_of_running_forgives_earlier_crashes() {
        let mut track = Track::new(ServoId(1));
        track.phase = Phase::Running;
        assert_eq!(track.crashed(Timestamp(1000)), Timestamp(2000));
        assert_eq!(track.crashed(Timestamp(2000)), Timestamp(4000));
        track.running_since = Timestamp(10_000);
        assert_eq!(track.crashed(Timestamp(70_000)), Timestamp(71_000));
    }
}
