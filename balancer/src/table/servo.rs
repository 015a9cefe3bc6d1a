//! One servo as this balancer sees it: where it is, how many requests it has, whether it may have more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pontoon_model::{ServoId, SiteName};
use tokio::sync::Notify;

use crate::millis;

/// After its first failure a servo is tried after the others for this long at least, twice as long after each further one:
/// enough to spare most requests the detour, short enough that a restarted servo has its share back before anybody misses it.
const FIRST_AVOIDANCE: Duration = Duration::from_secs(1);
const LONGEST_AVOIDANCE: Duration = Duration::from_secs(60);
/// A failure is forgotten after as long without another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// Set once the servo has left the table; the other bits count requests in flight.
const REMOVED: u32 = 1 << 31;

/// A servo that comes back at another address is another one to us: the old one drains by itself.
pub(super) type Key = (ServoId, SocketAddr);

/// A servo of an app that is awake, shared by all routes that name it.
#[derive(Debug)]
pub struct Servo {
    /// Which.
    pub id: ServoId,
    /// Where it stands.
    pub site: SiteName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Requests in flight and [`REMOVED`]. One word, so that "may a request come in" and "how many are in" are
    /// one question with one answer: see [`Servo::enter`].
    state: AtomicU32,
    /// By [`millis::now`], when it came into the table.
    since: AtomicU64,
    /// Until when it is tried after the others, by [`millis::now`]; 0 if it is not avoided.
    avoided_until: AtomicU64,
    /// Failures that are not forgotten, and the time of the last.
    failures: AtomicU32,
    failed_at: AtomicU64,
    /// Whether somebody looks whether it is well again.
    watched: AtomicBool,
    /// How many times routes name it: for whoever changes the table, one at a time.
    uses: AtomicU32,
    /// Rung when its last request ends after it was removed.
    drained: Arc<Notify>,
}

impl Servo {
    /// `since`: by [`millis::now`], when it came into the table.
    pub(super) fn new(id: ServoId, site: SiteName, address: SocketAddr, since: u64, drained: Arc<Notify>) -> Self {
        Self {
            id,
            site,
            address,
            state: AtomicU32::new(0),
            since: AtomicU64::new(since),
            avoided_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            uses: AtomicU32::new(0),
            drained,
        }
    }

    /// Counts a request in, or refuses it because the servo has left the table or has `most` (0: any number) already.
    ///
    /// All changes of `state` have one order. A request whose increment comes before the removal is in the count
    /// that [`Servo::remove`] sees; one that comes after it sees `REMOVED` and takes itself out again. There is no
    /// third case, so that once `remove` has returned no new request can pick this servo.
    pub(super) fn enter(servo: &Arc<Self>, most: u32) -> Result<InFlight, Refused> {
        let before = servo.state.fetch_add(1, Ordering::AcqRel);
        // Dropping it counts it out again.
        let in_flight = InFlight { servo: servo.clone() };
        if before & REMOVED != 0 {
            return Err(Refused::Removed);
        }
        if most > 0 && before >= most { Err(Refused::Full) } else { Ok(in_flight) }
    }

    pub(super) fn key(&self) -> Key {
        (self.id, self.address)
    }

