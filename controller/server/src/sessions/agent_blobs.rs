//! Bundles and sources on their way to and from agents.

use std::pin::Pin;

use futures_util::Stream;
use pontoon_model::Digest;
use pontoon_proto::{BlobPart, BlobStored};
use tonic::{Status, Streaming};

use crate::blobs::{BlobStore, Fetcher, Replicator, parts, receive};

/// A blob, from here or through another controller.
pub(super) async fn get(
    fetcher: &Fetcher,
    store: &BlobStore,
    digest: &Digest,
) -> Result<Pin<Box<dyn Stream<Item = Result<BlobPart, Status>> + Send>>, Status> {
    fetcher.ensure(digest).await.map_err(|error| Status::not_found(error.to_string()))?;
    let stream = parts(store, digest).await.map_err(|error| Status::internal(error.to_string()))?;
    Ok(Box::pin(stream))
}

/// Stores a blob here and on a majority.
pub(super) async fn put(
    store: &BlobStore,
    replicator: &Replicator,
    incoming: Streaming<BlobPart>,
) -> Result<BlobStored, Status> {
    let blob = receive(store, incoming, None).await?;
    let copies = replicator.replicate(blob).await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(BlobStored { blob, copies })
}
