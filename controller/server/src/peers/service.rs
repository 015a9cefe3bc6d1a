//! What controllers offer each other, Raft apart.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use pontoon_kit::{CancellationToken, Role, rpc};
use pontoon_model::ControllerName;
use pontoon_proto::services::peers_server::Peers as PeersRpc;
use pontoon_proto::{
    AuditReply, AuditRequest, BlobPart, BlobPresence, BlobRequest, BlobStored, ConnectedReply, ConnectedRequest,
    DescribeRequest, Described, EdgeProgress, EdgeProgressRequest, InspectRequest, Inspected, LogChunk, LogRequest,
    MeasureRequest, MeasuredReply, MembershipReply, MembershipRequest, ProposeReply, ProposeRequest, ReadIndexReply,
    ReadIndexRequest, RejoinReply, RejoinRequest, RelayBatch, Relayed, RequestsAnswer, RequestsQuestion,
    SealingKeysReply, SealingKeysRequest, TailChunk, TailRequest, known,
};
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::admission::{Admission, Asker};
use super::inspect::inspect;
use crate::audit::{AuditLog, Span};
use crate::blobs::{BlobStore, parts, receive};
use crate::hint;
use crate::leader::LeaderMemory;
use crate::raft::{Consensus, Leadership, MembershipQueue, Proposer, Reads, StateFeed};
use crate::rejoin;
use crate::requests::Requests;
use crate::sealing::SealingKeys;
use crate::sessions::{Connected, Heard, Logs, Tails};

