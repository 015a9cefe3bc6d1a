//! What the log holds, and its newest entries in memory, so that followers do not read behind the writer.

use std::collections::VecDeque;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use super::super::types::{Entry, EntryBytes, LogId};

/// Entries kept in memory, in bytes: a follower one second behind at full speed still reads from here.
const MEMORY_BYTES: usize = 16 * 1024 * 1024;

/// What an entry costs besides its commands.
const ENTRY_OVERHEAD: usize = 64;

/// Where the entries of a read are.
pub(super) struct Located {
    /// In the database: `start..end`.
    pub(super) stored: std::ops::Range<u64>,
    /// After those, from memory.
    pub(super) cached: Vec<Entry>,
}

/// The log's extent and its newest entries.
#[derive(Default)]
pub(super) struct Window {
    purged: Option<LogId>,
    last: Option<LogId>,
    // Sizes of all entries after `purged`, the first of index `first`.
    first: u64,
    sizes: VecDeque<u32>,
    bytes: u64,
    // The newest of them.
    entries: VecDeque<Entry>,
    entries_bytes: usize,
    // Entries up to here are on disk and may leave memory.
    durable: Option<u64>,
}

/// Roughly what `entry` takes in memory and on disk.
pub(super) fn size_of(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            EntryPayload::Normal(EntryBytes(bytes)) => bytes.len(),
            EntryPayload::Blank => 0,
            EntryPayload::Membership(_) => 256,
        }
}

impl Window {
    /// An empty log from which everything up to `purged` was removed.
    pub(super) fn after(purged: Option<LogId>) -> Self {
        Self { purged, ..Self::default() }
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, or the last that was removed if there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last.or(self.purged)
    }

    /// The first entry of a log from which none was removed yet.
    pub(super) fn begins_at(&self) -> Option<u64> {
        (self.purged.is_none() && !self.sizes.is_empty()).then_some(self.first)
    }

