//! One request's way from servo to servo: which is next, when to wait for one, when to give up. The same whichever way the
//! request is carried.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::Backoff;
use pontoon_model::{Route as RouteModel, ServoId, SiteName};
use tokio::time::{self, Instant};

use super::deaths::Suspicion;
use super::forward::Sides;
use super::pages::Page;
use crate::peers::Peer;
use crate::table::{Draw, Failure, InFlight, Picked, Route, Servo, Wish};

/// A request that ended the processes (or the patience) of as many servos is sent to no further one: it is what is wrong.
/// Unless others die without it: one more for each of these (docs/decisions/0024).
const MOST_KILLED: usize = 3;
/// So long it waits for others to die: servos that lose their machine or their network end within a moment, and what happens in
/// the last part of it has not settled ([`super::deaths`]).
const SUSPENDED: Duration = Duration::from_millis(250);
/// And so long one that servos have left without an answer: whether one of a silent servo's machine is gone is known when a new
/// connection has been waited for in vain ([`crate::health`]).
const SUSPENDED_BY_SILENCE: Duration = Duration::from_millis(1_500);
/// It looks as often.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// However many die: on more servos no request is tried that it may have ended. Balancers can tell each other of a hundred
/// ([`super::hop`]).
const MOST_SPARED: usize = 64;

/// A servo at which the connection broke is not asked again before its agent may have started it again: so long what takes
/// connections in its place has nothing behind it (Docker's port proxy goes on for a moment), and to find that three times would be
/// taken for the end of three processes.
const RESTARTED: Duration = Duration::from_secs(1);

/// While all servos of an app refuse connections they are tried again after this, twice as long each time: a restarted
/// process of a servo needs a moment to listen.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Whose servos may answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everywhere,
    OwnSite,
}

/// Whom to ask next.
pub(super) enum Next {
    Servo(InFlight),
    /// A balancer of another site, which asks one there: this one, if it matters which.
    Peer(Arc<Peer>, Option<ServoId>),
}

/// What was tried so far.
pub(super) struct Attempts {
    scope: Scope,
    /// Where the client's session is.
    pub(super) session: Option<ServoId>,
    pub(super) tried: Vec<Arc<Servo>>,
    /// Balancers of other sites that could not be asked, or broke their connection.
    pub(super) lost: Vec<Arc<Peer>>,
    /// Sites whose servos have all had their chance.
    pub(super) spent: Vec<SiteName>,
    /// Tries after which the servo's connection broke, or no answer came.
    pub(super) killed: usize,
    /// Servos that ended a connection before they had answered, and when.
    ended: Vec<(Arc<Servo>, Instant)>,
    /// When that was last heard of another site's.
    pub(super) ended_elsewhere: Option<Instant>,
    /// The last of them was one without an answer in time.
    pub(super) timed_out: bool,
    /// Servos that did not answer in time: they may be at work on it still, and are not given it twice.
    late: Vec<Arc<Servo>>,
    /// The same of other sites' servos, by site.
    late_sites: Vec<SiteName>,
    /// Of the deaths that it was at, and of the servos that left it without an answer.
    suspicions: Vec<Suspicion>,
    /// When the first try began that was left without an answer.
    unanswered_since: Option<Instant>,
    /// Until when the request waits for a servo, once it does.
    until: Option<Instant>,
    pauses: Backoff,
    /// Which release it goes to, where there are two.
    draw: Draw,
}

impl Attempts {
    pub(super) fn new(session: Option<ServoId>) -> Self {
        let pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self {
            scope: Scope::Everywhere,
            session,
            tried: Vec::new(),
            lost: Vec::new(),
            spent: Vec::new(),
            killed: 0,
            ended: Vec::new(),
            ended_elsewhere: None,
            timed_out: false,
            late: Vec::new(),
            late_sites: Vec::new(),
            suspicions: Vec::new(),
            unanswered_since: None,
            until: None,
            pauses,
            draw: Draw::default(),
        }
    }

    /// Those of a request that came from another site's balancer: a servo of this site answers, or none.
    pub(super) fn of_peer(session: Option<ServoId>, killed: usize) -> Self {
        Self { scope: Scope::OwnSite, killed, ..Self::new(session) }
    }

