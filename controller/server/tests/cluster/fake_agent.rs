//! An agent that says everything a real one says, and runs nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pontoon_kit::{CancellationToken, Credentials, Role, rpc};
use pontoon_model::{
    BlobRef, BuildOutcome, BuildSpec, Capacity, CpuMillis, Desired, Digest, Incarnation, MemoryBytes, RuntimeKind,
    ServoReport, ServoSpec, ServoStatus,
};
use pontoon_proto::services::agents_client::AgentsClient;
use pontoon_proto::{
    AgentDirective, AgentHello, AgentMessage, BlobPart, BlobRequest, BuildReport, Heartbeat, LogChunk, LogLine,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

use super::nodes::Cluster;

/// Where every servo is said to listen.
pub const ADDRESS: &str = "127.0.0.1:20001";

/// What the agent of `host` says first.
pub fn hello(host: &str) -> AgentHello {
    AgentHello {
        host: host.parse().unwrap(),
        site: "test.0".parse().unwrap(),
        incarnation: Incarnation(1),
        capacity: Capacity { memory: MemoryBytes::mib(8192), cpu: CpuMillis(4000) },
        runtime: RuntimeKind::Docker,
        generation: 0,
    }
}

/// A connected agent; finds another controller when its own is gone.
pub struct FakeAgent {
    stop: CancellationToken,
    built_from: Arc<Mutex<Vec<u8>>>,
    env: Arc<Mutex<BTreeMap<String, String>>>,
}

impl FakeAgent {
    /// Connects first to `node`.
    pub async fn start(cluster: &Cluster, host: &str, node: usize) -> Self {
        let agent = Self { stop: CancellationToken::new(), built_from: Arc::default(), env: Arc::default() };
        let credentials = Credentials::new(cluster.authority.issue(Role::Agent, host).unwrap()).unwrap();
        let controllers: Vec<SocketAddr> =
            (0..cluster.len()).map(|n| cluster.grpc((node + n) % cluster.len())).collect();
        let (host, built_from, env) = (host.to_owned(), agent.built_from.clone(), agent.env.clone());
        let work = async move {
            for address in controllers.iter().cycle() {
                if let Err(error) = session(*address, &credentials, &host, (&built_from, &env)).await {
                    eprintln!("agent: {address}: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::spawn(agent.stop.clone().run_until_cancelled_owned(work));
        agent
    }

    /// The path of the first file of the source it built.
    pub fn built_from(&self) -> Vec<u8> {
        self.built_from.lock().unwrap().clone()
    }

    /// The value that a build was given.
    pub fn value_of(&self, name: &str) -> Option<String> {
        self.env.lock().unwrap().get(name).cloned()
    }

    /// Ends it.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn session(
    address: SocketAddr,
    credentials: &Credentials,
    host: &str,
    (built_from, env): (&Mutex<Vec<u8>>, &Mutex<BTreeMap<String, String>>),
) -> Result<(), tonic::Status> {
    let channel = rpc::channel(address, Role::Controller, credentials).unwrap();
    let mut client = AgentsClient::new(channel.clone());
    let (outbox, outbound) = mpsc::channel(64);
    outbox.send(AgentMessage::Hello(hello(host))).await.unwrap();
    let mut inbound = client.session(Request::new(ReceiverStream::new(outbound))).await?.into_inner();
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    let mut sequence = 0;
    loop {
        let directive = tokio::select! {
            _ = beat.tick() => {
                sequence += 1;
                let heartbeat = Heartbeat { sequence, free_memory: MemoryBytes::mib(8192) };
                let _ = outbox.send(AgentMessage::Heartbeat(heartbeat)).await;
                continue;
            }
            directive = inbound.message() => directive?,
        };
        match directive {
            Some(AgentDirective::Assignment(assignment)) => {
                let reports = assignment.servos.iter().map(report).collect();
                let _ = outbox.send(AgentMessage::Servos(reports)).await;
                for spec in &assignment.builds {
                    env.lock().unwrap().extend(spec.env.clone());
                    let report = build(&mut client, spec, built_from).await?;
                    let _ = outbox.send(AgentMessage::Build(report)).await;
                }
            }
            Some(AgentDirective::LogWanted { stream, .. }) => push_log(channel.clone(), stream).await?,
            Some(AgentDirective::LogUnwanted { .. }) => {}
            // An older agent would end its session at it.
            Some(AgentDirective::Controllers { .. } | AgentDirective::Trust(_)) => {
                panic!("who does not say that it reads this must not get it")
            }
            Some(AgentDirective::GoElsewhere) | None => return Ok(()),
        }
    }
}

/// What runs is ready, what shall stop is gone.
fn report(spec: &ServoSpec) -> ServoReport {
    let stop = spec.desired == Desired::Stop;
    ServoReport {
        servo: spec.id,
        status: if stop { ServoStatus::Gone } else { ServoStatus::Ready },
        address: (!stop).then(|| ADDRESS.parse().unwrap()),
        restarts: 0,
        limits_enforced: true,
    }
}

/// The "bundle" is the path of the source's first file.
async fn build(
    client: &mut AgentsClient<Channel>,
    spec: &BuildSpec,
    built_from: &Mutex<Vec<u8>>,
) -> Result<BuildReport, tonic::Status> {
    let request = Request::new(BlobRequest { digest: spec.source.digest });
    let mut parts = client.get_blob(request).await?.into_inner();
    let mut source = Vec::new();
    while let Some(part) = parts.message().await? {
        if let BlobPart::Data(bytes) = part {
            source.extend_from_slice(&bytes);
        }
    }
    assert_eq!(Digest::of(&source), spec.source.digest);
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&source[..]).read_to_end(&mut tar).unwrap();
    let first = tar.iter().position(|byte| *byte == 0).unwrap_or(0);
    let bundle = tar[..first].to_vec();
    *built_from.lock().unwrap() = bundle.clone();
    let blob = BlobRef { digest: Digest::of(&bundle), size: MemoryBytes(bundle.len() as u64) };
    let parts = [BlobPart::Begin(blob), BlobPart::Data(Bytes::from(bundle))];
    let stored = client.put_blob(Request::new(tokio_stream::iter(parts))).await?.into_inner();
    assert!(stored.copies >= 2, "a majority has the bundle: {stored:?}");
    Ok(BuildReport { build: spec.id, outcome: BuildOutcome::Succeeded { bundle: stored.blob } })
}

async fn push_log(channel: Channel, stream: u64) -> Result<(), tonic::Status> {
    let line = LogLine { at: None, stderr: false, text: "hello from the fake agent".into() };
    let chunks = [
        LogChunk { stream, lines: vec![line], end: None },
        LogChunk { stream, lines: Vec::new(), end: Some(String::new()) },
    ];
    AgentsClient::new(channel).push_log(Request::new(tokio_stream::iter(chunks))).await.map(drop)
}
