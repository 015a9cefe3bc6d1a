//! A machine that keeps a session as an agent does, obeys what it is told about trust, and runs nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pontoon_enrol::{Renewal, obey};
use pontoon_kit::{CancellationToken, Credentials, Identity, Role, rpc};
use pontoon_proto::services::agents_client::AgentsClient;
use pontoon_proto::{AgentDirective, AgentMessage, known};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::fake_agent;

/// A joined machine.
pub struct Machine {
    pub credentials: Credentials,
    stop: CancellationToken,
    /// Sessions that have begun, and that have ended.
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
    last_end: Arc<std::sync::Mutex<String>>,
}

impl Machine {
    /// With what is in `folder`; connects to the first of `controllers`, then to the next.
    pub fn start(host: &str, folder: &Path, controllers: Vec<SocketAddr>) -> Self {
        let credentials = Credentials::new(Identity::load(folder).unwrap()).unwrap();
        let machine = Self {
            credentials: credentials.clone(),
            stop: CancellationToken::new(),
            begun: Arc::default(),
            ended: Arc::default(),
            last_end: Arc::default(),
        };
        let (renewal, asked) = watch::channel(0);
        let renewing = Renewal { credentials: credentials.clone(), folder: PathBuf::from(folder), asked };
        let known = controllers.clone();
        tokio::spawn(renewing.keep(move || known.clone(), machine.stop.clone()));
        let (host, begun, ended) = (host.to_owned(), machine.begun.clone(), machine.ended.clone());
        let last_end = machine.last_end.clone();
        let work = async move {
            for address in controllers.iter().cycle() {
                let end = session(*address, &credentials, &host, &renewal, &begun).await;
                *last_end.lock().unwrap() = format!("{end:?}");
                ended.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::spawn(machine.stop.clone().run_until_cancelled_owned(work));
        machine
    }

    /// Sessions in which a controller has answered.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Sessions and tries of one that are over.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// How the last one ended.
    pub fn last_end(&self) -> String {
        self.last_end.lock().unwrap().clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn session(
    address: SocketAddr,
    credentials: &Credentials,
    host: &str,
    renewal: &watch::Sender<u64>,
    begun: &AtomicU64,
) -> Result<(), Status> {
    let channel = rpc::channel(address, Role::Controller, credentials).unwrap();
    let (outbox, outbound) = mpsc::channel(64);
    outbox.send(AgentMessage::Hello(fake_agent::hello(host))).await.unwrap();
    let mut client = AgentsClient::new(channel);
    let mut opening = Request::new(ReceiverStream::new(outbound));
    opening.metadata_mut().insert(known::READS, known::ALL.parse().unwrap());
    let mut inbound = client.session(opening).await?.into_inner();
    let mut first = true;
    while let Some(directive) = inbound.message().await? {
        if std::mem::take(&mut first) {
            begun.fetch_add(1, Ordering::SeqCst);
        }
        if let AgentDirective::Trust(now) = directive {
            obey(credentials, renewal, now).unwrap();
        }
    }
    Ok(())
}
