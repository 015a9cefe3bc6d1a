//! The route table, made once per version for all balancers connected here.

use std::sync::Arc;

use pontoon_core::view;
use pontoon_kit::CancellationToken;
use pontoon_model::RouteTable;
use tokio::sync::watch;

use crate::raft::StateFeed;

/// The newest route table.
pub type RouteFeed = watch::Receiver<Arc<RouteTable>>;

/// A feed of route tables, and the task that keeps it; the task ends at shutdown.
pub fn publish_routes(mut feed: StateFeed, shutdown: CancellationToken) -> (RouteFeed, impl Future<Output = ()>) {
    let (sender, receiver) = watch::channel(Arc::new(view::route_table(&feed.snapshot())));
    let work = async move {
        loop {
            let state = tokio::select! {
                state = feed.changed() => state,
                () = shutdown.cancelled() => return,
            };
            if state.route_version() != sender.borrow().version {
                sender.send_replace(Arc::new(view::route_table(&state)));
            }
        }
    };
    (receiver, work)
}
