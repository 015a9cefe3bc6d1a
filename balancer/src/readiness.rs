//! Whether users should be sent here: what health checks of DNS services and load balancers ask.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pontoon_kit::CancellationToken;
use pontoon_model::{AppName, RouteVersion};

use crate::table::{Route, Table};

/// How long an answer counts: anybody may ask as often as they like, and what it is about changes no faster.
const COUNTS_FOR: Duration = Duration::from_secs(1);

/// Why users should be sent elsewhere. Anybody may read it, so it names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("this balancer is stopping")]
    Stopping,
    #[error("this balancer has not heard of any routes yet")]
    NoRoutes,
    #[error("no servo of any app can be reached from here")]
    NoServo,
    #[error("no servo of this app can be reached from here, or there is no such app")]
    NoServoOfApp,
}

/// Answers whether this site can serve.
pub(crate) struct Readiness {
    table: Arc<Table>,
    /// Cancelled when this balancer takes no more requests.
    serving: CancellationToken,
    seen: Mutex<Seen>,
}

/// What was found last.
#[derive(Default)]
struct Seen {
    any: Option<(Instant, bool)>,
    /// Those with a servo that can be reached; looked for only when somebody asks for one.
    apps: Option<(Instant, HashSet<AppName>)>,
}

impl Readiness {
    pub(crate) fn new(table: Arc<Table>, serving: CancellationToken) -> Self {
        Self { table, serving, seen: Mutex::default() }
    }

    /// Whether a request for the app, or for any, would find a servo, as far as is known.
    pub(crate) fn check(&self, app: Option<&str>) -> Result<(), NotReady> {
        if self.serving.is_cancelled() {
            return Err(NotReady::Stopping);
        }
        if self.table.version() == RouteVersion(0) {
            return Err(NotReady::NoRoutes);
        }
        let fresh = |at: &Instant| at.elapsed() < COUNTS_FOR;
        // What a panic has left is found again within a second.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match app {
            None => {
                let known = seen.any.filter(|(at, _)| fresh(at)).map(|(_, ready)| ready);
                let ready = known.unwrap_or_else(|| self.table.any_route(|route| self.is_reached(route)));
                if known.is_none() {
                    seen.any = Some((Instant::now(), ready));
                }
                if ready { Ok(()) } else { Err(NotReady::NoServo) }
            }
            Some(name) => {
                let name: AppName = name.parse().map_err(|_| NotReady::NoServoOfApp)?;
                if seen.apps.as_ref().is_none_or(|(at, _)| !fresh(at)) {
                    seen.apps = Some((Instant::now(), self.reached_apps()));
                }
                let ready = seen.apps.as_ref().is_some_and(|(_, apps)| apps.contains(&name));
                if ready { Ok(()) } else { Err(NotReady::NoServoOfApp) }
            }
        }
    }

    fn reached_apps(&self) -> HashSet<AppName> {
        let mut apps = HashSet::new();
        self.table.any_route(|route| {
            if self.is_reached(route) {
                apps.insert(route.app.name.clone());
            }
            false
        });
        apps
    }

    /// Whether one of its servos takes requests: of this site itself, of another through its balancers if it has any.
    fn is_reached(&self, route: &Route) -> bool {
        let peers = self.table.peers();
        self.table.any_servo(route, |site, servo| {
            let by_peer = if *site == *peers.own_site() { None } else { peers.answers(site) };
            // Nobody has asked one that sleeps.
            by_peer.unwrap_or_else(|| servo.is_none_or(|servo| !servo.is_avoided()))
        })
    }
}

#[cfg(test)]
mod tests {
    use pontoon_model::{RouteTable, SiteName};

    use super::*;

    #[test]
    fn one_that_stops_says_so_first() {
        let table = Arc::new(Table::new(SiteName::new("here").unwrap()));
        let serving = CancellationToken::new();
        let readiness = Readiness::new(table.clone(), serving.clone());
        assert_eq!(readiness.check(None), Err(NotReady::NoRoutes));
        table.apply_table(&RouteTable { version: RouteVersion(1), routes: Vec::new() }).unwrap();
        assert_eq!(readiness.check(None), Err(NotReady::NoServo));
        assert_eq!(readiness.check(Some("shop")), Err(NotReady::NoServoOfApp));
        serving.cancel();
        assert_eq!(readiness.check(None), Err(NotReady::Stopping));
    }
}
