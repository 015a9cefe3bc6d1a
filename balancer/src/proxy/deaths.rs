//! Which servos died lately and which requests were at them, by which an outage is told from a request that ends whatever it
//! is given to (docs/decisions/0024).
//!
//! Only failures come here: a request that is answered by the first servo costs nothing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_model::{AppName, ServoId};
use tokio::time::Instant;

use crate::table::Servo;

/// A death speaks for an outage only after this: by then all requests that were at the servo have seen its end, on other
/// workers too, and those that do no harm have their answers from others.
const SETTLED: Duration = Duration::from_millis(100);
/// And before this: what died earlier died of something else.
const RECENT: Duration = Duration::from_secs(2);
/// A servo that goes on failing is still the same death, and still that of whom it was, for so long after it was last seen.
const KEPT: Duration = Duration::from_secs(60);
/// Deaths that are remembered; beyond it the oldest are forgotten, and with them what they could say.
const MOST: usize = 1_024;

/// The deaths that the workers of a balancer have seen.
#[derive(Default)]
pub(super) struct Deaths(Mutex<VecDeque<Arc<Death>>>);

/// One servo's, from the first failure on.
struct Death {
    app: AppName,
    servo: (ServoId, SocketAddr),
    begun: Instant,
    /// The time of the last failure, in milliseconds after `begun`.
    last_seen: AtomicU32,
    /// Requests that were at it, and that nobody has answered since.
    suspects: AtomicU32,
}

/// That a request was at a servo when it died; for ever, unless it is cleared.
pub(super) struct Suspicion(Arc<Death>);

impl Suspicion {
    /// A servo has answered the request: it is not what ends them.
    pub(super) fn clear(self) {
        self.0.suspects.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Deaths {
    /// A request broke off at a servo of `app`, which may be its doing.
    pub(super) fn suspect(&self, app: &AppName, servo: &Servo) -> Suspicion {
        let death = self.seen(app, servo);
        death.suspects.fetch_add(1, Ordering::AcqRel);
        Suspicion(death)
    }

    /// A servo of `app` is dead, and nobody was at it.
    pub(super) fn found(&self, app: &AppName, servo: &Servo) {
        self.seen(app, servo);
    }

    fn seen(&self, app: &AppName, servo: &Servo) -> Arc<Death> {
        let (now, servo) = (Instant::now(), (servo.id, servo.address));
        let mut all = self.lock();
        all.retain(|death| death.is_kept(now));
        if let Some(death) = all.iter().find(|death| death.servo == servo) {
            death.last_seen.store(millis(now.duration_since(death.begun)), Ordering::Relaxed);
            return death.clone();
        }
        if all.len() >= MOST {
            all.pop_front();
        }
        let (last_seen, suspects) = Default::default();
        let death = Arc::new(Death { app: app.clone(), servo, begun: now, last_seen, suspects });
        all.push_back(death.clone());
        death
    }

    /// How many of the app's servos have died just now of which a request cannot be the cause that is suspected of `own`: it
    /// was not at them, and everything that was has been answered by others since.
    pub(super) fn beside(&self, app: &AppName, own: &[Suspicion]) -> usize {
        let now = Instant::now();
        let speaks = |death: &&Arc<Death>| {
            let age = now.duration_since(death.begun);
            death.app == *app
                && (SETTLED..RECENT).contains(&age)
                && death.suspects.load(Ordering::Acquire) == 0
                && !own.iter().any(|suspicion| Arc::ptr_eq(&suspicion.0, death))
        };
        self.lock().iter().filter(speaks).count()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Death>>> {
        // Each death is whole in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Death {
    fn is_kept(&self, now: Instant) -> bool {
        let last_seen = Duration::from_millis(self.last_seen.load(Ordering::Relaxed).into());
        now.duration_since(self.begun).saturating_sub(last_seen) < KEPT
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Table, Wish};

    fn app() -> AppName {
        "shop".parse().unwrap()
    }

    /// Servos with these ids.
    fn servos(ids: std::ops::Range<u64>) -> Vec<Arc<Servo>> {
        let table = Table::new("here".parse().unwrap());
        let servo = |id| pontoon_model::RouteServo {
            id: ServoId(id),
            site: "here".parse().unwrap(),
            address: ([127, 0, 0, 1], id as u16 + 1).into(),
            suspect: false,
        };
        let route = pontoon_model::Route {
            host: "a.example".into(),
            app: app(),
            release: None,
            servos: ids.map(servo).collect(),
            reason: String::new(),
        };
        let version = pontoon_model::RouteVersion(1);
        table.apply_table(&pontoon_model::RouteTable { version, routes: vec![Arc::new(route)] }).unwrap();
        let mut route = table.route("a.example").unwrap();
        // Somebody has to ask for it.
        table.pick(&mut route, &Wish::of(&pontoon_model::Traffic::default(), &[], None));
        route.target().as_ref().unwrap().servos().to_vec()
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_death_at_which_nobody_was_speaks_for_an_outage_once_it_has_settled_and_not_for_ever() {
        let (deaths, servos) = (Deaths::default(), servos(0..3));
        let own = vec![deaths.suspect(&app(), &servos[0])];
        deaths.found(&app(), &servos[1]);
        deaths.found(&"other".parse().unwrap(), &servos[2]);
        assert_eq!(deaths.beside(&app(), &own), 0, "others may not have seen it yet");
        pass(SETTLED).await;
        assert_eq!(deaths.beside(&app(), &own), 1, "neither its own, nor another app's");
        deaths.found(&app(), &servos[1]);
        assert_eq!(deaths.beside(&app(), &own), 1, "it is dead already");
        pass(RECENT).await;
        deaths.found(&app(), &servos[1]);
        assert_eq!(deaths.beside(&app(), &own), 0);
        pass(KEPT).await;
        deaths.found(&app(), &servos[1]);
        pass(SETTLED).await;
        assert_eq!(deaths.beside(&app(), &own), 1, "it has lived meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_nobody_answers_do_not_speak_for_each_other() {
        let (deaths, servos) = (Deaths::default(), servos(0..6));
        // Two that end three servos each, and one that was at one of them with the second.
        let one: Vec<_> = servos[..3].iter().map(|servo| deaths.suspect(&app(), servo)).collect();
        let two: Vec<_> = servos[3..].iter().map(|servo| deaths.suspect(&app(), servo)).collect();
        let harmless = deaths.suspect(&app(), &servos[3]);
        pass(SETTLED).await;
        harmless.clear();
        // Whoever comes later finds them dead, and that is no new death.
        servos.iter().for_each(|servo| deaths.found(&app(), servo));
        pass(SETTLED).await;
        assert_eq!((deaths.beside(&app(), &one), deaths.beside(&app(), &two)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_answered_speaks_for_the_others() {
        let (deaths, servos) = (Deaths::default(), servos(0..5));
        let one: Vec<_> = servos[..3].iter().map(|servo| deaths.suspect(&app(), servo)).collect();
        let other: Vec<_> = servos[2..].iter().map(|servo| deaths.suspect(&app(), servo)).collect();
        pass(SETTLED).await;
        assert_eq!(deaths.beside(&app(), &one), 0);
        other.into_iter().for_each(Suspicion::clear);
        assert_eq!(deaths.beside(&app(), &one), 2, "the third was its own too");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_may_be() {
        let (deaths, servos) = (Deaths::default(), servos(0..MOST as u64 + 10));
        servos.iter().for_each(|servo| deaths.found(&app(), servo));
        assert_eq!(deaths.lock().len(), MOST);
    }
}
