//! Failed authentications, by the client's address: who sends one wrong token after another is not looked at for a while.
//!
//! It costs who succeeds nothing: as long as no address is blocked, nothing is looked up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pontoon_kit::source::source_of;

/// Wrong tokens of one address before it is blocked: a person who pastes the wrong thing a few times is not.
const MOST_WRONG: u32 = 10;
/// They are counted, and what was blocked stays so, for this long: 10 guesses a minute lead nowhere, and whoever shares the
/// address with a script that sends an old token waits no longer than that.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered, 64 bytes each. Those that come when there are as many share one count.
const MOST_ADDRESSES: usize = 4_096;
/// Failures of an address that go into the audit within a window: what happens is seen from these, and nobody fills the
/// disk with more.
const MOST_RECORDED: u32 = 10;

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It has no token: nothing was guessed.
    NoToken,
    /// The token was valid once: nothing was guessed.
    Expired,
    /// The token is unknown.
    Wrong,
}

impl Failed {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::NoToken => "NoToken",
            Self::Expired => "ExpiredToken",
            Self::Wrong => "WrongToken",
        }
    }
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    /// Whether it goes into the audit.
    pub(super) record: bool,
    /// How long its address is not looked at.
    pub(super) wait: Option<Duration>,
}

/// The failures of the last minute.
#[derive(Debug, Default)]
pub struct Failures {
    /// Whether an address may be blocked: false for sure if none is.
    any_blocked: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    addresses: HashMap<IpAddr, Count>,
    /// Of all who found no place.
    others: Option<Count>,
    tidied: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    wrong: u32,
    recorded: u32,
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { since: now, wrong: 0, recorded: 0 }
    }

    /// How long from `now` until it counts no more; none if it does not.
    fn left(&self, now: Instant) -> Option<Duration> {
        WINDOW.checked_sub(now.saturating_duration_since(self.since)).filter(|left| !left.is_zero())
    }

    fn blocked_for(&self, now: Instant) -> Option<Duration> {
        (self.wrong >= MOST_WRONG).then(|| self.left(now)).flatten()
    }
}

impl Failures {
    /// How long nothing from `address` is looked at, whatever token it sends.
    pub(super) fn blocked(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        if !self.any_blocked.load(Ordering::Relaxed) {
            return None;
        }
        let mut seen = self.lock();
        self.tidy(&mut seen, now);
        seen.addresses.get(&source_of(address))?.blocked_for(now)
    }

    /// Notes a failure.
    pub(super) fn note(&self, address: IpAddr, why: Failed, now: Instant) -> Noted {
        let mut seen = self.lock();
        self.tidy(&mut seen, now);
        let (place, full) = (source_of(address), seen.addresses.len() >= MOST_ADDRESSES);
        let count = match seen.addresses.contains_key(&place) || !full {
            true => seen.addresses.entry(place).or_insert(Count::new(now)),
            false => seen.others.get_or_insert(Count::new(now)),
        };
        if count.left(now).is_none() {
            *count = Count::new(now);
        }
        let record = count.recorded < MOST_RECORDED;
        count.recorded += u32::from(record);
        if why != Failed::Wrong {
            return Noted { record, wait: None };
        }
        count.wrong = count.wrong.saturating_add(1);
        // The tenth is still told what is wrong; the next is not looked at.
        let blocked = count.blocked_for(now);
        let wait = blocked.filter(|_| count.wrong > MOST_WRONG);
        if blocked.is_some() {
            self.any_blocked.store(true, Ordering::Relaxed);
        }
        Noted { record, wait }
    }

    /// Forgets what is older than a window, once a window.
    fn tidy(&self, seen: &mut Seen, now: Instant) {
        let due = seen.tidied.is_none_or(|tidied| now.saturating_duration_since(tidied) >= WINDOW);
        if due {
            seen.tidied = Some(now);
            seen.addresses.retain(|_, count| count.left(now).is_some());
            seen.others = seen.others.filter(|count| count.left(now).is_some());
            let blocked = seen.addresses.values().any(|count| count.blocked_for(now).is_some());
            self.any_blocked.store(blocked, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0A00_0000 + n).into()
    }

    #[test]
    fn ten_wrong_tokens_block_their_address_for_the_rest_of_the_minute_and_no_other() {
        let (failures, start) = (Failures::default(), Instant::now());
        for n in 0..MOST_WRONG {
            assert_eq!(failures.blocked(v4(1), start), None, "{n}");
            assert_eq!(failures.note(v4(1), Failed::Wrong, start), Noted { record: true, wait: None });
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(failures.blocked(v4(1), later), Some(Duration::from_secs(40)));
        assert_eq!(failures.blocked(v4(2), later), None);
        assert!(!failures.note(v4(1), Failed::Wrong, later).record, "no more of it in the audit");
        assert_eq!(failures.blocked(v4(1), start + WINDOW), None);
        assert_eq!(failures.note(v4(1), Failed::Wrong, start + WINDOW), Noted { record: true, wait: None });
        assert!(!failures.any_blocked.load(Ordering::Relaxed), "nothing is looked up any more");
    }

    #[test]
    fn who_guesses_nothing_is_never_blocked() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(failures.note(v4(1), Failed::NoToken, now).wait, None);
            assert_eq!(failures.note(v4(1), Failed::Expired, now).wait, None);
        }
        assert_eq!(failures.blocked(v4(1), now), None);
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let (failures, now) = (Failures::default(), Instant::now());
        for n in 0..MOST_WRONG {
            failures.note(format!("2001:db8::{n}").parse().unwrap(), Failed::Wrong, now);
        }
        assert!(failures.blocked("2001:db8::ffff".parse().unwrap(), now).is_some());
        assert!(failures.blocked("2001:db8:0:1::".parse().unwrap(), now).is_none());
        for _ in 0..MOST_WRONG {
            failures.note("::ffff:10.0.0.9".parse().unwrap(), Failed::Wrong, now);
        }
        assert!(failures.blocked(v4(9), now).is_some(), "the same address in another form");
    }

    #[test]
    fn memory_is_bounded_and_who_finds_no_place_is_counted_with_the_others() {
        let (failures, now) = (Failures::default(), Instant::now());
        let most = MOST_ADDRESSES as u32;
        for n in 0..most + MOST_WRONG {
            assert_eq!(failures.note(v4(n), Failed::Wrong, now).wait, None);
        }
        assert_eq!(failures.lock().addresses.len(), MOST_ADDRESSES);
        assert!(failures.note(v4(most + 99), Failed::Wrong, now).wait.is_some());
        assert_eq!(failures.blocked(v4(most + 99), now), None, "who may have a valid token is looked at");
        failures.note(v4(1), Failed::Wrong, now + WINDOW);
        assert_eq!(failures.lock().addresses.len(), 1);
    }
}
