//! Getting a blob this controller lacks from one that has it.

use std::sync::Arc;
use std::time::Duration;

use pontoon_model::Digest;
use pontoon_proto::BlobRequest;
use tokio::sync::Mutex;
use tonic::Request;

use super::{BlobStore, receive};
use crate::raft::Peers;

/// How long another controller may take to begin its answer.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// How many blobs are fetched at the same time: more would only share the line.
const LANES: usize = 4;

/// No other controller gave the blob.
#[derive(Debug, thiserror::Error)]
#[error("blob {} is not here and no other controller gave it: {}", digest.short(), tried.join("; "))]
pub struct FetchError {
    /// Which.
    pub digest: Digest,
    /// What each said.
    pub tried: Vec<String>,
}

/// Fetches blobs; the same blob only once at a time.
#[derive(Debug, Clone)]
pub struct Fetcher {
    store: BlobStore,
    peers: Peers,
    lanes: Arc<[Mutex<()>; LANES]>,
}

impl Fetcher {
    /// Fetches from `peers` into `store`.
    pub fn new(store: BlobStore, peers: Peers) -> Self {
        Self { store, peers, lanes: Arc::default() }
    }

    /// Makes sure that the blob is here, and that it stays for the next hour.
    pub async fn ensure(&self, digest: &Digest) -> Result<(), FetchError> {
        if self.store.hold(digest).await.is_some() {
            return Ok(());
        }
        // One lane per digest: whoever waited finds the blob.
        let _lane = self.lanes[usize::from(digest.0[0]) % LANES].lock().await;
        if self.store.hold(digest).await.is_some() {
            return Ok(());
        }
        let mut tried = Vec::new();
        for peer in self.peers.others() {
            let mut request = Request::new(BlobRequest { digest: *digest });
            request.set_timeout(FIRST_ANSWER);
            let why = match peer.client().get_blob(request).await {
                Err(status) => status.message().to_owned(),
                Ok(answer) => match receive(&self.store, answer.into_inner(), Some(*digest)).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                },
            };
            tried.push(format!("{}: {why}", peer.name()));
        }
        Err(FetchError { digest: *digest, tried })
    }
}
