//! A cluster that begins anew with what another held: from a backup, or from the one copy that is left of it.
//!
//! What the other did after that copy was made is not known here, and its members may still run. So nothing that the new
//! one counts may be counted a second time: indexes, generations of assignments, route versions and ids go on far above all
//! that the other can have reached, in the next epoch ([`pontoon_model::epoch`]). Agents and balancers take nothing that is
//! older than what they have, so they never fall back to the other. And its controllers' keys are revoked.

use std::sync::Arc;

use imbl::OrdMap;
use pontoon_model::epoch::{beginning_of, epoch_of};
use pontoon_model::wire::Wire;
use pontoon_model::{EdgeStamp, Host, Machine, MachineRole, RevokedKey, RouteVersion, Timestamp};

use super::State;
use crate::level;

/// Ids go on at the multiple after the next: this is more than a cluster gives between two backups, and still readable.
const IDS: u64 = 1_000_000;

impl State {
    /// The last id given to a servo, build or deployment.
    pub fn last_id(&self) -> u64 {
        self.header.last_id
    }

    /// How often this cluster has begun anew.
    pub fn epoch(&self) -> u64 {
        epoch_of(self.header.index)
    }

    /// The same state at the beginning of the next epoch. Its controllers are gone and their keys revoked, all but `own`'s,
    /// the machine of the first controller of the new cluster.
    pub fn begun_anew(mut self, own: Option<Machine>, now: Timestamp) -> Self {
        // When it begins is the wall clock's word: the times of two copies of one cluster say nothing of which was used first.
        let index = beginning_of(self.epoch() + 1, now);
        self.header.index = index;
        self.header.time = self.header.time.max(now);
        self.header.route_version = RouteVersion(index);
        self.header.last_id = (self.header.last_id / IDS + 2) * IDS;
        self.controllers = OrdMap::new();
        // Each agent takes an assignment that is newer than the one it has.
        let newer = |host: &Host| Arc::new(Host { generation: index, ..host.clone() });
        self.hosts = self.hosts.iter().map(|(name, host)| (name.clone(), newer(host))).collect();
        // And each balancer a table of what it knows besides the routes, if the members can read that there is one.
        if self.header.feature_level >= level::needed(EdgeStamp::KIND, EdgeStamp::VERSION) {
            self.change_edge(|_| ());
        }
        let time = self.header.time;
        self.change_trust(|trust| {
            let former = trust.machines.iter().filter(|((role, _), _)| *role == MachineRole::Controller);
            let former: Vec<_> = former.map(|(id, row)| (id.clone(), row.clone())).collect();
            for (id, row) in former {
                trust.machines.remove(&id);
                if own.as_ref().is_none_or(|own| own.key != row.key) {
                    let revoked = RevokedKey {
                        key: row.key,
                        role: row.role,
                        name: row.name.clone(),
                        revoked_at: time,
                        certificate_ends: row.certificate_ends,
                    };
                    trust.revoked.insert(row.key, revoked.into());
                }
            }
            if let Some(own) = own {
                trust.machines.insert((own.role, own.name.clone()), own.into());
            }
        });
        self.rebuild_indexes();
        self
    }
}
