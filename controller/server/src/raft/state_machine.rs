//! Applies committed entries to `core::State` and publishes one snapshot of it per applied batch.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use pontoon_core::{State, Trust};
use pontoon_model::Timestamp;
use pontoon_model::wire::WireError;
use tokio::sync::watch;

use super::cluster_clock::ClusterClock;
use super::events::{EventLog, HeldEvent};
use super::runtime;
use super::snapshot::{SnapshotFile, SnapshotStore};
use super::timing::Pace;
use super::types::{Applied, Entry, EntryBytes, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Clocks that are kept right differ by less, and those of controllers are shown beside each other where they do not.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Why an entry was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A newer Pontoon wrote it. Skipping it would make this controller's state differ from the others'.
    #[error("entry {index} of the Raft log: {source}; this controller stops applying entries until it is upgraded")]
    TooNew {
        /// Of the entry.
        index: u64,
        /// What is new.
        source: WireError,
    },
    /// It is damaged.
    #[error("entry {index} of the Raft log does not decode: {source}; this controller stops applying entries")]
    Damaged {
        /// Of the entry.
        index: u64,
        /// What is wrong.
        source: WireError,
    },
}

/// Where the newest applied state is to be had. Clones are independent listeners.
#[derive(Debug, Clone)]
pub struct StateFeed {
    newest: watch::Receiver<Arc<State>>,
    trust: watch::Receiver<Arc<Trust>>,
    clock: ClusterClock,
}

impl StateFeed {
    /// A feed of what a test shows.
    #[cfg(test)]
    pub(crate) fn of(newest: watch::Receiver<Arc<State>>) -> Self {
        let trust = watch::channel(newest.borrow().trust().clone()).1;
        Self { newest, trust, clock: ClusterClock::default() }
    }

    /// The newest applied state, at once.
    pub fn snapshot(&self) -> Arc<State> {
        self.newest.borrow().clone()
    }

    /// The cluster's time, which is never before that of any entry and goes on whatever this machine's clock says.
    pub fn now(&self) -> Timestamp {
        self.clock.now(self.look(State::time))
    }

    /// As if a leader's clock had been so fast.
    #[cfg(test)]
    pub(crate) fn run_ahead(&self, by: Duration) {
        self.clock.now(self.now().plus(by));
    }

    /// How far that is ahead of this machine's clock, since a leader's once ran ahead or this one is behind; nothing where they differ
    /// by no more than clocks do.
    pub fn ahead(&self) -> Duration {
        let ahead = self.now().since(Timestamp(runtime::unix_millis()));
        if ahead > CLOCKS_DIFFER { ahead } else { Duration::ZERO }
    }

    /// When it is `at` of the cluster's time by this machine's clock: for people, who look at theirs.
    pub fn by_own_clock(&self, at: Timestamp) -> u64 {
        at.0.saturating_sub(self.ahead().as_millis() as u64)
    }

    /// Looks at the newest applied state for a moment; who holds it any longer holds up the next.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.newest.borrow())
    }

    /// The newest state once it has reached `index`.
    pub async fn at(&self, index: u64) -> Arc<State> {
        let mut feed = self.clone();
        let mut state = feed.snapshot();
        while state.index() < index {
            state = feed.changed().await;
        }
        state
    }

    /// Who belongs, for those who need nothing else: it changes a few times a day, the state thousands of times a second. Never
    /// older than what [`StateFeed::snapshot`] has.
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.clone()
    }

    /// Waits until there is a newer state than the last one this call returned; never goes back, and may
    /// skip states in between. Waits for ever once the consensus has ended.
    pub async fn changed(&mut self) -> Arc<State> {
        if runtime::changed(&mut self.newest).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.newest.borrow_and_update().clone()
    }
}

/// The replicated state of this controller. Durable only through snapshots and the log.
pub struct StateMachine {
    store: Arc<SnapshotStore>,
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    newest: watch::Sender<Arc<State>>,
    trust: watch::Sender<Arc<Trust>>,
    events: EventLog,
    /// Of the batch that is being applied.
    changed: Vec<HeldEvent>,
    pace: Option<Pace>,
}

