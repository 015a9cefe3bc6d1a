//! The tables that balancers get, each made once per version for all that are connected here, and not at all while there are
//! none: the routes of a million servos take 64 MB and half a second to make.

use std::sync::Arc;
use std::time::Duration;

use pontoon_core::{State, view};
use pontoon_kit::CancellationToken;
use pontoon_model::{EdgeTable, RouteTable, RouteVersion};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::raft::StateFeed;

/// Making tables takes at most this part of one core's time: while many servos become ready one after the other, one
/// table covers several of them.
const SHARE: u32 = 4;
/// No table is held back for longer, whatever the last one cost.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The table is kept this long after the last balancer has left: one whose connection broke is back within seconds.
const KEPT: Duration = Duration::from_secs(60);

/// A part of the state, as balancers get it.
pub trait Table: Sized + Send + Sync + 'static {
    /// Which it is.
    fn version(&self) -> RouteVersion;
    /// That of a state.
    fn of(state: &State) -> Self;
    /// Whether it is the same in both.
    fn is_same(old: &State, new: &State) -> bool;
    /// That of `new`, where this is that of `old`.
    fn after(&self, old: &State, new: &State) -> Self;
}

impl Table for RouteTable {
    fn version(&self) -> RouteVersion {
        self.version
    }

    fn of(state: &State) -> Self {
        view::route_table(state)
    }

    fn is_same(old: &State, new: &State) -> bool {
        old.route_version() == new.route_version()
    }

    fn after(&self, old: &State, new: &State) -> Self {
        view::route_table_after(self, old, new)
    }
}

impl Table for EdgeTable {
    fn version(&self) -> RouteVersion {
        self.version
    }

    fn of(state: &State) -> Self {
        view::edge_table(state)
    }

    fn is_same(old: &State, new: &State) -> bool {
        Arc::ptr_eq(old.edge(), new.edge())
    }

    fn after(&self, old: &State, new: &State) -> Self {
        view::edge_table_after(self, old, new)
    }
}

type Newest<T> = Option<Arc<T>>;

/// Where balancers' sessions get the newest table of a kind. Clones share it.
pub struct TableFeed<T> {
    newest: Arc<watch::Sender<Newest<T>>>,
    wanted: Arc<Notify>,
}

impl<T> Clone for TableFeed<T> {
    fn clone(&self) -> Self {
        Self { newest: self.newest.clone(), wanted: self.wanted.clone() }
    }
}

impl<T> TableFeed<T> {
    /// Follows the table; it is kept up to date while anyone does.
    pub fn follow(&self) -> Tables<T> {
        let newest = self.newest.subscribe();
        self.wanted.notify_one();
        Tables { newest }
    }
}

/// The newest table, again and again.
pub struct Tables<T> {
    newest: watch::Receiver<Newest<T>>,
}

impl<T: Table> Tables<T> {
    /// The newest table once it is at least at `version`; none when all feeds are gone.
    pub async fn at_least(&mut self, version: RouteVersion) -> Option<Arc<T>> {
        let fits = |newest: &Newest<T>| newest.as_ref().is_some_and(|table| table.version() >= version);
        self.newest.wait_for(fits).await.ok()?.clone()
    }

    /// The next table that was not seen; none when all feeds are gone.
    pub async fn changed(&mut self) -> Option<Arc<T>> {
        loop {
            self.newest.changed().await.ok()?;
            // Let go just before this one came: the next is being made.
            if let Some(table) = self.newest.borrow_and_update().clone() {
                return Some(table);
            }
        }
    }
}

/// A feed of tables, and the task that keeps it; the task ends at shutdown.
pub fn publish_tables<T: Table>(
    mut feed: StateFeed,
    shutdown: CancellationToken,
) -> (TableFeed<T>, impl Future<Output = ()>) {
    let tables = TableFeed { newest: Arc::new(watch::channel(None).0), wanted: Arc::default() };
    let TableFeed { newest, wanted } = tables.clone();
    let publish = async move {
        loop {
            while newest.receiver_count() == 0 {
                wanted.notified().await;
            }
            tokio::select! {
                () = keep_newest(&mut feed, &newest) => {}
                () = unwanted(&newest) => {}
            }
            newest.send_replace(None);
        }
    };
    let work = async move {
        tokio::select! {
            () = publish => {}
            () = shutdown.cancelled() => {}
        }
    };
    (tables, work)
}

/// Returns when nobody has followed for [`KEPT`].
async fn unwanted<T>(newest: &watch::Sender<Newest<T>>) {
    loop {
        newest.closed().await;
        tokio::time::sleep(KEPT).await;
        if newest.is_closed() {
            return;
        }
    }
}

async fn keep_newest<T: Table>(feed: &mut StateFeed, newest: &watch::Sender<Newest<T>>) {
    let mut shown = feed.snapshot();
    let mut table = Arc::new(T::of(&shown));
    newest.send_replace(Some(table.clone()));
    loop {
        let state = feed.changed().await;
        if T::is_same(&shown, &state) {
            // Labels and the like: nothing to do, but the older state may go.
            shown = state;
            continue;
        }
        let begun = Instant::now();
        table = Arc::new(table.after(&shown, &state));
        newest.send_replace(Some(table.clone()));
        shown = state;
        let pause = (begun.elapsed() * SHARE).min(LONGEST_PAUSE);
        if pause >= Duration::from_millis(1) {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use pontoon_core::command::CreateApp;
    use pontoon_core::{Command, Entry, Stamped};
    use pontoon_model::{IdempotencyKey, Timestamp};

    use super::*;

    /// `state` with one app more.
    fn with_app(state: &State, name: &str) -> Arc<State> {
        let mut state = state.clone();
        let index = state.index() + 1;
        let command: Command = CreateApp { name: name.parse().unwrap() }.into();
        let commands = vec![Stamped { key: IdempotencyKey(u128::from(index)), command }];
        state.apply(index, &Entry { time: Timestamp(index), commands }).remove(0).unwrap();
        Arc::new(state)
    }

    fn start(state: Arc<State>) -> (watch::Sender<Arc<State>>, TableFeed<RouteTable>) {
        let (states, shown) = watch::channel(state);
        let (feed, work) = publish_tables(StateFeed::of(shown), CancellationToken::new());
        tokio::spawn(work);
        (states, feed)
    }

    async fn until_let_go(feed: &TableFeed<RouteTable>) {
        feed.newest.subscribe().wait_for(Option::is_none).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_made_for_who_follows_and_let_go_when_nobody_does() {
        let one = with_app(&State::default(), "one");
        let (states, feed) = start(one.clone());
        tokio::time::sleep(KEPT).await;
        assert!(feed.newest.borrow().is_none(), "nobody follows");

        let mut routes = feed.follow();
        assert_eq!(*routes.at_least(one.route_version()).await.unwrap(), view::route_table(&one));
        let two = with_app(&one, "two");
        states.send_replace(two.clone());
        assert_eq!(*routes.changed().await.unwrap(), view::route_table(&two));

        // Back before it is let go, as after a broken connection.
        drop(routes);
        tokio::time::sleep(KEPT / 2).await;
        assert_eq!(feed.follow().at_least(RouteVersion::default()).await.unwrap().routes.len(), 2);

        tokio::time::sleep(KEPT * 3).await;
        until_let_go(&feed).await;
        let three = with_app(&two, "three");
        states.send_replace(three.clone());
        let mut routes = feed.follow();
        assert_eq!(*routes.at_least(three.route_version()).await.unwrap(), view::route_table(&three));
    }
}
