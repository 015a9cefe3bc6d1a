//! In the background: fetch what the state refers to and is not here, delete what it no longer refers to.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use pontoon_core::State;
use pontoon_kit::{Backoff, CancellationToken};
use pontoon_model::Digest;
use tokio::sync::watch;

use super::{BlobError, BlobStore, Fetcher};
use crate::raft::{Leadership, Reads, StateFeed};

/// Changes come in bursts; one look per second at what they refer to is enough, since a majority has it already.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a blob that no one gave.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often garbage is looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(10 * 60);
/// Garbage is kept this long: an upload may not be referred to yet, and a build's push may take this long.
const KEEP_GARBAGE: Duration = Duration::from_secs(60 * 60);

/// What `state` refers to and `store` lacks.
pub async fn missing(store: &BlobStore, state: &State) -> Vec<Digest> {
    let wanted: BTreeSet<Digest> = state.blobs().map(|blob| blob.digest).collect();
    let mut missing = Vec::new();
    for digest in wanted {
        if store.size(&digest).await.is_none() {
            missing.push(digest);
        }
    }
    missing
}

/// Returns when `store` has everything that the cluster's state refers to, as of a moment after the call: who is to count
/// as one of a majority that has each bundle must have them.
pub async fn whole(store: BlobStore, feed: StateFeed, reads: Reads) {
    loop {
        if let Ok(index) = reads.index().await
            && missing(&store, &*feed.at(index).await).await.is_empty()
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Keeps fetching what the state refers to and this controller lacks. Ends at shutdown.
pub async fn fetch_missing(fetcher: Fetcher, store: BlobStore, mut feed: StateFeed, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut state = feed.snapshot();
    let work = async {
        loop {
            let wanted: BTreeSet<Digest> = state.blobs().map(|blob| blob.digest).collect();
            let mut failed = false;
            for digest in wanted {
                if store.size(&digest).await.is_some() {
                    continue;
                }
                match fetcher.ensure(&digest).await {
                    Ok(()) => tracing::info!(%digest, "fetched a blob"),
                    Err(error) => {
                        failed = true;
                        tracing::warn!(%error, "a blob is missing here; trying again");
                    }
                }
            }
            if failed {
                tokio::time::sleep(backoff.wait()).await;
                state = feed.snapshot();
            } else {
                backoff.reset();
                tokio::time::sleep(LOOK_EVERY).await;
                state = feed.changed().await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

/// Keeps deleting blobs that nothing refers to. Ends at shutdown.
pub async fn collect_garbage(
    store: BlobStore,
    feed: StateFeed,
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COLLECT_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        // Who is cut off from the others may not know what they have come to refer to.
        let connected = {
            let now = leadership.borrow();
            now.leader.is_some() && now.since.elapsed() > COLLECT_EVERY
        };
        if !connected {
            continue;
        }
        let wanted = feed.snapshot().blobs().map(|blob| blob.digest).collect();
        let store = store.clone();
        let deleted = tokio::task::spawn_blocking(move || collect_once(&store, &wanted, SystemTime::now())).await;
        match deleted {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(count, "deleted blobs that nothing refers to"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot collect garbage"),
            Err(error) => tracing::warn!(%error, "garbage collection broke off"),
        }
    }
}

fn collect_once(store: &BlobStore, wanted: &BTreeSet<Digest>, now: SystemTime) -> Result<u64, BlobError> {
    let mut count = 0;
    for (digest, held_at) in store.list()? {
        let old = now.duration_since(held_at).is_ok_and(|age| age > KEEP_GARBAGE);
        if old && !wanted.contains(&digest) {
            store.remove(&digest)?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_model::MemoryBytes;

    #[tokio::test]
    async fn only_old_blobs_that_nothing_refers_to_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        for text in ["wanted", "garbage"] {
            let mut incoming = store.begin(MemoryBytes::mib(1)).await.unwrap();
            incoming.write(text.as_bytes()).await.unwrap();
            incoming.keep(None).await.unwrap();
        }
        let wanted = BTreeSet::from([Digest::of(b"wanted")]);
        let now = SystemTime::now();
        assert_eq!(collect_once(&store, &wanted, now).unwrap(), 0, "young");
        assert_eq!(collect_once(&store, &wanted, now + KEEP_GARBAGE * 2).unwrap(), 1);
        assert_eq!(store.list().unwrap().into_iter().map(|row| row.0).collect::<BTreeSet<_>>(), wanted);
    }
}
