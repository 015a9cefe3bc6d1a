//! A balancer's session: who it is, the routes it shall follow and what it needs besides, how far it is.

use pontoon_core::command;
use pontoon_kit::{CancellationToken, Peer, Role, rpc};
use pontoon_model::{BalancerName, EdgeTable, MachineRole, Reach, RouteTable, RouteVersion};
use pontoon_proto::known::{READS, REQUESTS};
use pontoon_proto::services::balancers_server::Balancers;
use pontoon_proto::{BalancerDirective, BalancerHello, BalancerMessage};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use super::connected::version_of;
use super::known::{self, Reads};
use super::tails::{Tails, Telling};
use super::{
    Connected, HELLO, Heard, KnownFeed, LEAVE, OUTBOX, TableFeed, edge, key_of, leaderless, peering, push_trust, routes,
};
use crate::raft::{Leadership, Proposer, StateFeed};
use crate::requests::Requests;
use crate::sealing::SealingKeys;
use crate::trust::Notices;

type Outbox = mpsc::Sender<Result<BalancerDirective, Status>>;

/// What controllers offer balancers.
#[derive(Clone)]
pub struct BalancersService {
    /// Tells when a balancer is registered.
    pub feed: StateFeed,
    /// Where the controllers are.
    pub known: KnownFeed,
    /// The routes.
    pub routes: TableFeed<RouteTable>,
    /// Domains, settings of apps, certificates and keys.
    pub edge: TableFeed<EdgeTable>,
    /// Where registrations go.
    pub proposer: Proposer,
    /// Whether there is a leader.
    pub leadership: watch::Receiver<Leadership>,
    /// Which version of Pontoon each runs that is connected.
    pub connected: Connected,
    /// Where acknowledgements go.
    pub heard: Heard,
    /// Where counts of requests go.
    pub requests: Requests,
    /// Who looks at requests.
    pub tails: Tails,
    /// Opens keys of certificates, and those of cookies and session tickets.
    pub sealing: SealingKeys,
    /// Ends all sessions.
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Balancers for BalancersService {
    type SessionStream = ReceiverStream<Result<BalancerDirective, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<BalancerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = rpc::caller(&request, Role::Balancer)?;
        let notices = Notices::new(MachineRole::Balancer, &peer.id, key_of(&request));
        let reads = Reads::of(&request);
        let reach = peering::reach_of(&request);
        let place = self.connected.enter(MachineRole::Balancer, &peer.id, version_of(&request));
        let (outbox, receiver) = mpsc::channel(OUTBOX);
        let service = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let ended = tokio::select! {
                ended = service.serve(&peer, (reads, notices, reach), request.into_inner(), &outbox) => ended,
                () = service.shutdown.cancelled() => Err(Status::unavailable("this controller is stopping")),
            };
            if let Err(status) = ended {
                tracing::info!(balancer = %peer.id, reason = status.message(), "the session ends");
                // Full or closed: then nobody reads why.
                let _ = outbox.try_send(Err(status));
            }
        });
        let mut response = Response::new(ReceiverStream::new(receiver));
        response.metadata_mut().insert(READS, MetadataValue::from_static(REQUESTS));
        Ok(response)
    }
}

impl BalancersService {
    async fn serve(
        &self,
        peer: &Peer,
        (reads, notices, reach): (Reads, Notices, Option<Reach>),
        mut inbound: Streaming<BalancerMessage>,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let hello = hello(peer, &mut inbound).await?;
        let index = self.register(&hello).await?;
        tracing::info!(balancer = %hello.name, site = %hello.site, have = %hello.have, "a balancer is connected");
        let telling = reads.requests.then(|| self.tails.connected(outbox));
        if reads.edge {
            self.heard.balancer_edge(&hello.name, RouteVersion::default());
        }
        let ended = tokio::select! {
            ended = self.listen(&hello.name, &mut inbound, telling.as_ref()) => ended,
            ended = self.push_routes(&hello, (index, reads.pieces), outbox) => ended,
            ended = self.push_edge(index, outbox), if reads.edge => ended,
            ended = push_trust(self.feed.trust(), notices, outbox, BalancerDirective::Trust), if reads.trust => ended,
            ended = self.push_known(outbox), if reads.controllers => ended,
            () = peering::register(self.feed.clone(), self.proposer.clone(), &hello.name, reach) => Ok(()),
            () = leaderless(self.leadership.clone()) => {
                // A full outbox is as good as a closed one: the session ends either way.
                let _ = outbox.try_send(Ok(BalancerDirective::GoElsewhere));
                tokio::time::sleep(LEAVE).await;
                Err(Status::unavailable("this controller has lost the others"))
            }
        };
        self.heard.balancer_left(&hello.name);
        ended
    }

