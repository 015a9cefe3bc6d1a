//! The whole table as it was at one moment, made while it changes.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use pontoon_model::{RouteTable, RouteVersion};

use super::Table;
use super::packed::Packed;
use super::route::{Route, to_model};
use super::sites::Sites;

/// Every route at one version, in no order.
pub struct List {
    /// Which.
    pub version: RouteVersion,
    routes: Vec<(Arc<Route>, Packed)>,
    sites: Arc<Sites>,
}

impl List {
    /// `all` was read while routes changed; `newest` are those of them, and `noted` their host names.
    pub(super) fn new(
        version: RouteVersion,
        mut all: Vec<(Arc<Route>, Packed)>,
        noted: &HashSet<Box<str>>,
        newest: Vec<(Arc<Route>, Packed)>,
        sites: Arc<Sites>,
    ) -> Self {
        if !noted.is_empty() {
            all.retain(|(route, _)| !noted.contains(&route.host));
            all.extend(newest);
        }
        Self { version, routes: all, sites }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// As controllers send them.
    pub fn routes(&self) -> impl Iterator<Item = pontoon_model::Route> {
        self.routes.iter().map(|(route, packed)| to_model(route, packed, &self.sites))
    }
}

impl Table {
    /// The whole table as it is at one moment; none while one comes in pieces.
    pub(crate) fn list(&self) -> Option<List> {
        // A panic in here leaves nothing behind.
        let _alone = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let turn = self.turn();
            if turn.is_some() {
                return None;
            }
            self.updater.lock().begin_notes();
        }
        // Changes go on while this goes through all routes.
        let kept = |route: Arc<Route>| {
            let packed = route.packed();
            (route, packed)
        };
        let all = self.routes.all().into_iter().map(kept).collect();
        let turn = self.turn();
        let noted = self.updater.lock().end_notes();
        if turn.is_some() {
            return None;
        }
        let newest = noted.iter().filter_map(|host| self.route(host)).map(kept).collect();
        let version = self.version();
        drop(turn);
        Some(List::new(version, all, &noted, newest, self.sites.clone()))
    }

    /// The whole table as controllers send it, ordered by host name; empty while one comes in pieces.
    pub fn snapshot(&self) -> RouteTable {
        let Some(list) = self.list() else { return RouteTable::default() };
        let mut routes: Vec<_> = list.routes().map(Arc::new).collect();
        routes.sort_by(|one, other| one.host.cmp(&other.host));
        RouteTable { version: list.version, routes }
    }
}
