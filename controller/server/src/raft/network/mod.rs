//! Raft between controllers: gRPC over mTLS, one connection per peer and purpose, a deadline on everything.

mod connection;
pub(super) mod link;
mod message;
mod pace;
mod server;
#[cfg(test)]
pub(super) mod tap;
mod transfer;
mod warm;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::RaftNetworkFactory;
use pontoon_kit::Credentials;
use pontoon_proto::services::raft_client::RaftClient;
use tonic::transport;

pub(super) use self::connection::Connection;
use self::link::Link;
pub use self::server::{Heard, LetIn, RaftService};
pub(super) use self::warm::keep_warm;
use super::types::{Peer, TypeConfig};

/// Signs of life and snapshots must not wait behind entries, nor entries behind a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Entries,
    SignsOfLife,
    Snapshots,
}

/// Makes connections to the other controllers, and keeps them over changes of leader.
#[derive(Clone)]
pub(super) struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    credentials: Credentials,
    configured: BTreeMap<u64, SocketAddr>,
    channels: Mutex<HashMap<(u64, SocketAddr, Purpose), Link>>,
}

impl Network {
    /// Addresses in `configured` win over those in the replicated membership.
    pub(super) fn new(id: u64, credentials: Credentials, configured: BTreeMap<u64, SocketAddr>) -> Self {
        Self { shared: Arc::new(Shared { id, credentials, configured, channels: Mutex::default() }) }
    }

    fn connection(&self, target: u64, node: &Peer, purpose: Purpose) -> Connection {
        let address = self.shared.configured.get(&target).copied().unwrap_or(node.grpc);
        Connection::new(self.clone(), target, address, purpose)
    }

    fn client(&self, key: (u64, SocketAddr, Purpose)) -> Result<RaftClient<Link>, transport::Error> {
        let mut channels = self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = link::open(key.1, &self.shared.credentials)?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(pontoon_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(pontoon_proto::MAX_MESSAGE_BYTES))
    }

    /// Forgets the connections to all but `members`: who was removed is not called any more.
    fn keep_only(&self, members: &[u64]) {
        let mut channels = self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|(id, _, _), _| members.contains(id));
    }

    /// Connects anew next time: after a silence the old connection may be dead without knowing it.
    fn forget(&self, key: (u64, SocketAddr, Purpose)) {
        self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Connection {
        self.connection(target, node, Purpose::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Connection {
        self.connection(target, node, Purpose::SignsOfLife)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Connection {
        self.connection(target, node, Purpose::Snapshots)
    }
}
