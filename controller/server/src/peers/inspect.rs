//! How controllers are: what each says of itself, asked of all at once.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use pontoon_kit::clock;
use pontoon_model::{AppName, BalancerName, ControllerId, RouteVersion};
use pontoon_proto::services::peers_client::PeersClient;
use pontoon_proto::{
    ConnectedReply, ConnectedRequest, DescribeRequest, EdgeProgressRequest, InspectRequest, Inspected, MeasureRequest,
    MeasuredReply, RequestsAnswer, RequestsQuestion, SealingKeysReply, SealingKeysRequest,
};
use tokio::time::timeout;
use tonic::{Code, Request, Status};

use crate::blobs::{self, BlobStore};
use crate::raft::{Consensus, Link, Peer};

/// A controller that says nothing within this time is shown as not reachable: people wait for the list.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// What a controller says of itself.
pub(crate) async fn inspect(consensus: &Consensus, store: &BlobStore, data_dir: &Path) -> Inspected {
    let position = consensus.position();
    let missing = blobs::missing(store, &consensus.feed().snapshot()).await;
    Inspected {
        version: pontoon_model::VERSION.to_owned(),
        feature_level: pontoon_core::level::NEWEST,
        term: position.term,
        applied: position.applied,
        last: position.last,
        free_disk: free_disk(data_dir),
        clock: clock::unix_millis(),
        missing_blobs: missing.len() as u64,
    }
}

fn free_disk(folder: &Path) -> u64 {
    // What cannot be looked at is not worth a failure: nothing depends on it.
    rustix::fs::statvfs(folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What another controller said.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) id: ControllerId,
    /// Nothing if it did not answer in time.
    pub(crate) answer: Option<Answer>,
}

/// What a controller answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) version: String,
    /// Nothing if its version of Pontoon is older than the question.
    pub(crate) said: Option<Inspected>,
    /// Its clock less ours, in milliseconds: as of the middle of the round trip.
    pub(crate) clock_offset: Option<i64>,
}

/// Asks all of `others` at the same time.
pub(crate) async fn inspect_all(from: ControllerId, others: &[Peer]) -> Vec<Seen> {
    join_all(others.iter().map(|peer| async move {
        let answer = timeout(ANSWER, ask(from, peer)).await.ok().flatten();
        Seen { id: peer.id(), answer }
    }))
    .await
}

/// Asks all of `others` at the same time; what those say that answer in time and can tell.
async fn ask_all<T, F>(others: &[Peer], ask: impl Fn(PeersClient<Link>, ControllerId) -> F) -> Vec<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let answers = join_all(others.iter().map(|peer| timeout(ANSWER, ask(peer.client(), peer.id())))).await;
    answers.into_iter().filter_map(|answer| answer.ok()?.ok()).collect()
}

/// The agents and balancers that are connected to those of `others` that answer and can tell.
pub(crate) async fn connected_all(from: ControllerId, others: &[Peer]) -> Vec<ConnectedReply> {
    let ask = |mut client: PeersClient<Link>, _| async move {
        Ok(client.connected(ConnectedRequest { from }).await?.into_inner())
    };
    ask_all(others, ask).await
}

/// What those of `others` that answer have heard of requests; one row each.
pub(crate) async fn requests_all(from: ControllerId, others: &[Peer], app: Option<&AppName>) -> Vec<RequestsAnswer> {
    let ask = |mut client: PeersClient<Link>, _| {
        let question = RequestsQuestion { from, app: app.cloned() };
        async move { Ok(client.requests(question).await?.into_inner()) }
    };
    ask_all(others, ask).await
}

/// How far the balancers are that are connected to those of `others` that answer and can tell.
pub(crate) async fn edge_progress_all(from: ControllerId, others: &[Peer]) -> Vec<(BalancerName, RouteVersion)> {
    let ask = |mut client: PeersClient<Link>, _| async move {
        Ok(client.edge_progress(EdgeProgressRequest { from }).await?.into_inner().balancers)
    };
    ask_all(others, ask).await.into_iter().flatten().collect()
}

/// The timing of all of `others` that answer and have one to tell.
pub(crate) async fn measure_all(from: ControllerId, others: &[Peer]) -> Vec<(ControllerId, MeasuredReply)> {
    let ask = |mut client: PeersClient<Link>, id| async move {
        Ok((id, client.measure(MeasureRequest { from }).await?.into_inner()))
    };
    ask_all(others, ask).await
}

/// Offers a key to all of `others`; for each that answers, whether it keeps the key, and those of the cluster's keys that it has.
pub(crate) async fn sealing_keys_all(
    from: ControllerId,
    others: &[Peer],
    offered: Option<Bytes>,
) -> Vec<(ControllerId, bool, Vec<Bytes>)> {
    let ask = |mut client: PeersClient<Link>, id| {
        let request = SealingKeysRequest { from, offered: offered.clone() };
        async move {
            let SealingKeysReply { kept, keys } = client.sealing_keys(request).await?.into_inner();
            Ok((id, kept, keys))
        }
    };
    ask_all(others, ask).await
}

async fn ask(from: ControllerId, peer: &Peer) -> Option<Answer> {
    let (begun, asked_at) = (Instant::now(), clock::unix_millis());
    let mut request = Request::new(InspectRequest { from });
    request.set_timeout(ANSWER);
    match peer.client().inspect(request).await {
        Ok(said) => {
            let said = said.into_inner();
            let middle = asked_at as i64 + (begun.elapsed() / 2).as_millis() as i64;
            let clock_offset = Some(said.clock as i64 - middle);
            Some(Answer { version: said.version.clone(), said: Some(said), clock_offset })
        }
        // During an upgrade: it can say at least its version.
        Err(status) if status.code() == Code::Unimplemented => {
            let described = peer.client().describe(DescribeRequest { from }).await.ok()?.into_inner();
            Some(Answer { version: described.version, said: None, clock_offset: None })
        }
        Err(_) => None,
    }
}
