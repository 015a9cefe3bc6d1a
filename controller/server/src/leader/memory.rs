//! Signs of life: in the leader's memory only, never replicated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_core::{BalancerSign, HostSign, Observed, State};
use pontoon_model::Timestamp;
use pontoon_proto::RelayBatch;
use tokio::sync::Notify;

/// A host that comes back after this much silence is news for the planner: it may have been marked as suspect.
const NEWS_AFTER: Duration = Duration::from_secs(2);

/// The leader's [`Observed`], shared between those who hear and the planner.
#[derive(Debug, Clone, Default)]
pub struct LeaderMemory {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    // Shared with a plan while it is made; who hears meanwhile copies it.
    observed: Mutex<Arc<Observed>>,
    news: Notify,
}

impl LeaderMemory {
    /// Forgets everything: a new leader has heard nobody yet.
    pub fn clear(&self) {
        *self.lock() = Arc::default();
    }

    /// What has been heard.
    pub fn observed(&self) -> Arc<Observed> {
        self.lock().clone()
    }

    /// Waits for something that may change a plan; a repeated heartbeat does not.
    pub async fn news(&self) {
        self.inner.news.notified().await;
    }

    /// Takes in what a controller heard. Only who is registered is remembered, so the table is bounded.
    pub fn hear(&self, batch: &RelayBatch, state: &State, now: Timestamp) {
        let mut shared = self.lock();
        let observed = Arc::make_mut(&mut shared);
        let mut news = false;
        for (name, incarnation, heartbeat) in &batch.hosts {
            if state.host(name).is_none() {
                continue;
            }
            let sign = HostSign { incarnation: *incarnation, heard_at: now, free_memory: heartbeat.free_memory };
            let before = observed.hosts.get(name).copied();
            // An older start of the agent, relayed late, is no sign of the newer one.
            if before.is_some_and(|before| before.incarnation > *incarnation) {
                continue;
            }
            news |= before
                .is_none_or(|before| before.incarnation != *incarnation || now.since(before.heard_at) > NEWS_AFTER);
            observed.hosts.insert(name.clone(), sign);
        }
        for (name, ack) in &batch.balancers {
            if state.balancer(name).is_none() {
                continue;
            }
            let sign = BalancerSign { applied: ack.applied, drained: ack.drained, heard_at: now };
            let before = observed.balancers.insert(name.clone(), sign);
            news |= before.is_none_or(|before| (before.applied, before.drained) != (ack.applied, ack.drained));
        }
        // All in it were registered when they were heard, so it has too many only if there are more than are registered.
        if observed.hosts.len() > state.host_count() {
            observed.hosts.retain(|name, _| state.host(name).is_some());
        }
        if observed.balancers.len() > state.balancer_count() {
            observed.balancers.retain(|name, _| state.balancer(name).is_some());
        }
        drop(shared);
        if news {
            self.inner.news.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Observed>> {
        // Plain data: a panic elsewhere leaves it usable.
        self.inner.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_core::{Command, Entry, Stamped, command};
    use pontoon_model::{
        BalancerName, Capacity, ControllerId, HostName, IdempotencyKey, Incarnation, MemoryBytes, RouteVersion,
        RuntimeKind,
    };
    use pontoon_proto::{BalancerAck, Heartbeat};

    fn state() -> State {
        let host = command::RegisterHost {
            name: "h".parse().unwrap(),
            site: "s".parse().unwrap(),
            incarnation: Incarnation(1),
            capacity: Capacity::default(),
            runtime: RuntimeKind::Process,
        };
        let balancer = command::RegisterBalancer {
            name: "b".parse().unwrap(),
            site: "s".parse().unwrap(),
            listen: "127.0.0.1:80".parse().unwrap(),
        };
        let commands = [Command::from(host), balancer.into()];
        let stamped = |(n, command)| Stamped { key: IdempotencyKey(n as u128), command };
        let mut state = State::default();
        let entry = Entry { time: Timestamp(1), commands: commands.into_iter().enumerate().map(stamped).collect() };
        state.apply(1, &entry).into_iter().for_each(|outcome| assert!(outcome.is_ok()));
        state
    }

    fn batch(host: &str, incarnation: u64, balancer: &str, applied: u64) -> RelayBatch {
        let host: HostName = host.parse().unwrap();
        let balancer: BalancerName = balancer.parse().unwrap();
        let ack = BalancerAck { applied: RouteVersion(applied), drained: RouteVersion(0) };
        RelayBatch {
            from: ControllerId(1),
            hosts: vec![(host, Incarnation(incarnation), Heartbeat { sequence: 1, free_memory: MemoryBytes(0) })],
            balancers: vec![(balancer, ack)],
        }
    }

    async fn has_news(memory: &LeaderMemory) -> bool {
        use futures_util::FutureExt;
        memory.news().now_or_never().is_some()
    }

    #[tokio::test]
    async fn only_what_may_change_a_plan_is_news() {
        let (memory, state) = (LeaderMemory::default(), state());
        let at = |seconds: u64| Timestamp(seconds * 1000);
        let cases = [
            ("first sign", batch("h", 1, "b", 0), at(1), true),
            ("heartbeat", batch("h", 1, "b", 0), at(2), false),
            ("acknowledged", batch("h", 1, "b", 7), at(3), true),
            ("after silence", batch("h", 1, "b", 7), at(6), true),
            ("new start", batch("h", 2, "b", 7), at(7), true),
            ("late from the old start", batch("h", 1, "b", 7), at(8), false),
            ("strangers", batch("x", 1, "y", 9), at(9), false),
        ];
        for (name, batch, now, news) in cases {
            memory.hear(&batch, &state, now);
            assert_eq!(has_news(&memory).await, news, "{name}");
        }
        let observed = memory.observed();
        assert_eq!(observed.hosts.len(), 1);
        assert_eq!(observed.hosts[&"h".parse().unwrap()].heard_at, at(7), "the old start's sign was dropped");
        assert_eq!(observed.balancers.len(), 1);
        memory.clear();
        assert_eq!(*memory.observed(), Observed::default());
    }
}
