//! What this controller hears, on its way to the leader's memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_kit::CancellationToken;
use pontoon_model::{BalancerName, ControllerId, HostName, Incarnation, RouteVersion};
use pontoon_proto::{BalancerAck, Heartbeat, PortReport, RelayBatch};
use tokio::sync::{Notify, watch};
use tonic::Request;

use crate::leader::LeaderMemory;
use crate::raft::{Leadership, Peers, StateFeed};

/// How often heartbeats go to the leader: five batches a second whatever the number of agents.
const BATCH_EVERY: Duration = Duration::from_millis(200);
/// The leader answers from memory; longer means it is gone, and the next batch is due anyway.
const ANSWER: Duration = Duration::from_secs(1);

/// Longest reason kept of a balancer that cannot listen on a port, in bytes.
const MAX_PROBLEM: usize = 500;

/// What was heard since the last batch. One row per open session at most.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Table {
    hosts: BTreeMap<HostName, (Incarnation, Heartbeat)>,
    balancers: BTreeMap<BalancerName, BalancerAck>,
    /// The newest acknowledgement of each connected balancer, for people.
    last_acks: BTreeMap<BalancerName, BalancerAck>,
    /// How far each connected balancer is of what there is besides the routes; for the leader when it asks.
    edge: BTreeMap<BalancerName, RouteVersion>,
    /// What each connected balancer last said of its ports, for people.
    ports: BTreeMap<BalancerName, BTreeMap<u16, Option<String>>>,
}

impl Heard {
    /// An agent gave a sign of life.
    pub fn host(&self, name: &HostName, incarnation: Incarnation, heartbeat: Heartbeat) {
        self.lock().hosts.insert(name.clone(), (incarnation, heartbeat));
    }

    /// A balancer said how far it is. News goes to the leader at once: a deployment waits for it.
    pub fn balancer(&self, name: &BalancerName, ack: BalancerAck) {
        let mut table = self.lock();
        table.balancers.insert(name.clone(), ack);
        let news = table.last_acks.insert(name.clone(), ack) != Some(ack);
        drop(table);
        if news {
            self.inner.urgent.notify_one();
        }
    }

    /// A balancer has this version of what there is besides the routes; 0 at the begin of its session.
    pub fn balancer_edge(&self, name: &BalancerName, version: RouteVersion) {
        self.lock().edge.insert(name.clone(), version);
    }

    /// The balancers connected here that follow what there is besides the routes, and how far each is.
    pub fn edge_progress(&self) -> Vec<(BalancerName, RouteVersion)> {
        self.lock().edge.iter().map(|(name, version)| (name.clone(), *version)).collect()
    }

    /// A balancer's session ended.
    pub fn balancer_left(&self, name: &BalancerName) {
        let mut table = self.lock();
        table.last_acks.remove(name);
        table.edge.remove(name);
        table.ports.remove(name);
    }

    /// A balancer said which ports it listens on.
    pub fn balancer_ports(&self, name: &BalancerName, reports: Vec<PortReport>) {
        let clipped = |mut problem: String| {
            problem.truncate(problem.floor_char_boundary(MAX_PROBLEM));
            problem
        };
        let ports = reports.into_iter().map(|report| (report.port, report.problem.map(clipped))).collect();
        self.lock().ports.insert(name.clone(), ports);
    }

    /// Why a balancer that is connected here does not listen on a port, if it does not; none if it has not said.
    pub fn port_at(&self, name: &BalancerName, port: u16) -> Option<Option<String>> {
        self.lock().ports.get(name)?.get(&port).cloned()
    }

    /// What a balancer that is connected here last said.
    pub fn last_ack(&self, name: &BalancerName) -> Option<BalancerAck> {
        self.lock().last_acks.get(name).copied()
    }

    fn take(&self, from: ControllerId) -> RelayBatch {
        let mut table = self.lock();
        RelayBatch {
            from,
            hosts: std::mem::take(&mut table.hosts).into_iter().map(|(name, (i, beat))| (name, i, beat)).collect(),
            balancers: std::mem::take(&mut table.balancers).into_iter().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Plain data: a panic elsewhere leaves it usable.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what was heard to the leader's memory, wherever that is.
pub struct Relay {
    /// This controller.
    pub own: ControllerId,
    /// What was heard.
    pub heard: Heard,
    /// Where it goes while this controller leads.
    pub memory: LeaderMemory,
    /// Where it goes otherwise.
    pub peers: Peers,
    /// Knows who is registered.
    pub feed: StateFeed,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
}

impl Relay {
    /// Ends at shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = self.heard.inner.urgent.notified() => {}
                () = tokio::time::sleep(BATCH_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
            let batch = self.heard.take(self.own);
            if !batch.hosts.is_empty() || !batch.balancers.is_empty() {
                self.send(batch).await;
            }
        }
    }

    async fn send(&self, batch: RelayBatch) {
        let now = *self.leadership.borrow();
        if now.leading {
            self.memory.hear(&batch, &self.feed.snapshot(), self.feed.now());
        } else if let Some(leader) = now.leader.and_then(|leader| self.peers.get(leader)) {
            let mut request = Request::new(batch);
            request.set_timeout(ANSWER);
            // What is lost is said again within a second; said late, it would pass for a fresh sign of life.
            if let Err(status) = leader.client().relay(request).await {
                tracing::debug!(leader = %leader.name(), %status, "the leader did not take what was heard");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use pontoon_model::{MemoryBytes, RouteVersion};

    #[tokio::test]
    async fn a_batch_holds_the_newest_of_each_and_only_new_acknowledgements_are_urgent() {
        let heard = Heard::default();
        let (host, balancer): (HostName, BalancerName) = ("h".parse().unwrap(), "b".parse().unwrap());
        let urgent = || heard.inner.urgent.notified().now_or_never().is_some();
        let ack = |applied| BalancerAck { applied: RouteVersion(applied), drained: RouteVersion(0) };
        for sequence in 1..=2 {
            heard.host(&host, Incarnation(1), Heartbeat { sequence, free_memory: MemoryBytes(0) });
        }
        assert!(!urgent());
        heard.balancer(&balancer, ack(1));
        assert!(urgent());
        heard.balancer(&balancer, ack(1));
        assert!(!urgent());
        heard.balancer(&balancer, ack(2));
        assert!(urgent());

        let batch = heard.take(ControllerId(1));
        assert_eq!(batch.hosts, vec![(host, Incarnation(1), Heartbeat { sequence: 2, free_memory: MemoryBytes(0) })]);
        assert_eq!(batch.balancers, vec![(balancer.clone(), ack(2))]);
        assert!(heard.take(ControllerId(1)).hosts.is_empty());

        assert_eq!(heard.last_ack(&balancer), Some(ack(2)));
        heard.balancer_edge(&balancer, RouteVersion(0));
        heard.balancer_edge(&balancer, RouteVersion(7));
        assert_eq!(heard.edge_progress(), [(balancer.clone(), RouteVersion(7))]);
        heard.balancer_left(&balancer);
        assert_eq!(heard.edge_progress(), []);
        assert_eq!(heard.last_ack(&balancer), None);
    }
}