    /// Whom to ask now, if there is anybody: a servo of this site; of another by a balancer there, and itself only if none can
    /// be asked.
    pub(super) fn pick_now(&self, sides: &Sides<'_>, route: &mut Arc<Route>) -> Result<Next, Picked> {
        let (table, peers) = (&sides.worker.table, sides.worker.table.peers());
        let within = (self.scope == Scope::OwnSite).then(|| peers.own_site());
        let wish = Wish {
            spent: &self.spent,
            within,
            draw: Some(&self.draw),
            ..Wish::of(&sides.settings.traffic, &self.tried, self.session)
        };
        let in_flight = match table.pick(route, &wish) {
            Picked::Servo(in_flight) => in_flight,
            Picked::Exhausted if within.is_none() && !peers.is_empty() => {
                let left = peers.in_vain(&self.sites_beyond(sides, route), &self.lost);
                return left.map(|peer| Next::Peer(peer, self.session)).ok_or(Picked::Exhausted);
            }
            other => return Err(other),
        };
        let servo = in_flight.servo();
        if within.is_some() || servo.site == *peers.own_site() || peers.is_empty() {
            return Ok(Next::Servo(in_flight));
        }
        // Which release answers was decided with the servo; the balancer there would draw once more.
        let wanted = table.is_split(route).then_some(servo.id).or(self.session);
        let sites = match route.target().as_ref() {
            Some(target) if wanted != Some(servo.id) => target.sites_like(servo, &wish),
            _ => vec![servo.site.clone()],
        };
        let peer = peers.toward(&sites, &self.lost);
        Ok(peer.map_or(Next::Servo(in_flight), |peer| Next::Peer(peer, wanted)))
    }

    /// The other sites that have servos of the route and have not had their chance.
    pub(super) fn sites_beyond(&self, sides: &Sides<'_>, route: &Route) -> Vec<SiteName> {
        let (own, target) = (sides.worker.table.peers().own_site(), route.target());
        target.as_ref().map(|target| target.sites_beyond(own, &self.spent)).unwrap_or_default()
    }

