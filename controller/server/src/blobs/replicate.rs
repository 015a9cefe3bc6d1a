//! A blob is stored when a majority of the controllers has it, as an entry of the log is.

use std::time::Duration;

use pontoon_model::BlobRef;
use pontoon_proto::BlobRequest;
use tokio::task::JoinSet;
use tonic::Request;

use super::{BlobStore, parts};
use crate::raft::{Peer, Peers};

/// How long another controller may take to say whether it has a blob.
const ASK: Duration = Duration::from_secs(3);
/// How long a push may take at least …
const PUSH_BASE: Duration = Duration::from_secs(15);
/// … and per mebibyte: a slow home line's upload.
const PUSH_PER_MIB: Duration = Duration::from_secs(2);

/// Too few controllers have the blob.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "only {copies} of {voters} controllers have stored blob {}, {needed} are needed ({}); \
     try again when more controllers are reachable",
    blob.digest.short(), missing.join("; ")
)]
pub struct ReplicateError {
    /// Which blob.
    pub blob: BlobRef,
    /// How many have it, this one counted.
    pub copies: u32,
    /// How many are needed.
    pub needed: u32,
    /// How many there are.
    pub voters: u32,
    /// Which have not, and why.
    pub missing: Vec<String>,
}

/// Pushes blobs to the other controllers.
#[derive(Debug, Clone)]
pub struct Replicator {
    store: BlobStore,
    peers: Peers,
}

impl Replicator {
    /// Pushes from `store` to `peers`.
    pub fn new(store: BlobStore, peers: Peers) -> Self {
        Self { store, peers }
    }

    /// Returns when a majority of the controllers, this one counted, has the blob; says how many have.
    /// The rest is still being pushed to then, and fetches it otherwise once the state refers to it.
    pub async fn replicate(&self, blob: BlobRef) -> Result<u32, ReplicateError> {
        let others = self.peers.others();
        let own = u32::from(self.peers.is_voter());
        let voting = others.iter().filter(|peer| peer.is_voter()).count() as u32;
        let (voters, mut copies, mut missing) = (voting + own, own, Vec::new());
        let needed = voters / 2 + 1;
        let mut pushes = JoinSet::new();
        for peer in others {
            let store = self.store.clone();
            pushes.spawn(async move {
                let pushed = push(&store, &peer, blob).await.map_err(|why| format!("{}: {why}", peer.name()));
                pushed.map(|()| u32::from(peer.is_voter()))
            });
        }
        while copies < needed {
            match pushes.join_next().await {
                Some(Ok(Ok(copy))) => copies += copy,
                Some(Ok(Err(why))) => missing.push(why),
                Some(Err(panicked)) => missing.push(panicked.to_string()),
                None => return Err(ReplicateError { blob, copies, needed, voters, missing }),
            }
        }
        pushes.detach_all();
        Ok(copies)
    }
}

async fn push(store: &BlobStore, peer: &Peer, blob: BlobRef) -> Result<(), String> {
    let mut request = Request::new(BlobRequest { digest: blob.digest });
    request.set_timeout(ASK);
    let answer = peer.client().has_blob(request).await.map_err(|status| status.message().to_owned())?;
    if answer.into_inner().present {
        return Ok(());
    }
    let stream = parts(store, &blob.digest).await.map_err(|error| error.to_string())?;
    // A piece that cannot be read ends the stream early: the receiver sees that it is not whole.
    let stream = futures_util::StreamExt::filter_map(stream, |part| std::future::ready(part.ok()));
    let mib = (blob.size.0 >> 20) as u32;
    let limit = PUSH_BASE + PUSH_PER_MIB * mib;
    match tokio::time::timeout(limit, peer.client().put_blob(stream)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("not done within {} s", limit.as_secs())),
    }
}
