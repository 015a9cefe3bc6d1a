//! Whole tables and differences, taken in one route after the other.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard as StdMutexGuard, PoisonError};

use parking_lot::MutexGuard;
use pontoon_model::{RouteTable, RouteVersion};
use pontoon_proto::{RouteDelta, RoutePiece};

use super::route::Route;
use super::update::Updater;
use super::{ApplyError, Table};

/// A whole table that comes in pieces.
#[derive(Debug)]
pub(super) struct Whole {
    version: RouteVersion,
    /// Those that came.
    came: Vec<Arc<Route>>,
}

impl Table {
    /// Makes `table` the table.
    pub fn apply_table(&self, table: &RouteTable) -> Result<(), ApplyError> {
        self.become_table(table.version, table.routes.iter().map(|route| &**route))
    }

    /// Makes `routes`, which are all of `version`, the table.
    pub(crate) fn become_table(
        &self,
        version: RouteVersion,
        routes: impl Iterator<Item = impl Borrow<pontoon_model::Route>>,
    ) -> Result<(), ApplyError> {
        let mut turn = self.turn();
        self.begin_whole(&mut turn, version)?;
        self.take_piece(&mut turn, routes);
        self.end_whole(&mut turn);
        Ok(())
    }

    /// Takes in a piece of the table of a version. With the last one it is the table.
    pub fn apply_piece(&self, piece: &RoutePiece) -> Result<(), ApplyError> {
        let mut turn = self.turn();
        if piece.first {
            self.begin_whole(&mut turn, piece.version)?;
        }
        match &*turn {
            Some(begun) if begun.version == piece.version => {}
            Some(begun) => return Err(ApplyError::Gap { from: piece.version, have: begun.version }),
            // The first one was refused.
            None => return Ok(()),
        }
        self.take_piece(&mut turn, piece.routes.iter().map(|route| &**route));
        if piece.last {
            self.end_whole(&mut turn);
        }
        Ok(())
    }

    fn begin_whole(&self, turn: &mut Option<Whole>, version: RouteVersion) -> Result<(), ApplyError> {
        let have = self.version();
        if version < have {
            return Err(ApplyError::Older { given: version, have });
        }
        *turn = Some(Whole { version, came: Vec::new() });
        Ok(())
    }

    fn take_piece(&self, turn: &mut Option<Whole>, routes: impl Iterator<Item = impl Borrow<pontoon_model::Route>>) {
        let Some(whole) = turn else { return };
        let mut updater = self.updater.lock();
        for route in routes {
            let route = route.borrow();
            whole.came.push(updater.put(&self.routes, route));
            self.ring_beside(&route.host);
            MutexGuard::bump(&mut updater);
        }
    }

    fn end_whole(&self, turn: &mut Option<Whole>) {
        let Some(Whole { version, came }) = turn.take() else { return };
        let came: HashSet<_> = came.iter().map(Arc::as_ptr).collect();
        let mut gone = self.routes.all();
        gone.retain(|route| !came.contains(&Arc::as_ptr(route)));
        let mut updater = self.updater.lock();
        for route in gone {
            updater.take(&self.routes, &route.host);
            MutexGuard::bump(&mut updater);
        }
        self.settle(&mut updater, version);
    }

    /// Applies the difference to the version held.
    pub fn apply_delta(&self, delta: &RouteDelta) -> Result<(), ApplyError> {
        let turn = self.turn();
        let have = self.whole_version(&turn);
        if turn.is_some() || delta.from != have || delta.to < have {
            return Err(ApplyError::Gap { from: delta.from, have });
        }
        let mut updater = self.updater.lock();
        // First those that come: a servo may move there from one that goes.
        for route in &delta.changed {
            updater.put(&self.routes, route);
            self.ring_beside(&route.host);
            MutexGuard::bump(&mut updater);
        }
        for host in &delta.removed {
            updater.take(&self.routes, host);
            MutexGuard::bump(&mut updater);
        }
        self.settle(&mut updater, delta.to);
        Ok(())
    }

    /// A route has changed: whoever waits for a servo of the one that shares its requests with it looks again.
    pub(super) fn ring_beside(&self, host: &str) {
        if self.splits.is_empty() {
            return;
        }
        if let Some(sharing) = self.splits.leading_to(host).and_then(|host| self.routes.get(&host)) {
            sharing.ring();
        }
    }

    fn settle(&self, updater: &mut Updater, version: RouteVersion) {
        updater.settle(version);
        // After the removals: whoever reads this version can no longer pick what it removed.
        self.applied.store(version.0, Ordering::Release);
        self.applied_watch.send_replace(version);
    }

    /// The version of the whole table; 0 while another comes in pieces, for then it is of none.
    pub(crate) fn held(&self) -> RouteVersion {
        self.whole_version(&self.turn())
    }

    fn whole_version(&self, turn: &Option<Whole>) -> RouteVersion {
        if turn.is_some() { RouteVersion(0) } else { self.version() }
    }

    pub(super) fn turn(&self) -> StdMutexGuard<'_, Option<Whole>> {
        // Each route's change is complete in itself; a panic between them costs at most a drain.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