    async fn register(&self, hello: &BalancerHello) -> Result<u64, Status> {
        let command =
            command::RegisterBalancer { name: hello.name.clone(), site: hello.site.clone(), listen: hello.listen };
        match timeout(HELLO, self.proposer.propose(command.into())).await {
            Ok(Ok((_, index))) => Ok(index),
            Ok(Err(error)) => Err(Status::unavailable(format!("the balancer cannot be registered: {error}"))),
            Err(_) => Err(Status::unavailable("the balancer cannot be registered: no leader answered in time")),
        }
    }

    async fn listen(
        &self,
        name: &BalancerName,
        inbound: &mut Streaming<BalancerMessage>,
        telling: Option<&Telling>,
    ) -> Result<(), Status> {
        while let Some(message) = inbound.message().await? {
            match message {
                BalancerMessage::Ack(ack) => self.heard.balancer(name, ack),
                BalancerMessage::Requests(report) => self.requests.hear(name, report),
                BalancerMessage::Tail(chunk) => {
                    if let Some(telling) = telling {
                        telling.take(name, chunk);
                    }
                }
                BalancerMessage::EdgeApplied(version) => self.heard.balancer_edge(name, version),
                BalancerMessage::Ports(reports) => self.heard.balancer_ports(name, reports),
                BalancerMessage::Hello(_) => return Err(Status::invalid_argument("a second Hello in one session")),
            }
        }
        tracing::info!(balancer = %name, "the balancer has gone");
        Ok(())
    }

    /// Says where the controllers are, at once and at every change.
    async fn push_known(&self, outbox: &Outbox) -> Result<(), Status> {
        let mut feed = self.known.clone();
        loop {
            send(outbox, BalancerDirective::Controllers { known: known::next(&mut feed).await }).await?;
            if feed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Sends the table, unless the balancer has it, and then what changes.
    async fn push_routes(
        &self,
        hello: &BalancerHello,
        (index, reads_pieces): (u64, bool),
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let mut tables = self.routes.follow();
        let stopping = || Status::unavailable("this controller is stopping");
        // The balancer's version may come from another controller: first be at least as far as the registration.
        let known = self.feed.at(index).await.route_version();
        let mut current = tables.at_least(known).await.ok_or_else(stopping)?;
        if hello.have != current.version {
            for directive in routes::whole(&current, reads_pieces) {
                send(outbox, directive).await?;
            }
        }
        loop {
            let next = tables.changed().await.ok_or_else(stopping)?;
            for directive in routes::changes(&current, &next, reads_pieces) {
                send(outbox, directive).await?;
            }
            current = next;
        }
    }

    /// Sends what it needs besides the routes, and then what changes of it.
    async fn push_edge(&self, index: u64, outbox: &Outbox) -> Result<(), Status> {
        let mut tables = self.edge.follow();
        let stopping = || Status::unavailable("this controller is stopping");
        // As of the routes: what it has may come from another controller.
        let known = self.feed.at(index).await.edge().version();
        let mut current = tables.at_least(known).await.ok_or_else(stopping)?;
        for directive in edge::whole(&current) {
            send(outbox, self.opened(directive)?).await?;
        }
        loop {
            let next = tables.changed().await.ok_or_else(stopping)?;
            for directive in edge::changes(&current, &next) {
                send(outbox, self.opened(directive)?).await?;
            }
            current = next;
        }
    }

    /// What is sealed as the balancer can use it. If it cannot be had here, the balancer goes on with what it has, and asks another
    /// controller.
    fn opened(&self, directive: BalancerDirective) -> Result<BalancerDirective, Status> {
        edge::opened(directive, &self.sealing).map_err(|error| {
            tracing::error!("{error}");
            Status::unavailable(error.to_string())
        })
    }
}

async fn send(outbox: &Outbox, directive: BalancerDirective) -> Result<(), Status> {
    outbox
        .send_timeout(Ok(directive), HELLO)
        .await
        .map_err(|_| Status::deadline_exceeded("the balancer does not read its routes"))
}

async fn hello(peer: &Peer, inbound: &mut Streaming<BalancerMessage>) -> Result<BalancerHello, Status> {
    let first = timeout(HELLO, inbound.message()).await.map_err(|_| Status::deadline_exceeded("no Hello in time"))?;
    let Some(BalancerMessage::Hello(hello)) = first? else {
        return Err(Status::invalid_argument("the first message of a session is Hello"));
    };
    if peer.id != hello.name.as_str() {
        return Err(Status::permission_denied(format!(
            "the certificate is that of {}, not of {}: a balancer speaks for itself only",
            peer.id, hello.name
        )));
    }
    Ok(hello)
}
