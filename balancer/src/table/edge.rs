//! The part of a controller's word that is not routes: domains, apps' settings, certificates, keys, ports and splits, at one version.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_model::{AppName, EdgeEntry, EdgeKey, EdgeTable, PortSettings, RouteVersion};

/// All entries, as the controllers sent them.
#[derive(Debug, Default)]
pub(super) struct Edge {
    version: RouteVersion,
    entries: BTreeMap<EdgeKey, Arc<EdgeEntry>>,
}

/// One entry that has another value now, or none.
pub(super) enum Change<'a> {
    Put(&'a Arc<EdgeEntry>),
    Take(&'a EdgeKey),
}

/// Where a port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEntry {
    /// Whose it is.
    pub app: AppName,
    /// The name of the route that answers for it.
    pub route: String,
    /// How its connections are treated.
    pub settings: PortSettings,
}

impl Edge {
    pub(super) fn version(&self) -> RouteVersion {
        self.version
    }

    /// The ports that lead to apps.
    pub(super) fn ports(&self) -> BTreeMap<u16, PortEntry> {
        let of_ports = self.entries.range(EdgeKey::Port(0)..).map(|(_, entry)| entry);
        let entry = |entry: &Arc<EdgeEntry>| match &**entry {
            EdgeEntry::Port { port, app, route, settings } => {
                Some((*port, PortEntry { app: app.clone(), route: route.clone(), settings: *settings }))
            }
            // Those behind the ports.
            _ => None,
        };
        of_ports.filter_map(entry).collect()
    }

    /// All of it.
    pub(super) fn table(&self) -> EdgeTable {
        EdgeTable { version: self.version, entries: self.entries.values().cloned().collect() }
    }

    /// Becomes `table`; each difference is told to `tell`.
    pub(super) fn become_table(&mut self, table: &EdgeTable, mut tell: impl FnMut(Change<'_>)) {
        let new: BTreeMap<_, _> = table.entries.iter().map(|entry| (entry.key(), entry.clone())).collect();
        for gone in self.entries.keys().filter(|key| !new.contains_key(*key)) {
            tell(Change::Take(gone));
        }
        for (_, entry) in new.iter().filter(|(key, entry)| self.entries.get(*key) != Some(entry)) {
            tell(Change::Put(entry));
        }
        self.entries = new;
        self.version = table.version;
    }

    /// Takes in a difference.
    pub(super) fn change(
        &mut self,
        to: RouteVersion,
        changed: &[Arc<EdgeEntry>],
        removed: &[EdgeKey],
        mut tell: impl FnMut(Change<'_>),
    ) {
        for key in removed {
            if self.entries.remove(key).is_some() {
                tell(Change::Take(key));
            }
        }
        for entry in changed {
            self.entries.insert(entry.key(), entry.clone());
            tell(Change::Put(entry));
        }
        self.version = to;
    }
}
