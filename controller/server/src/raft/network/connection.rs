//! The calling side: openraft's requests to one other controller.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes};
use pontoon_model::wire::Wire;
use pontoon_proto::RaftMessage;
use pontoon_proto::services::raft_client::RaftClient;
use tokio::time::{Instant, timeout};
use tonic::{Code, Response, Status, Streaming};

use super::super::snapshot::SnapshotFile;
use super::super::timing::real;
use super::super::types::{TypeConfig, Vote};
use super::link::Link;
use super::message::{self, Append, Appended, Ballot, Transfer, Transferred, Voted};
use super::pace::paced;
use super::{Network, Purpose, transfer};

type RpcError = RPCError<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;
type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>;

/// A follower that has been sent entries and is silent for this long is given up and connected anew. Long
/// enough for a slow disk's flush and 1 MiB over a slow link; a leader's lease does not depend on it.
const APPEND_SILENCE: Duration = Duration::from_secs(5);

/// Between tries to reach a controller that cannot be reached: soon enough to have it back within a second.
const RECONNECT: Duration = Duration::from_millis(200);

/// Requests to one controller for one purpose.
pub struct Connection {
    network: Network,
    pub(super) target: u64,
    address: SocketAddr,
    purpose: Purpose,
}

impl Connection {
    pub(super) fn new(network: Network, target: u64, address: SocketAddr, purpose: Purpose) -> Self {
        Self { network, target, address, purpose }
    }

    pub(super) fn id(&self) -> u64 {
        self.network.shared.id
    }

    fn key(&self) -> (u64, SocketAddr, Purpose) {
        (self.target, self.address, self.purpose)
    }

    pub(super) fn client(&self) -> Result<RaftClient<Link>, RpcError> {
        self.network.client(self.key()).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    pub(super) fn message<T: Wire>(&self, message: T) -> Result<RaftMessage, RpcError> {
        message::seal(self.id(), self.target, message).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    pub(super) fn failed(&self, status: &Status) -> RpcError {
        tracing::debug!(target_id = self.target, address = %self.address, %status, "a Raft request failed");
        match status.code() {
            Code::Unavailable | Code::FailedPrecondition => {
                self.network.forget(self.key());
                RPCError::Unreachable(Unreachable::new(status))
            }
            _ => RPCError::Network(NetworkError::new(status)),
        }
    }

    pub(super) fn silent(&self, action: RPCTypes, after: Duration) -> RpcError {
        self.network.forget(self.key());
        RPCError::Timeout(Timeout { action, id: self.id(), target: self.target, timeout: after })
    }

    /// Waits for a unary answer, at most as long as openraft would.
    async fn answer<T: Wire>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        request: impl Future<Output = Result<Response<RaftMessage>, Status>>,
    ) -> Result<T, RpcError> {
        let deadline = real(option.soft_ttl());
        match timeout(deadline, request).await {
            Ok(Ok(response)) => message::open(self.id(), response.get_ref())
                .map_err(|error| RPCError::Network(NetworkError::new(&error))),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.silent(action, deadline)),
        }
    }
}

/// Requests sent and not yet answered on one stream of entries.
#[derive(Default)]
struct Unanswered(AtomicU64);

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // Taken before connecting: this is where openraft waits after a failure, and one whose process is gone refuses
            // connections a thousand times a second.
            let Some(first) = input.next().await else { return Ok(Box::pin(stream::empty()) as AppendResults<'s>) };
            let input = stream::once(std::future::ready(first)).chain(input);
            let mut client = self.client()?;
            let unanswered = Arc::new(Unanswered::default());
            let requests = sealed(Box::pin(paced(input)), self.id(), self.target, unanswered.clone());
            // The answer's head comes at once; a new connection comes first, which may take longer than a heartbeat.
            let deadline = real(option.soft_ttl()).max(pontoon_kit::rpc::CONNECT_TIMEOUT);
            let answers = match timeout(deadline, client.append(requests)).await {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return Err(self.failed(&status)),
                Err(_) => return Err(self.silent(RPCTypes::AppendEntries, deadline)),
            };
            let results = stream::unfold(Some((&*self, answers)), move |state| {
                let unanswered = unanswered.clone();
                async move {
                    let (connection, mut answers) = state?;
                    let result = next_result(connection, &mut answers, &unanswered).await?;
                    let more = matches!(result, Ok(Ok(_)));
                    Some((result, more.then_some((connection, answers))))
                }
            });
            Ok(Box::pin(results) as AppendResults<'s>)
        })
    }
}

