//! Dialling out where nobody can dial in: connections that are made here and on which the other side asks.

use std::sync::Arc;
use std::time::Duration;

use pontoon_kit::{Backoff, Credentials};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::hello::Hello;
use super::links::{self, Stream};
use super::{Offered, Peer};

/// Between two attempts: a peer that is restarted gets its connections back within a second; one that is gone for long, or
/// does not know this balancer yet, is asked rarely.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next attempt begins with the short pause.
const GOOD: Duration = Duration::from_secs(5);
/// More workers than this nobody has; each gets a connection.
const MOST_WORKERS: u16 = 256;

/// A connection for a worker.
pub(crate) enum Handed {
    /// The peer, which was dialled, asks on it. Dropping `_until` says that it has ended.
    Serve { stream: Box<Stream>, _until: oneshot::Sender<()> },
    /// The peer has made it, and is asked on it.
    Use { stream: Box<Stream>, peer: Arc<Peer>, offered: Offered },
}

/// Gives connections to workers, by their number.
#[derive(Debug, Clone)]
pub(crate) struct Taker(pub(crate) Arc<[mpsc::UnboundedSender<Handed>]>);

impl Taker {
    /// How many workers there are.
    pub(crate) fn workers(&self) -> u16 {
        u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    /// Gives one to the worker of this number. Dropped if that one has ended.
    pub(crate) fn give(&self, worker: u16, handed: Handed) {
        let _ = self.0[usize::from(worker) % self.0.len()].send(handed);
    }
}

/// Keeps a connection to each of a peer's workers until the peer is gone.
pub(crate) async fn keep(peer: Arc<Peer>, credentials: Credentials, taker: Taker) {
    let gone = peer.gone.clone();
    let keeping = async {
        // Ended with this task. The first learns how many there shall be.
        let mut lines = JoinSet::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let line = |worker| keep_one(peer.clone(), worker, credentials.clone(), taker.clone(), tell.clone());
        lines.spawn(line(0));
        let mut kept = 1;
        while let Some(workers) = told.recv().await {
            for worker in kept..workers {
                lines.spawn(line(worker));
            }
            kept = kept.max(workers);
        }
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = keeping => {}
    }
}

async fn keep_one(
    peer: Arc<Peer>,
    worker: u16,
    credentials: Credentials,
    taker: Taker,
    tell: mpsc::UnboundedSender<u16>,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match links::dial(&peer, Hello::Offer { worker }, &credentials).await {
            Ok((stream, workers)) => {
                // Nobody listens any more once the peer is gone, and this ends too.
                let _ = tell.send(workers.min(MOST_WORKERS));
                let begun = Instant::now();
                let (until, ended) = oneshot::channel();
                taker.give(worker, Handed::Serve { stream: Box::new(stream), _until: until });
                let _ = ended.await;
                tracing::debug!(peer = %peer.name, worker, "a connection that was offered has ended");
                if begun.elapsed() > GOOD {
                    backoff.reset();
                }
            }
            Err(error) => tracing::debug!(peer = %peer.name, worker, %error, "no connection can be offered"),
        }
        sleep(backoff.wait()).await;
    }
}
