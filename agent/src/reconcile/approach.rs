//! From what runs to what shall run: the actions, and what is journalled before them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;

use pontoon_model::{Assignment, Exit, ServoId, ServoSpec, ServoStatus};

use super::track::{self, Phase, Track};
use super::{Reconciler, now, spent_exit};
use crate::diff::{self, Action, Container};
use crate::runtime::{Found, FoundState};

impl Reconciler {
    /// Brings what runs nearer to what shall run, and says how things are.
    pub(super) fn pass(&mut self) {
        if let Some(assignment) = self.journal.memory().assignment.clone() {
            self.know_spent(&assignment);
            let have: Vec<Container> = self.tracks.values().filter_map(Track::container).collect();
            let actions = diff::diff(&assignment, &have, now());
            self.act(&assignment, actions);
            let wanted: BTreeSet<ServoId> = assignment.servos.iter().map(|spec| spec.id).collect();
            self.tracks.retain(|servo, track| track.phase != Phase::Absent || wanted.contains(servo));
        }
        self.keep_exits();
        self.publish();
    }

    /// One-offs that were begun and of which nothing is here have run.
    fn know_spent(&mut self, assignment: &Assignment) {
        for spec in &assignment.servos {
            if self.tracks.contains_key(&spec.id) {
                continue;
            }
            if let Some(exit) = self.journal.memory().begun.get(&spec.id) {
                let mut track = Track::new(spec.id);
                track.phase = Phase::Spent;
                track.report.status = ServoStatus::exited(exit.clone().unwrap_or_else(spent_exit));
                self.tracks.insert(spec.id, track);
            }
        }
    }

    /// Journals how one-offs ended before it is told: their containers may go while nobody looks, their exits stay.
    fn keep_exits(&mut self) {
        let begun = &self.journal.memory().begun;
        let new: Vec<(ServoId, Exit)> = begun
            .iter()
            .filter_map(|(servo, kept)| match &self.tracks.get(servo)?.report.status {
                ServoStatus::Exited(exit) if kept.as_ref() != Some(exit) => Some((*servo, Exit::clone(exit))),
                _ => None,
            })
            .collect();
        if !new.is_empty() {
            self.journal(|memory| memory.begun.extend(new.into_iter().map(|(servo, exit)| (servo, Some(exit)))));
        }
    }

    /// Journals ends that nobody was told of yet: what is found is about to be removed.
    pub(super) fn keep_unseen_exits(&mut self, found: &[Found]) {
        let unseen: Vec<(ServoId, Exit)> = found
            .iter()
            .filter(|found| found.state != FoundState::Running)
            .filter(|found| self.journal.memory().begun.get(&found.servo).is_some_and(Option::is_none))
            .map(|found| (found.servo, track::exit(found.state, None, self.spec(found.servo))))
            .collect();
        if !unseen.is_empty() {
            self.journal(|memory| memory.begun.extend(unseen.into_iter().map(|(servo, exit)| (servo, Some(exit)))));
        }
    }

    fn act(&mut self, assignment: &Assignment, actions: Vec<Action>) {
        let specs: BTreeMap<ServoId, &ServoSpec> = assignment.servos.iter().map(|spec| (spec.id, spec)).collect();
        let ready = self.lease_ports(&specs, &actions);
        for action in actions {
            match action {
                Action::Start(servo) | Action::Restart(servo) => {
                    let (Some(spec), true) = (specs.get(&servo), ready) else { continue };
                    let port = self.journal.memory().ports.of(servo).filter(|_| spec.listens);
                    let track = self.tracks.entry(servo).or_insert_with(|| Track::new(servo));
                    let again = matches!(action, Action::Restart(_));
                    if spec.listens && port.is_none() {
                        continue;
                    }
                    // Those that have to wait are asked for again when one of the others is ready.
                    let Some(place) = self.work.place() else { continue };
                    track.phase = Phase::Busy;
                    track.report.status = ServoStatus::Starting;
                    self.work.start((*spec).clone(), port, again, place);
                }
                Action::Stop { servo, grace } => {
                    if let Some(track) = self.tracks.get_mut(&servo) {
                        track.phase = Phase::Busy;
                        track.probe = None;
                        self.work.stop(servo, grace, true);
                    }
                }
                Action::Gone(servo) => {
                    let track = self.tracks.entry(servo).or_insert_with(|| Track::new(servo));
                    track.report.status = ServoStatus::Gone;
                }
            }
        }
    }

    /// Ports of all that is about to start, journalled before any of it is made. Whether that worked.
    fn lease_ports(&mut self, specs: &BTreeMap<ServoId, &ServoSpec>, actions: &[Action]) -> bool {
        let starting: Vec<&ServoSpec> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Start(servo) | Action::Restart(servo) => specs.get(servo).copied(),
                _ => None,
            })
            .collect();
        if starting.is_empty() {
            return true;
        }
        let place = self.place.clone();
        let mut failures = Vec::new();
        let written = self.journal(|memory| {
            for spec in starting {
                if spec.one_off {
                    memory.begun.entry(spec.id).or_default();
                }
                if spec.listens {
                    let pick = |count| rand::random_range(0..count);
                    let free = |port| TcpListener::bind((place.listen_ip, port)).is_ok();
                    if let Err(error) = memory.ports.lease(spec.id, &place.ports.0, now(), pick, free) {
                        failures.push((spec.id, error.to_string()));
                    }
                }
            }
        });
        for (servo, reason) in failures {
            let track = self.tracks.entry(servo).or_insert_with(|| Track::new(servo));
            let retry_at = track.crashed(now());
            track.phase = Phase::Failed { retry_at };
            track.report.status = ServoStatus::exited(Exit { code: -1, reason, last_lines: Vec::new() });
        }
        written
    }
}
