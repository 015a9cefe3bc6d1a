//! A process that has given way and still has requests in flight, as its successor sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_kit::CancellationToken;
use pontoon_proto::BalancerAck;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::channel::Channel;
use super::message::{Asked, Told};
use super::{HandoverError, Taking};
use crate::store::Store;
use crate::table::Table;

/// A process that has given way ends within a minute. One that does not (it was stopped, say) holds up deployments no longer
/// than this.
const LONGEST: Duration = Duration::from_secs(120);

/// How far a balancer is: all of its processes.
pub(crate) struct Progress {
    table: Arc<Table>,
    before: Mutex<Option<BalancerAck>>,
    changed: Notify,
}

impl Progress {
    pub(crate) fn new(table: Arc<Table>, before: Option<BalancerAck>) -> Self {
        Self { table, before: Mutex::new(before), changed: Notify::new() }
    }

    /// How far the slowest of them is.
    pub(crate) fn now(&self) -> BalancerAck {
        let own = self.table.progress();
        self.lock().map_or(own, |before| BalancerAck {
            applied: own.applied.min(before.applied),
            drained: own.drained.min(before.drained),
        })
    }

    /// Returns when [`Self::now`] may have grown without a change of the table. For one waiter.
    pub(crate) async fn changed(&self) {
        tokio::select! {
            () = self.table.drained() => {}
            () = self.changed.notified() => {}
        }
    }

    fn set(&self, before: Option<BalancerAck>) {
        *self.lock() = before;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<BalancerAck>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to the process that was there before.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
}

impl Predecessor {
    /// Tells it to accept no more connections.
    pub(crate) async fn relieve(taking: Taking) -> Result<Self, HandoverError> {
        Ok(Self { channel: taking.serving().await? })
    }

    /// Tells it of new tables in `store`, which are written without a rest, and hears how far it is, until it has ended or `stop`.
    pub(crate) async fn follow(mut self, progress: Arc<Progress>, store: Store, stop: CancellationToken) {
        let (mut written, awaited) = (store.watch_written(), store.await_writes());
        let mut longest = std::pin::pin!(sleep(LONGEST));
        loop {
            tokio::select! {
                told = self.channel.receive() => match told {
                    Ok(Told::Ack(ack)) => progress.set(Some(ack)),
                    Ok(told) => tracing::debug!("the former process says {told:?}"),
                    Err(HandoverError::Closed) => {
                        tracing::info!("the former process has ended");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the former process is not heard any more");
                        break;
                    }
                },
                changed = written.changed() => {
                    if changed.is_err() || self.channel.send(&Asked::Written, &[]).await.is_err() {
                        tracing::debug!("the former process is not told of a new table");
                        break;
                    }
                }
                () = longest.as_mut() => {
                    tracing::warn!("the former process has not ended within {LONGEST:?}: it counts no longer");
                    break;
                }
                () = stop.cancelled() => return,
            }
        }
        drop(awaited);
        progress.set(None);
        stop.cancelled().await;
    }
}
