//! The other controllers, as the membership names them, and connections to their `Peers` service.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use pontoon_kit::Credentials;
use pontoon_model::{ControllerId, ControllerName};
use pontoon_proto::services::peers_client::PeersClient;

use super::config::{ConsensusConfig, Member};
use super::membership::votes;
use super::network::link::{self, Link};
use super::types::Raft;

/// Between looks at connections to controllers that were removed: an idle one costs a probe every two seconds.
const FORGET: Duration = Duration::from_secs(10);

/// Another controller.
#[derive(Debug, Clone)]
pub struct Peer {
    id: ControllerId,
    name: ControllerName,
    voter: bool,
    client: PeersClient<Link>,
}

impl Peer {
    /// Its Raft id.
    pub fn id(&self) -> ControllerId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &ControllerName {
        &self.name
    }

    /// Whether it votes.
    pub fn is_voter(&self) -> bool {
        self.voter
    }

    /// A client of it; connects when used. Give each request a deadline.
    pub fn client(&self) -> PeersClient<Link> {
        self.client.clone()
    }
}

/// Every other controller. Clones share their connections.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    id: ControllerId,
    raft: Raft,
    connections: Connections,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("of", &self.shared.id).finish_non_exhaustive()
    }
}

/// What the membership says of one controller.
struct Known {
    id: ControllerId,
    name: ControllerName,
    voter: bool,
    address: SocketAddr,
}

impl Peers {
    pub(super) fn new(id: ControllerId, raft: Raft, connections: Connections) -> Self {
        Self { shared: Arc::new(Shared { id, raft, connections }) }
    }

    pub(super) fn connections(&self) -> Connections {
        self.shared.connections.clone()
    }

    /// All of them, by id; those of the configuration while this controller has seen no membership yet.
    pub fn others(&self) -> Vec<Peer> {
        let known = self.known().into_iter().filter(|known| known.id != self.shared.id);
        known.filter_map(|known| self.connect(known).ok()).collect()
    }

    /// One of them.
    pub fn get(&self, id: ControllerId) -> Option<Peer> {
        self.reach(id).ok()
    }

    /// Whether this controller votes, and no change of the membership is still to be finished for it.
    pub fn is_voter(&self) -> bool {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        votes(metrics.membership_config.membership(), self.shared.id.0)
    }

    /// One of them, or why it cannot be reached.
    pub(super) fn reach(&self, id: ControllerId) -> Result<Peer, String> {
        let known = self.known().into_iter().find(|known| known.id == id);
        self.connect(known.ok_or_else(|| format!("the address of {id} is not known here"))?)
    }

    /// Connects anew next time.
    pub(super) fn forget(&self, id: ControllerId) {
        if let Some(known) = self.known().into_iter().find(|known| known.id == id) {
            self.shared.connections.forget(known.address);
        }
    }

    /// Lets go of connections to controllers that are members no more, again and again, as long as it is polled.
    pub(super) async fn forget_removed(self) {
        loop {
            tokio::time::sleep(FORGET).await;
            let addresses: Vec<SocketAddr> = self.known().into_iter().map(|known| known.address).collect();
            self.shared.connections.keep_only(&addresses);
        }
    }

    fn known(&self) -> Vec<Known> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let voters: Vec<u64> = membership.voter_ids().collect();
        let configured = self.shared.connections.configured();
        let address = |id: u64| configured.iter().find(|member| member.id.0 == id).map(|member| member.grpc);
        let known: Vec<Known> = membership
            .nodes()
            .map(|(id, peer)| Known {
                id: ControllerId(*id),
                name: peer.name.clone(),
                voter: voters.contains(id),
                address: address(*id).unwrap_or(peer.grpc),
            })
            .collect();
        if !known.is_empty() {
            return known;
        }
        let first =
            |member: &Member| Known { id: member.id, name: member.name.clone(), voter: true, address: member.grpc };
        configured.iter().map(first).collect()
    }

    fn connect(&self, known: Known) -> Result<Peer, String> {
        let client = self.shared.connections.client(known.address);
        let client = client.map_err(|error| format!("{} at {}: {error}", known.id, known.address))?;
        Ok(Peer { id: known.id, name: known.name, voter: known.voter, client })
    }
}

/// Connections to `Peers` services by address, made when first used.
#[derive(Clone)]
pub(crate) struct Connections {
    inner: Arc<ConnectionsInner>,
}

struct ConnectionsInner {
    credentials: Credentials,
    configured: Vec<Member>,
    remembered: Vec<SocketAddr>,
    channels: Mutex<HashMap<SocketAddr, Link>>,
}

impl Connections {
    /// As `config` says; the addresses in it win over those in the replicated membership.
    pub(crate) fn new(config: &ConsensusConfig) -> Self {
        let ConsensusConfig { credentials, members, remembered, .. } = config.clone();
        let inner = ConnectionsInner { credentials, configured: members, remembered, channels: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The members of the configuration file.
    pub(crate) fn configured(&self) -> &[Member] {
        &self.inner.configured
    }

    /// Who may be asked whatever the membership says, but for `own`, and what it is called in a log: those of the
    /// configuration, which are of the day on which this controller began, and those that it knew last.
    pub(crate) fn contacts(&self, own: SocketAddr) -> Vec<(String, SocketAddr)> {
        let configured = self.configured().iter().map(|member| (member.name.to_string(), member.grpc));
        let mut contacts: Vec<(String, SocketAddr)> = configured.collect();
        for address in &self.inner.remembered {
            if contacts.iter().all(|(_, known)| known != address) {
                contacts.push((address.to_string(), *address));
            }
        }
        contacts.retain(|(_, address)| *address != own);
        contacts
    }

    /// A client of the controller at `address`.
    pub(crate) fn client(&self, address: SocketAddr) -> Result<PeersClient<Link>, tonic::transport::Error> {
        let mut channels = self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = link::open(address, &self.inner.credentials)?;
                channels.insert(address, channel.clone());
                channel
            }
        };
        Ok(PeersClient::new(channel)
            .max_decoding_message_size(pontoon_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(pontoon_proto::MAX_MESSAGE_BYTES))
    }

    /// Forgets the connections to all but those at `addresses`, in the configuration and remembered.
    fn keep_only(&self, addresses: &[SocketAddr]) {
        let configured = |address: &SocketAddr| self.configured().iter().any(|member| member.grpc == *address);
        let kept = |address: &SocketAddr| configured(address) || self.inner.remembered.contains(address);
        let mut channels = self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|address, _| addresses.contains(address) || kept(address));
    }

    fn forget(&self, address: SocketAddr) {
        self.inner.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }
}
