//! What becomes of a servo: found, started, stopped, ready, ended.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use pontoon_model::{Exit, ServoId, ServoStatus, Timestamp};

use super::track::{self, Phase, Track};
use super::work::{ComingUp, StartFailure};
use super::{Reconciler, UNREADY_GRACE, now, spent_exit};
use crate::ready::Check;
use crate::runtime::{Found, FoundState, RuntimeError};

/// Ports that are tried without a wait; the free ones were asked for first, so the second is usually good.
const PORT_TRIES: u32 = 5;

impl Reconciler {
    /// Compares what the runtime has with what is known; what was settled after the look began is known better.
    pub(super) fn seen(&mut self, epoch: u64, found: &[Found]) {
        for found in found {
            let known = self.tracks.get(&found.servo);
            match known.map(|track| (track.phase, track.settled)) {
                Some((Phase::Busy, _)) => {}
                Some((_, settled)) if settled > epoch => {}
                Some((Phase::Running, _)) if found.state == FoundState::Running => {}
                Some((Phase::Ended { .. }, _)) if found.state != FoundState::Running => {}
                Some((Phase::Running, _)) => self.ended(found.servo, found.state),
                _ => self.adopt(found),
            }
        }
        let there: BTreeSet<ServoId> = found.iter().map(|found| found.servo).collect();
        let missing: Vec<ServoId> = self
            .tracks
            .values()
            .filter(|track| matches!(track.phase, Phase::Running | Phase::Ended { .. }) && track.settled <= epoch)
            .map(|track| track.servo)
            .filter(|servo| !there.contains(servo))
            .collect();
        for servo in missing {
            self.vanished(servo);
        }
    }

    /// Takes over what runs, or ended, without this life of the agent having started it.
    pub(super) fn adopt(&mut self, found: &Found) {
        let servo = found.servo;
        if let Some(port) = found.port.filter(|_| self.journal.memory().ports.of(servo).is_none()) {
            self.journal(|memory| memory.ports.adopt(servo, port));
        }
        let track = self.tracks.entry(servo).or_insert_with(|| Track::new(servo));
        track.runs(found, now());
        match found.state {
            FoundState::Running => self.wait_until_ready(found, None),
            FoundState::Ended { .. } => {
                track.running_since = Timestamp(0);
                self.ended(servo, found.state);
            }
        }
    }

    /// Where and how a running servo is asked.
    pub(super) fn check(&self, servo: ServoId, found: &[Found]) -> Option<Check> {
        let found = found.iter().find(|found| found.servo == servo)?;
        let spec = self.spec(servo);
        let listens = spec.map_or(found.port.is_some(), |spec| spec.listens);
        let address = found.probe.filter(|_| listens)?;
        Some(Check { address, path: spec.and_then(|spec| spec.health.path.clone()) })
    }

    pub(super) fn wait_until_ready(&mut self, found: &Found, place: Option<ComingUp>) {
        let servo = found.servo;
        let check = self.check(servo, std::slice::from_ref(found));
        let timeout = self.spec(servo).map(|spec| spec.health.timeout).unwrap_or_default();
        let listens = self.spec(servo).map_or(found.port.is_some(), |spec| spec.listens);
        let Some(track) = self.tracks.get_mut(&servo) else { return };
        match check {
            Some(check) => {
                let token = track.begin_probe();
                self.work.probe(servo, track.attempt, check, timeout, token, place);
            }
            None if listens => {
                let reason = "it has no address on its network".to_owned();
                let exit = Exit { code: -1, reason, last_lines: Vec::new() };
                let attempt = track.attempt;
                self.probed(servo, attempt, Err(exit));
            }
            None => track.report.status = ServoStatus::Ready,
        }
    }

    pub(super) fn started(
        &mut self,
        servo: ServoId,
        again: bool,
        result: Result<Found, StartFailure>,
        place: ComingUp,
    ) {
        let is_one_off = self.journal.memory().begun.contains_key(&servo);
        let Some(track) = self.settle(servo) else { return };
        match result {
            Ok(found) => {
                track.runs(&found, now());
                track.report.restarts += u32::from(again);
                match found.state {
                    FoundState::Running => self.wait_until_ready(&found, Some(place)),
                    FoundState::Ended { .. } => self.ended(servo, found.state),
                }
            }
            // Another program was quicker: it gets another port, at once unless that never helps.
            Err(StartFailure::PortTaken(reason)) => {
                tracing::info!(%servo, reason, "trying another port");
                let mut retry_at = track.crashed(now());
                if track.crashes <= PORT_TRIES && !is_one_off {
                    retry_at = now();
                    track.report.status = ServoStatus::Starting;
                } else {
                    track.report.status = could_not_start(reason);
                }
                track.phase = Phase::Failed { retry_at };
                self.journal(|memory| {
                    memory.ports.release(servo, now());
                });
            }
            Err(StartFailure::Other(reason)) => {
                tracing::warn!(%servo, reason, "servo could not be started");
                let retry_at = track.crashed(now());
                track.phase = Phase::Failed { retry_at };
                track.report.status = could_not_start(reason);
            }
        }
        // It may have ended since, and that event was taken for our own doing.
        self.look();
    }

