//! Whether the cluster lives without a controller that does not run: asked before its copy may become another cluster.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use pontoon_kit::{Credentials, Role, rpc};
use pontoon_model::ControllerId;
use pontoon_proto::services::peers_client::PeersClient;
use pontoon_proto::{ReadIndexReply, ReadIndexRequest};
use tokio::time::{Instant, sleep, timeout};

/// One answer: for a leader a round of heartbeats.
const ANSWER: Duration = Duration::from_secs(3);
/// As long as others answer and none leads, an election may be under way: two of the longest that controllers are made to wait.
const ELECTION: Duration = Duration::from_secs(10);
/// Between rounds.
const AGAIN: Duration = Duration::from_millis(500);

/// Who was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// The controller at this address leads, and a majority has answered it just now.
    Leads(SocketAddr),
    /// A controller says that this one's certificate is revoked.
    ShutOut,
    /// Nobody leads, whoever answers.
    Nobody,
}

/// Asks the controllers at `others`, as the controller `id` with `credentials`.
pub async fn elsewhere(credentials: &Credentials, id: ControllerId, others: &[SocketAddr]) -> Elsewhere {
    let begun = Instant::now();
    loop {
        let answers = join_all(others.iter().map(|address| ask(credentials, id, *address))).await;
        if credentials.until_revoked().now_or_never().is_some() {
            return Elsewhere::ShutOut;
        }
        let leads = |reply: &Option<ReadIndexReply>| matches!(reply, Some(ReadIndexReply::Index(_)));
        if let Some(at) = answers.iter().position(leads) {
            return Elsewhere::Leads(others[at]);
        }
        if answers.iter().all(Option::is_none) || begun.elapsed() > ELECTION {
            return Elsewhere::Nobody;
        }
        sleep(AGAIN).await;
    }
}

async fn ask(credentials: &Credentials, from: ControllerId, address: SocketAddr) -> Option<ReadIndexReply> {
    let channel = rpc::channel(address, Role::Controller, credentials).ok()?;
    let answer = timeout(ANSWER, PeersClient::new(channel).read_index(ReadIndexRequest { from })).await;
    Some(answer.ok()?.ok()?.into_inner())
}
