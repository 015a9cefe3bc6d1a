//! What differs between two versions of the state, at the cost of what differs: they share what is the same.

use std::collections::BTreeSet;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use pontoon_model::AppName;

use super::State;

/// Both sides of every row that differs.
fn rows<'a, K: Ord, V: PartialEq>(old: &'a OrdMap<K, V>, new: &'a OrdMap<K, V>) -> impl Iterator<Item = &'a V> {
    old.diff(new)
        .flat_map(|item| match item {
            DiffItem::Add(_, row) | DiffItem::Remove(_, row) => [Some(row), None],
            DiffItem::Update { old: (_, before), new: (_, after) } => [Some(before), Some(after)],
        })
        .flatten()
}

impl State {
    /// The apps whose route may be another than in `old`.
    pub(crate) fn apps_routed_otherwise(&self, old: &Self) -> BTreeSet<AppName> {
        let apps = rows(&old.apps, &self.apps).map(|app| &app.name);
        let deployments = rows(&old.deployments, &self.deployments).map(|row| &row.app);
        let servos = rows(&old.servos, &self.servos).map(|servo| &servo.app);
        // A route says of each servo whether its host is silent.
        let hosts = rows(&old.hosts, &self.hosts).map(|host| &host.name).collect::<BTreeSet<_>>();
        let state_of = |state: &Self, host| state.host(host).map(|host| host.state);
        let other = hosts.into_iter().filter(|host| state_of(old, host) != state_of(self, host));
        let on_hosts = other.flat_map(|host| self.servos_on(host)).map(|servo| &servo.app);
        let beside = rows(&old.edge.beside, &self.edge.beside).map(|row| &row.app);
        let ports = rows(&old.edge.ports, &self.edge.ports).map(|row| &row.app);
        apps.chain(deployments).chain(servos).chain(on_hosts).chain(ports).chain(beside).cloned().collect()
    }
}
