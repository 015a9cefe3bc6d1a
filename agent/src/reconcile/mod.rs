//! The one task that owns what this host runs: what shall run against what runs, again and again.

mod approach;
mod publish;
mod track;
mod turns;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::clock;
use pontoon_model::{
    Assignment, BuildId, BuildOutcome, BuildSpec, Digest, Exit, ServoId, ServoSpec, ServoStatus, Timestamp,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::board::Board;
use crate::config::PortRange;
use crate::journal::{Journal, Memory};
use crate::runtime::{Found, FoundState, Runtime, RuntimeError, RuntimeEvent};
use track::{Phase, Track};
use work::{ComingUp, StartFailure, Workshop};

/// Notes on their way to the reconciler; senders wait when it is behind.
const NOTES: usize = 256;
/// Events may be lost; looking this often finds what they would have said.
const AUDIT: Duration = Duration::from_secs(10);
/// A servo that was found running is asked this long before it is reported: it should not leave the routes for a moment.
const ADOPT_TIMEOUT: Duration = Duration::from_millis(500);
/// A servo that never became ready has no requests to end.
const UNREADY_GRACE: Duration = Duration::from_secs(5);
/// And what is under way then may take this long to end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15);

/// What comes to the reconciler from its tasks.
pub(crate) enum Note {
    Listed {
        epoch: u64,
        found: Result<Vec<Found>, RuntimeError>,
    },
    Started {
        servo: ServoId,
        again: bool,
        result: Result<Found, StartFailure>,
        place: ComingUp,
    },
    /// Another servo may come up.
    Room,
    Stopped {
        servo: ServoId,
        removed: bool,
        result: Result<(), RuntimeError>,
    },
    Probed {
        servo: ServoId,
        attempt: u64,
        result: Result<(), Exit>,
    },
    Told {
        servo: ServoId,
        attempt: u64,
        exit: Exit,
    },
}

/// Where servos are published.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) listen_ip: IpAddr,
    pub(crate) ports: PortRange,
}

/// What the reconciler gives to the others.
pub(crate) struct Outlets {
    pub(crate) board: watch::Sender<Arc<Board>>,
    pub(crate) builds: watch::Sender<Arc<BTreeMap<BuildId, BuildSpec>>>,
    /// Blobs that are needed here.
    pub(crate) needed: watch::Sender<Arc<BTreeSet<Digest>>>,
}

/// Owns the journal and all tracks.
pub(crate) struct Reconciler {
    journal: Journal,
    place: Place,
    tracks: BTreeMap<ServoId, Track>,
    work: Workshop,
    notes: mpsc::Receiver<Note>,
    outlets: Outlets,
    epoch: u64,
    listing: bool,
    list_again: bool,
}

impl Reconciler {
    pub(crate) fn new(
        journal: Journal,
        place: Place,
        runtime: Arc<dyn Runtime>,
        blobs: Arc<Blobs>,
        outlets: Outlets,
    ) -> Self {
        let (sender, notes) = mpsc::channel(NOTES);
        let work = Workshop::new(runtime, blobs, sender);
        let tracks = BTreeMap::new();
        Self { journal, place, tracks, work, notes, outlets, epoch: 0, listing: false, list_again: false }
    }

    /// Adopts what runs; before any controller is told anything.
    pub(crate) async fn recover(&mut self) -> Result<(), RuntimeError> {
        let found = self.work.runtime.list().await?;
        for found in &found {
            self.adopt(found);
        }
        // Those that serve are reported as ready at once, all others when they are.
        let checks: Vec<_> = self
            .tracks
            .values()
            .filter(|track| track.phase == Phase::Running)
            .filter_map(|track| Some((track.servo, track.attempt, self.check(track.servo, &found)?)))
            .collect();
        let asking = checks.into_iter().map(|(servo, attempt, check)| async move {
            let answer = tokio::time::timeout(ADOPT_TIMEOUT, check.once()).await;
            (servo, attempt, matches!(answer, Ok(Ok(()))))
        });
        for (servo, attempt, ready) in futures_util::future::join_all(asking).await {
            if ready {
                self.probed(servo, attempt, Ok(()));
            }
        }
        if !found.is_empty() {
            tracing::info!(servos = found.len(), "adopted what runs");
        }
        self.pass();
        Ok(())
    }

    /// Works until `shutdown`, or until a sender of what it needs has gone.
    pub(crate) async fn run(
        &mut self,
        mut assignments: mpsc::Receiver<Assignment>,
        mut ended_builds: mpsc::Receiver<(BuildId, BuildOutcome)>,
        shutdown: CancellationToken,
    ) {
        let mut events = self.work.runtime.events();
        let mut audit = tokio::time::interval(AUDIT);
        loop {
            let wake = self.until_next_wake();
            tokio::select! {
                Some(note) = self.notes.recv() => self.take(note),
                Some(assignment) = assignments.recv() => self.assign(assignment),
                Some((build, outcome)) = ended_builds.recv() => self.build_ended(build, outcome),
                Some(event) = events.recv() => self.happened(event),
                _ = audit.tick() => self.look(),
                () = tokio::time::sleep(wake) => {}
                () = shutdown.cancelled() => return,
            }
            // What came together is worked on together: one write of the journal, one report.
            while let Ok(note) = self.notes.try_recv() {
                self.take(note);
            }
            self.pass();
        }
    }

    /// Nothing is assigned any more, also not at the next start.
    pub(crate) fn forget_assignment(&mut self) {
        self.journal(|memory| {
            memory.assignment = None;
            memory.begun.clear();
            memory.ended_builds.clear();
        });
    }