    pub(super) fn stopped(&mut self, servo: ServoId, removed: bool, result: Result<(), RuntimeError>) {
        let wanted = self.spec(servo).is_some_and(|spec| spec.desired.is_run());
        let Some(track) = self.settle(servo) else { return };
        match result {
            Err(error) => {
                tracing::warn!(%error, "trying again");
                let retry_at = track.crashed(now());
                track.phase = Phase::Ended { retry_at };
                // What it really does is found by looking.
                track.settled = 0;
            }
            Ok(()) if removed => {
                track.phase = Phase::Absent;
                track.origin = None;
                track.probe = None;
                track.report.address = None;
                track.report.status = if wanted { ServoStatus::Starting } else { ServoStatus::Gone };
                if !wanted {
                    self.journal(|memory| {
                        memory.ports.release(servo, now());
                    });
                }
            }
            Ok(()) => {
                let retry_at = track.crashed(now());
                track.phase = Phase::Ended { retry_at };
            }
        }
        self.look();
    }

    pub(super) fn probed(&mut self, servo: ServoId, attempt: u64, result: Result<(), Exit>) {
        let address = self.journal.memory().ports.of(servo).map(|port| SocketAddr::new(self.place.listen_ip, port));
        let grace = self.spec(servo).map_or(UNREADY_GRACE, |spec| spec.grace.min(UNREADY_GRACE));
        let Some(track) = self.tracks.get_mut(&servo) else { return };
        if track.attempt != attempt || track.phase != Phase::Running {
            return;
        }
        track.probe = None;
        match result {
            Ok(()) => {
                track.report.status = ServoStatus::Ready;
                track.report.address = address;
            }
            Err(exit) => {
                tracing::info!(%servo, reason = exit.reason, "servo is stopped");
                track.report.status = ServoStatus::exited(exit);
                track.phase = Phase::Busy;
                self.work.stop(servo, grace, false);
            }
        }
    }

    /// Its process ended by itself.
    pub(super) fn ended(&mut self, servo: ServoId, state: FoundState) {
        let spec = self.spec(servo).cloned();
        let kept = self.journal.memory().begun.get(&servo).cloned().flatten();
        let Some(track) = self.settle(servo) else { return };
        let routed = track.report.address.is_some();
        let ran = Some(now().since(track.running_since)).filter(|_| track.running_since != Timestamp(0));
        let retry_at = track.crashed(now());
        track.phase = Phase::Ended { retry_at };
        if let Some(exit) = kept {
            // An earlier life of the agent saw it end, and told it.
            track.report.status = ServoStatus::exited(exit);
            return;
        }
        let exit = track::exit(state, ran, spec.as_ref());
        // Balancers shall know at once; others, whose last lines matter, when these are there too.
        if routed {
            track.report.status = ServoStatus::exited(exit.clone());
        }
        let attempt = track.attempt;
        self.work.tell(servo, attempt, exit);
    }

    /// Its container was removed, not by us.
    pub(super) fn vanished(&mut self, servo: ServoId) {
        let spent = self.journal.memory().begun.get(&servo).cloned();
        let Some(track) = self.tracks.get_mut(&servo) else { return };
        tracing::warn!(%servo, "its container was removed by somebody else");
        track.probe = None;
        track.report.address = None;
        track.attempt += 1;
        if let Some(exit) = spent {
            track.phase = Phase::Spent;
            if !matches!(track.report.status, ServoStatus::Exited(_)) {
                track.report.status = ServoStatus::exited(exit.unwrap_or_else(spent_exit));
            }
        } else {
            track.phase = Phase::Absent;
            track.report.restarts += 1;
            track.report.status = ServoStatus::Starting;
        }
    }
}

fn could_not_start(reason: String) -> ServoStatus {
    ServoStatus::exited(Exit { code: -1, reason, last_lines: Vec::new() })
}
