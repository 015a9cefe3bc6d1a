//! Where the controllers are, for agents and balancers: whoever knows all of them needs no new configuration when they are
//! replaced one by one.

use std::sync::Arc;

use pontoon_core::State;
use pontoon_kit::CancellationToken;
use pontoon_proto::{KnownController, known};
use tokio::sync::watch;
use tonic::Request;

use crate::raft::StateFeed;

/// The newest list, made once for all sessions.
pub type KnownFeed = watch::Receiver<Arc<Vec<KnownController>>>;

/// A feed of the controllers' places, and the task that keeps it; the task ends at shutdown.
pub fn publish_controllers(mut feed: StateFeed, shutdown: CancellationToken) -> (KnownFeed, impl Future<Output = ()>) {
    let (sender, known) = watch::channel(Arc::new(listed(&feed.snapshot())));
    let work = async move {
        loop {
            let now = listed(&*feed.changed().await);
            sender.send_if_modified(|before| {
                let changed = **before != now;
                if changed {
                    *before = Arc::new(now);
                }
                changed
            });
        }
    };
    let work = async move {
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    };
    (known, work)
}

/// All that have announced themselves and were not removed.
fn listed(state: &State) -> Vec<KnownController> {
    state.controllers().map(|row| KnownController { site: row.site.clone(), grpc: row.grpc }).collect()
}

/// What who opens a session reads: an older one would end the session at a directive it does not know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reads {
    /// Where the controllers are.
    pub(super) controllers: bool,
    /// Whom to trust.
    pub(super) trust: bool,
    /// Domains, settings of apps, certificates and keys.
    pub(super) edge: bool,
    /// Who looks at requests.
    pub(super) requests: bool,
    /// Tables in pieces.
    pub(super) pieces: bool,
}

impl Reads {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let reads = request.metadata().get(known::READS).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let has = |what| reads.split(',').any(|one| one.trim() == what);
        Self {
            controllers: has(known::CONTROLLERS),
            trust: has(known::TRUST),
            edge: has(known::EDGE),
            requests: has(known::REQUESTS),
            pieces: has(known::PIECES),
        }
    }
}

/// Waits for the next list that is worth sending: one is not while nobody has announced itself.
pub(super) async fn next(known: &mut KnownFeed) -> Vec<KnownController> {
    loop {
        let list = known.borrow_and_update().clone();
        if !list.is_empty() {
            return list.to_vec();
        }
        if known.changed().await.is_err() {
            // The node is stopping; sessions end with it.
            return std::future::pending().await;
        }
    }
}
