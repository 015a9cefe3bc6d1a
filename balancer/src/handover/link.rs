//! What a process that has given way does for its successor until it ends.

use std::sync::Arc;

use pontoon_proto::BalancerAck;

use super::channel::Channel;
use super::message::{Asked, Told};
use super::predecessor::Progress;
use crate::store::Store;
use crate::table::Table;

/// The way to the process that has taken over.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) channel: Channel,
}

impl Link {
    /// Routes what is still in flight by the successor's tables and says how far it is; returns when the successor has
    /// ended.
    pub(crate) async fn follow(mut self, table: &Arc<Table>, store: &Store, progress: &Progress) {
        let mut told = BalancerAck::default();
        loop {
            let now = progress.now();
            if now != told {
                if let Err(error) = self.channel.send(&Told::Ack(now), &[]).await {
                    return tracing::warn!(%error, "the process that has taken over does not listen");
                }
                told = now;
            }
            tokio::select! {
                asked = self.channel.receive() => match asked {
                    Ok(Asked::Written) => {
                        follow_disk(table, store).await;
                        // Whoever was there before this one follows too.
                        store.tell_written();
                    }
                    Ok(asked) => tracing::debug!("the process that has taken over says {asked:?}"),
                    Err(error) => return tracing::warn!(%error, "the process that has taken over has ended"),
                },
                () = progress.changed() => {}
            }
        }
    }
}

/// Takes in what the successor has written. What a later version writes may not be readable: then this process stays at what
/// it has, and its acknowledgement with it.
async fn follow_disk(table: &Arc<Table>, store: &Store) {
    let (store, table) = (store.clone(), table.clone());
    let read = move || {
        if let Some(newest) = store.peek()? {
            table.become_table(newest.version(), newest.routes()).map_err(std::io::Error::other)?;
        }
        if let Some(newest) = store.peek_edge()? {
            table.apply_edge(&newest).map_err(std::io::Error::other)?;
        }
        Ok(())
    };
    let read: Result<std::io::Result<()>, _> = tokio::task::spawn_blocking(read).await;
    if let Ok(Err(error)) = read {
        tracing::warn!(%error, "the tables of the process that has taken over are not followed");
    }
}
