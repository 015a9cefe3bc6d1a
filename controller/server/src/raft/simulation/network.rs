//! The network between simulated controllers: who listens, how long bytes take, who is cut off from whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use pontoon_kit::rpc::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use tokio::sync::Notify;

use super::controller::Services;
use super::life::Life;
use super::lock;
use super::wire::Connection;
use super::world::World;

/// The first controller's port; nothing ever listens there.
const FIRST_PORT: u16 = 7001;

/// Where controller `node` is reached.
pub(super) fn address_of(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], FIRST_PORT + node as u16))
}

/// Which controller is reached at `address`.
pub(super) fn node_at(address: SocketAddr) -> usize {
    usize::from(address.port() - FIRST_PORT)
}

/// How long bytes take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delays {
    pub(super) least: Duration,
    /// Up to this much more.
    pub(super) jitter: Duration,
    /// In a thousand: a packet that was lost and is sent again.
    pub(super) lost: u64,
    /// TCP's wait before it sends again.
    pub(super) again: Duration,
}

type Listener = (Arc<Life>, Services);

pub(super) struct Network {
    delays: Delays,
    state: Mutex<State>,
    healed: Notify,
}

#[derive(Default)]
struct State {
    listening: BTreeMap<usize, Listener>,
    changes: u64,
    /// From whom nothing reaches whom, and since which change.
    cut: BTreeMap<(usize, usize), u64>,
    connections: Vec<Weak<Connection>>,
}

impl Network {
    pub(super) fn new(delays: Delays) -> Self {
        Self { delays, state: Mutex::default(), healed: Notify::new() }
    }

    pub(super) fn delay(&self, world: &World, from: usize, to: usize) -> Duration {
        if from == to {
            return Duration::ZERO;
        }
        let jitter = self.delays.jitter.as_micros() as u64;
        let delay = self.delays.least + Duration::from_micros(world.below(jitter + 1));
        if world.below(1_000) < self.delays.lost { delay + self.delays.again } else { delay }
    }

    /// Waits until bytes from `from` reach `to`.
    pub(super) async fn until_open(&self, from: usize, to: usize) {
        let is_cut = || lock(&self.state).cut.contains_key(&(from, to));
        if !is_cut() {
            return;
        }
        while is_cut() {
            self.healed.notified().await;
        }
        // TCP notices that the way is free again when it next tries.
        tokio::time::sleep(self.delays.again / 4).await;
    }

    pub(super) fn listen(&self, life: &Arc<Life>, services: Services) {
        // The kernel of a machine that came back answers what is meant for its predecessor with a reset.
        self.break_where(|connection| {
            connection.ends.iter().any(|end| end.node == life.node && end.number < life.number)
        });
        lock(&self.state).listening.insert(life.node, (life.clone(), services));
    }

    pub(super) fn listener(&self, node: usize) -> Option<Listener> {
        lock(&self.state).listening.get(&node).cloned()
    }

    pub(super) fn keep(&self, connection: &Arc<Connection>) {
        let mut state = lock(&self.state);
        state.connections.retain(|kept| kept.upgrade().is_some_and(|kept| !kept.broken.is_cancelled()));
        state.connections.push(Arc::downgrade(connection));
    }

    /// Nobody listens at `node` any more. With `reset` its connections end at once, as when a process ends; else
    /// the others notice when their keep-alive does, as when a machine loses its power.
    pub(super) fn vanish(&self, world: &Arc<World>, node: usize, number: u32, reset: bool) {
        lock(&self.state).listening.remove(&node);
        let of =
            move |connection: &Connection| connection.ends.iter().any(|end| end.node == node && end.number == number);
        if reset {
            self.break_where(of);
        } else {
            let (world, wait) = (world.clone(), self.keep_alive(world));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                world.network.break_where(of);
            });
        }
    }

    fn keep_alive(&self, world: &World) -> Duration {
        KEEP_ALIVE_TIMEOUT + Duration::from_millis(world.below(KEEP_ALIVE_INTERVAL.as_millis() as u64))
    }

    /// Nothing from `from` reaches `to`, until it is healed.
    pub(super) fn cut(&self, world: &Arc<World>, from: usize, to: usize) {
        let change = {
            let mut state = lock(&self.state);
            state.changes += 1;
            let change = state.changes;
            state.cut.entry((from, to)).or_insert(change);
            change
        };
        // Without answers to its probes either end gives the connection up.
        let (world, wait) = (world.clone(), self.keep_alive(world));
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if lock(&world.network.state).cut.get(&(from, to)) == Some(&change) {
                world.network.break_where(|connection| connection.between(from, to));
            }
        });
    }

    pub(super) fn heal(&self) {
        lock(&self.state).cut.clear();
        self.healed.notify_waiters();
    }

    /// Breaks all connections between two controllers, as a firewall that forgets them does.
    pub(super) fn reset(&self, one: usize, other: usize) {
        self.break_where(|connection| connection.between(one, other));
    }

    fn break_where(&self, which: impl Fn(&Connection) -> bool) {
        let connections: Vec<Arc<Connection>> =
            lock(&self.state).connections.iter().filter_map(Weak::upgrade).collect();
        connections.iter().filter(|connection| which(connection)).for_each(|connection| connection.broken.cancel());
    }

    /// Lets go of everything, so that a finished world's memory is freed.
    pub(super) fn clear(&self) {
        *lock(&self.state) = State::default();
    }
}
