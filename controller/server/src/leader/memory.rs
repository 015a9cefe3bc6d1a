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

    /// Takes in what a controller heard. Only who is registered is remembered, so the table is bounded; of a host only the start
    /// of its agent that is, since a machine that joins under the name of a revoked one may count from below.
    pub fn hear(&self, batch: &RelayBatch, state: &State, now: Timestamp) {
        let mut shared = self.lock();
        let observed = Arc::make_mut(&mut shared);
        let mut news = false;
        for (name, incarnation, heartbeat) in &batch.hosts {
            // An older start of the agent, relayed late, is no sign of the newer one.
            if state.host(name).is_none_or(|host| host.incarnation != *incarnation) {
                continue;
            }
            let sign = HostSign { incarnation: *incarnation, heard_at: now, free_memory: heartbeat.free_memory };
            let before = observed.hosts.insert(name.clone(), sign);
            news |= before
                .is_none_or(|before| before.incarnation != *incarnation || now.since(before.heard_at) > NEWS_AFTER);
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

    fn host(incarnation: u64) -> Command {
        let host = command::RegisterHost {
            name: "h".parse().unwrap(),
            site: "s".parse().unwrap(),
            incarnation: Incarnation(incarnation),
            capacity: Capacity::default(),
            runtime: RuntimeKind::Process,
        };
        host.into()
    }

    fn state() -> State {
        let balancer = command::RegisterBalancer {
            name: "b".parse().unwrap(),
            site: "s".parse().unwrap(),
            listen: "127.0.0.1:80".parse().unwrap(),
        };
        let mut state = State::default();
        apply(&mut state, 1, [host(1), balancer.into()]);
        state
    }

    fn apply(state: &mut State, index: u64, commands: impl IntoIterator<Item = Command>) {
        let stamped = |(n, command)| Stamped { key: IdempotencyKey(u128::from(index) << 64 | n as u128), command };
        let entry = Entry { time: Timestamp(index), commands: commands.into_iter().enumerate().map(stamped).collect() };
        state.apply(index, &entry).into_iter().for_each(|outcome| assert!(outcome.is_ok(), "{outcome:?}"));
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
        let (memory, mut state) = (LeaderMemory::default(), state());
        let at = |seconds: u64| Timestamp(seconds * 1000);
        let cases = [
            ("first sign", batch("h", 1, "b", 0), at(1), true),
            ("heartbeat", batch("h", 1, "b", 0), at(2), false),
            ("acknowledged", batch("h", 1, "b", 7), at(3), true),
            ("after silence", batch("h", 1, "b", 7), at(6), true),
            ("of a start that is not registered", batch("h", 2, "b", 7), at(7), false),
            ("strangers", batch("x", 1, "y", 9), at(8), false),
        ];
        for (name, batch, now, news) in cases {
            memory.hear(&batch, &state, now);
            assert_eq!(has_news(&memory).await, news, "{name}");
        }
        apply(&mut state, 2, [host(2)]);
        let cases = [
            ("new start", batch("h", 2, "b", 7), at(9), true),
            ("late from the old start", batch("h", 1, "b", 7), at(10), false),
        ];
        for (name, batch, now, news) in cases {
            memory.hear(&batch, &state, now);
            assert_eq!(has_news(&memory).await, news, "{name}");
        }
        let observed = memory.observed();
        assert_eq!(observed.hosts.len(), 1);
        assert_eq!(observed.hosts[&"h".parse().unwrap()].heard_at, at(9), "the old start's sign was dropped");
        assert_eq!(observed.balancers.len(), 1);

        // The machine was revoked, and another one joined under its name: it counts its starts from the beginning.
        memory.hear(&batch("h", 1, "b", 7), &self::state(), at(11));
        assert!(has_news(&memory).await);
        assert_eq!(memory.observed().hosts[&"h".parse().unwrap()].heard_at, at(11), "nothing of the former is left");
        memory.clear();
        assert_eq!(*memory.observed(), Observed::default());
    }
}
