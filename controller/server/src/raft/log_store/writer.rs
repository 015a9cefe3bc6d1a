//! The one writer: it drains its queue into one batch, writes that and the watermark to the journal, answers everyone,
//! and gives the batch to the database.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::entry::RaftEntry;
use pontoon_model::wire;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::layout::{LogIdRecord, VoteRecord};
use super::super::timing::FlushTimes;
use super::super::types::LogId;
use super::disk::{Batch, Disk, DiskError};
use super::group::{Answer, Group, Operation, Waiting};
use super::journal::{Journal, WriteError};
use super::record::{self, AFTER_ENTRIES, COMMITTED, PURGED, VOTE};
use super::recovery;
use super::room::{Room, RoomLeft};
use super::watermark::Watermark;
use super::window::Window;

/// Operations that may wait: openraft has at most 64 appends of a leader under way, each at most 1 MiB.
pub(super) const QUEUE: usize = 64;

/// Operations written together; more would let the first wait too long.
const GROUP: usize = QUEUE;

/// Operations taken from the queue while appends are held for want of room: as many appends again as wait in the
/// queue, so that what comes behind them is seen.
const HELD: usize = 2 * GROUP;

/// Bytes of entries written together: about 0.1 s for sled, so that a vote behind them still comes in time.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Keys removed at once while nothing else is to be written: 50,000 at once block sled for 0.3 s, and votes with it.
const SLICE: usize = 1_000;

/// Keys removed with a group that adds few: a removal costs about 6 µs, so this delays the next group by 0.4 ms.
const LEAST_SLICE: usize = 64;

/// Keys removed for each that is added, so that a purge ends however much is written meanwhile.
const REMOVED_PER_ADDED: usize = 2;

/// Between looks at the room while there is too little.
const LOOK: Duration = Duration::from_millis(50);

/// What writes: a thread of its own in production, a task under simulated time in a simulation.
pub(in crate::raft) struct Writer {
    disk: Arc<dyn Disk>,
    window: Arc<Mutex<Window>>,
    /// The last entry known to be committed.
    committed: Arc<Mutex<Option<LogId>>>,
    /// The same as last written.
    saved: Option<LogId>,
    queue: mpsc::Receiver<Operation>,
    room: Room,
    /// Taken from the queue and not yet written, in order.
    taken: VecDeque<Operation>,
    /// Whether something was taken since the last step.
    fresh: bool,
    /// Space ran out in the middle of it.
    unfinished: Option<Group>,
    /// As last written.
    mark: Watermark,
    journal: Journal,
    /// Entries up to here still lie in the database; they are removed slice by slice.
    purging: Option<u64>,
    /// After a failed write nothing is written any more: what is on disk is unknown.
    failed: Option<String>,
    flushes: FlushTimes,
}

