//! Snapshots on their way: in parts, checked before openraft hears of them.

use std::future::Future;
use std::io::Read;
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
use super::super::snapshot::{SnapshotError, SnapshotFile, SnapshotReader, SnapshotStore};
use super::super::types::{SnapshotMeta, TypeConfig, Vote};
use super::connection::Connection;
use super::message::{self, SnapshotArrived, SnapshotBegin, SnapshotOffer, SnapshotPart, SnapshotTaken};
use super::pace::spread;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Bytes per part: small enough to share a link with entries.
const PART_BYTES: usize = 256 * 1024;

/// A transfer without progress for this long is given up: as long as the other side may take to check and
/// sync 200 MB on a slow card.
const STALLED: Duration = Duration::from_secs(60);

/// How long the other side may take to say what it has: a look at one file's length.
const OFFER: Duration = Duration::from_secs(5);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Sends `snapshot` to the controller of `connection`, from where an earlier try broke off; returns when it is
/// installed there.
pub(super) async fn send(
    connection: &Connection,
    vote: Vote,
    snapshot: Snapshot,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let file = &snapshot.snapshot;
    let (id, len) = (file.id(), file.len().map_err(|error| network_error(&error))?);
    let from = arrived(connection, id, len).await?;
    let begin =
        connection.message(SnapshotBegin { vote: (&vote).into(), meta: (&snapshot.meta).into(), id, len, from })?;
    tracing::info!(target_id = connection.target, bytes = len, from, "a snapshot is being sent");
    let progress = Arc::new(Mutex::new(Instant::now()));
    let parts = parts(connection, begin, file.reader_from(from), from, progress.clone());
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

/// How much of the snapshot the other side has from earlier tries.
async fn arrived(connection: &Connection, id: u64, len: u64) -> Result<u64, StreamingError<TypeConfig>> {
    let offer = connection.message(SnapshotOffer { id, len })?;
    match timeout(OFFER, connection.client()?.snapshot_offer(offer)).await {
        Ok(Ok(response)) => {
            let arrived: SnapshotArrived =
                message::open(connection.id(), response.get_ref()).map_err(|error| network_error(&error))?;
            Ok(arrived.bytes.min(len))
        }
        Ok(Err(status)) => Err(connection.failed(&status).into()),
        Err(_) => Err(connection.silent(RPCTypes::InstallSnapshot, OFFER).into()),
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
    from_byte: u64,
    progress: Arc<Mutex<Instant>>,
) -> impl Stream<Item = RaftMessage> + Send + 'static {
    let (from, to) = (connection.id(), connection.target);
    let rest = stream::unfold((reader, from_byte), move |(mut reader, offset)| {
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
    futures_util::StreamExt::chain(stream::once(std::future::ready(begin)), spread(rest))
}

/// A snapshot that has arrived whole.
pub(super) struct Received {
    pub(super) from: u64,
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) file: SnapshotFile,
}

/// Receives a snapshot into the folder of `store` and checks every record of it. When the connection breaks, what
/// has arrived stays for the next try.
pub(super) async fn receive(
    here: u64,
    store: Arc<SnapshotStore>,
    mut parts: Streaming<RaftMessage>,
) -> Result<Received, Status> {
    let refuse = |error: message::MessageError| Status::invalid_argument(error.to_string());
    let first = next(&mut parts).await?.ok_or_else(cut)?;
    let (from, begin): (u64, SnapshotBegin) = message::open_from(here, &first).map_err(refuse)?;
    let (id, len, start) = (begin.id, begin.len, begin.from);
    let mut incoming = blocking(move || store.incoming(id, len, start)).await?;
    while incoming.at() < len {
        let part: SnapshotPart = message::open(here, &next(&mut parts).await?.ok_or_else(cut)?).map_err(refuse)?;
        if part.offset != incoming.at() {
            let why = format!("part at {} where {} was expected", part.offset, incoming.at());
            return Err(Status::invalid_argument(why));
        }
        incoming = blocking(move || incoming.add(&part.bytes).map(|()| incoming)).await?;
    }
    // It gives way: who is sent a snapshot is behind by much already, and others may serve writes on the same machine.
    let (meta, file) = taken(runtime::background(move || incoming.finish()).await)?;
    Ok(Received { from, vote: begin.vote.into(), meta, file })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, Status> {
    taken(runtime::blocking(work).await)
}

fn taken<T, E: std::fmt::Display>(done: Result<Result<T, SnapshotError>, E>) -> Result<T, Status> {
    let done = done.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| {
        let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
        Status::internal(format!("the snapshot was not taken: {error}{source}"))
    })
}

fn cut() -> Status {
    Status::invalid_argument("the snapshot ends before its end")
}

async fn next(parts: &mut Streaming<RaftMessage>) -> Result<Option<RaftMessage>, Status> {
    timeout(STALLED, parts.message()).await.map_err(|_| Status::deadline_exceeded("the snapshot does not go on"))?
}
