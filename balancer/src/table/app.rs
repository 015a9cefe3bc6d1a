//! What belongs to an app and not to one of its host names: how its requests are treated.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use pontoon_kit::source::source_of;
use pontoon_model::{AppName, Traffic};

type Limiter = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// Addresses whose rates are remembered for one app. With more, those that are not at their limit are forgotten.
const MOST_ADDRESSES: usize = 100_000;
/// Requests at once, in seconds of the allowed rate.
const BURST: u32 = 2;

/// An app as this balancer knows it, shared by its routes.
#[derive(Debug)]
pub struct App {
    /// Its name.
    pub name: AppName,
    settings: ArcSwap<Settings>,
}

/// How an app's requests are treated, and what is counted for that.
#[derive(Debug)]
pub struct Settings {
    /// As the controllers say.
    pub traffic: Traffic,
    limiter: Option<Limiter>,
}

impl App {
    pub(super) fn new(name: AppName, settings: Arc<Settings>) -> Self {
        Self { name, settings: ArcSwap::new(settings) }
    }

    /// How its requests are treated now.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(super) fn set(&self, settings: Arc<Settings>) {
        self.settings.store(settings);
    }
}

impl Settings {
    pub(super) fn new(traffic: Traffic) -> Self {
        let burst = NonZeroU32::new(traffic.rate.saturating_mul(BURST));
        let limiter = NonZeroU32::new(traffic.rate).zip(burst).map(|(rate, burst)| {
            RateLimiter::new(Quota::per_second(rate).allow_burst(burst), HashMapStateStore::default(), MonotonicClock)
        });
        Self { traffic, limiter }
    }

    /// How long nothing may move in the middle of an answer.
    pub fn idle(&self) -> Option<Duration> {
        (self.traffic.idle_ms > 0).then(|| Duration::from_millis(self.traffic.idle_ms.into()))
    }

    /// Counts a request of `client`; how long it must wait if it sent too many.
    pub fn admit(&self, client: IpAddr) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        if limiter.len() > MOST_ADDRESSES {
            limiter.retain_recent();
        }
        limiter.check_key(&source_of(client)).map_err(|until| until.wait_time_from(MonotonicClock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_waits_and_others_do_not() {
        let settings = Settings::new(Traffic { rate: 5, ..Traffic::default() });
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let let_in = (0..20).filter(|_| settings.admit(one).is_ok()).count();
        assert!((10..=11).contains(&let_in), "{let_in}");
        let same_network = settings.admit("2001:db8::2".parse().unwrap()).unwrap_err();
        assert!(same_network <= Duration::from_secs(1));
        settings.admit(other).unwrap();
        settings.admit("2001:db8:0:1::1".parse().unwrap()).unwrap();
        let free = Settings::new(Traffic::default());
        assert!((0..1000).all(|_| free.admit(one).is_ok()));
    }
}
