//! What `runtime` uses in unit tests: the simulation inside a simulated controller, tokio elsewhere.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use rand::rngs::{SmallRng, ThreadRng};
use rand::{SeedableRng, TryRng};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::life::Life;
pub(in super::super) use super::watch::OrderedWatch as Watch;

/// The thread's random numbers, or seeded ones.
pub enum Rng {
    Thread(ThreadRng),
    Seeded(SmallRng),
}

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match self {
            Rng::Thread(rng) => rng.try_next_u32(),
            Rng::Seeded(rng) => rng.try_next_u32(),
        }
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match self {
            Rng::Thread(rng) => rng.try_next_u64(),
            Rng::Seeded(rng) => rng.try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Rng::Thread(rng) => rng.try_fill_bytes(bytes),
            Rng::Seeded(rng) => rng.try_fill_bytes(bytes),
        }
    }
}

pub(in super::super) fn rng() -> Rng {
    match Life::current() {
        Some(life) => Rng::Seeded(SmallRng::seed_from_u64(life.world.random())),
        None => Rng::Thread(rand::rng()),
    }
}

pub(in super::super) fn spawn<T>(task: T) -> JoinHandle<T::Output>
where
    T: Future + Send + 'static,
    T::Output: Send + 'static,
{
    match Life::current() {
        Some(life) => life.spawn(task),
        None => tokio::spawn(task),
    }
}

/// On a simulated controller the work takes time that passes before it, and is then done at once: what a crash
/// leaves of a half-done one is the disk's business.
pub(in super::super) async fn blocking<F, T>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match Life::current() {
        Some(life) => {
            life.world.wait_for_a_thread(life.node).await;
            Ok(work())
        }
        None => tokio::task::spawn_blocking(work).await,
    }
}

/// Simulated controllers share one thread.
pub(in super::super) async fn background<F, T>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    blocking(work).await.map_err(io::Error::other)
}

/// How often a simulated controller looks, at first and later.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// tokio draws lots whom it tells first, so that simulated controllers must look by themselves.
pub(in super::super) async fn changed<T>(watched: &mut watch::Receiver<T>) -> Result<(), watch::error::RecvError> {
    if Life::current().is_none() {
        return watched.changed().await;
    }
    let mut wait = LOOK.0;
    loop {
        if let Some(changed) = watched.changed().now_or_never() {
            return changed;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LOOK.1);
    }
}

pub(in super::super) async fn wait_for<T>(
    watched: &mut watch::Receiver<T>,
    mut wanted: impl FnMut(&T) -> bool,
) -> Result<(), watch::error::RecvError> {
    while !wanted(&watched.borrow_and_update()) {
        changed(watched).await?;
    }
    Ok(())
}

pub(in super::super) fn unix_millis() -> u64 {
    match Life::current() {
        Some(life) => life.world.unix_millis(life.node),
        None => pontoon_kit::clock::unix_millis(),
    }
}
