//! Asks every peer, all the time, whether it is there and how far away: before a request has to find out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pontoon_kit::{Backoff, CancellationToken, Credentials};
use pontoon_model::Reach;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::hello::Hello;
use super::{Peer, Peers, links, offer};

/// Between two questions to one peer. With the time for an answer it is how long a site that vanished is taken for one that is
/// there.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// Between two attempts to connect: a peer that is restarted is back within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Watches all of them until `shutdown`; offers them connections too, if `offers` says so.
pub(crate) async fn keep(
    peers: Arc<Peers>,
    credentials: Credentials,
    offers: Option<offer::Taker>,
    shutdown: CancellationToken,
) {
    let mut changes = peers.watch();
    // Ended with this task.
    let mut watched: Vec<Arc<Peer>> = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        watched.retain(|peer| !peer.gone.is_cancelled());
        for peer in peers.all().into_iter().filter(|peer| matches!(peer.reach, Reach::At(_))) {
            if watched.iter().any(|known| Arc::ptr_eq(known, &peer)) {
                continue;
            }
            watched.push(peer.clone());
            tasks.spawn(ask(peer.clone(), credentials.clone()));
            if let Some(taker) = &offers {
                tasks.spawn(offer::keep(peer, credentials.clone(), taker.clone()));
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            Some(_) = tasks.join_next() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Asks one of them until it is gone.
async fn ask(peer: Arc<Peer>, credentials: Credentials) {
    let gone = peer.gone.clone();
    let asking = async {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let failed = ask_over_one_connection(&peer, &credentials, &mut backoff).await;
            peer.failed(&failed);
            sleep(backoff.wait()).await;
        }
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = asking => {}
    }
}

async fn ask_over_one_connection(peer: &Peer, credentials: &Credentials, backoff: &mut Backoff) -> io::Error {
    let opened = async {
        let (stream, _) = links::dial(peer, Hello::Ask, credentials).await?;
        let handshake = links::asking(TokioExecutor::new()).handshake(TokioIo::new(stream));
        handshake.await.map_err(io::Error::other)
    };
    let (mut sender, connection) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    // Ended with this function.
    let mut connections = JoinSet::new();
    connections.spawn(async move { drop(connection.await) });
    loop {
        match links::probe(&mut sender, Empty::<Bytes>::new()).await {
            Ok(took) => peer.answered(took),
            Err(error) => return error,
        }
        backoff.reset();
        sleep(EVERY).await;
    }
}
