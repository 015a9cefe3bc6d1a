//! The scripted controller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt};
use pontoon_kit::{Authority, Credentials, KeyId, Role, Trust, rpc, tls};
use pontoon_model::*;
use pontoon_proto::services::agents_server::{Agents, AgentsServer};
use pontoon_proto::*;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::until;

/// What the controller heard so far.
#[derive(Default)]
pub struct Heard {
    pub hellos: Vec<AgentHello>,
    pub heartbeats: u64,
    /// Every report, in order.
    pub reports: Vec<ServoReport>,
    /// The newest of each servo.
    pub servos: BTreeMap<ServoId, ServoReport>,
    pub builds: BTreeMap<BuildId, BuildOutcome>,
    pub logs: BTreeMap<u64, Vec<LogLine>>,
    pub log_ends: BTreeMap<u64, String>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

#[derive(Clone)]
struct Service {
    heard: Arc<Mutex<Heard>>,
    assignment: watch::Sender<Option<Assignment>>,
    directives: broadcast::Sender<AgentDirective>,
}

pub struct Controller {
    pub address: SocketAddr,
    service: Service,
    credentials: Credentials,
    server: JoinHandle<()>,
}

impl Controller {
    pub async fn start(authority: &Authority) -> Self {
        let credentials = Credentials::new(authority.issue(Role::Controller, "c1").unwrap()).unwrap();
        let service = Service {
            heard: Arc::default(),
            assignment: watch::Sender::new(None),
            directives: broadcast::Sender::new(16),
        };
        let (address, server) = serve("127.0.0.1:0".parse().unwrap(), &credentials, service.clone()).await;
        Self { address, service, credentials, server }
    }

    /// Ends, as a machine that loses power.
    pub async fn stop(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    pub async fn start_again(&mut self) {
        (_, self.server) = serve(self.address, &self.credentials, self.service.clone()).await;
    }

    /// Takes `key` for worth nothing, and ends its connections.
    pub fn revoke(&self, key: KeyId) {
        let revoked = BTreeSet::from([key]);
        self.credentials.set_trust(&Trust { revoked, ..self.credentials.trust() }).unwrap();
    }

    pub fn put(&self, bytes: Vec<u8>) -> BlobRef {
        let blob = BlobRef { digest: Digest::of(&bytes), size: MemoryBytes(bytes.len() as u64) };
        self.service.heard.lock().unwrap().blobs.insert(blob.digest, bytes);
        blob
    }

    pub fn assign(&self, servos: Vec<ServoSpec>, builds: Vec<BuildSpec>) {
        self.service.assignment.send_modify(|assignment| {
            let generation = assignment.as_ref().map_or(1, |old| old.generation + 1);
            *assignment = Some(Assignment { host: HostName::new("h1").unwrap(), generation, servos, builds });
        });
    }

    pub fn send(&self, directive: AgentDirective) {
        self.service.directives.send(directive).expect("a session is open");
    }

    pub fn want_log(&self, stream: u64, source: LogSource, follow: bool, tail: Option<u32>) {
        let request = LogRequest { host: HostName::new("h1").unwrap(), source, follow, tail };
        self.send(AgentDirective::LogWanted { stream, request });
    }

    pub fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.service.heard.lock().unwrap())
    }

    pub async fn until(&self, what: &str, mut check: impl FnMut(&Heard) -> Result<(), String>) {
        until(what, || self.heard(&mut check)).await;
    }

    /// Waits until the newest word on the servo is this one, and returns the report.
    pub async fn until_servo(&self, servo: u64, word: &str) -> ServoReport {
        self.until(&format!("servo s{servo} is {word}"), |heard| match heard.servos.get(&ServoId(servo)) {
            Some(report) if report.status.word() == word => Ok(()),
            other => Err(format!("the newest report is {other:?}")),
        })
        .await;
        self.heard(|heard| heard.servos[&ServoId(servo)].clone())
    }

    pub async fn until_build(&self, build: u64) -> BuildOutcome {
        self.until(&format!("build b{build} ended"), |heard| {
            heard.builds.get(&BuildId(build)).map(|_| ()).ok_or_else(|| "no report".into())
        })
        .await;
        self.heard(|heard| heard.builds[&BuildId(build)].clone())
    }