/// What taking from the queue came to.
enum Taken {
    Work,
    /// Something waits for room.
    Later,
    Nothing,
    Closed,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        window: Arc<Mutex<Window>>,
        committed: Arc<Mutex<Option<LogId>>>,
        queue: mpsc::Receiver<Operation>,
        room: Room,
        (mark, journal): (Watermark, Journal),
    ) -> Self {
        let purging = window.lock().unwrap_or_else(PoisonError::into_inner).purged().map(|purged| purged.index());
        let taken = VecDeque::with_capacity(HELD);
        let saved = *committed.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            disk,
            window,
            committed,
            saved,
            queue,
            room,
            taken,
            fresh: false,
            unfinished: None,
            mark,
            journal,
            purging,
            failed: None,
            flushes: FlushTimes::default(),
        }
    }

    /// How long flushes took.
    pub(super) fn flush_times(&self) -> FlushTimes {
        self.flushes.clone()
    }

    /// Writes until it is told to stop or nobody can tell it any more.
    pub(super) fn run(mut self) {
        while self.wait() && self.step() {}
        self.finish();
    }

    /// Waits for work; `false` when there will be none.
    fn wait(&mut self) -> bool {
        match self.take() {
            Taken::Work => true,
            Taken::Later => {
                std::thread::sleep(LOOK);
                true
            }
            Taken::Nothing => self.queue.blocking_recv().is_some_and(|operation| self.took(operation)),
            Taken::Closed => false,
        }
    }

    /// Waits for work as [`Writer::run`] does, in a task; then call [`Writer::step`]. `false` when there will be none.
    #[cfg(test)]
    pub(in crate::raft) async fn gather(&mut self) -> bool {
        match self.take() {
            Taken::Work => true,
            Taken::Later => {
                tokio::time::sleep(LOOK).await;
                true
            }
            Taken::Nothing => self.queue.recv().await.is_some_and(|operation| self.took(operation)),
            Taken::Closed => false,
        }
    }

    /// Takes what there is, without waiting.
    fn take(&mut self) -> Taken {
        while self.taken.len() < HELD {
            match self.queue.try_recv() {
                Ok(operation) => drop(self.took(operation)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) if self.taken.is_empty() => return Taken::Closed,
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
        match () {
            () if self.fresh => Taken::Work,
            () if self.unfinished.is_some() => Taken::Later,
            () if self.purging.is_some() && self.room.left(0) != RoomLeft::Nothing => Taken::Work,
            () if !self.room.is_fine() => Taken::Later,
            () if !self.taken.is_empty() => Taken::Work,
            () => Taken::Nothing,
        }
    }

    fn took(&mut self, operation: Operation) -> bool {
        self.taken.push_back(operation);
        self.fresh = true;
        true
    }

    /// Writes one group; `false` to stop.
    pub(in crate::raft) fn step(&mut self) -> bool {
        self.fresh = false;
        self.look_for_room();
        if let Some(group) = self.unfinished.take()
            && !self.resume(group)
        {
            return !self.told_to_stop();
        }
        let mut group = Group::new(self.mark);
        let mut go_on = true;
        let mut operations = self.admitted();
        while let Some(operation) = operations.pop_front() {
            match operation {
                Operation::Stop => go_on = false,
                Operation::Truncate { last, done } => {
                    self.commit(std::mem::replace(&mut group, Group::new(self.mark)));
                    if self.unfinished.is_some() {
                        operations.push_front(Operation::Truncate { last, done });
                        break;
                    }
                    let truncation = self.truncation(last, done);
                    self.commit(truncation);
                    if self.unfinished.is_some() {
                        break;
                    }
                    group = Group::new(self.mark);
                }
                operation => {
                    if let Err(error) = self.add(operation, &mut group) {
                        self.fail(&error);
                    }
                }
            }
        }
        if self.unfinished.is_none() {
            self.commit(group);
        }
        operations.into_iter().rev().for_each(|operation| self.taken.push_front(operation));
        // What waits for room is not answered, so it need not be waited for.
        go_on && (self.room.is_fine() || !self.told_to_stop())
    }

    fn told_to_stop(&self) -> bool {
        self.taken.iter().any(|operation| matches!(operation, Operation::Stop))
    }

    /// A clean end needs no flush: what was acknowledged is on disk. What is committed is worth one, and the next start
    /// is sooner done if nothing of the journal is needed.
    pub(in crate::raft) fn finish(&mut self) {
        if self.unfinished.is_none() {
            self.commit(Group::new(self.mark));
        }
        let is_whole = self.failed.is_none() && self.unfinished.is_none();
        let result = if is_whole && self.journal.is_ahead() {
            self.checkpoint(self.mark)
        } else {
            self.disk.sync().map_err(WriteError::from)
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the log could not be flushed at the end");
        }
    }

    fn look_for_room(&mut self) {
        match self.disk.space() {
            Ok(space) => self.room.look(space),
            Err(error) => tracing::warn!(%error, "the room for the Raft log cannot be told"),
        }
    }

    /// What of the taken is written now, in order: the rest waits for the next group, or for room.
    fn admitted(&mut self) -> VecDeque<Operation> {
        // Behind an unfinished group nothing is written; a vote too must wait, since openraft takes a vote that
        // was saved as a sign that the appends before it were.
        if self.unfinished.is_some() {
            return VecDeque::new();
        }
        let mut bytes = 0;
        let mut count = 0;
        let mut held = None;
        for operation in self.taken.iter().take(GROUP) {
            let more = bytes + operation.bytes();
            if count > 0 && more > GROUP_BYTES {
                break;
            }
            if self.failed.is_none() && !self.room_for(operation, more) {
                held = Some(more);
                break;
            }
            bytes = more;
            count += 1;
        }
        if let Some(wanted) = held {
            self.room.hold(wanted);
            count = self.with_reserve(count, bytes);
        }
        self.taken.drain(..count).collect()
    }

    /// Whether `operation` may be written with `bytes` in its group: appends leave the reserve alone.
    fn room_for(&self, operation: &Operation, bytes: usize) -> bool {
        match operation {
            Operation::Append { .. } => self.room.left(bytes) == RoomLeft::Enough,
            Operation::Stop => true,
            _ => self.room.left(bytes) != RoomLeft::Nothing,
        }
    }

    /// Appends are held after `count` operations. A vote or a truncation behind them takes them along, from the
    /// reserve, and a removal of older entries, which makes room, goes before them.
    fn with_reserve(&mut self, count: usize, bytes: usize) -> usize {
        let first = self.taken.get(count).and_then(|operation| match operation {
            Operation::Append { entries, .. } => entries.first().map(RaftEntry::index),
            _ => None,
        });
        let goes_before = |operation: &Operation| match operation {
            Operation::Purge { upto, .. } => Some(upto.index()) < first,
            _ => false,
        };
        let mut count = count;
        while let Some(at) = self.taken.iter().skip(count).position(goes_before) {
            if let Some(purge) = self.taken.remove(count + at) {
                self.taken.insert(count, purge);
            }
            count += 1;
        }
        let presses = |operation: &Operation| matches!(operation, Operation::Vote { .. } | Operation::Truncate { .. });
        let Some(last) = self.taken.iter().skip(count).rposition(presses) else { return count };
        let upto = count + last + 1;
        let more: usize = self.taken.iter().take(upto).skip(count).map(Operation::bytes).sum();
        if self.room.left(bytes + more) == RoomLeft::Nothing { count } else { upto }
    }

    fn truncation(&self, last: Option<LogId>, done: Answer) -> Group {
        let from = last.map_or(0, |last| last.index() + 1);
        let shorter = |mark: Watermark| mark.last.is_some_and(|end| end.index() >= from);
        let first = self.mark.first.filter(|first| *first < from);
        let mark = Watermark { last: last.max(self.mark.purged), first, ..self.mark };
        let mark = if shorter(self.mark) { mark } else { self.mark };
        let waiting = vec![Waiting::Other(done)];
        Group { truncate: Some(from), mark, waiting, awaited: true, ..Group::new(self.mark) }
    }

    /// Adds one operation to the group.
    fn add(&mut self, operation: Operation, group: &mut Group) -> Result<(), WriteError> {
        group.awaited |= !matches!(operation, Operation::Committed);
        match operation {
            Operation::Append { entries, done } => {
                group.waiting.push(Waiting::Append(done));
                if self.failed.is_some() {
                    return Ok(());
                }
                for entry in &entries {
                    record::put_entry(&mut group.batch, entry)?;
                    group.last_appended = Some(entry.index());
                    group.mark.last = Some(entry.log_id);
                    if group.mark.purged.is_none() {
                        group.mark.first.get_or_insert(entry.index());
                    }
                }
            }
            Operation::Vote { vote, done } => {
                group.waiting.push(Waiting::Other(done));
                group.batch.put(VOTE, wire::encode(&VoteRecord::from(&vote))?);
                group.mark.vote = Some(vote);
            }
            Operation::Purge { upto, done } => {
                group.waiting.push(Waiting::Other(done));
                if group.mark.purged < Some(upto) {
                    group.batch.put(PURGED, wire::encode(&LogIdRecord::from(&upto))?);
                    group.mark.purged = Some(upto);
                    group.mark.first = None;
                    group.mark.last = group.mark.last.max(Some(upto));
                }
                if self.failed.is_none() {
                    self.purging = self.purging.max(Some(upto.index()));
                }
            }
            Operation::Truncate { done, .. } => group.waiting.push(Waiting::Other(done)),
            Operation::Committed | Operation::Stop => {}
        }
        Ok(())
    }

    /// Writes `group` and answers who waits for it, unless space runs out: then it is kept for later.
    fn commit(&mut self, mut group: Group) {
        if let Some(error) = &self.failed {
            group.answer(Err(error));
            return;
        }
        match self.write(&mut group) {
            Ok(()) => {
                if let Some(last) = group.last_appended {
                    self.window.lock().unwrap_or_else(PoisonError::into_inner).durable(last);
                }
            }
            Err(WriteError::Disk(error)) if error.full => {
                tracing::error!(%error, "space ran out; the Raft log goes on when there is room");
                self.room.ran_out();
                self.unfinished = Some(group);
            }
            Err(error) => {
                self.fail(&error);
                group.answer(Err(&error.to_string()));
            }
        }
    }

    fn fail(&mut self, error: &WriteError) {
        if self.failed.is_none() {
            tracing::error!(%error, "the Raft log cannot be written; this controller stops taking part");
            self.failed = Some(error.to_string());
            self.purging = None;
        }
    }

    /// The order that makes a crash harmless at any point: the journal with the watermark, then the answers, then the
    /// database; what is too large for the journal goes to the database first. Entries are taken away only after the
    /// watermark that says so.
    fn write(&mut self, group: &mut Group) -> Result<(), WriteError> {
        if let Some(from) = group.truncate {
            // What is truncated must not come back out of the journal.
            self.checkpoint(group.mark)?;
            self.truncate(from)?;
            self.disk.sync()?;
            group.answer(Ok(()));
            return Ok(());
        }
        self.add_committed(group)?;
        let begun = Instant::now();
        if group.batch.is_empty() && group.mark == self.mark {
            group.answer(Ok(()));
        } else if self.journal.takes(&group.batch) {
            self.journal.write(self.disk.as_ref(), &group.mark, &group.batch)?;
            self.flushes.note(begun);
            self.mark = group.mark;
            group.journalled = true;
            group.answer(Ok(()));
            self.disk.apply_in_parts(&group.batch)?;
        } else {
            self.disk.apply(&group.batch)?;
            self.checkpoint(group.mark)?;
            self.flushes.note(begun);
            group.answer(Ok(()));
        }
        self.remove_purged(group)
    }

    /// Makes all that the database was given durable, and `mark` with it.
    fn checkpoint(&mut self, mark: Watermark) -> Result<(), WriteError> {
        self.journal.checkpoint(self.disk.as_ref(), &mark)?;
        self.mark = mark;
        Ok(())
    }

    /// What is committed goes with whatever else is written, and needs nobody to wait for it. Only what the log holds
    /// counts: entries may still be behind it in the queue.
    fn add_committed(&mut self, group: &mut Group) -> Result<(), WriteError> {
        let committed = *self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |id: &LogId| group.mark.last.is_some_and(|last| id.index() <= last.index());
        if let Some(id) = committed.filter(held).filter(|_| committed > self.saved) {
            group.batch.put(COMMITTED, wire::encode(&LogIdRecord::from(&id))?);
            self.saved = committed;
        }
        Ok(())
    }

    /// Removes some of the purged entries, after the marker that says they may go.
    fn remove_purged(&mut self, group: &Group) -> Result<(), WriteError> {
        let removed = self.removable(group)?;
        self.disk.apply_in_parts(&removed)?;
        // sled uses the place of what was removed again only after a sync. The journal brings one while there is work.
        if !group.awaited && !removed.is_empty() {
            self.disk.sync()?;
            self.journal.synced();
        }
        Ok(())
    }

    /// The removal of purged entries that goes with `group`.
    fn removable(&mut self, group: &Group) -> Result<Batch, DiskError> {
        let mut removed = Batch::default();
        let Some(upto) = self.purging else { return Ok(removed) };
        let idle = !group.awaited;
        let added = group.batch.changes().len();
        let limit = match () {
            // A removal takes room before it gives any back.
            () if self.room.left(0) == RoomLeft::Nothing => return Ok(removed),
            () if idle && self.room.is_fine() => SLICE,
            () => (added * REMOVED_PER_ADDED).clamp(LEAST_SLICE, SLICE),
        };
        let keys = self.disk.keys(&record::from_index(0), &record::from_index(upto + 1), limit)?;
        if keys.is_empty() {
            self.purging = None;
        }
        keys.iter().for_each(|key| removed.remove(key));
        Ok(removed)
    }

    /// Removes entries from `from` on, from the end backward and whole entries at a time, so that a crash
    /// leaves a shorter log and neither a hole nor half an entry.
    fn truncate(&self, from: u64) -> Result<(), DiskError> {
        loop {
            let mut enough =
                |keys: &[Vec<u8>]| keys.len() >= SLICE && keys.last().is_some_and(|key| record::begins_entry(key));
            let keys = self.disk.keys_from_the_end(&record::from_index(from), AFTER_ENTRIES, &mut enough)?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            for key in &keys {
                batch.remove(key);
            }
            self.disk.apply(&batch)?;
        }
    }

    /// Space ran out in the middle of `group`: once there is room, opens the database anew, gives it what the journal
    /// has, checks it against the watermark, and writes the group again unless it came with the journal. Whether it is
    /// done.
    fn resume(&mut self, mut group: Group) -> bool {
        if self.room.left(group.batch.bytes()) != RoomLeft::Enough {
            self.unfinished = Some(group);
            return false;
        }
        let disk = self.disk.clone();
        let reopened = disk.reopen().map_err(recovery::Loss::from);
        let replayed = reopened.and_then(|()| self.journal.replay(disk.as_ref()));
        // The snapshot was looked at when the log was opened, and openraft purges only what one covers.
        let examined = replayed.and_then(|()| recovery::examine(disk.as_ref(), self.mark, Some(u64::MAX)));
        match examined {
            Ok(_) => tracing::info!("there is room again; the Raft log goes on"),
            Err(recovery::Loss::Full(_)) => {
                self.room.ran_out();
                self.unfinished = Some(group);
                return false;
            }
            Err(error) => {
                tracing::error!(%error, "the Raft log is damaged after space ran out");
                self.failed.get_or_insert(error.to_string());
                self.purging = None;
            }
        }
        self.room.goes_on();
        if group.journalled {
            // What is left is to take it in, and to remove what was purged.
            group = Group { last_appended: group.last_appended, ..Group::new(self.mark) };
        }
        self.commit(group);
        self.unfinished.is_none()
    }
}
