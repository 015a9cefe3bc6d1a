//! Connections are made before they are needed. Followers have nothing to say to each other until their leader is dead,
//! and then a connection takes three round trips before the first question can be asked: long enough, over a distance,
//! for the other to ask too, so that both divide the votes and all begins anew.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::timeout;

use super::super::types::{Peer, Raft};
use super::{Network, Purpose};

/// How often it is looked whether a connection is there: one that returns can be asked for its vote a second later.
const LOOK: Duration = Duration::from_secs(1);

/// What an election needs, and what the new leader needs at once.
const WARM: [Purpose; 2] = [Purpose::Entries, Purpose::SignsOfLife];

/// Keeps the connections to all other members open, as long as it is polled.
pub(in super::super) async fn keep_warm(network: Network, raft: Raft) {
    loop {
        let others: Vec<(u64, Peer)> = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.nodes();
            members.filter(|(id, _)| *id != raft.node_id()).map(|(id, peer)| (*id, peer.clone())).collect()
        };
        network.keep_only(&others.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        join_all(others.iter().map(|(id, peer)| network.warm(*id, peer))).await;
        tokio::time::sleep(LOOK).await;
    }
}

impl Network {
    /// Connects to `target` where that is not done yet.
    async fn warm(&self, target: u64, peer: &Peer) {
        join_all(WARM.map(|purpose| async move {
            let Ok(mut client) = self.connection(target, peer, purpose).client() else { return };
            // No entries: a question that every version answers, with nothing.
            let asked = timeout(pontoon_kit::rpc::CONNECT_TIMEOUT, client.append(stream::empty())).await;
            if let Ok(Err(status)) = asked {
                tracing::debug!(target_id = target, ?purpose, %status, "no connection yet");
            }
        }))
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pontoon_kit::{Authority, Credentials, Role};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_are_made_before_anything_is_to_be_said() {
        let identity = Authority::create().unwrap().issue(Role::Controller, "north").unwrap();
        let credentials = Credentials::new(identity).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer { name: "east".parse().unwrap(), grpc: listener.local_addr().unwrap() };
        let network = Network::new(1, credentials, BTreeMap::new());
        let warming = tokio::spawn(async move { network.warm(2, &peer).await });
        for _ in WARM {
            timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
        }
        warming.abort();
    }
}