    /// Waits for the end of a log; returns its lines and how it ended.
    pub async fn until_log_end(&self, stream: u64) -> (Vec<String>, String) {
        self.until("the log ended", |heard| {
            heard.log_ends.get(&stream).map(|_| ()).ok_or_else(|| format!("so far: {:?}", heard.logs.get(&stream)))
        })
        .await;
        self.heard(|heard| {
            let lines = heard.logs.get(&stream).into_iter().flatten().map(|line| line.text.clone()).collect();
            (lines, heard.log_ends[&stream].clone())
        })
    }
}

async fn serve(address: SocketAddr, credentials: &Credentials, service: Service) -> (SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let agents = AgentsServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let router = rpc::server(pontoon_enrol::needs).add_service(agents);
    let incoming = tls::incoming(listener, credentials.clone());
    let server = tokio::spawn(async move {
        router.serve_with_incoming(incoming).await.unwrap();
    });
    (address, server)
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Service {
    type SessionStream = Out<AgentDirective>;
    type GetBlobStream = Out<BlobPart>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = rpc::caller(&request, Role::Agent)?;
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let service = self.clone();
        let (mut assignments, mut directives) = (self.assignment.subscribe(), self.directives.subscribe());
        assignments.mark_changed();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = messages.message() => match message {
                        Ok(Some(message)) => service.hear(message, &peer.id),
                        _ => return,
                    },
                    _ = assignments.changed() => {
                        let newest = assignments.borrow_and_update().clone();
                        if let Some(assignment) = newest
                            && sender.send(Ok(AgentDirective::Assignment(assignment))).await.is_err()
                        {
                            return;
                        }
                    }
                    Ok(directive) = directives.recv() => {
                        if sender.send(Ok(directive)).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn get_blob(&self, request: Request<BlobRequest>) -> Result<Response<Self::GetBlobStream>, Status> {
        let digest = request.into_inner().digest;
        let bytes = self.heard.lock().unwrap().blobs.get(&digest).cloned();
        let bytes = bytes.ok_or_else(|| Status::not_found(format!("no blob {digest:?}")))?;
        let begin = BlobPart::Begin(BlobRef { digest, size: MemoryBytes(bytes.len() as u64) });
        let parts = bytes.chunks(blobs::PART_BYTES).map(|part| BlobPart::Data(part.to_vec().into()));
        let parts: Vec<_> = std::iter::once(begin).chain(parts).map(Ok).collect();
        Ok(Response::new(futures_util::stream::iter(parts).boxed()))
    }

    async fn put_blob(&self, request: Request<Streaming<BlobPart>>) -> Result<Response<BlobStored>, Status> {
        let mut parts = request.into_inner();
        let Some(BlobPart::Begin(blob)) = parts.message().await? else {
            return Err(Status::invalid_argument("no beginning"));
        };
        let mut bytes = Vec::new();
        while let Some(BlobPart::Data(part)) = parts.message().await? {
            bytes.extend_from_slice(&part);
        }
        if Digest::of(&bytes) != blob.digest || bytes.len() as u64 != blob.size.0 {
            return Err(Status::data_loss("damaged"));
        }
        self.heard.lock().unwrap().blobs.insert(blob.digest, bytes);
        Ok(Response::new(BlobStored { blob, copies: 1 }))
    }

    async fn push_log(&self, request: Request<Streaming<LogChunk>>) -> Result<Response<LogPushed>, Status> {
        let mut chunks = request.into_inner();
        let mut count = 0;
        while let Some(chunk) = chunks.message().await? {
            count += chunk.lines.len() as u64;
            let mut heard = self.heard.lock().unwrap();
            heard.logs.entry(chunk.stream).or_default().extend(chunk.lines);
            if let Some(end) = chunk.end {
                heard.log_ends.insert(chunk.stream, end);
            }
        }
        Ok(Response::new(LogPushed { lines: count }))
    }
}

impl Service {
    fn hear(&self, message: AgentMessage, peer: &str) {
        let mut heard = self.heard.lock().unwrap();
        match message {
            AgentMessage::Hello(hello) => {
                assert_eq!(hello.host.as_str(), peer);
                heard.hellos.push(hello);
            }
            AgentMessage::Heartbeat(_) => heard.heartbeats += 1,
            AgentMessage::Servos(reports) => {
                for report in reports {
                    heard.servos.insert(report.servo, report.clone());
                    heard.reports.push(report);
                }
            }
            AgentMessage::Build(report) => {
                heard.builds.insert(report.build, report.outcome);
            }
        }
    }
}
