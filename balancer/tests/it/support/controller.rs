//! A controller's side of the session, led by the test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;

use pontoon_kit::{Authority, Credentials, KeyId, Role, Trust, rpc, tls};
use pontoon_model::RouteVersion;
use pontoon_proto::services::balancers_server::{Balancers, BalancersServer};
use pontoon_proto::{BalancerAck, BalancerDirective, BalancerHello, BalancerMessage, known};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::within;

/// A listening controller; dropping it cuts its sessions.
pub struct Controller {
    pub address: SocketAddr,
    credentials: Credentials,
    sessions: mpsc::Receiver<Session>,
    task: JoinHandle<()>,
}

/// One session with a balancer.
pub struct Session {
    pub hello: BalancerHello,
    /// How others reach it, as it says.
    pub reach: Option<String>,
    incoming: Streaming<BalancerMessage>,
    outgoing: mpsc::Sender<Result<BalancerDirective, Status>>,
}

struct Service {
    sessions: mpsc::Sender<Session>,
    reads_requests: bool,
}

#[tonic::async_trait]
impl Balancers for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<BalancerDirective, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<BalancerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = rpc::caller(&request, Role::Balancer)?;
        let reach = request.metadata().get(known::PEER).map(|said| said.to_str().unwrap().to_owned());
        let mut incoming = request.into_inner();
        let Some(BalancerMessage::Hello(hello)) = incoming.message().await? else {
            return Err(Status::invalid_argument("Hello comes first"));
        };
        assert_eq!(peer.id, hello.name.as_str());
        let (outgoing, directives) = mpsc::channel(8);
        let session = Session { hello, reach, incoming, outgoing };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        let mut response: Response<Self::SessionStream> = Response::new(Box::pin(ReceiverStream::new(directives)));
        if self.reads_requests {
            response.metadata_mut().insert(known::READS, known::REQUESTS.parse().unwrap());
        }
        Ok(response)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    /// One of before there was word of requests.
    pub async fn start(authority: &Authority) -> Self {
        Self::start_with(authority, false).await
    }

    pub async fn start_with(authority: &Authority, reads_requests: bool) -> Self {
        let credentials = Credentials::new(authority.issue(Role::Controller, "c1").unwrap()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(8);
        let server = rpc::server(pontoon_enrol::needs)
            .add_service(BalancersServer::new(Service { sessions: sender, reads_requests }));
        let incoming = tls::incoming(listener, credentials.clone());
        let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self { address, credentials, sessions, task }
    }

    /// Refuses the key from now on.
    pub fn revoke(&self, key: KeyId) {
        let revoked = BTreeSet::from([key]);
        self.credentials.set_trust(&Trust { revoked, ..self.credentials.trust() }).unwrap();
    }

    /// The next session a balancer opens.
    pub async fn session(&mut self) -> Session {
        within("a balancer's Hello", self.sessions.recv()).await.unwrap()
    }
}

impl Session {
    pub async fn send(&self, directive: BalancerDirective) {
        self.outgoing.send(Ok(directive)).await.unwrap();
    }

    /// The first acknowledgement that `wanted` accepts.
    pub async fn ack(&mut self, wanted: impl Fn(BalancerAck) -> bool) -> BalancerAck {
        within("the acknowledgement", async {
            loop {
                match self.incoming.next().await.expect("the session goes on").unwrap() {
                    BalancerMessage::Ack(ack) if wanted(ack) => return ack,
                    BalancerMessage::Ack(_) | BalancerMessage::Ports(_) | BalancerMessage::EdgeApplied(_) => {}
                    BalancerMessage::Requests(_) | BalancerMessage::Tail(_) => panic!("this controller reads neither"),
                    BalancerMessage::Hello(_) => panic!("Hello comes once"),
                }
            }
        })
        .await
    }

    /// The next version that it says it has, of what there is besides the routes.
    pub async fn edge_applied(&mut self) -> RouteVersion {
        within("the acknowledgement", async {
            loop {
                match self.incoming.next().await.expect("the session goes on").unwrap() {
                    BalancerMessage::EdgeApplied(version) => return version,
                    BalancerMessage::Ack(_) | BalancerMessage::Ports(_) => {}
                    BalancerMessage::Requests(_) | BalancerMessage::Tail(_) => panic!("this controller reads neither"),
                    BalancerMessage::Hello(_) => panic!("Hello comes once"),
                }
            }
        })
        .await
    }

    /// What the first message is for that `wanted` has something.
    pub async fn told<T>(&mut self, wanted: impl Fn(BalancerMessage) -> Option<T>) -> T {
        within("the message", async {
            loop {
                let message = self.incoming.next().await.expect("the session goes on").unwrap();
                if let Some(told) = wanted(message) {
                    return told;
                }
            }
        })
        .await
    }

    /// Whether `messages` signs of life come without a word of what there is besides the routes.
    pub async fn says_only_acks(&mut self, messages: usize) -> bool {
        for _ in 0..messages {
            let next = within("a sign of life", self.incoming.next()).await.expect("the session goes on").unwrap();
            if !matches!(next, BalancerMessage::Ack(_)) {
                return false;
            }
        }
        true
    }

    /// Waits for the balancer to end it.
    pub async fn ended(mut self) {
        within("the session's end", async { while let Some(Ok(_)) = self.incoming.next().await {} }).await;
    }
}
