//! Signs of life of hosts that are not there, relayed as a controller would: without them a leader takes every host of a
//! seeded state for lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use pontoon_core::State;
use pontoon_kit::{Credentials, Role, rpc};
use pontoon_model::ControllerId;
use pontoon_proto::services::peers_client::PeersClient;
use pontoon_proto::{Heartbeat, MAX_MESSAGE_BYTES, RelayBatch};

/// A host is suspected after three seconds.
const EVERY: Duration = Duration::from_millis(500);
/// A controller that does not answer is not running.
const ANSWER: Duration = Duration::from_secs(1);

/// Sends until dropped.
pub(crate) struct Heartbeats {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeats {
    /// For all hosts of `state`, to whoever of `controllers` leads.
    pub(crate) fn start(state: &State, controllers: Vec<SocketAddr>, credentials: Credentials) -> Result<Self> {
        let beat = Heartbeat { sequence: 1, free_memory: Default::default() };
        let hosts = state.hosts().map(|host| (host.name.clone(), host.incarnation, beat)).collect();
        let batch = RelayBatch { from: ControllerId(1), hosts, balancers: Vec::new() };
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let client = |address: &SocketAddr| {
                    let channel = rpc::channel(*address, Role::Controller, &credentials);
                    channel.map(|channel| PeersClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES))
                };
                let mut clients: Vec<_> = controllers.iter().filter_map(|address| client(address).ok()).collect();
                while !stopped.load(Ordering::Relaxed) {
                    for client in &mut clients {
                        // One that is down or follows takes none.
                        let _ = tokio::time::timeout(ANSWER, client.relay(batch.clone())).await;
                    }
                    tokio::time::sleep(EVERY).await;
                }
            });
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