    /// Stops and removes everything; each servo has `grace` to end by itself.
    pub(crate) async fn stop_all(&mut self, grace: Duration) {
        // What is just being made would otherwise come after its removal.
        let finishing = async {
            while self.tracks.values().any(|track| track.phase == Phase::Busy) {
                let Some(note) = self.notes.recv().await else { return };
                self.take(note);
            }
        };
        if tokio::time::timeout(FINISH_TIMEOUT, finishing).await.is_err() {
            tracing::warn!("some servos are still being started or stopped");
        }
        let known = self.tracks.values().filter(|track| track.phase != Phase::Absent).map(|track| track.servo);
        let mut servos: BTreeSet<ServoId> = known.collect();
        match self.work.runtime.list().await {
            Ok(found) => {
                self.keep_unseen_exits(&found);
                servos.extend(found.iter().map(|found| found.servo));
            }
            Err(error) => tracing::warn!(%error, "cannot look at what runs; removing what is known"),
        }
        let stopping = servos.into_iter().map(|servo| {
            let runtime = Arc::clone(&self.work.runtime);
            async move {
                let mut result = runtime.stop(servo, grace).await;
                if result.is_ok() {
                    result = runtime.remove(servo).await;
                }
                if let Err(error) = result {
                    tracing::warn!(%error, "a servo is left behind");
                }
            }
        });
        futures_util::future::join_all(stopping).await;
        if let Err(error) = self.work.runtime.leave(false).await {
            tracing::warn!(%error, "something is left behind");
        }
    }

    fn until_next_wake(&self) -> Duration {
        let at = self.tracks.values().filter_map(Track::wake_at).filter(|at| *at > now()).min();
        at.map_or(AUDIT, |at| at.since(now()) + Duration::from_millis(1))
    }

    fn spec(&self, servo: ServoId) -> Option<&ServoSpec> {
        let assignment = self.journal.memory().assignment.as_ref()?;
        assignment.servos.iter().find(|spec| spec.id == servo)
    }

    fn settle(&mut self, servo: ServoId) -> Option<&mut Track> {
        self.epoch += 1;
        let track = self.tracks.get_mut(&servo)?;
        track.settled = self.epoch;
        Some(track)
    }

    fn journal(&mut self, change: impl FnOnce(&mut Memory)) -> bool {
        match self.journal.change(change) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "nothing new is started until this is repaired"
                );
                false
            }
        }
    }

    fn assign(&mut self, assignment: Assignment) {
        let known = self.journal.memory().assignment.as_ref();
        if known.is_some_and(|known| assignment.generation < known.generation || *known == assignment) {
            return;
        }
        tracing::info!(
            generation = assignment.generation,
            servos = assignment.servos.len(),
            builds = assignment.builds.len(),
            "new assignment"
        );
        let tracked: BTreeSet<ServoId> =
            self.tracks.values().filter(|track| track.phase != Phase::Absent).map(|track| track.servo).collect();
        self.journal(|memory| {
            let wanted: BTreeSet<ServoId> = assignment.servos.iter().map(|spec| spec.id).collect();
            let idle: Vec<ServoId> = memory
                .ports
                .leases()
                .map(|(servo, _)| servo)
                .filter(|id| !wanted.contains(id) && !tracked.contains(id))
                .collect();
            for servo in idle {
                memory.ports.release(servo, now());
            }
            memory.begun.retain(|servo, _| wanted.contains(servo));
            memory.ended_builds.retain(|build, _| assignment.builds.iter().any(|spec| spec.id == *build));
            memory.assignment = Some(assignment);
        });
    }

    fn build_ended(&mut self, build: BuildId, outcome: BuildOutcome) {
        self.journal(|memory| {
            memory.ended_builds.insert(build, outcome);
        });
    }

    fn happened(&mut self, event: RuntimeEvent) {
        if let RuntimeEvent::Ended { servo, code, out_of_memory, at } = event
            && let Some(track) = self.tracks.get(&servo)
            && track.phase == Phase::Running
            && at >= track.running_since
        {
            self.ended(servo, FoundState::Ended { code, out_of_memory });
        }
        self.look();
    }

    /// Looks at the runtime, once at a time.
    fn look(&mut self) {
        if self.listing {
            self.list_again = true;
        } else {
            self.listing = true;
            self.work.list(self.epoch);
        }
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Listed { epoch, found } => {
                self.listing = false;
                if std::mem::take(&mut self.list_again) {
                    self.look();
                }
                match found {
                    Ok(found) => self.seen(epoch, &found),
                    // Not a word about the servos: they may well run.
                    Err(error) => tracing::warn!(%error, "cannot look at what runs; trying again"),
                }
            }
            Note::Started { servo, again, result, place } => self.started(servo, again, result, place),
            Note::Room => {}
            Note::Stopped { servo, removed, result } => self.stopped(servo, removed, result),
            Note::Probed { servo, attempt, result } => self.probed(servo, attempt, result),
            Note::Told { servo, attempt, exit } => {
                if let Some(track) = self.tracks.get_mut(&servo)
                    && track.attempt == attempt
                    && matches!(track.phase, Phase::Ended { .. })
                {
                    tracing::info!(%servo, reason = exit.reason, "servo ended");
                    track.report.status = ServoStatus::exited(exit);
                }
            }
        }
    }
}

/// Of a one-off whose end nobody saw.
fn spent_exit() -> Exit {
    Exit { code: -1, reason: "it was started before, and nothing of it is left".into(), last_lines: Vec::new() }
}

fn now() -> Timestamp {
    Timestamp(clock::unix_millis())
}
