//! Agents and balancers that are connected to this controller, whether it leads or not: they get their part of the
//! state from this controller's own copy, and what they say goes to the leader.

mod agent_blobs;
mod agents;
mod balancers;
mod connected;
mod directory;
mod edge;
mod known;
mod logs;
mod peering;
mod pieces;
mod relay;
mod reports;
mod routes;
mod tables;
mod tails;

pub use agents::AgentsService;
pub use balancers::BalancersService;
pub use connected::Connected;
pub use directory::AgentDirectory;
pub use known::{KnownFeed, publish_controllers};
pub use logs::{LogError, LogStream, Logs};
pub use relay::{Heard, Relay};
pub use tables::{TableFeed, publish_tables};
pub use tails::Tails;

use std::sync::Arc;
use std::time::Duration;

use pontoon_core::Trust;
use pontoon_kit::{KeyId, rpc};
use pontoon_model::Digest;
use pontoon_proto::TrustNow;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Status};

use crate::raft::Leadership;
use crate::trust::Notices;

/// The first message must come within this time, and its machine be registered: an election may lie between.
const HELLO: Duration = Duration::from_secs(5);
/// Without a leader for this long, a controller sends its agents and balancers to another one.
const LEADERLESS: Duration = Duration::from_secs(1);
/// Who was sent elsewhere gets this long to go, then its session ends.
const LEAVE: Duration = Duration::from_secs(1);
/// Directives on their way to one machine: state is sent whole, so more than a few means that it does not read.
const OUTBOX: usize = 16;

/// The key of whoever sent `request`.
fn key_of<T>(request: &Request<T>) -> Option<Digest> {
    rpc::anybody(request)?.key().map(|KeyId(key)| Digest(key))
}

/// Tells a machine whom to trust, at once and whenever that changes.
async fn push_trust<D>(
    mut trust: watch::Receiver<Arc<Trust>>,
    mut notices: Notices,
    outbox: &mpsc::Sender<Result<D, Status>>,
    directive: impl Fn(TrustNow) -> D,
) -> Result<(), Status> {
    loop {
        let newest = trust.borrow_and_update().clone();
        if let Some(now) = notices.next(&newest) {
            let pushed = outbox.send_timeout(Ok(directive(now)), HELLO).await;
            pushed.map_err(|_| Status::deadline_exceeded("what is to be trusted is not read"))?;
        }
        if trust.changed().await.is_err() {
            // The consensus has ended, and sessions end with it.
            return std::future::pending().await;
        }
    }
}

/// Returns when there has been no leader for [`LEADERLESS`].
async fn leaderless(mut leadership: watch::Receiver<Leadership>) {
    loop {
        if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
            break;
        }
        let led = async { leadership.wait_for(|now| now.leader.is_some()).await.map(drop) };
        match tokio::time::timeout(LEADERLESS, led).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => return,
        }
    }
    // The node is stopping; sessions end with it.
    std::future::pending().await
}