/// What controllers offer each other.
#[derive(Clone)]
pub struct PeersService {
    /// Knows who is registered.
    pub feed: StateFeed,
    /// Takes forwarded commands.
    pub proposer: Proposer,
    /// Confirms that this controller leads, for others' reads.
    pub reads: Reads,
    /// Whether this controller leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Takes changes of the membership.
    pub membership: MembershipQueue,
    /// Says how it is.
    pub consensus: Arc<Consensus>,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// Takes what the others heard.
    pub memory: LeaderMemory,
    /// Sources and bundles.
    pub store: BlobStore,
    /// Logs of agents that are connected here.
    pub logs: Logs,
    /// Which agents and balancers are connected here.
    pub connected: Connected,
    /// What those balancers tell of requests.
    pub requests: Requests,
    /// Requests as they are answered there.
    pub tails: Tails,
    /// How far the balancers are that are connected here.
    pub heard: Heard,
    /// Records of what was asked of this controller.
    pub audit: AuditLog,
    /// What values are sealed with.
    pub sealing: SealingKeys,
    /// Ends all streams.
    pub shutdown: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl PeersRpc for PeersService {
    type GetBlobStream = BoxStream<BlobPart>;
    type OpenLogStream = BoxStream<LogChunk>;
    type OpenTailStream = BoxStream<TailChunk>;

    async fn propose(&self, request: Request<ProposeRequest>) -> Answer<ProposeReply> {
        rpc::caller(&request, Role::Controller)?;
        let reply = self.proposer.answer(request.into_inner()).await;
        let reply = reply.map_err(|error| Status::invalid_argument(format!("the commands do not decode: {error}")))?;
        Ok(Response::new(reply))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Answer<Described> {
        rpc::caller(&request, Role::Controller)?;
        let version = pontoon_model::VERSION.to_owned();
        Ok(Response::new(Described { feature_level: pontoon_core::level::NEWEST, version }))
    }

    async fn change_members(&self, request: Request<MembershipRequest>) -> Answer<MembershipReply> {
        let asker = Asker::of(&request)?;
        let admission = Admission {
            queue: self.membership.clone(),
            consensus: self.consensus.clone(),
            feed: self.feed.clone(),
            proposer: self.proposer.clone(),
        };
        let reply = admission.answer(&asker, request.into_inner()).await;
        Ok(hint::beside(reply, self.membership.leader_address()))
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Answer<Inspected> {
        rpc::caller(&request, Role::Controller)?;
        Ok(Response::new(inspect(&self.consensus, &self.store, &self.data_dir).await))
    }

    async fn measure(&self, request: Request<MeasureRequest>) -> Answer<MeasuredReply> {
        rpc::caller(&request, Role::Controller)?;
        Ok(Response::new(self.consensus.timing().into()))
    }

    async fn connected(&self, request: Request<ConnectedRequest>) -> Answer<ConnectedReply> {
        rpc::caller(&request, Role::Controller)?;
        Ok(Response::new(self.connected.list()))
    }

    async fn edge_progress(&self, request: Request<EdgeProgressRequest>) -> Answer<EdgeProgress> {
        rpc::caller(&request, Role::Controller)?;
        Ok(Response::new(EdgeProgress { balancers: self.heard.edge_progress() }))
    }

    async fn sealing_keys(&self, request: Request<SealingKeysRequest>) -> Answer<SealingKeysReply> {
        rpc::caller(&request, Role::Controller)?;
        let state = self.feed.snapshot();
        let (kept, keys) = self.sealing.answer(state.trust(), request.into_inner().offered).await;
        Ok(Response::new(SealingKeysReply { kept, keys }))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Answer<ReadIndexReply> {
        rpc::caller(&request, Role::Controller)?;
        let reply = self.reads.here().await;
        Ok(Response::new(reply.unwrap_or_else(|error| ReadIndexReply::Unavailable { reason: error.to_string() })))
    }

    async fn relay(&self, request: Request<RelayBatch>) -> Answer<Relayed> {
        rpc::caller(&request, Role::Controller)?;
        let accepted = self.leadership.borrow().leading;
        if accepted {
            self.memory.hear(request.get_ref(), &self.feed.snapshot(), self.feed.now());
        }
        Ok(Response::new(Relayed { accepted }))
    }

    async fn rejoin(&self, request: Request<RejoinRequest>) -> Answer<RejoinReply> {
        let name = controller_of(&request)?;
        Ok(rejoin::answer(&self.membership, &name, request.into_inner()))
    }

    async fn has_blob(&self, request: Request<BlobRequest>) -> Answer<BlobPresence> {
        rpc::caller(&request, Role::Controller)?;
        // Held: who asks counts on it.
        let present = self.store.hold(&request.get_ref().digest).await.is_some();
        Ok(Response::new(BlobPresence { present }))
    }

    async fn get_blob(&self, request: Request<BlobRequest>) -> Answer<Self::GetBlobStream> {
        rpc::caller(&request, Role::Controller)?;
        let stream = parts(&self.store, &request.get_ref().digest).await;
        Ok(Response::new(Box::pin(stream.map_err(|error| Status::not_found(error.to_string()))?)))
    }

    async fn put_blob(&self, request: Request<Streaming<BlobPart>>) -> Answer<BlobStored> {
        rpc::caller(&request, Role::Controller)?;
        let blob = receive(&self.store, request.into_inner(), None).await?;
        Ok(Response::new(BlobStored { blob, copies: 1 }))
    }

    async fn open_log(&self, request: Request<LogRequest>) -> Answer<Self::OpenLogStream> {
        rpc::caller(&request, Role::Controller)?;
        // One hop: who asks has asked the others too.
        let log = self.logs.open_here(request.get_ref()).await;
        let log = log.ok_or_else(|| Status::not_found("the agent is not connected to this controller"))?;
        let shutdown = self.shutdown.clone();
        Ok(Response::new(Box::pin(log.map(Ok).take_until(shutdown.cancelled_owned()))))
    }

    async fn requests(&self, request: Request<RequestsQuestion>) -> Answer<RequestsAnswer> {
        rpc::caller(&request, Role::Controller)?;
        Ok(Response::new(self.requests.answer(request.get_ref().app.as_ref())))
    }

    async fn open_tail(&self, request: Request<TailRequest>) -> Answer<Self::OpenTailStream> {
        rpc::caller(&request, Role::Controller)?;
        // One hop: who asks asks the others too.
        let tail = self.tails.open_here(request.into_inner());
        let shutdown = self.shutdown.clone();
        Ok(Response::new(Box::pin(tail.map(Ok).take_until(shutdown.cancelled_owned()))))
    }

    async fn audit(&self, request: Request<AuditRequest>) -> Answer<AuditReply> {
        rpc::caller(&request, Role::Controller)?;
        let header = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let until = header(known::AUDIT_UNTIL).and_then(|until| until.parse().ok()).unwrap_or(u64::MAX);
        let oldest = header(known::AUDIT_OLDEST).is_some();
        let AuditRequest { since, limit } = request.into_inner();
        let records = self.audit.read(Span { since: since.0, until, limit: limit as usize, oldest }).await;
        let records = records.map_err(|error| Status::internal(format!("cannot read its records: {error}")))?;
        let records = records.iter().filter_map(|record| serde_json::to_vec(record).ok().map(Into::into)).collect();
        let mut reply = Response::new(AuditReply { records });
        reply.metadata_mut().insert(known::AUDIT_SPAN, MetadataValue::from_static("1"));
        Ok(reply)
    }
}

/// The name in the caller's certificate.
fn controller_of<T>(request: &Request<T>) -> Result<ControllerName, Status> {
    let caller = rpc::caller(request, Role::Controller)?;
    caller.id.parse().map_err(|_| Status::permission_denied(format!("{caller} is no controller's name")))
}
