//! The other controllers, Raft apart: who they are, and what they ask of this one.

mod service;

use std::sync::Arc;

use pontoon_kit::{Identity, Role, rpc};
use pontoon_model::{ControllerId, ControllerName};
use pontoon_proto::MAX_MESSAGE_BYTES;
use pontoon_proto::services::peers_client::PeersClient;
use tonic::transport::Channel;

use crate::config::Config;

pub use service::PeersService;

/// Another controller.
#[derive(Debug, Clone)]
pub struct Peer {
    id: ControllerId,
    name: ControllerName,
    client: PeersClient<Channel>,
}

impl Peer {
    /// Its name.
    pub fn name(&self) -> &ControllerName {
        &self.name
    }

    /// A client of it; connects when used. Give each request a deadline.
    pub fn client(&self) -> PeersClient<Channel> {
        self.client.clone()
    }
}

/// Every other controller.
#[derive(Debug, Clone)]
pub struct Peers {
    others: Arc<Vec<Peer>>,
}

impl Peers {
    /// Prepares a channel to each of `config`'s other members.
    pub fn new(config: &Config, identity: &Identity) -> Result<Self, tonic::transport::Error> {
        let others = config
            .members
            .iter()
            .filter(|member| member.id != config.id)
            .map(|member| {
                let client = PeersClient::new(rpc::channel(member.grpc, Role::Controller, identity)?)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES);
                Ok(Peer { id: member.id, name: member.name.clone(), client })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { others: Arc::new(others) })
    }

    /// All of them.
    pub fn others(&self) -> &[Peer] {
        &self.others
    }

    /// One of them.
    pub fn get(&self, id: ControllerId) -> Option<&Peer> {
        self.others.iter().find(|peer| peer.id == id)
    }
}
