//! Requests as they are answered, from all balancers to whoever looks at them at any controller.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use pontoon_kit::Backoff;
use pontoon_model::{BalancerName, ControllerId};
use pontoon_proto::{BalancerDirective, TailChunk, TailRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::{Request, Status};

use crate::raft::{Peer, Peers};

/// Chunks on their way to one reader: seconds of them. One that does not keep up is told how much it missed.
const BUFFER: usize = 64;
/// Another controller answers within this time.
const ASK: Duration = Duration::from_secs(3);
/// Between tries to reach a controller whose requests are missing, and looks for new controllers.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

type Outbox = mpsc::Sender<Result<BalancerDirective, Status>>;

/// Opens tails of all balancers.
#[derive(Debug, Clone)]
pub struct Tails {
    peers: Peers,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Balancers that are connected here and can tell, by session.
    balancers: BTreeMap<u64, Outbox>,
    readers: BTreeMap<u64, Reader>,
}

#[derive(Debug)]
struct Reader {
    request: TailRequest,
    chunks: mpsc::Sender<TailChunk>,
    /// Requests that found it full.
    missed: Arc<AtomicU64>,
}

/// Requests that are looked at. Dropped, it tells the balancers so.
#[derive(Debug)]
pub struct TailStream {
    chunks: mpsc::Receiver<TailChunk>,
    missed: Arc<AtomicU64>,
    _unwanted: Unwanted,
}

impl Stream for TailStream {
    type Item = TailChunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TailChunk>> {
        let polled = self.chunks.poll_recv(context);
        polled.map(|chunk| {
            chunk.map(|mut chunk| {
                chunk.left_out += self.missed.swap(0, Ordering::Relaxed);
                chunk
            })
        })
    }
}

#[derive(Debug)]
struct Unwanted {
    stream: u64,
    shared: Arc<Mutex<Shared>>,
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.readers.remove(&self.stream);
        for outbox in shared.balancers.values() {
            // Full: what it goes on sending finds no reader, and is answered with this again.
            let _ = outbox.try_send(Ok(BalancerDirective::TailUnwanted { stream: self.stream }));
        }
    }
}

/// A balancer's place among those that tell; given up when dropped.
#[derive(Debug)]
pub(super) struct Telling {
    session: u64,
    shared: Arc<Mutex<Shared>>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        lock(&self.shared).balancers.remove(&self.session);
    }
}

impl Telling {
    /// Takes what the balancer tells.
    pub(super) fn take(&self, balancer: &BalancerName, mut chunk: TailChunk) {
        chunk.lines.truncate(TailChunk::MOST_LINES);
        chunk.balancer = Some(balancer.clone());
        let shared = lock(&self.shared);
        let Some(reader) = shared.readers.get(&chunk.stream) else {
            if let Some(outbox) = shared.balancers.get(&self.session) {
                let _ = outbox.try_send(Ok(BalancerDirective::TailUnwanted { stream: chunk.stream }));
            }
            return;
        };
        if let Err(error) = reader.chunks.try_send(chunk) {
            let chunk = error.into_inner();
            reader.missed.fetch_add(chunk.left_out + chunk.lines.len() as u64, Ordering::Relaxed);
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Plain data: a panic elsewhere leaves it usable.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tails {
    /// Asks the balancers that are connected here, and `peers` for theirs.
    pub fn new(peers: Peers) -> Self {
        Self { peers, shared: Arc::default() }
    }

    /// A balancer that can tell is connected; it is asked for what is looked at already.
    pub(super) fn connected(&self, outbox: &Outbox) -> Telling {
        let session = rand::random();
        let mut shared = lock(&self.shared);
        for (stream, reader) in &shared.readers {
            let directive = BalancerDirective::TailWanted { stream: *stream, request: reader.request.clone() };
            // A session that is full at its beginning has other troubles.
            let _ = outbox.try_send(Ok(directive));
        }
        shared.balancers.insert(session, outbox.clone());
        Telling { session, shared: self.shared.clone() }
    }

    /// Requests at the balancers that are connected here, now or later.
    pub fn open_here(&self, request: TailRequest) -> TailStream {
        let (stream, missed) = (rand::random(), Arc::<AtomicU64>::default());
        let (sender, chunks) = mpsc::channel(BUFFER);
        let mut shared = lock(&self.shared);
        for outbox in shared.balancers.values() {
            let directive = BalancerDirective::TailWanted { stream, request: request.clone() };
            // One that reads nothing tells nothing.
            let _ = outbox.try_send(Ok(directive));
        }
        shared.readers.insert(stream, Reader { request, chunks: sender, missed: missed.clone() });
        drop(shared);
        TailStream { chunks, missed, _unwanted: Unwanted { stream, shared: self.shared.clone() } }
    }

    /// Requests at all balancers, until the stream is dropped.
    pub fn open(&self, request: TailRequest) -> impl Stream<Item = TailChunk> + Send + use<> {
        let (sender, chunks) = mpsc::channel(BUFFER);
        let (here, peers) = (self.open_here(request.clone()), self.peers.clone());
        tokio::spawn(async move {
            let follow = follow_peers(peers, &request, &sender);
            tokio::select! {
                () = follow => {}
                () = sender.closed() => {}
            }
        });
        let elsewhere = tokio_stream::wrappers::ReceiverStream::new(chunks);
        futures_util::stream::select(here, elsewhere)
    }
}

/// Each of the others, also one that comes later.
async fn follow_peers(peers: Peers, request: &TailRequest, sender: &mpsc::Sender<TailChunk>) {
    let mut followed: BTreeMap<ControllerId, tokio::task::AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let others = peers.others();
        followed.retain(|id, task| {
            let stays = others.iter().any(|peer| peer.id() == *id);
            if !stays {
                task.abort();
            }
            stays
        });
        for peer in others {
            let (id, request, sender) = (peer.id(), request.clone(), sender.clone());
            followed.entry(id).or_insert_with(|| tasks.spawn(follow(peer, request, sender)));
        }
        while tasks.try_join_next().is_some() {}
        sleep(AGAIN.1).await;
    }
}

async fn follow(peer: Peer, request: TailRequest, sender: mpsc::Sender<TailChunk>) {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    loop {
        let mut client = peer.client();
        // An older one cannot tell, and one that is down may come back.
        if let Ok(Ok(opened)) = timeout(ASK, client.open_tail(Request::new(request.clone()))).await {
            let mut chunks = opened.into_inner();
            while let Some(Ok(chunk)) = chunks.next().await {
                backoff.reset();
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        }
        sleep(backoff.wait()).await;
    }
}
