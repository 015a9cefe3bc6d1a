//! The controllers an agent knows: one session with one of them, blobs from any of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use pontoon_enrol::{Remembered, listed};
use pontoon_kit::{Credentials, Role, rpc};
use pontoon_model::{BlobRef, SiteName};
use pontoon_proto::blobs::PART_BYTES;
use pontoon_proto::services::agents_client::AgentsClient;
use pontoon_proto::{BlobPart, BlobRequest, BlobStored, KnownControllers, MAX_MESSAGE_BYTES};
use tokio::io::AsyncReadExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::config::Config;

/// A controller that sends nothing for this long during a transfer is given up.
const PART_TIMEOUT: Duration = Duration::from_secs(15);
/// A majority of the controllers must have the whole blob within this time after its last byte was sent.
const STORE_TIMEOUT: Duration = Duration::from_secs(300);

/// A client of one controller.
pub(crate) type Client = AgentsClient<Channel>;

/// Why a blob did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// No controller had it, or none answered; what the last one said.
    #[error("no controller gave blob {}: {why}", blob.digest)]
    Get {
        /// Which.
        blob: BlobRef,
        /// What the last one said.
        why: String,
    },
    /// What came is not what was asked for.
    #[error("blob {} arrived damaged from {from}", blob.digest)]
    Damaged {
        /// Which.
        blob: BlobRef,
        /// From which controller.
        from: SocketAddr,
    },
    /// It could not be written or read here.
    #[error("cannot use {path} for blob {}: {source}", blob.digest)]
    Disk {
        /// Which.
        blob: BlobRef,
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// No controller stored it; what the last one said.
    #[error("no controller stored blob {}: {why}", blob.digest)]
    Put {
        /// Which.
        blob: BlobRef,
        /// What the last one said.
        why: String,
    },
}

/// The controllers, nearest first, and the one that answered last.
#[derive(Debug)]
pub(crate) struct Controllers {
    known: RwLock<Vec<(SocketAddr, Channel)>>,
    current: AtomicUsize,
    credentials: Credentials,
    site: SiteName,
    configured: Vec<SocketAddr>,
    remembered: Remembered,
}

impl Controllers {
    /// Those that were told of last, and those of the configuration.
    pub(crate) fn new(config: &Config, credentials: Credentials) -> Result<Self, tonic::transport::Error> {
        let remembered = Remembered::in_folder(&config.data_dir);
        let addresses = remembered.load().in_order(&config.site, &config.controllers);
        let controllers = Self {
            known: RwLock::default(),
            current: AtomicUsize::new(0),
            credentials,
            site: config.site.clone(),
            configured: config.controllers.clone(),
            remembered,
        };
        controllers.set(&addresses)?;
        Ok(controllers)
    }

    /// A controller said where all of them are: used from now on and at the next start. The one that is talked to stays.
    pub(crate) async fn learn(&self, told: KnownControllers) {
        let addresses = told.in_order(&self.site, &self.configured);
        let before: Vec<SocketAddr> = self.read().iter().map(|(address, _)| *address).collect();
        if before != addresses {
            match self.set(&addresses) {
                Ok(()) => tracing::info!(controllers = listed(&addresses), "the controllers are elsewhere now"),
                Err(error) => tracing::error!(%error, "the controllers that were told of cannot be used"),
            }
        }
        self.remembered.save(told).await;
    }

    fn set(&self, addresses: &[SocketAddr]) -> Result<(), tonic::transport::Error> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::with_capacity(addresses.len());
        for address in addresses {
            let open = known.iter().find(|(known, _)| known == address).map(|(_, channel)| channel.clone());
            next.push((
                *address,
                open.map_or_else(|| rpc::channel(*address, Role::Controller, &self.credentials), Ok)?,
            ));
        }
        let current = self.current.load(Ordering::Relaxed).checked_rem(known.len()).map(|at| known[at].0);
        // One before the first, if it is not among them: the session that goes on with it ends some day, and then comes the
        // first.
        let at = current.and_then(|current| addresses.iter().position(|address| *address == current));
        let first = if known.is_empty() { 0 } else { addresses.len() - 1 };
        self.current.store(at.unwrap_or(first), Ordering::Relaxed);
        *known = next;
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<(SocketAddr, Channel)>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one to talk to.
    pub(crate) fn current(&self) -> (SocketAddr, Client) {
        self.at(self.current.load(Ordering::Relaxed))
    }

