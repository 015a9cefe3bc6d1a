//! Snapshots on their way: in parts, checked before openraft hears of them.

use std::future::Future;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::RPCTypes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::raft::SnapshotResponse;
use pontoon_proto::RaftMessage;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::super::runtime;
use super::super::snapshot::{SnapshotFile, SnapshotReader, SnapshotStore};
use super::super::types::{SnapshotMeta, TypeConfig, Vote};
use super::connection::Connection;
use super::message::{self, SnapshotBegin, SnapshotPart, SnapshotTaken};

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Bytes per part: small enough to share a link with entries.
const PART_BYTES: usize = 256 * 1024;

/// A transfer without progress for this long is given up: as long as the other side may take to check and
/// sync 200 MB on a slow card.
const STALLED: Duration = Duration::from_secs(60);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Sends `snapshot` to the controller of `connection`; returns when it is installed there.
pub(super) async fn send(
    connection: &Connection,
    vote: Vote,
    snapshot: Snapshot,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let len = snapshot.snapshot.len().map_err(|error| network_error(&error))?;
    let begin = connection.message(SnapshotBegin { vote: (&vote).into(), meta: (&snapshot.meta).into(), len })?;
    let progress = Arc::new(Mutex::new(Instant::now()));
    let parts = parts(connection, begin, snapshot.snapshot.reader(), progress.clone());
    let mut client = connection.client()?;
    let mut answer = std::pin::pin!(client.snapshot(parts));
    let mut cancel = std::pin::pin!(cancel);
    loop {
        tokio::select! {
            biased;
            closed = &mut cancel => return Err(closed.into()),
            answer = timeout(LOOK, &mut answer) => match answer {
                Ok(Ok(response)) => {
                    let taken: SnapshotTaken = message::open(connection.id(), response.get_ref())
                        .map_err(|error| network_error(&error))?;
                    return Ok(SnapshotResponse::new(taken.vote.into()));
                }
                Ok(Err(status)) => return Err(connection.failed(&status).into()),
                Err(_) => {
                    let last = *progress.lock().unwrap_or_else(PoisonError::into_inner);
                    if last.elapsed() > STALLED {
                        return Err(connection.silent(RPCTypes::InstallSnapshot, STALLED).into());
                    }
                }
            }
        }
    }
}

fn network_error<E: std::error::Error + 'static>(error: &E) -> StreamingError<TypeConfig> {
    RPCError::Network(NetworkError::new(error)).into()
}

/// The header and the parts of a file, each read when the connection has room for it.
fn parts(
    connection: &Connection,
    begin: RaftMessage,
    reader: SnapshotReader,
    progress: Arc<Mutex<Instant>>,
) -> impl Stream<Item = RaftMessage> + Send + 'static {
    let (from, to) = (connection.id(), connection.target);
    let rest = stream::unfold((reader, 0), move |(mut reader, offset)| {
        let progress = progress.clone();
        async move {
            let read = runtime::blocking(move || {
                let mut bytes = Vec::with_capacity(PART_BYTES);
                let read = reader.by_ref().take(PART_BYTES as u64).read_to_end(&mut bytes);
                read.map(|_| (reader, bytes))
            });
            // A file that cannot be read ends the stream early; the receiver counts its bytes.
            let (reader, bytes) = read.await.ok()?.ok().filter(|(_, bytes)| !bytes.is_empty())?;
            *progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let next = offset + bytes.len() as u64;
            let part = message::seal(from, to, SnapshotPart { offset, bytes: Bytes::from(bytes) }).ok()?;
            Some((part, (reader, next)))
        }
    });
    futures_util::StreamExt::chain(stream::once(std::future::ready(begin)), rest)
}

/// A snapshot that has arrived whole.
pub(super) struct Received {
    pub(super) from: u64,
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) file: SnapshotFile,
}

/// A file that is removed unless it is kept.
struct Incoming(Option<PathBuf>);

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Receives a snapshot into the folder of `store` and checks every record of it.
pub(super) async fn receive(
    here: u64,
    store: Arc<SnapshotStore>,
    mut parts: Streaming<RaftMessage>,
) -> Result<Received, Status> {
    let refuse = |error: message::MessageError| Status::invalid_argument(error.to_string());
    let internal = |error: &dyn std::error::Error| Status::internal(format!("the snapshot was not taken: {error}"));
    let first = next(&mut parts).await?.ok_or_else(cut)?;
    let (from, begin): (u64, SnapshotBegin) = message::open_from(here, &first).map_err(refuse)?;
    let mut incoming = Incoming(Some(store.temporary_path()));
    let path = incoming.0.clone().unwrap_or_default();
    let mut file = std::fs::File::create_new(&path).map_err(|error| internal(&error))?;
    let mut received = 0;
    while received < begin.len {
        let part: SnapshotPart = message::open(here, &next(&mut parts).await?.ok_or_else(cut)?).map_err(refuse)?;
        if part.offset != received {
            return Err(Status::invalid_argument(format!("part at {} where {received} was expected", part.offset)));
        }
        received += part.bytes.len() as u64;
        file = runtime::blocking(move || file.write_all(&part.bytes).map(|()| file))
            .await
            .map_err(|error| internal(&error))?
            .map_err(|error| internal(&error))?;
    }
    drop(file);
    incoming.0 = None;
    let (meta, file) = runtime::blocking(move || store.received(path))
        .await
        .map_err(|error| internal(&error))?
        .map_err(|error| internal(&error))?;
    Ok(Received { from, vote: begin.vote.into(), meta, file })
}

fn cut() -> Status {
    Status::invalid_argument("the snapshot ends before its end")
}

async fn next(parts: &mut Streaming<RaftMessage>) -> Result<Option<RaftMessage>, Status> {
    timeout(STALLED, parts.message()).await.map_err(|_| Status::deadline_exceeded("the snapshot does not go on"))?
}
