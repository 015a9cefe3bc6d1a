//! The route table, made once per version for all balancers connected here.

use std::sync::Arc;
use std::time::Duration;

use pontoon_core::view;
use pontoon_kit::CancellationToken;
use pontoon_model::RouteTable;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::raft::StateFeed;

/// The newest route table.
pub type RouteFeed = watch::Receiver<Arc<RouteTable>>;

/// Making tables takes at most this part of one core's time: while many servos become ready one after the other, one
/// table covers several of them.
const SHARE: u32 = 4;
/// No table is held back for longer, whatever the last one cost.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A feed of route tables, and the task that keeps it; the task ends at shutdown.
pub fn publish_routes(mut feed: StateFeed, shutdown: CancellationToken) -> (RouteFeed, impl Future<Output = ()>) {
    let mut shown = feed.snapshot();
    let (sender, receiver) = watch::channel(Arc::new(view::route_table(&shown)));
    let publish = async move {
        loop {
            let state = feed.changed().await;
            if state.route_version() == shown.route_version() {
                // Labels and the like: nothing to do, but the older state may go.
                shown = state;
                continue;
            }
            let begun = Instant::now();
            let table = view::route_table_after(&sender.borrow(), &shown, &state);
            sender.send_replace(Arc::new(table));
            shown = state;
            let pause = (begun.elapsed() * SHARE).min(LONGEST_PAUSE);
            if pause >= Duration::from_millis(1) {
                tokio::time::sleep(pause).await;
            }
        }
    };
    let work = async move {
        tokio::select! {
            () = publish => {}
            () = shutdown.cancelled() => {}
        }
    };
    (receiver, work)
}