    /// The next servo after [`Attempts::pick_now`] found none: waits for one as long as the app allows, unless the client has
    /// an answer already (`answered`). Or what to say when there is none.
    pub(super) async fn wait(
        &mut self,
        sides: &Sides<'_>,
        route: &mut Arc<Route>,
        found: Picked,
        answered: bool,
    ) -> Result<Next, Page> {
        let hold = Duration::from_millis(sides.settings.traffic.hold_ms.into());
        // A peer's request waits where it came in.
        if answered || hold.is_zero() || self.scope == Scope::OwnSite || !self.may_pass(&found) {
            return Err(self.page(sides, found));
        }
        'route: loop {
            let waited = route.clone();
            let Some(waiting) = waited.wait() else { return Err(Page::Crowded { host: sides.host.to_owned() }) };
            loop {
                // Made before looking, so that no change is missed.
                let mut again = pin!(waiting.again());
                again.as_mut().enable();
                let found = match self.pick_now(sides, route) {
                    Ok(next) => return Ok(next),
                    Err(found) => found,
                };
                let until = *self.until.get_or_insert_with(|| Instant::now() + hold);
                if !self.may_pass(&found) || Instant::now() >= until {
                    return Err(self.page(sides, found));
                }
                let exhausted = matches!(found, Picked::Exhausted);
                let wake = if exhausted { (Instant::now() + self.pauses.wait()).min(until) } else { until };
                tokio::select! {
                    () = again => {}
                    () = time::sleep_until(wake) => {}
                }
                if exhausted {
                    self.let_come_back();
                }
                // A route that left the table rings a last time; the one in its place is another.
                match sides.worker.table.route(&route.host) {
                    Some(newer) if !Arc::ptr_eq(&newer, route) => {
                        *route = newer;
                        continue 'route;
                    }
                    Some(_) => {}
                    None => return Err(Page::UnknownHost(sides.host.to_owned())),
                }
            }
        }
    }

    /// Those that were tried have had time to come back, but for those that have just ended, or never answered.
    fn let_come_back(&mut self) {
        let just = |at: &Instant| at.elapsed() < RESTARTED;
        let (ended, late) = (&self.ended, &self.late);
        let is_late = |servo: &_| late.iter().any(|one| Arc::ptr_eq(one, servo));
        let has_just_ended = |servo: &_| ended.iter().any(|(one, at)| Arc::ptr_eq(one, servo) && just(at));
        self.tried.retain(|servo| is_late(servo) || has_just_ended(servo));
        self.lost.clear();
        if !self.ended_elsewhere.as_ref().is_some_and(just) {
            self.spent.clone_from(&self.late_sites);
        }
    }

    /// The servos of `site` did not answer in time.
    pub(super) fn late_at(&mut self, site: &SiteName) {
        self.late_sites.push(site.clone());
        self.spent.push(site.clone());
    }

    /// A servo answered, and another shall be asked all the same.
    pub(super) fn pass_over(&mut self, servo: Arc<Servo>) {
        self.tried.push(servo);
    }

    /// A servo failed. `repeatable`: whether the request may be sent although it may have been sent before. What to say if
    /// no other may be asked.
    pub(super) async fn failed(
        &mut self,
        sides: &Sides<'_>,
        route: &Route,
        in_flight: InFlight,
        failure: Failure,
        repeatable: bool,
    ) -> Result<(), Page> {
        let servo = in_flight.servo().clone();
        if servo.failed(failure) {
            sides.worker.watcher.watch(&servo, failure, sides.host);
        }
        let (deaths, app) = (&sides.worker.deaths, &route.app.name);
        let was_there = match failure {
            // Ports' connections alone end like that.
            Failure::Unreached | Failure::Ended => {
                deaths.found(app, &servo);
                false
            }
            Failure::Broken => {
                self.suspicions.push(deaths.suspect(app, &servo));
                self.ended.push((servo.clone(), Instant::now()));
                true
            }
            Failure::TimedOut => {
                self.suspicions.push(deaths.silent(app, &servo));
                self.late.push(servo.clone());
                let waited = Duration::from_millis(sides.settings.traffic.first_byte_ms.into());
                self.unanswered_since
                    .get_or_insert_with(|| Instant::now().checked_sub(waited).unwrap_or_else(Instant::now));
                true
            }
        };
        // What it may wait for now does not end sooner for that.
        drop(in_flight);
        self.tried.push(servo);
        if !was_there {
            return Ok(());
        }
        self.killed += 1;
        self.timed_out = failure == Failure::TimedOut;
        match self.give_up(sides, repeatable) {
            Some(_) if repeatable && self.is_spared(sides, route).await => Ok(()),
            Some(page) => Err(page),
            None => Ok(()),
        }
    }

    /// Whether it is an outage that the request has met so often: waits a moment for servos to die that it was not at.
    async fn is_spared(&self, sides: &Sides<'_>, route: &Route) -> bool {
        if self.killed > self.suspicions.len() || self.killed >= MOST_SPARED {
            return false;
        }
        let since = self.unanswered_since;
        let until = Instant::now() + if since.is_some() { SUSPENDED_BY_SILENCE } else { SUSPENDED };
        loop {
            if self.killed < MOST_KILLED + sides.worker.deaths.beside(&route.app.name, &self.suspicions, since) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A servo has answered: the request was not what ended the others.
    pub(super) fn answered(&mut self) {
        self.suspicions.drain(..).for_each(Suspicion::clear);
    }

    /// After the request was sent, and no answer came: what to say, unless it may be sent to yet another.
    pub(super) fn give_up(&self, sides: &Sides<'_>, repeatable: bool) -> Option<Page> {
        (!repeatable || self.killed >= MOST_KILLED).then(|| self.lost(sides))
    }

    /// Whether there may be a servo soon. Who had no answer in time of any has waited long enough.
    fn may_pass(&self, found: &Picked) -> bool {
        match found {
            Picked::Exhausted => {
                let (late, tried) =
                    (self.late.len() + self.late_sites.len(), self.tried.len() + self.lost.len() + self.spent.len());
                late == 0 || late < tried
            }
            Picked::Full => true,
            Picked::Empty(reason) => reason == RouteModel::NOT_READY,
            Picked::Servo(_) | Picked::Gone => false,
        }
    }

    /// The request was sent, and what became of it is not known.
    fn lost(&self, sides: &Sides<'_>) -> Page {
        let host = sides.host.to_owned();
        if self.timed_out {
            return Page::TimedOut { host, millis: sides.settings.traffic.first_byte_ms };
        }
        // One that was asked more than once is still one.
        let mut ended: Vec<_> = self.ended.iter().map(|(servo, _)| servo.id).collect();
        ended.sort_unstable();
        ended.dedup();
        Page::Broken { host, servos: self.killed.saturating_sub(self.ended.len()) + ended.len() }
    }

    fn page(&self, sides: &Sides<'_>, found: Picked) -> Page {
        let host = sides.host.to_owned();
        match found {
            Picked::Servo(_) | Picked::Gone => Page::UnknownHost(host),
            Picked::Empty(reason) => Page::NoServo { host, reason },
            Picked::Full => Page::Crowded { host },
            Picked::Exhausted if self.killed > 0 => self.lost(sides),
            Picked::Exhausted => Page::Unreachable { host, tried: self.tried.len() + self.spent.len() },
        }
    }
}