impl StateMachine {
    /// An empty state; openraft installs the stored snapshot and applies the committed log on top.
    pub fn new(store: Arc<SnapshotStore>) -> (Self, StateFeed) {
        let (newest, receiver) = watch::channel(Arc::new(State::default()));
        let (trust, trusted) = watch::channel(receiver.borrow().trust().clone());
        let machine = Self {
            store,
            state: State::default(),
            applied: None,
            membership: StoredMembership::default(),
            newest,
            trust,
            events: EventLog::default(),
            changed: Vec::new(),
            pace: None,
        };
        (machine, StateFeed { newest: receiver, trust: trusted, clock: ClusterClock::default() })
    }

    /// Where each entry's changes are to be had.
    pub fn events(&self) -> EventLog {
        self.events.clone()
    }

    /// Begins with what the stored snapshot holds; openraft applies the committed log on top.
    pub fn restored(store: Arc<SnapshotStore>, meta: SnapshotMeta, state: State) -> (Self, StateFeed) {
        #[cfg(test)]
        super::simulation::installed(&meta, &state);
        let (mut machine, feed) = Self::new(store);
        machine.state = state;
        machine.applied = meta.last_log_id;
        machine.membership = meta.last_membership;
        machine.publish();
        (machine, feed)
    }

    /// From now on `pace` follows what the state says was chosen.
    pub(super) fn sets(&mut self, pace: Pace) {
        pace.follow(&self.state);
        self.pace = Some(pace);
    }

    fn apply_one(&mut self, entry: Entry) -> Result<Applied, ApplyError> {
        #[cfg(test)]
        let seen = entry.clone();
        let index = entry.log_id.index();
        let applied = match entry.payload {
            EntryPayload::Blank => {
                self.state.skip(index);
                Applied::default()
            }
            EntryPayload::Membership(membership) => {
                self.state.skip(index);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied::default()
            }
            EntryPayload::Normal(EntryBytes(bytes)) => {
                let entry = pontoon_core::Entry::decode(&bytes).map_err(|source| match source {
                    WireError::TooNew { .. } | WireError::LevelTooNew { .. } => ApplyError::TooNew { index, source },
                    _ => ApplyError::Damaged { index, source },
                })?;
                let outcomes = self.state.apply(index, &entry);
                let changes = self.state.take_changes();
                if !changes.is_empty() {
                    self.changed.push(HeldEvent::new(index, self.state.time(), changes));
                }
                Applied { outcomes }
            }
        };
        self.applied = Some(entry.log_id);
        #[cfg(test)]
        super::simulation::applied(&seen, &applied, &self.state);
        Ok(applied)
    }

