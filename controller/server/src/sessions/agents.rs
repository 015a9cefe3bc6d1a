//! An agent's session: who it is, what its host shall run, what it reports.

use std::sync::Arc;

use futures_util::Stream;
use pontoon_core::{command, view};
use pontoon_kit::{CancellationToken, Peer, Role, rpc};
use pontoon_model::{HostName, Incarnation, MachineRole};
use pontoon_proto::services::agents_server::Agents;
use pontoon_proto::{AgentDirective, AgentHello, AgentMessage, BlobPart, BlobRequest, BlobStored, LogChunk, LogPushed};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::connected::version_of;
use super::directory::Outbox;
use super::known::{self, Reads};
use super::reports::Reports;
use super::{
    AgentDirectory, Connected, HELLO, Heard, KnownFeed, LEAVE, Logs, OUTBOX, agent_blobs, key_of, leaderless,
    push_trust,
};
use crate::blobs::{BlobStore, Fetcher, Replicator};
use crate::raft::{Leadership, Proposer, StateFeed};
use crate::sealing::SealingKeys;
use crate::trust::Notices;

/// What controllers offer agents.
#[derive(Clone)]
pub struct AgentsService {
    /// Where assignments come from.
    pub feed: StateFeed,
    /// Where the controllers are.
    pub known: KnownFeed,
    /// Where reports go.
    pub proposer: Proposer,
    /// Whether there is a leader.
    pub leadership: watch::Receiver<Leadership>,
    /// Who is connected.
    pub directory: AgentDirectory,
    /// And which version of Pontoon each runs.
    pub connected: Connected,
    /// Where heartbeats go.
    pub heard: Heard,
    /// Where logs go.
    pub logs: Logs,
    /// Bundles and sources.
    pub store: BlobStore,
    /// Gets blobs this controller lacks.
    pub fetcher: Fetcher,
    /// Stores bundles on a majority.
    pub replicator: Replicator,
    /// Opens the values of environments.
    pub sealing: SealingKeys,
    /// Ends all sessions.
    pub shutdown: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for AgentsService {
    type SessionStream = ReceiverStream<Result<AgentDirective, Status>>;
    type GetBlobStream = BoxStream<BlobPart>;

    async fn session(&self, request: Request<Streaming<AgentMessage>>) -> Answer<Self::SessionStream> {
        let peer = rpc::caller(&request, Role::Agent)?;
        let notices = Notices::new(MachineRole::Agent, &peer.id, key_of(&request));
        let reads = Reads::of(&request);
        let place = self.connected.enter(MachineRole::Agent, &peer.id, version_of(&request));
        let (outbox, receiver) = mpsc::channel(OUTBOX);
        let service = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let ended = tokio::select! {
                ended = service.serve(&peer, (reads, notices), request.into_inner(), &outbox) => ended,
                () = service.shutdown.cancelled() => Err(Status::unavailable("this controller is stopping")),
            };
            if let Err(status) = ended {
                tracing::info!(agent = %peer.id, reason = status.message(), "the session ends");
                // Full or closed: then nobody reads why.
                let _ = outbox.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_blob(&self, request: Request<BlobRequest>) -> Answer<Self::GetBlobStream> {
        rpc::caller(&request, Role::Agent)?;
        let digest = request.into_inner().digest;
        Ok(Response::new(agent_blobs::get(&self.fetcher, &self.store, &digest).await?))
    }

    async fn put_blob(&self, request: Request<Streaming<BlobPart>>) -> Answer<BlobStored> {
        rpc::caller(&request, Role::Agent)?;
        agent_blobs::put(&self.store, &self.replicator, request.into_inner()).await.map(Response::new)
    }

    async fn push_log(&self, request: Request<Streaming<LogChunk>>) -> Answer<LogPushed> {
        let peer = rpc::caller(&request, Role::Agent)?;
        let pushed = tokio::select! {
            pushed = self.logs.accept(&peer.id, request.into_inner()) => pushed?,
            () = self.shutdown.cancelled() => return Err(Status::unavailable("this controller is stopping")),
        };
        Ok(Response::new(pushed))
    }
}

impl AgentsService {
    async fn serve(
        &self,
        peer: &Peer,
        (reads, notices): (Reads, Notices),
        mut inbound: Streaming<AgentMessage>,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let hello = hello(peer, &mut inbound).await?;
        let place = self.directory.enter(hello.host.clone(), outbox.clone());
        let index = self.register(&hello).await?;
        tracing::info!(host = %hello.host, site = %hello.site, incarnation = %hello.incarnation, "an agent is connected");
        let reports = Arc::new(Reports::default());
        tokio::select! {
            ended = self.listen(&hello, &mut inbound, &reports) => ended,
            ended = self.push_assignments(&hello.host, hello.incarnation, index, outbox) => ended,
            ended = push_trust(self.feed.trust(), notices, outbox, AgentDirective::Trust), if reads.trust => ended,
            ended = self.push_known(outbox), if reads.controllers => ended,
            why = reports.propose(&hello.host, hello.incarnation, &self.proposer) => {
                Err(Status::unavailable(format!("reports cannot be committed: {why}")))
            }
            () = place.replaced.cancelled() => Err(Status::aborted("a newer session of this host replaces this one")),
            () = leaderless(self.leadership.clone()) => {
                // A full outbox is as good as a closed one: the session ends either way.
                let _ = outbox.try_send(Ok(AgentDirective::GoElsewhere));
                tokio::time::sleep(LEAVE).await;
                Err(Status::unavailable("this controller has lost the others"))
            }
        }
    }

    /// Returns the index from which on the state knows this start of the agent.
    async fn register(&self, hello: &AgentHello) -> Result<u64, Status> {
        let command = command::RegisterHost {
            name: hello.host.clone(),
            site: hello.site.clone(),
            incarnation: hello.incarnation,
            capacity: hello.capacity,
            runtime: hello.runtime,
        };
        let registered = timeout(HELLO, self.proposer.propose(command.into())).await;
        match registered {
            Ok(Ok((_, index))) => Ok(index),
            Ok(Err(error)) => Err(Status::unavailable(format!("the host cannot be registered: {error}"))),
            Err(_) => Err(Status::unavailable("the host cannot be registered: no leader answered in time")),
        }
    }

    async fn listen(
        &self,
        hello: &AgentHello,
        inbound: &mut Streaming<AgentMessage>,
        reports: &Reports,
    ) -> Result<(), Status> {
        while let Some(message) = inbound.message().await? {
            match message {
                AgentMessage::Heartbeat(heartbeat) => self.heard.host(&hello.host, hello.incarnation, heartbeat),
                AgentMessage::Servos(changed) => reports.servos(changed).map_err(Status::resource_exhausted)?,
                AgentMessage::Build(report) => reports.build(report).map_err(Status::resource_exhausted)?,
                AgentMessage::Hello(_) => return Err(Status::invalid_argument("a second Hello in one session")),
            }
        }
        tracing::info!(host = %hello.host, "the agent has gone");
        Ok(())
    }

    /// Says where the controllers are, at once and at every change.
    async fn push_known(&self, outbox: &Outbox) -> Result<(), Status> {
        let mut feed = self.known.clone();
        loop {
            let known = known::next(&mut feed).await;
            let pushed = outbox.send_timeout(Ok(AgentDirective::Controllers { known }), HELLO).await;
            pushed.map_err(|_| Status::deadline_exceeded("the agent does not read where the controllers are"))?;
            if feed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Sends the assignment at once and whenever it changes; nothing older than `index`, which the agent may know.
    async fn push_assignments(
        &self,
        host: &HostName,
        incarnation: Incarnation,
        index: u64,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let mut feed = self.feed.clone();
        let (mut state, mut sent) = (feed.snapshot(), None);
        loop {
            if state.index() >= index {
                let Some(row) = state.host(host) else {
                    return Err(Status::not_found("the host was removed from the cluster"));
                };
                if row.incarnation > incarnation {
                    return Err(Status::aborted("a later start of this host's agent has registered"));
                }
                if sent != Some(row.generation) {
                    let assignment = view::assignment(&state, host, |place, value| self.sealing.open_one(place, value));
                    // The agent goes on with what it has, and asks another controller.
                    let assignment = assignment.map_err(|error| {
                        tracing::error!(%host, "{error}");
                        Status::unavailable(error.to_string())
                    })?;
                    let assignment = AgentDirective::Assignment(assignment);
                    let pushed = outbox.send_timeout(Ok(assignment), HELLO).await;
                    pushed.map_err(|_| Status::deadline_exceeded("the agent does not read its assignment"))?;
                    sent = Some(row.generation);
                }
            }
            state = feed.changed().await;
        }
    }
}

async fn hello(peer: &Peer, inbound: &mut Streaming<AgentMessage>) -> Result<AgentHello, Status> {
    let first = timeout(HELLO, inbound.message()).await.map_err(|_| Status::deadline_exceeded("no Hello in time"))?;
    let Some(AgentMessage::Hello(hello)) = first? else {
        return Err(Status::invalid_argument("the first message of a session is Hello"));
    };
    if peer.id != hello.host.as_str() {
        return Err(Status::permission_denied(format!(
            "the certificate is that of {}, not of {}: an agent speaks for its own host only",
            peer.id, hello.host
        )));
    }
    Ok(hello)
}
