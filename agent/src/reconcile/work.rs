//! What is done with servos, each in a task of its own; its end comes back as a note.

use std::sync::Arc;
use std::time::Duration;

use pontoon_model::{Exit, ServoId, ServoSpec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Note;
use crate::blobs::Blobs;
use crate::ready::Check;
use crate::runtime::{Found, Launch, Runtime, RuntimeError};

/// Containers that are made at the same time: what `docker run` four at a time reaches on two cores.
const STARTS_AT_ONCE: usize = 4;
/// Servos that are started and not yet ready: more of them at once take each other's CPU until all miss their time.
const COMING_UP_AT_ONCE: usize = 16;
/// A servo that comes up for longer waits for something else than this machine, and holds up no other.
const COMING_UP_FOR: Duration = Duration::from_secs(20);
/// Stops are mostly waiting for grace to pass, but the engine does each in a thread.
const STOPS_AT_ONCE: usize = 32;
/// Last lines are worth this much delay of a report.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a servo could not be started; the text goes to the user.
#[derive(Debug)]
pub(crate) enum StartFailure {
    /// Something else has its outside port: it needs another.
    PortTaken(String),
    Other(String),
}

/// The place of a servo that comes up; given back when dropped.
#[derive(Debug)]
pub(crate) struct ComingUp(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// Starts tasks.
pub(super) struct Workshop {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) blobs: Arc<Blobs>,
    notes: mpsc::Sender<Note>,
    starts: Arc<Semaphore>,
    coming_up: Arc<Semaphore>,
    stops: Arc<Semaphore>,
}

impl Workshop {
    pub(super) fn new(runtime: Arc<dyn Runtime>, blobs: Arc<Blobs>, notes: mpsc::Sender<Note>) -> Self {
        let [starts, coming_up, stops] =
            [STARTS_AT_ONCE, COMING_UP_AT_ONCE, STOPS_AT_ONCE].map(|most| Arc::new(Semaphore::new(most)));
        Self { runtime, blobs, notes, starts, coming_up, stops }
    }

    fn spawn(&self, work: impl Future<Output = Note> + Send + 'static) {
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let note = work.await;
            // Fails only when the reconciler has ended, and the agent with it.
            let _ = notes.send(note).await;
        });
    }

    pub(super) fn list(&self, epoch: u64) {
        let runtime = Arc::clone(&self.runtime);
        self.spawn(async move { Note::Listed { epoch, found: runtime.list().await } });
    }

    /// A place for one more servo that comes up; none when enough do, until one of them is ready.
    pub(super) fn place(&self) -> Option<ComingUp> {
        Arc::clone(&self.coming_up).try_acquire_owned().ok().map(ComingUp)
    }

    pub(super) fn start(&self, spec: ServoSpec, port: Option<u16>, again: bool, place: ComingUp) {
        let (runtime, blobs, starts) = (Arc::clone(&self.runtime), Arc::clone(&self.blobs), Arc::clone(&self.starts));
        self.spawn(async move {
            let servo = spec.id;
            let result = start(&*runtime, &blobs, &starts, spec, port, again).await;
            Note::Started { servo, again, result, place }
        });
    }

    /// Stops; with `remove`, nothing of the servo is left.
    pub(super) fn stop(&self, servo: ServoId, grace: Duration, remove: bool) {
        let (runtime, stops) = (Arc::clone(&self.runtime), Arc::clone(&self.stops));
        self.spawn(async move {
            let _permit = stops.acquire().await;
            let mut result = runtime.stop(servo, grace).await;
            if remove && result.is_ok() {
                result = runtime.remove(servo).await;
            }
            Note::Stopped { servo, removed: remove, result }
        });
    }

    pub(super) fn probe(
        &self,
        servo: ServoId,
        attempt: u64,
        check: Check,
        timeout: Duration,
        token: CancellationToken,
        place: Option<ComingUp>,
    ) {
        let runtime = Arc::clone(&self.runtime);
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let give_back = async {
                tokio::time::sleep(COMING_UP_FOR).await;
                drop(place);
                let _ = notes.send(Note::Room).await;
                std::future::pending::<()>().await
            };
            let waited = tokio::select! {
                waited = check.wait(timeout) => waited,
                () = token.cancelled() => return,
                () = give_back => return,
            };
            let result = match waited {
                Ok(()) => Ok(()),
                Err(reason) => Err(Exit { code: -1, reason, last_lines: last_lines(&*runtime, servo).await }),
            };
            let _ = notes.send(Note::Probed { servo, attempt, result }).await;
        });
    }

    /// Adds the last lines to `exit`.
    pub(super) fn tell(&self, servo: ServoId, attempt: u64, exit: Exit) {
        let runtime = Arc::clone(&self.runtime);
        self.spawn(async move {
            let last_lines = last_lines(&*runtime, servo).await;
            Note::Told { servo, attempt, exit: Exit { last_lines, ..exit } }
        });
    }
}

async fn start(
    runtime: &dyn Runtime,
    blobs: &Blobs,
    starts: &Semaphore,
    spec: ServoSpec,
    port: Option<u16>,
    again: bool,
) -> Result<Found, StartFailure> {
    let other = |why: String| StartFailure::Other(why);
    let bundle = blobs.ensure(spec.bundle).await.map_err(|error| other(error.to_string()))?;
    let _permit = starts.acquire().await.map_err(|error| other(error.to_string()))?;
    let launch = Launch { spec, bundle, port };
    let started = if again { runtime.restart(launch).await } else { runtime.start(launch).await };
    started.map_err(|error| match error {
        RuntimeError::PortTaken(_) => StartFailure::PortTaken(error.to_string()),
        error => other(error.to_string()),
    })
}

/// The newest lines a servo printed; none when they do not come at once.
async fn last_lines(runtime: &dyn Runtime, servo: ServoId) -> Vec<String> {
    use futures_util::StreamExt;
    let lines = runtime.logs(servo, Some(Exit::MAX_LINES as u32), None, false);
    let lines = lines.filter_map(|line| std::future::ready(line.ok())).collect::<Vec<_>>();
    match tokio::time::timeout(LAST_LINES_TIMEOUT, lines).await {
        Ok(lines) => crate::lines::last(lines.into_iter()),
        Err(_) => Vec::new(),
    }
}
