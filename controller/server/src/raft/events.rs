//! The newest changes of the state, in memory, for those who follow it.
//!
//! One ring for all readers: who reads keeps an index and asks for what comes after it, so a slow reader costs nothing and
//! is told when it has fallen behind what is held.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_core::{Change, Row};
use pontoon_model::{App, Timestamp};
use tokio::sync::watch;

/// Most changes held: far more than there are in the minutes that a reader is away for.
const MOST_CHANGES: usize = 65_536;

/// Most bytes held, as estimated: rows are shared with the state while they are its newest. 8,000 rows, a day of a small
/// cluster's (Nomad holds 100 events). What is held is old, so that each new row is written to memory that no cache has:
/// with 32 MiB a label took a quarter longer to apply.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What a row takes besides its texts.
const ROW_BYTES: usize = 512;

/// What one applied entry changed.
#[derive(Debug)]
pub struct HeldEvent {
    /// Its Raft index.
    pub index: u64,
    /// Its time.
    pub time: Timestamp,
    /// Every row it changed, as it left it.
    pub changes: Vec<Change>,
    bytes: usize,
}

impl HeldEvent {
    pub(super) fn new(index: u64, time: Timestamp, changes: Vec<Change>) -> Self {
        let bytes = changes.iter().map(size).sum();
        Self { index, time, changes, bytes }
    }
}

fn size(change: &Change) -> usize {
    let texts = |app: &App| {
        let labels = app.labels.iter().map(|(name, value)| name.len() + value.len());
        let env = app.env.iter().map(|(name, value)| name.len() + value.0.len());
        labels.chain(env).map(|bytes| bytes + 64).sum::<usize>()
    };
    ROW_BYTES
        + match &change.row {
            Some(Row::App(app)) => texts(app),
            Some(Row::Release(release)) => release.env.iter().map(|(name, value)| name.len() + value.0.len()).sum(),
            Some(Row::Certificate(row)) => row.chain.len() + row.key.0.len(),
            Some(Row::Traffic(row)) => row.traffic.maintenance_page.len() + row.traffic.error_page.len(),
            _ => 0,
        }
}

/// What comes after an index.
#[derive(Debug)]
pub enum EventRead {
    /// These, in order; none as yet if empty.
    Events(Vec<Arc<HeldEvent>>),
    /// Some of it is no longer held; one can go on from `oldest`.
    Compacted {
        /// The lowest index from which nothing is missing.
        oldest: u64,
    },
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<HeldEvent>>,
    changes: usize,
    bytes: usize,
    /// Everything after this index is held.
    floor: u64,
}

/// The ring and its readers. Clones share it.
#[derive(Debug, Clone)]
pub struct EventLog {
    ring: Arc<Mutex<Ring>>,
    /// The newest applied index.
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { ring: Arc::default(), newest: watch::Sender::new(0) }
    }
}

impl EventLog {
    /// Takes in what was applied up to `index`.
    pub(super) fn add(&self, events: Vec<HeldEvent>, index: u64) {
        if !events.is_empty() {
            let mut ring = self.lock();
            for event in events {
                ring.changes += event.changes.len();
                ring.bytes += event.bytes;
                ring.events.push_back(Arc::new(event));
            }
            while (ring.changes > MOST_CHANGES || ring.bytes > MOST_BYTES)
                && let Some(gone) = ring.events.pop_front()
            {
                ring.changes -= gone.changes.len();
                ring.bytes -= gone.bytes;
                ring.floor = gone.index;
            }
        }
        self.newest.send_if_modified(|newest| std::mem::replace(newest, index.max(*newest)) < index);
    }

    /// The state is that of `index` now, by another way than entry by entry.
    pub(super) fn restart(&self, index: u64) {
        *self.lock() = Ring { floor: index, ..Ring::default() };
        self.newest.send_if_modified(|newest| std::mem::replace(newest, index.max(*newest)) < index);
    }

    /// As if as much had followed as is held.
    #[cfg(test)]
    pub(crate) fn forget_before_now(&self) {
        let newest = *self.newest.borrow();
        self.restart(newest);
    }

    /// At most `most` changes after `index`; at least one entry, if there is one.
    pub fn after(&self, index: u64, most: usize) -> EventRead {
        let ring = self.lock();
        if index < ring.floor {
            return EventRead::Compacted { oldest: ring.floor };
        }
        let first = ring.events.partition_point(|event| event.index <= index);
        let (mut events, mut changes) = (Vec::new(), 0);
        for event in ring.events.range(first..) {
            changes += event.changes.len();
            if changes > most && !events.is_empty() {
                break;
            }
            events.push(event.clone());
        }
        EventRead::Events(events)
    }

    /// Tells of each newer applied index.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        // Nothing in here can panic half-way.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use pontoon_core::RowKey;

    use super::*;

    fn event(index: u64, changes: usize) -> HeldEvent {
        let change = Change { key: RowKey::Cluster, row: None, was_of: None };
        HeldEvent::new(index, Timestamp(index), vec![change; changes])
    }

    fn indexes(read: EventRead) -> Vec<u64> {
        match read {
            EventRead::Events(events) => events.iter().map(|event| event.index).collect(),
            EventRead::Compacted { oldest } => panic!("compacted to {oldest}"),
        }
    }

    #[test]
    fn a_reader_gets_what_comes_after_its_index_and_nothing_twice() {
        let log = EventLog::default();
        log.add(vec![event(2, 1), event(3, 2), event(7, 1)], 9);
        assert_eq!(indexes(log.after(0, 100)), [2, 3, 7]);
        assert_eq!(indexes(log.after(2, 100)), [3, 7]);
        assert_eq!(indexes(log.after(5, 100)), [7]);
        assert_eq!(indexes(log.after(8, 100)), [0; 0]);
        assert_eq!(indexes(log.after(2, 1)), [3], "an entry is never cut");
        assert_eq!(indexes(log.after(0, 3)), [2, 3]);
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_gone_is_said() {
        let log = EventLog::default();
        let newest = log.newest();
        let entries = 100_000 / 1_000;
        for index in 1..=entries {
            log.add(vec![event(index, 1_000)], index);
        }
        let EventRead::Compacted { oldest } = log.after(0, 1) else { panic!("all is held") };
        assert!(oldest > 0 && log.lock().changes <= MOST_CHANGES, "{oldest}");
        let held = indexes(log.after(oldest, usize::MAX));
        assert_eq!((held.first(), held.last()), (Some(&(oldest + 1)), Some(&entries)));
        assert_eq!(*newest.borrow(), entries);
    }

    #[test]
    fn after_a_snapshot_nothing_before_it_is_held() {
        let log = EventLog::default();
        log.add(vec![event(2, 1)], 2);
        log.restart(10);
        assert!(matches!(log.after(2, 1), EventRead::Compacted { oldest: 10 }));
        assert_eq!(indexes(log.after(10, 1)), [0; 0]);
        assert_eq!(*log.newest().borrow(), 10);
    }
}