    /// When it came into the table.
    pub(super) fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    pub(super) fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    pub(super) fn use_once_more(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether that was the last use.
    pub(super) fn use_once_less(&self) -> bool {
        self.uses.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether it has fewer than `most` requests; 0: any number.
    pub(super) fn has_room(&self, most: u32) -> bool {
        most == 0 || self.in_flight() < most
    }

    /// Lets no further request in; says whether requests are still in flight.
    pub(super) fn remove(&self) -> bool {
        self.state.fetch_or(REMOVED, Ordering::AcqRel) & !REMOVED > 0
    }

    /// Lets no further request in, unless one is in flight.
    pub(super) fn remove_if_idle(&self) -> bool {
        self.state.compare_exchange(0, REMOVED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Lets requests in again.
    pub(super) fn readmit(&self) {
        self.state.fetch_and(!REMOVED, Ordering::AcqRel);
    }

    /// Whether it failed and has not shown since that it is well.
    pub(super) fn is_ailing(&self) -> bool {
        self.is_avoided() || self.watched.load(Ordering::Relaxed)
    }

    /// Whether it has left the table.
    pub fn is_removed(&self) -> bool {
        self.state.load(Ordering::Acquire) & REMOVED != 0
    }

    /// Requests in flight, upgraded connections included.
    pub fn in_flight(&self) -> u32 {
        self.state.load(Ordering::Acquire) & !REMOVED
    }

    /// It failed: it is tried after the others for a while. Whoever gets `true` looks whether it is well again, until
    /// [`Servo::unwatch`].
    pub fn failed(&self, failure: Failure) -> bool {
        let now = millis::now();
        let quiet = now.saturating_sub(self.failed_at.swap(now, Ordering::Relaxed));
        let forgotten = u32::try_from(quiet / FORGOTTEN_AFTER.as_millis() as u64).unwrap_or(u32::MAX);
        let count = |failures: u32| Some(failures.saturating_sub(forgotten).saturating_add(1));
        let before = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).unwrap_or_default();
        let doubled = before.saturating_sub(forgotten).min(LONGEST_AVOIDANCE.as_secs().ilog2() + 1);
        let avoidance = (FIRST_AVOIDANCE * 2_u32.pow(doubled)).min(LONGEST_AVOIDANCE);
        self.avoided_until.store(now + avoidance.as_millis() as u64, Ordering::Relaxed);
        tracing::debug!(servo = %self.id, address = %self.address, "{failure}: avoided for {avoidance:?} or until it is well");
        !self.watched.swap(true, Ordering::Relaxed)
    }

    /// Nobody looks any more whether it is well.
    pub fn unwatch(&self) {
        self.watched.store(false, Ordering::Relaxed);
    }

    /// It answered: no reason to avoid it. Its failures are forgotten with time only, so that one which fails every few
    /// seconds is avoided for longer and longer.
    pub fn trust(&self) {
        // Read first: a store for every answer would move the cache line between the cores.
        if self.avoided_until.load(Ordering::Relaxed) != 0 {
            self.avoided_until.store(0, Ordering::Relaxed);
        }
    }

    /// How long it has been in the table.
    pub(super) fn age(&self) -> Duration {
        Duration::from_millis(millis::now().wrapping_sub(self.since()))
    }

    #[cfg(test)]
    pub(super) fn make_older(&self, by: Duration) {
        // Earlier than this process began, if need be.
        let since = self.since.load(Ordering::Relaxed);
        self.since.store(since.wrapping_sub(by.as_millis() as u64), Ordering::Relaxed);
    }

    /// Whether it is tried after the others now.
    pub fn is_avoided(&self) -> bool {
        let until = self.avoided_until.load(Ordering::Relaxed);
        until != 0 && millis::now() < until
    }
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Removed,
    Full,
}

/// What a servo did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It takes no connection.
    Unreached,
    /// It ended a connection before it had answered.
    Broken,
    /// It did not begin to answer in time.
    TimedOut,
    /// It took a connection and ended it before a byte: a port proxy with nobody behind it.
    Ended,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unreached => "a servo takes no connection",
            Self::Broken => "a servo ended a connection before it had answered",
            Self::TimedOut => "a servo did not begin to answer in time",
            Self::Ended => "a servo ended a connection before a byte",
        })
    }
}

/// One request in flight to a servo; ends when dropped.
#[derive(Debug)]
pub struct InFlight {
    servo: Arc<Servo>,
}

impl InFlight {
    /// To which.
    pub fn servo(&self) -> &Arc<Servo> {
        &self.servo
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.servo.state.fetch_sub(1, Ordering::AcqRel);
        if before == REMOVED | 1 {
            self.servo.drained.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servo() -> Arc<Servo> {
        let address = "127.0.0.1:1".parse().unwrap();
        Arc::new(Servo::new(ServoId(1), SiteName::new("a").unwrap(), address, millis::now(), Arc::default()))
    }

    #[test]
    fn a_removed_servo_lets_nobody_in_and_counts_who_is_left() {
        let servo = servo();
        let (first, second) = (Servo::enter(&servo, 0).unwrap(), Servo::enter(&servo, 0).unwrap());
        assert!(servo.remove());
        assert_eq!(Servo::enter(&servo, 0).unwrap_err(), Refused::Removed);
        assert_eq!(servo.in_flight(), 2);
        drop(first);
        drop(second);
        assert_eq!(servo.in_flight(), 0);
        assert!(!servo.remove());
    }

    #[test]
    fn a_full_servo_lets_nobody_in_until_one_has_left() {
        let servo = servo();
        let first = Servo::enter(&servo, 1).unwrap();
        assert!(!servo.has_room(1) && servo.has_room(0));
        assert_eq!(Servo::enter(&servo, 1).unwrap_err(), Refused::Full);
        drop(first);
        Servo::enter(&servo, 1).unwrap();
    }

    #[tokio::test]
    async fn the_last_request_of_a_removed_servo_rings() {
        let servo = servo();
        let request = Servo::enter(&servo, 0).unwrap();
        servo.remove();
        drop(request);
        // The permit is stored, so this returns at once or never.
        tokio::time::timeout(Duration::from_secs(5), servo.drained.notified()).await.unwrap();
    }

    #[test]
    fn an_answer_ends_the_avoidance_and_repeated_failures_lengthen_it() {
        let servo = servo();
        assert!(!servo.is_avoided());
        assert!(servo.failed(Failure::Broken), "the first to see it watches it");
        assert!(servo.is_avoided());
        let remaining = |servo: &Servo| servo.avoided_until.load(Ordering::Relaxed) - millis::now();
        assert!(remaining(&servo) <= 1_000);
        servo.trust();
        assert!(!servo.is_avoided());
        for longest in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert!(!servo.failed(Failure::Broken));
            assert!((longest / 2..=longest).contains(&remaining(&servo)), "{longest}");
        }
        servo.unwatch();
        assert!(servo.failed(Failure::Unreached));
    }
}
