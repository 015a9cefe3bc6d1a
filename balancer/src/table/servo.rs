//! One servo as this balancer sees it: where it is, how many requests it has, whether it may have more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use pontoon_model::{ServoId, SiteName};
use tokio::sync::Notify;

/// A servo that could not be reached is tried after the others for this long: enough to spare most requests the
/// detour, short enough that a restarted servo has its share back before anybody misses it.
pub const AVOIDED_FOR: Duration = Duration::from_secs(2);

/// Set once the servo has left the table; the other bits count requests in flight.
const REMOVED: u32 = 1 << 31;

/// Milliseconds of this process: fits an atomic, which an `Instant` does not.
fn now_millis() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Never 0, which means "not avoided".
    START.elapsed().as_millis() as u64 + 1
}

/// A servo of the table, shared by all routes that name it.
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
    /// Until when it is tried after the others, by [`now_millis`]; 0 if it is not avoided.
    avoided_until: AtomicU64,
    /// Rung when its last request ends after it was removed.
    drained: Arc<Notify>,
}

impl Servo {
    pub(super) fn new(id: ServoId, site: SiteName, address: SocketAddr, drained: Arc<Notify>) -> Self {
        Self { id, site, address, state: AtomicU32::new(0), avoided_until: AtomicU64::new(0), drained }
    }

    /// Counts a request in, or refuses it because the servo has left the table.
    ///
    /// All changes of `state` have one order. A request whose increment comes before the removal is in the count
    /// that [`Servo::remove`] sees; one that comes after it sees `REMOVED` and takes itself out again. There is no
    /// third case, so that once `remove` has returned no new request can pick this servo.
    pub(super) fn enter(servo: &Arc<Self>) -> Option<InFlight> {
        let before = servo.state.fetch_add(1, Ordering::AcqRel);
        let in_flight = InFlight { servo: servo.clone() };
        // Dropping `in_flight` counts it out again.
        (before & REMOVED == 0).then_some(in_flight)
    }

    /// Lets no further request in; says whether requests are still in flight.
    pub(super) fn remove(&self) -> bool {
        self.state.fetch_or(REMOVED, Ordering::AcqRel) & !REMOVED > 0
    }

    /// Requests in flight, upgraded connections included.
    pub fn in_flight(&self) -> u32 {
        self.state.load(Ordering::Acquire) & !REMOVED
    }

    /// It could not be reached: try it after the others for [`AVOIDED_FOR`].
    pub fn avoid(&self) {
        self.avoided_until.store(now_millis() + AVOIDED_FOR.as_millis() as u64, Ordering::Relaxed);
    }

    /// It answered: no reason to avoid it.
    pub fn trust(&self) {
        // Read first: a store for every answer would move the cache line between the cores.
        if self.avoided_until.load(Ordering::Relaxed) != 0 {
            self.avoided_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it is tried after the others now.
    pub fn is_avoided(&self) -> bool {
        let until = self.avoided_until.load(Ordering::Relaxed);
        until != 0 && now_millis() < until
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
        Arc::new(Servo::new(ServoId(1), SiteName::new("a").unwrap(), address, Arc::default()))
    }

    #[test]
    fn a_removed_servo_lets_nobody_in_and_counts_who_is_left() {
        let servo = servo();
        let (first, second) = (Servo::enter(&servo).unwrap(), Servo::enter(&servo).unwrap());
        assert!(servo.remove());
        assert!(Servo::enter(&servo).is_none());
        assert_eq!(servo.in_flight(), 2);
        drop(first);
        drop(second);
        assert_eq!(servo.in_flight(), 0);
        assert!(!servo.remove());
    }

    #[tokio::test]
    async fn the_last_request_of_a_removed_servo_rings() {
        let servo = servo();
        let request = Servo::enter(&servo).unwrap();
        servo.remove();
        drop(request);
        // The permit is stored, so this returns at once or never.
        tokio::time::timeout(Duration::from_secs(5), servo.drained.notified()).await.unwrap();
    }

    #[test]
    fn an_answer_ends_the_avoidance() {
        let servo = servo();
        assert!(!servo.is_avoided());
        servo.avoid();
        assert!(servo.is_avoided());
        servo.trust();
        assert!(!servo.is_avoided());
    }
}
