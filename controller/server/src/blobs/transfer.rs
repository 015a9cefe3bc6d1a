//! Blobs over gRPC: `Begin`, then pieces of at most 256 KiB.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use pontoon_model::{BlobRef, Digest, MemoryBytes};
use pontoon_proto::BlobPart;
use pontoon_proto::blobs::PART_BYTES;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{BlobError, BlobStore};

/// Largest blob: a servo's volume is 2 GiB, and what does not fit in half of it unpacked or packed is no app.
pub const MAX_BLOB: MemoryBytes = MemoryBytes::mib(1024);
/// A sender that is silent for this long has gone: pieces take milliseconds, even on a slow line seconds.
const IDLE: Duration = Duration::from_secs(20);
/// Pieces read ahead of the network: 1 MiB keeps a line busy.
const READ_AHEAD: usize = 4;

/// Why a blob did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The sender broke off or broke the protocol.
    #[error("the sender broke off: {0}")]
    Sender(String),
    /// It could not be stored.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl From<ReceiveError> for Status {
    fn from(error: ReceiveError) -> Self {
        match &error {
            ReceiveError::Sender(_) | ReceiveError::Blob(BlobError::Mismatch { .. }) => {
                Status::invalid_argument(error.to_string())
            }
            ReceiveError::Blob(BlobError::TooLarge { .. }) => Status::resource_exhausted(error.to_string()),
            ReceiveError::Blob(BlobError::Missing { .. }) => Status::not_found(error.to_string()),
            ReceiveError::Blob(BlobError::Disk { source, .. }) => Status::internal(format!("{error}: {source}")),
        }
    }
}

/// The pieces of a stored blob. A disk that fails ends the stream with an error.
pub async fn parts(
    store: &BlobStore,
    digest: &Digest,
) -> Result<impl Stream<Item = Result<BlobPart, Status>> + Send + use<>, BlobError> {
    let (blob, mut file) = store.read(digest).await?;
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        let mut next = Some(Ok(BlobPart::Begin(blob)));
        while let Some(part) = next {
            let failed = part.is_err();
            // The receiver has gone: nobody wants the rest.
            if sender.send(part).await.is_err() || failed {
                return;
            }
            let mut buffer = Vec::with_capacity(PART_BYTES);
            next = match (&mut file).take(PART_BYTES as u64).read_to_end(&mut buffer).await {
                Ok(0) => None,
                Ok(_) => Some(Ok(BlobPart::Data(Bytes::from(buffer)))),
                Err(error) => Some(Err(Status::internal(format!("cannot read blob {}: {error}", blob.digest.short())))),
            };
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Stores what arrives, if it is what `Begin` announces (and what was `wanted`). A stream that breaks leaves nothing.
pub async fn receive(
    store: &BlobStore,
    incoming: impl Stream<Item = Result<BlobPart, Status>>,
    wanted: Option<Digest>,
) -> Result<BlobRef, ReceiveError> {
    let mut incoming = pin!(incoming);
    let announced = match next(&mut incoming).await? {
        Some(BlobPart::Begin(blob)) => blob,
        _ => return Err(ReceiveError::Sender("the first message is not Begin".into())),
    };
    if wanted.is_some_and(|wanted| wanted != announced.digest) {
        return Err(ReceiveError::Sender(format!("it sent {:?}, which nobody asked for", announced.digest)));
    }
    if announced.size > MAX_BLOB {
        return Err(BlobError::TooLarge { limit: MAX_BLOB }.into());
    }
    let mut file = store.begin(announced.size).await?;
    while let Some(part) = next(&mut incoming).await? {
        match part {
            BlobPart::Data(bytes) => file.write(&bytes).await?,
            BlobPart::Begin(_) => return Err(ReceiveError::Sender("a second Begin".into())),
        }
    }
    Ok(file.keep(Some(announced)).await?)
}

async fn next<S>(incoming: &mut S) -> Result<Option<BlobPart>, ReceiveError>
where
    S: Stream<Item = Result<BlobPart, Status>> + Unpin,
{
    match tokio::time::timeout(IDLE, incoming.next()).await {
        Ok(Some(Ok(part))) => Ok(Some(part)),
        Ok(Some(Err(status))) => Err(ReceiveError::Sender(status.message().to_owned())),
        Ok(None) => Ok(None),
        Err(_) => Err(ReceiveError::Sender(format!("silent for {} s", IDLE.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stored(store: &BlobStore, bytes: &[u8]) -> BlobRef {
        let mut incoming = store.begin(MAX_BLOB).await.unwrap();
        incoming.write(bytes).await.unwrap();
        incoming.keep(None).await.unwrap()
    }

    fn partial_files(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder.join("blobs/partial")).unwrap().count()
    }

    #[tokio::test]
    async fn a_blob_travels_from_store_to_store() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (BlobStore::open(a.path()).unwrap(), BlobStore::open(b.path()).unwrap());
        let bytes: Vec<u8> = (0..PART_BYTES as u32 * 2 + 7).map(|n| n as u8).collect();
        let blob = stored(&from, &bytes).await;
        let sent = parts(&from, &blob.digest).await.unwrap();
        assert_eq!(receive(&to, sent, Some(blob.digest)).await.unwrap(), blob);
        assert_eq!(to.size(&blob.digest).await, Some(blob.size));
    }

    #[tokio::test]
    async fn what_does_not_match_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let blob = BlobRef { digest: Digest::of(b"good"), size: MemoryBytes(4) };
        let begin = || BlobPart::Begin(blob);
        let data = |bytes: &'static [u8]| BlobPart::Data(Bytes::from_static(bytes));
        let cases = [
            vec![],
            vec![data(b"good")],
            vec![begin(), data(b"evil")],
            vec![begin(), data(b"goo")],
            vec![begin(), data(b"good"), data(b"!")],
            vec![begin(), begin()],
            vec![BlobPart::Begin(BlobRef { size: MAX_BLOB + MemoryBytes(1), ..blob })],
        ];
        for case in cases {
            let stream = futures_util::stream::iter(case.clone().into_iter().map(Ok));
            assert!(receive(&store, stream, None).await.is_err(), "{case:?}");
        }
        let broken = vec![Ok(begin()), Ok(data(b"go")), Err(Status::unavailable("gone"))];
        assert!(receive(&store, futures_util::stream::iter(broken), None).await.is_err());
        let other = futures_util::stream::iter(vec![Ok(begin()), Ok(data(b"good"))]);
        assert!(receive(&store, other, Some(Digest::of(b"wanted"))).await.is_err());
        assert_eq!(partial_files(folder.path()), 0);
        assert!(store.list().unwrap().is_empty());
    }
}
