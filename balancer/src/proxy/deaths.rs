//! Which servos died lately and which requests were at them, by which an outage is told from a request that ends whatever it
//! is given to (docs/decisions/0024).
//!
//! Only failures come here: a request that is answered by the first servo costs nothing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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

/// The deaths that the workers of a balancer have seen, and which servos were silent.
#[derive(Debug, Default)]
pub(crate) struct Deaths(Mutex<VecDeque<Arc<Death>>>);

/// One servo's, from the first failure on.
#[derive(Debug)]
struct Death {
    app: AppName,
    servo: (ServoId, SocketAddr),
    begun: Instant,
    /// The time of the last failure, in milliseconds after `begun`.
    last_seen: AtomicU32,
    /// When it was known to be one, in milliseconds after `begun`: [`ALIVE`] while the servo has only been silent.
    died: AtomicU32,
    /// Requests that were at it when it ended, and that nobody has answered since.
    broken_off: AtomicU32,
    /// Requests that it left without an answer, and that nobody has answered since.
    unanswered: AtomicU32,
    /// Requests may wait for it still.
    at: Weak<Servo>,
}

/// Of [`Death::died`].
const ALIVE: u32 = u32::MAX;

/// What was seen of a servo.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// It ended, or takes no connection.
    Dead,
    /// It left a request without an answer.
    Silent,
}

/// That a request was at a servo when it died or fell silent; for ever, unless it is cleared.
pub(super) struct Suspicion {
    death: Arc<Death>,
    of: Sign,
}

impl Suspicion {
    /// A servo has answered the request: it is not what ends them.
    pub(super) fn clear(self) {
        self.death.suspects(self.of).fetch_sub(1, Ordering::AcqRel);
    }
}

impl Deaths {
    /// A request broke off at a servo of `app`, which may be its doing.
    pub(super) fn suspect(&self, app: &AppName, servo: &Arc<Servo>) -> Suspicion {
        self.was_at(app, servo, Sign::Dead)
    }

    /// A servo of `app` left a request without an answer, which may be the request's doing. It is no death before the servo is
    /// found to take no connection either.
    pub(super) fn silent(&self, app: &AppName, servo: &Arc<Servo>) -> Suspicion {
        self.was_at(app, servo, Sign::Silent)
    }

    /// A servo of `app` is dead, and nobody was at it.
    pub(super) fn found(&self, app: &AppName, servo: &Arc<Servo>) {
        Self::seen(&mut self.lock(), app, servo, Sign::Dead);
    }

    /// A servo that failed before takes no connection.
    pub(crate) fn found_again(&self, servo: &Arc<Servo>) {
        let mut all = self.lock();
        if let Some(app) = all.iter().find(|death| death.is_of(servo)).map(|death| death.app.clone()) {
            Self::seen(&mut all, &app, servo, Sign::Dead);
        }
    }

    fn was_at(&self, app: &AppName, servo: &Arc<Servo>, of: Sign) -> Suspicion {
        let mut all = self.lock();
        let death = Self::seen(&mut all, app, servo, of);
        death.suspects(of).fetch_add(1, Ordering::AcqRel);
        Suspicion { death, of }
    }

    fn seen(all: &mut VecDeque<Arc<Death>>, app: &AppName, servo: &Arc<Servo>, sign: Sign) -> Arc<Death> {
        let now = Instant::now();
        all.retain(|death| death.is_kept(now));
        if let Some(death) = all.iter().find(|death| death.is_of(servo)).cloned() {
            let passed = millis(now.duration_since(death.begun));
            death.last_seen.store(passed, Ordering::Relaxed);
            if sign == Sign::Dead && death.died_at().is_none() {
                death.died.store(passed, Ordering::Release);
            }
            return death;
        }
        if all.len() >= MOST {
            all.pop_front();
        }
        let death = Arc::new(Death::new(app.clone(), servo, now, sign));
        all.push_back(death.clone());
        death
    }