/// The requests as messages. One that cannot be encoded ends the stream: entries are limited when proposed.
fn sealed(
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    from: u64,
    to: u64,
    unanswered: Arc<Unanswered>,
) -> impl Stream<Item = RaftMessage> + Send + 'static {
    let messages = input.map(move |request| {
        let sealed = Append::from_request(&request).and_then(|append| message::seal(from, to, append));
        unanswered.0.fetch_add(1, Ordering::Relaxed);
        sealed.inspect_err(|error| tracing::error!(%error, to, "entries cannot be sent")).ok()
    });
    messages.take_while(|message| std::future::ready(message.is_some())).filter_map(std::future::ready)
}

async fn next_result(
    connection: &Connection,
    answers: &mut Streaming<RaftMessage>,
    unanswered: &Unanswered,
) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
    let mut waiting_since = None;
    let message = loop {
        match timeout(APPEND_SILENCE / 5, answers.message()).await {
            Ok(Ok(message)) => break message?,
            Ok(Err(status)) => return Some(Err(connection.failed(&status))),
            Err(_) if unanswered.0.load(Ordering::Relaxed) == 0 => waiting_since = None,
            Err(_) => {
                let since = *waiting_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= APPEND_SILENCE {
                    return Some(Err(connection.silent(RPCTypes::AppendEntries, APPEND_SILENCE)));
                }
            }
        }
    };
    unanswered.0.fetch_sub(1, Ordering::Relaxed);
    let appended = message::open::<Appended>(connection.id(), &message);
    Some(appended.map(Into::into).map_err(|error| RPCError::Network(NetworkError::new(&error))))
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let message = self.message(Ballot::from(&request))?;
        let voted: Voted = self.answer(RPCTypes::Vote, &option, client.vote(message)).await?;
        Ok(voted.into())
    }

    // openraft's default would grant: an isolated controller must not count its own imagination.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let message = self.message(Ballot::from(&request))?;
        let voted: Voted = self.answer(RPCTypes::Vote, &option, client.pre_vote(message)).await?;
        Ok(voted.into())
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let message = self.message(Transfer::from(&request))?;
        let transferred: Transferred =
            self.answer(RPCTypes::TransferLeader, &option, client.transfer_leader(message)).await?;
        Ok(transferred.into())
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        transfer::send(self, vote, snapshot, cancel).await
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RECONNECT)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use pontoon_kit::{Authority, Credentials, Role};

    use super::*;

    #[tokio::test]
    async fn one_that_cannot_be_reached_is_tried_only_when_openraft_has_waited() {
        let identity = Authority::create().unwrap().issue(Role::Controller, "north").unwrap();
        let credentials = Credentials::new(identity).unwrap();
        // Taken and let go: nobody listens there.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut connection =
            Connection::new(Network::new(1, credentials, BTreeMap::new()), 2, nobody, Purpose::Entries);
        let waited = Arc::new(AtomicBool::new(false));
        let waiting = waited.clone();
        let request =
            AppendEntriesRequest { vote: Vote::new(1, 1), prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let input = stream::once(Box::pin(async move {
            waiting.store(true, Ordering::Relaxed);
            request
        }));
        let failed = connection.stream_append(input, RPCOption::new(Duration::from_secs(1))).await.err();
        assert!(matches!(failed, Some(RPCError::Unreachable(_))), "{failed:?}");
        assert!(waited.load(Ordering::Relaxed), "it was tried before openraft had waited");
    }
}