    /// The index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.sizes.len() as u64
    }

    /// Bytes of the entries after `index`.
    pub(super) fn bytes_after(&self, index: Option<u64>) -> u64 {
        let skip = index.map_or(0, |index| (index + 1).saturating_sub(self.first)) as usize;
        if skip == 0 { self.bytes } else { self.sizes.iter().skip(skip).map(|size| u64::from(*size)).sum() }
    }

    /// Adds `entry`; `Err` holds the index that was expected.
    pub(super) fn push(&mut self, entry: Entry) -> Result<(), u64> {
        let index = entry.index();
        if self.sizes.is_empty() {
            self.first = index;
        } else if index != self.end() {
            return Err(self.end());
        }
        let size = size_of(&entry);
        self.last = Some(entry.log_id);
        self.sizes.push_back(size as u32);
        self.bytes += size as u64;
        self.entries_bytes += size;
        self.entries.push_back(entry);
        Ok(())
    }

    /// Everything up to `index` is on disk: entries may leave memory.
    pub(super) fn durable(&mut self, index: u64) {
        self.durable = self.durable.max(Some(index));
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.entries_bytes > MEMORY_BYTES {
            match self.entries.front() {
                Some(entry) if Some(entry.index()) <= self.durable => self.pop_front(),
                _ => break,
            }
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.entries_bytes -= size_of(&entry);
        }
    }

    /// Drops entries from `index` on; the one before it is `last`.
    pub(super) fn truncate(&mut self, index: u64, last: Option<LogId>) {
        if self.end() <= index {
            return;
        }
        while self.end() > index {
            let Some(size) = self.sizes.pop_back() else { break };
            self.bytes -= u64::from(size);
        }
        while self.entries.back().is_some_and(|entry| entry.index() >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.entries_bytes -= size_of(&entry);
            }
        }
        self.durable = self.durable.map(|durable| durable.min(index.saturating_sub(1)));
        self.last = if self.sizes.is_empty() { None } else { last };
    }

    /// Drops entries up to `upto`, inclusive.
    pub(super) fn purge(&mut self, upto: LogId) {
        while self.first <= upto.index() {
            let Some(size) = self.sizes.pop_front() else { break };
            self.first += 1;
            self.bytes -= u64::from(size);
        }
        while self.entries.front().is_some_and(|entry| entry.index() <= upto.index()) {
            self.pop_front();
        }
        if self.sizes.is_empty() {
            self.last = None;
        }
        self.purged = self.purged.max(Some(upto));
    }

    /// Where the entries `start..end` are, as far as they are there.
    pub(super) fn locate(&self, start: u64, end: u64) -> Located {
        let start = start.max(self.first);
        let end = end.min(self.end());
        let memory = self.entries.front().map_or(self.end(), |entry| entry.index());
        let from = start.max(memory);
        let skip = (from - memory) as usize;
        let take = end.saturating_sub(from) as usize;
        Located {
            stored: start..end.min(memory).max(start),
            cached: self.entries.iter().skip(skip).take(take).cloned().collect(),
        }
    }

    /// The first index of `start..end` that no longer fits into `limit` bytes; at least one entry fits.
    pub(super) fn fitting(&self, start: u64, end: u64, limit: u64) -> u64 {
        let start = start.max(self.first);
        let mut total = 0;
        let sizes = self.sizes.iter().skip((start - self.first) as usize);
        for (index, size) in (start..end).zip(sizes) {
            total += u64::from(*size);
            if total > limit {
                return index.max(start + 1);
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    type Committed = openraft::type_config::alias::CommittedLeaderIdOf<super::super::super::types::TypeConfig>;

    fn entry(index: u64, len: usize) -> Entry {
        let log_id = LogId::new(Committed::new(1), index);
        Entry { log_id, payload: EntryPayload::Normal(EntryBytes(Bytes::from(vec![0; len]))) }
    }

    fn filled(count: u64, len: usize) -> Window {
        let mut window = Window::default();
        for index in 0..count {
            window.push(entry(index, len)).unwrap();
        }
        window
    }

    fn indexes(located: &Located) -> (std::ops::Range<u64>, Vec<u64>) {
        (located.stored.clone(), located.cached.iter().map(RaftEntry::index).collect())
    }

    #[test]
    fn what_is_not_durable_stays_in_memory() {
        let mut window = filled(40, 1024 * 1024);
        assert_eq!(indexes(&window.locate(0, 3)), (0..0, vec![0, 1, 2]));
        window.durable(39);
        let (stored, cached) = indexes(&window.locate(0, 40));
        assert_eq!(stored.end, cached[0]);
        assert!(cached.len() < 17 && cached.len() > 13, "{}", cached.len());
        assert_eq!(indexes(&window.locate(2, 5)), (2..5, vec![]));
    }

    #[test]
    fn a_hole_is_refused() {
        let mut window = filled(3, 1);
        assert_eq!(window.push(entry(5, 1)), Err(3));
    }

    #[test]
    fn purged_and_truncated_entries_are_gone() {
        let mut window = filled(10, 100);
        window.purge(entry(3, 0).log_id);
        window.truncate(8, Some(entry(7, 0).log_id));
        assert_eq!(indexes(&window.locate(0, 20)).1, vec![4, 5, 6, 7]);
        assert_eq!(window.last().map(|id| id.index()), Some(7));
        assert_eq!(window.bytes_after(Some(5)), 2 * 164);
        window.purge(entry(20, 0).log_id);
        assert_eq!(window.last().map(|id| id.index()), Some(20));
        window.push(entry(21, 1)).unwrap();
        assert_eq!(indexes(&window.locate(0, 30)).1, vec![21]);
    }

    #[test]
    fn a_limited_read_gives_at_least_one() {
        let window = filled(10, 1000);
        assert_eq!(window.fitting(2, 9, 1), 3);
        assert_eq!(window.fitting(2, 9, 3500), 5);
        assert_eq!(window.fitting(2, 9, 1 << 30), 9);
    }
}
