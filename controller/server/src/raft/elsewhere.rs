//! Whether the cluster lives without a controller that does not run: asked before its copy may become another cluster.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use pontoon_kit::tls::{self, Met};
use pontoon_kit::{Credentials, Role, rpc};
use pontoon_model::ControllerId;
use pontoon_proto::services::peers_client::PeersClient;
use pontoon_proto::{ReadIndexReply, ReadIndexRequest};
use tokio::time::{Instant, sleep, timeout};

/// One answer: for a leader a round of heartbeats.
const ANSWER: Duration = Duration::from_secs(3);
/// As long as others are there and none leads, an election may be under way: two of the longest that controllers are made to wait.
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
    /// The controller at this address is there, and does not speak to this one; with why.
    Refuses(SocketAddr, String),
    /// Nobody leads, whoever answers.
    Nobody,
}

/// What one controller says.
enum Answer {
    /// It leads.
    Leads,
    /// It does not, or does not know.
    Follows,
    Refuses(String),
    /// Nothing.
    None,
}

/// Asks the controllers at `others`, as the controller `id` with `credentials`.
pub async fn elsewhere(credentials: &Credentials, id: ControllerId, others: &[SocketAddr]) -> Elsewhere {
    let begun = Instant::now();
    loop {
        let answers = join_all(others.iter().map(|address| ask(credentials, id, *address))).await;
        if credentials.until_revoked().now_or_never().is_some() {
            return Elsewhere::ShutOut;
        }
        if let Some(at) = answers.iter().position(|answer| matches!(answer, Answer::Leads)) {
            return Elsewhere::Leads(others[at]);
        }
        let silent = answers.iter().all(|answer| matches!(answer, Answer::None));
        if silent || begun.elapsed() > ELECTION {
            let refusal = |(address, answer): (&SocketAddr, Answer)| match answer {
                Answer::Refuses(why) => Some(Elsewhere::Refuses(*address, why)),
                _ => None,
            };
            return others.iter().zip(answers).find_map(refusal).unwrap_or(Elsewhere::Nobody);
        }
        sleep(AGAIN).await;
    }
}

async fn ask(credentials: &Credentials, from: ControllerId, address: SocketAddr) -> Answer {
    match timeout(ANSWER, tls::meet(address, Role::Controller, credentials)).await {
        Ok(Ok(Met::Taken)) => {}
        Ok(Ok(Met::Refused(why))) => return Answer::Refuses(why.to_string()),
        Ok(Err(_)) | Err(_) => return Answer::None,
    }
    let Ok(channel) = rpc::channel(address, Role::Controller, credentials) else { return Answer::None };
    match timeout(ANSWER, PeersClient::new(channel).read_index(ReadIndexRequest { from })).await {
        Ok(Ok(reply)) => match reply.into_inner() {
            ReadIndexReply::Index(_) => Answer::Leads,
            _ => Answer::Follows,
        },
        // One of another cluster, for example.
        Ok(Err(status)) => Answer::Refuses(status.message().to_owned()),
        Err(_) => Answer::None,
    }
}