    fn publish(&mut self) {
        if let Some(pace) = &self.pace {
            pace.follow(&self.state);
        }
        // First: whoever finds the state new enough must not find an older trust beside it.
        self.trust.send_if_modified(|trust| {
            let changed = !Arc::ptr_eq(trust, self.state.trust());
            if changed {
                trust.clone_from(self.state.trust());
            }
            changed
        });
        if self.state.index() > self.newest.borrow().index() {
            self.newest.send_replace(Arc::new(self.state.clone()));
        }
        self.events.add(std::mem::take(&mut self.changed), self.state.index());
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers: Vec<(ApplyResponder<TypeConfig>, Applied)> = Vec::new();
        let mut result = Ok(());
        while let Some(item) = entries.next().await {
            let applied = match item {
                Ok((entry, responder)) => {
                    self.apply_one(entry).map(|applied| (responder, applied)).map_err(io::Error::other)
                }
                Err(error) => Err(error),
            };
            match applied {
                Ok((Some(responder), applied)) => answers.push((responder, applied)),
                Ok((None, _)) => {}
                Err(error) => {
                    tracing::error!(%error, "entries of the Raft log cannot be applied");
                    result = Err(error);
                    break;
                }
            }
        }
        // Published before it is answered: who was told "done" finds it in the feed.
        self.publish();
        for (responder, applied) in answers {
            responder.send(applied);
        }
        result
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            store: self.store.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            state: self.state.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let store = self.store.clone();
        let state = runtime::blocking(move || store.install(snapshot))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.events.restart(self.state.index());
        #[cfg(test)]
        super::simulation::installed(meta, &self.state);
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        let store = self.store.clone();
        let current =
            runtime::blocking(move || store.current()).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes one version of the state to disk while newer entries are applied.
pub struct SnapshotBuilder {
    store: Arc<SnapshotStore>,
    meta: SnapshotMeta,
    state: State,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let (store, meta, state) = (self.store.clone(), self.meta.clone(), self.state.clone());
        let snapshot = runtime::background(move || store.build(&meta, &state)).await?.map_err(io::Error::other)?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use pontoon_core::command::CreateApp;
    use pontoon_core::{Command, Stamped};
    use pontoon_model::{IdempotencyKey, Timestamp};

    type Committed = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;

    fn entry(index: u64, bytes: Vec<u8>) -> Entry {
        let log_id = LogId::new(Committed::new(1), index);
        Entry { log_id, payload: EntryPayload::Normal(EntryBytes(bytes.into())) }
    }

    fn create(index: u64) -> Vec<u8> {
        let command: Command = CreateApp { name: format!("app-{index}").parse().unwrap() }.into();
        let commands = vec![Stamped { key: IdempotencyKey(u128::from(index)), command }];
        pontoon_core::Entry { time: Timestamp(index), commands }.encode().unwrap()
    }

    fn machine(folder: &tempfile::TempDir) -> (StateMachine, StateFeed) {
        StateMachine::new(Arc::new(SnapshotStore::open(folder.path()).unwrap()))
    }

    async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) -> io::Result<()> {
        machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
    }

    #[tokio::test]
    async fn an_entry_of_a_newer_version_stops_and_is_not_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let (mut machine, feed) = machine(&folder);
        // The kind of an entry, in a version that is not known here.
        let newer = pontoon_model::wire::seal(199, 2, &1_u64).unwrap();
        let entries = vec![entry(1, create(1)), entry(2, newer), entry(3, create(3))];
        let error = apply(&mut machine, entries).await.unwrap_err().to_string();
        assert!(error.contains("entry 2") && error.contains("kind 199 version 2 is newer"), "{error}");
        assert_eq!(machine.applied_state().await.unwrap().0.map(|id| id.index()), Some(1));
        assert_eq!(feed.snapshot().apps().count(), 1);
    }

    #[tokio::test]
    async fn one_state_is_published_per_batch_and_never_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut machine, mut feed) = machine(&folder);
        apply(&mut machine, (1..=3).map(|index| entry(index, create(index))).collect()).await.unwrap();
        assert_eq!(feed.changed().await.index(), 3);
        apply(&mut machine, (4..=5).map(|index| entry(index, create(index))).collect()).await.unwrap();
        apply(&mut machine, vec![entry(6, create(6))]).await.unwrap();
        assert_eq!(feed.changed().await.index(), 6);
        assert_eq!(feed.snapshot().index(), 6);
    }

    #[tokio::test]
    async fn a_snapshot_holds_what_was_applied_when_it_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (mut machine, _feed) = machine(&folder);
        apply(&mut machine, vec![entry(1, create(1))]).await.unwrap();
        let mut builder = machine.get_snapshot_builder().await;
        apply(&mut machine, vec![entry(2, create(2))]).await.unwrap();
        let built = builder.build_snapshot().await.unwrap();
        assert_eq!(built.meta.last_log_id.map(|id| id.index()), Some(1));

        let (mut again, feed) = StateMachine::new(machine.store.clone());
        let current = again.get_current_snapshot().await.unwrap().unwrap();
        again.install_snapshot(&current.meta, current.snapshot).await.unwrap();
        assert_eq!(feed.snapshot().apps().count(), 1);
    }
}