    /// How many of the app's servos have died of which a request cannot be the cause that is suspected of `own`: it was not at
    /// them, and everything that was has been answered by others since. Those of just now count. For one that servos have left
    /// without an answer since `unanswered` they count from then on, and what fell silent there with it is suspected too.
    pub(super) fn beside(&self, app: &AppName, own: &[Suspicion], unanswered: Option<Instant>) -> usize {
        let now = Instant::now();
        let recent = unanswered.map_or(RECENT, |since| RECENT.max(now.duration_since(since)));
        let speaks = |death: &&Arc<Death>| {
            death.app == *app
                && death.died_at().is_some_and(|died| (SETTLED..=recent).contains(&now.duration_since(died)))
                && death.broken_off.load(Ordering::Acquire) == 0
                && (unanswered.is_none() || death.silence_is_cleared())
                && !own.iter().any(|suspicion| suspicion.death.servo == death.servo)
        };
        self.lock().iter().filter(speaks).count()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Death>>> {
        // Each death is whole in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Death {
    fn new(app: AppName, servo: &Arc<Servo>, begun: Instant, sign: Sign) -> Self {
        Self {
            app,
            servo: (servo.id, servo.address),
            begun,
            last_seen: AtomicU32::new(0),
            died: AtomicU32::new(if sign == Sign::Dead { 0 } else { ALIVE }),
            broken_off: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            at: Arc::downgrade(servo),
        }
    }

    fn is_of(&self, servo: &Servo) -> bool {
        self.servo == (servo.id, servo.address)
    }

    /// None while nothing more is known than that it was silent.
    fn died_at(&self) -> Option<Instant> {
        let died = self.died.load(Ordering::Acquire);
        (died != ALIVE).then(|| self.begun + Duration::from_millis(died.into()))
    }

    /// Whether nothing that it left without an answer is without one still, or waits for it. Requests at a servo that ends see
    /// that in the same moment; at one whose machine is gone each waits for as long as it would have anyway.
    fn silence_is_cleared(&self) -> bool {
        self.unanswered.load(Ordering::Acquire) == 0 && self.at.upgrade().is_none_or(|servo| servo.in_flight() == 0)
    }

    /// Requests to which the servo did that, and that nobody has answered since.
    fn suspects(&self, of: Sign) -> &AtomicU32 {
        match of {
            Sign::Dead => &self.broken_off,
            Sign::Silent => &self.unanswered,
        }
    }

    fn unseen_for(&self, now: Instant) -> Duration {
        let last_seen = Duration::from_millis(self.last_seen.load(Ordering::Relaxed).into());
        now.duration_since(self.begun).saturating_sub(last_seen)
    }

    fn is_kept(&self, now: Instant) -> bool {
        self.unseen_for(now) < KEPT
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(ALIVE - 1).min(ALIVE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Picked, Route, Table, Wish};

    fn app() -> AppName {
        "shop".parse().unwrap()
    }

    /// Servos with these ids.
    fn servos(ids: std::ops::Range<u64>) -> Vec<Arc<Servo>> {
        routed(ids).2
    }

    /// With the table and the route that they are in.
    fn routed(ids: std::ops::Range<u64>) -> (Table, Arc<Route>, Vec<Arc<Servo>>) {
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
        let servos = route.target().as_ref().unwrap().servos().to_vec();
        (table, route, servos)
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
        assert_eq!(deaths.beside(&app(), &own, None), 0, "others may not have seen it yet");
        pass(SETTLED).await;
        assert_eq!(deaths.beside(&app(), &own, None), 1, "neither its own, nor another app's");
        deaths.found(&app(), &servos[1]);
        assert_eq!(deaths.beside(&app(), &own, None), 1, "it is dead already");
        pass(RECENT).await;
        deaths.found(&app(), &servos[1]);
        assert_eq!(deaths.beside(&app(), &own, None), 0);
        pass(KEPT).await;
        deaths.found(&app(), &servos[1]);
        pass(SETTLED).await;
        assert_eq!(deaths.beside(&app(), &own, None), 1, "it has lived meanwhile");
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
        assert_eq!((deaths.beside(&app(), &one, None), deaths.beside(&app(), &two, None)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_answered_speaks_for_the_others() {
        let (deaths, servos) = (Deaths::default(), servos(0..5));
        let one: Vec<_> = servos[..3].iter().map(|servo| deaths.suspect(&app(), servo)).collect();
        let other: Vec<_> = servos[2..].iter().map(|servo| deaths.suspect(&app(), servo)).collect();
        pass(SETTLED).await;
        assert_eq!(deaths.beside(&app(), &one, None), 0);
        other.into_iter().for_each(Suspicion::clear);
        assert_eq!(deaths.beside(&app(), &one, None), 2, "the third was its own too");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_left_unanswered_is_spared_by_machines_that_are_gone_and_by_nothing_that_only_hangs() {
        let (deaths, (table, mut route, servos)) = (Deaths::default(), routed(0..8));
        let begun = Instant::now();
        let own: Vec<_> = servos[..3].iter().map(|servo| deaths.silent(&app(), servo)).collect();
        let beside = || deaths.beside(&app(), &own, Some(begun));
        let harmless = deaths.silent(&app(), &servos[3]);
        pass(SETTLED).await;
        assert_eq!(beside(), 0, "it lives, and hangs");
        deaths.found_again(&servos[3]);
        pass(SETTLED).await;
        assert_eq!(beside(), 0, "what it left may have been what ends them");
        harmless.clear();
        assert_eq!(beside(), 1);
        // Another waits there still, and may be what ended it.
        let others: Vec<_> = servos.iter().filter(|servo| servo.id != servos[3].id).cloned().collect();
        let waits = table.pick(&mut route, &Wish::of(&pontoon_model::Traffic::default(), &others, None));
        assert!(matches!(&waits, Picked::Servo(at) if at.servo().id == servos[3].id), "{waits:?}");
        assert_eq!(beside(), 0);
        drop(waits);
        pass(RECENT).await;
        assert_eq!(beside(), 1, "its tries began before");
        assert_eq!(deaths.beside(&app(), &own, Some(Instant::now())), 0, "and those of another after");
        assert_eq!(deaths.beside(&app(), &own, None), 0);
        // Its own are no excuse, and nothing that another like it was left at.
        servos[..3].iter().for_each(|servo| deaths.found_again(servo));
        let _another: Vec<_> = servos[4..7].iter().map(|servo| deaths.silent(&app(), servo)).collect();
        servos[4..7].iter().for_each(|servo| deaths.found(&app(), servo));
        // Nobody knows of it.
        deaths.found_again(&servos[7]);
        pass(SETTLED).await;
        assert_eq!(beside(), 1);
        // For what broke off, silences are none of its business, as ever.
        let broken = vec![deaths.suspect(&app(), &servos[7])];
        assert_eq!(deaths.beside(&app(), &broken, None), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_may_be() {
        let (deaths, servos) = (Deaths::default(), servos(0..MOST as u64 + 10));
        servos.iter().for_each(|servo| deaths.found(&app(), servo));
        assert_eq!(deaths.lock().len(), MOST);
    }
}
