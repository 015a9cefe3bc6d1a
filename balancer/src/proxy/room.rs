//! How many connections of clients there may be. Each may need a second one, to a servo; a balancer without file descriptors could
//! neither accept nor ask, and would take its own want for the servos' fault.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::millis;

/// File descriptors that are no connection of a client or to a servo: listeners, files, timers, controllers, other balancers,
/// looks at servos that failed (64 at a time), readers of figures.
const OTHERS: u64 = 200;
/// At the least, of however few there are: as many of each.
const FEWEST: u64 = 16;
/// Between two lines in the log.
const SAY_EVERY_MS: u64 = 10_000;

/// A connection's place.
pub(super) type Place = OwnedSemaphorePermit;

/// The places that there are. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    most: usize,
    /// When it was last said that there is none, in milliseconds of this process; 0: never.
    said: AtomicU64,
}

impl Room {
    /// As much as this process may have, after its limit was raised as far as it can be.
    pub(super) fn of_this_process() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
            tracing::debug!(?current, ?maximum, "the limit of open files was raised");
        }
        // Without a limit it is the kernel's.
        Self::for_files(getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX)))
    }

    fn for_files(files: u64) -> Self {
        let most = (files.saturating_sub(OTHERS) / 2).max(FEWEST) as usize;
        let most = most.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner { places: Arc::new(Semaphore::new(most)), most, said: AtomicU64::new(0) }))
    }

    /// Whether there is none left.
    pub(super) fn is_full(&self) -> bool {
        self.0.places.available_permits() == 0
    }

    /// A place for the next connection, once there is one.
    pub(super) async fn place(&self) -> Option<Place> {
        if let Ok(place) = self.0.places.clone().try_acquire_owned() {
            return Some(place);
        }
        let (now, said) = (millis::now().max(1), self.0.said.load(Ordering::Relaxed));
        if said == 0 || now.saturating_sub(said) > SAY_EVERY_MS {
            self.0.said.store(now, Ordering::Relaxed);
            tracing::warn!(
                most = self.0.most,
                "as many connections as the limit of open files allows (`ulimit -n`, LimitNOFILE=): idle ones are closed, others wait"
            );
        }
        // It is never closed.
        self.0.places.clone().acquire_owned().await.ok()
    }
}

/// Whether it is for want of something of this machine's that a connection to another could not be made.
pub(super) fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn there_is_room_for_as_many_as_have_a_file_for_a_servo_too() {
        let room = Room::for_files(OTHERS + 100);
        let places: Vec<_> = (0..50).map(|_| room.place().now_or_never().unwrap()).collect();
        assert!(room.is_full() && room.place().now_or_never().is_none());
        drop(places);
        assert!(!room.is_full() && room.place().now_or_never().is_some());
        assert_eq!(Room::for_files(0).0.most, 16, "of whatever there is");
    }

    #[test]
    fn what_is_ours_is_told_from_what_is_the_servos() {
        assert!(is_ours(&io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())));
        assert!(!is_ours(&io::ErrorKind::ConnectionRefused.into()));
        assert!(!is_ours(&io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error())));
    }
}