    /// Where they are, the current one first.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.all().map(|(address, _)| address).collect()
    }

    /// The current one failed: take the next.
    pub(crate) fn advance(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    fn at(&self, index: usize) -> (SocketAddr, Client) {
        let (address, channel) = {
            let known = self.read();
            known[index % known.len()].clone()
        };
        let client = AgentsClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        (address, client)
    }

    /// All of them, the current one first: a blob that one lacks, another has.
    fn all(&self) -> impl Iterator<Item = (SocketAddr, Client)> + '_ {
        let first = self.current.load(Ordering::Relaxed);
        let count = self.read().len();
        (0..count).map(move |step| self.at(first.wrapping_add(step)))
    }

    /// Fetches `blob` into `file`, unchecked.
    pub(crate) async fn get_blob<F, Fut>(&self, blob: BlobRef, mut sink: F) -> Result<(), TransferError>
    where
        F: FnMut(SocketAddr, tonic::Streaming<BlobPart>) -> Fut,
        Fut: Future<Output = Result<(), TransferError>>,
    {
        let mut last = TransferError::Get { blob, why: "no controller is configured".into() };
        for (address, mut client) in self.all() {
            let request = client.get_blob(BlobRequest { digest: blob.digest });
            last = match tokio::time::timeout(PART_TIMEOUT, request).await {
                Ok(Ok(parts)) => match sink(address, parts.into_inner()).await {
                    Ok(()) => return Ok(()),
                    Err(error @ TransferError::Disk { .. }) => return Err(error),
                    Err(error) => error,
                },
                Ok(Err(status)) => TransferError::Get { blob, why: said(address, &status) },
                Err(_) => TransferError::Get { blob, why: format!("{address} does not answer") },
            };
        }
        Err(last)
    }

    /// Stores the file at `path` as `blob` on a majority of the controllers.
    pub(crate) async fn put_blob(&self, blob: BlobRef, path: &Path) -> Result<BlobStored, TransferError> {
        let mut last = TransferError::Put { blob, why: "no controller is configured".into() };
        for (address, mut client) in self.all() {
            let disk = |source| TransferError::Disk { blob, path: path.display().to_string(), source };
            let mut file = tokio::fs::File::open(path).await.map_err(disk)?;
            // Two parts in flight: one on the wire, one being read.
            let (sender, receiver) = tokio::sync::mpsc::channel(2);
            let reading = tokio::spawn(async move {
                if sender.send(BlobPart::Begin(blob)).await.is_err() {
                    return;
                }
                let mut buffer = bytes::BytesMut::new();
                loop {
                    buffer.reserve(PART_BYTES);
                    match (&mut file).take(PART_BYTES as u64).read_buf(&mut buffer).await {
                        Ok(count) if count > 0 => {}
                        // A file that cannot be read ends the stream early, and the receiver finds it short.
                        _ => return,
                    }
                    if sender.send(BlobPart::Data(buffer.split().freeze())).await.is_err() {
                        return;
                    }
                }
            });
            let answer = tokio::time::timeout(STORE_TIMEOUT, client.put_blob(ReceiverStream::new(receiver))).await;
            reading.abort();
            last = match answer {
                Ok(Ok(stored)) => return Ok(stored.into_inner()),
                Ok(Err(status)) => TransferError::Put { blob, why: said(address, &status) },
                Err(_) => TransferError::Put { blob, why: format!("{address} does not answer") },
            };
        }
        Err(last)
    }
}

fn said(address: SocketAddr, status: &Status) -> String {
    format!("{address} says: {}", status.message())
}

/// The next part, or an error when none comes in time.
pub(crate) async fn next_part(parts: &mut tonic::Streaming<BlobPart>) -> Result<Option<BlobPart>, String> {
    match tokio::time::timeout(PART_TIMEOUT, parts.message()).await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("nothing came for {} s", PART_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use pontoon_kit::Authority;
    use pontoon_proto::KnownController;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn controllers(folder: &Path) -> Controllers {
        let text = format!(
            "name = \"a\"\nsite = \"east\"\ndata_dir = {folder:?}\ntls_dir = \"tls\"\nlisten_ip = \"127.0.0.1\"\n\
             controllers = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"
        );
        let identity = Authority::create().unwrap().issue(Role::Agent, "a").unwrap();
        Controllers::new(&toml::from_str(&text).unwrap(), Credentials::new(identity).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_a_controller_tells_is_used_at_once_and_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let agent = controllers(folder.path());
        assert_eq!(agent.current().0, address(1));
        let told = |ports: &[(&str, u16)]| KnownControllers {
            known: ports
                .iter()
                .map(|(site, port)| KnownController { site: site.parse().unwrap(), grpc: address(*port) })
                .collect(),
        };
        agent.learn(told(&[("west", 1), ("east", 3)])).await;
        assert_eq!(agent.current().0, address(1), "the session goes on where it is");
        assert_eq!(agent.all().map(|(address, _)| address.port()).collect::<Vec<_>>(), [1, 2, 3]);
        agent.learn(told(&[("west", 4), ("east", 3)])).await;
        assert_eq!(agent.current().0, address(1), "it is configured, and so it stays known");
        agent.advance();
        assert_eq!(agent.current().0, address(2));
        assert_eq!(controllers(folder.path()).current().0, address(3), "its own site comes first");
    }
}
