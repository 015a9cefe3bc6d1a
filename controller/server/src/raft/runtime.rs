//! The ground consensus stands on: tokio, the thread's random numbers, the wall clock.
//!
//! Everything under `raft` takes tasks, blocking work, randomness and the time of day from here and nowhere
//! else. In production each function is tokio's or std's own. In unit tests they ask `simulation`
//! first: inside a simulated controller all of it comes from one seed, so that a run can be repeated.

use std::future::Future;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::impls::TokioRuntime;

#[cfg(test)]
use super::simulation::seam;
use super::timing::{Pace, PacedInstant, real};

pub(super) use self::seam::{background, blocking, changed, rng, spawn, unix_millis, wait_for};

/// What production uses.
#[cfg(not(test))]
mod seam {
    use std::future::Future;
    use std::io;

    use openraft::AsyncRuntime;
    use openraft::impls::TokioRuntime;
    use tokio::sync::{oneshot, watch};
    use tokio::task::{JoinError, JoinHandle};

    pub(in super::super) type Rng = rand::rngs::ThreadRng;

    pub(in super::super) type Watch = <TokioRuntime as AsyncRuntime>::Watch;

    /// Random numbers.
    pub(in super::super) fn rng() -> Rng {
        rand::rng()
    }

    /// Starts a task.
    pub(in super::super) fn spawn<T>(task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        tokio::spawn(task)
    }

    /// Runs what waits for a disk on a thread where that harms nobody.
    pub(in super::super) fn blocking<F, T>(work: F) -> impl Future<Output = Result<T, JoinError>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        tokio::task::spawn_blocking(work)
    }

    /// Runs long work on a thread of its own that gives way to all others. Nobody waits for it when the process ends.
    pub(in super::super) async fn background<F, T>(work: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (done, result) = oneshot::channel();
        std::thread::Builder::new().name("background".to_owned()).spawn(move || {
            super::give_way();
            // Whoever asked may have gone.
            let _ = done.send(work());
        })?;
        result.await.map_err(|_| io::Error::other("a thread in the background panicked"))
    }

    /// Waits until `watched` changes.
    pub(in super::super) async fn changed<T>(watched: &mut watch::Receiver<T>) -> Result<(), watch::error::RecvError> {
        watched.changed().await
    }

    /// Waits until what is watched is as `wanted`.
    pub(in super::super) async fn wait_for<T>(
        watched: &mut watch::Receiver<T>,
        wanted: impl FnMut(&T) -> bool,
    ) -> Result<(), watch::error::RecvError> {
        watched.wait_for(wanted).await.map(drop)
    }

    /// The wall clock.
    pub(in super::super) fn unix_millis() -> u64 {
        pontoon_kit::clock::unix_millis()
    }
}

/// A thread with this niceness gets about a tenth of what others get that want the same processor: little enough that
/// writes hardly feel it, enough that its work ends on a machine that is never idle.
#[cfg(not(test))]
const NICE: i32 = 10;

/// From now on this thread works when others leave it time.
#[cfg(not(test))]
fn give_way() {
    // On Linux this is the priority of the calling thread, not of its process.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread in the background keeps its priority");
    }
}

/// openraft's runtime: tokio, with tasks and random numbers from this module, and durations by the clock of the controller
/// that a task belongs to.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = PacedInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = seam::Rng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = seam::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(task: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match Pace::current() {
            Some(pace) => spawn(pace.scope(task)),
            None => spawn(task),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(real(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(real(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline.0, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
