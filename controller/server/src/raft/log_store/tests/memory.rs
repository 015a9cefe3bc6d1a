//! A disk in memory that loses what was not synced, and stops at any operation.

use std::collections::BTreeMap;

use super::super::disk::{DiskError, SLOT_BYTES, SLOTS, Space};
use super::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is on it.
#[derive(Default, Clone)]
pub(super) struct Contents {
    pub(super) synced: Map,
    pub(super) pending: Vec<Batch>,
    pub(super) marks: [Option<Vec<u8>>; SLOTS],
    /// Operations that change something, until the crash.
    pub(super) left: Option<u64>,
    pub(super) torn: bool,
    pub(super) space: Option<Space>,
}

#[derive(Default, Clone)]
pub(super) struct MemoryDisk(pub(super) Arc<Mutex<Contents>>);

fn change(map: &mut Map, batch: &Batch) {
    for (key, value) in batch.changes() {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

impl Contents {
    fn step(&mut self) -> Result<(), DiskError> {
        match &mut self.left {
            Some(0) => Err(DiskError { doing: "anything", why: "the power is out".to_owned(), full: false }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn now(&self) -> Map {
        let mut map = self.synced.clone();
        self.pending.iter().for_each(|batch| change(&mut map, batch));
        map
    }

    /// After the power came back: the first `kept` of the batches that were not synced happen to be there.
    pub(super) fn restart(&mut self, kept: usize) {
        self.pending.truncate(kept);
        self.synced = self.now();
        self.pending.clear();
        self.left = None;
    }
}

impl Disk for MemoryDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(lock(&self.0).now().get(key).cloned())
    }

    fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut contents = lock(&self.0);
        contents.step()?;
        contents.pending.push(batch.clone());
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut contents = lock(&self.0);
        contents.step()?;
        contents.synced = contents.now();
        contents.pending.clear();
        Ok(())
    }

    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, DiskError> {
        Ok(lock(&self.0).now().range(from.to_vec()..to.to_vec()).take(limit).map(|(key, _)| key.clone()).collect())
    }

    fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        enough: &mut dyn FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        let mut keys = Vec::new();
        for (key, _) in lock(&self.0).now().range(from.to_vec()..to.to_vec()).rev() {
            keys.push(key.clone());
            if enough(&keys) {
                break;
            }
        }
        Ok(keys)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), DiskError> {
        for (key, value) in lock(&self.0).now().range(from.to_vec()..to.to_vec()) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn read_marks(&self) -> Result<[Option<Vec<u8>>; SLOTS], DiskError> {
        Ok(lock(&self.0).marks.clone())
    }

    fn write_mark(&self, slot: usize, bytes: &[u8]) -> Result<(), DiskError> {
        let mut contents = lock(&self.0);
        if let (Err(error), was_torn) = (contents.step(), contents.torn) {
            if was_torn {
                contents.marks[slot] = Some(bytes[..bytes.len() / 2].to_vec());
                contents.torn = false;
            }
            return Err(error);
        }
        contents.marks[slot] = Some(bytes.to_vec());
        Ok(())
    }

    fn space(&self) -> Result<Space, DiskError> {
        Ok(lock(&self.0).space.unwrap_or(Space { free: u64::MAX, total: u64::MAX }))
    }

    fn reopen(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Opens the log on `disk`, with its writer as a task.
pub(super) fn open(disk: &MemoryDisk, identity: Option<IdentityRecord>) -> Result<LogStore, LogError> {
    let home = Home { id: ID, folder: None, identity };
    let (store, mut writer) = LogStore::on(Arc::new(disk.clone()), home, COVERED)?;
    tokio::spawn(async move { while writer.gather().await && writer.step() {} });
    Ok(store)
}

/// Works until the disk stops, and says what was acknowledged.
async fn work(disk: &MemoryDisk, seed: u64, steps: u64) -> Acked {
    let mut acked = Acked::default();
    let mut worker = Worker::new(open(disk, Some(IdentityRecord::new(ID))).unwrap(), seed);
    for _ in 0..steps {
        if worker.step(&mut |told| acked.note(told)).await.is_err() {
            break;
        }
    }
    acked
}

#[tokio::test]
async fn a_power_cut_at_any_operation_is_neither_a_loss_nor_a_false_alarm() {
    for seed in 0..2 {
        for left in 0..90 {
            for (kept, torn) in [(0, false), (1, false), (usize::MAX, false), (0, true)] {
                let disk = MemoryDisk::default();
                open(&disk, None).unwrap();
                (lock(&disk.0).left, lock(&disk.0).torn) = (Some(left), torn);
                let acked = work(&disk, seed, 200).await;
                assert_eq!(lock(&disk.0).left, Some(0), "the work ends before the crash");
                lock(&disk.0).restart(kept);
                let at = format!("seed {seed}, after {left} operations, {kept} kept, torn {torn}: {acked:?}");
                let mut store =
                    open(&disk, Some(IdentityRecord::new(ID))).unwrap_or_else(|error| panic!("{at}: {error}"));
                acked.missing_from(&mut store).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn everything_older_than_the_watermark_is_data_loss() {
    let disk = MemoryDisk::default();
    open(&disk, None).unwrap();
    let mut before = vec![lock(&disk.0).synced.clone()];
    let mut worker = Worker::new(open(&disk, Some(IdentityRecord::new(ID))).unwrap(), 7);
    let mut truncated = 0;
    for step in 0..200 {
        worker
            .step(&mut |told| {
                if matches!(told, Told::Truncating(_)) {
                    truncated = step + 1
                }
            })
            .await
            .unwrap();
        before.push(lock(&disk.0).now());
    }
    // A truncation legitimately goes back, so what was before the last one may look like what is after it.
    for (step, old) in before.into_iter().enumerate().skip(truncated + 1).rev().skip(1) {
        if old == lock(&disk.0).now() {
            continue;
        }
        let aged = MemoryDisk::default();
        *lock(&aged.0) = Contents { synced: old, marks: lock(&disk.0).marks.clone(), ..Contents::default() };
        let error = open(&aged, Some(IdentityRecord::new(ID))).err().unwrap_or_else(|| panic!("step {step} opens"));
        assert!(matches!(error, LogError::DataLoss { .. }), "{error}");
    }
}

#[tokio::test]
async fn what_is_found_beyond_the_watermark_counts_from_then_on() {
    let known = Some(IdentityRecord::new(ID));
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..3, 10)).await;
    let marks = lock(&disk.0).marks.clone();
    let shorter = lock(&disk.0).synced.clone();
    append(&mut store, entries(3..5, 10)).await;
    // The database was written, the watermark not yet.
    lock(&disk.0).marks = marks;
    let mut store = open(&disk, known).unwrap();
    assert_eq!(everything(&mut store).await.len(), 5);
    // Whoever was told of entry 4 by this controller must not see it forget.
    lock(&disk.0).synced = shorter;
    assert!(why(&disk, COVERED).contains("it ends at entry 2 of term 1, entry 4 of term 1 was acknowledged"));
}

fn why(disk: &MemoryDisk, covered: Option<u64>) -> String {
    let home = Home { id: ID, folder: None, identity: Some(IdentityRecord::new(ID)) };
    match LogStore::on(Arc::new(disk.clone()), home, covered).err() {
        Some(LogError::DataLoss { why, .. }) => why,
        other => panic!("data loss was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_lost_watermark_and_an_unexplained_purge_are_named() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..10, 10)).await;
    store.purge(log_id(1, 4)).await.unwrap();
    assert!(why(&disk, Some(3)).contains("entries up to 4 were removed from it, and its snapshot ends at 3"));
    assert!(why(&disk, None).contains("there is no snapshot"));
    let marks = std::mem::take(&mut lock(&disk.0).marks);
    assert_eq!(why(&disk, COVERED), "its watermark is missing");
    lock(&disk.0).marks = marks.map(|mark| mark.map(|mark| vec![0; mark.len()]));
    assert_eq!(why(&disk, COVERED), "its watermark is unreadable");
}

#[tokio::test]
async fn one_damaged_record_of_a_slot_is_nothing_and_a_damaged_slot_is_data_loss() {
    let disk = MemoryDisk::default();
    let known = Some(IdentityRecord::new(ID));
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..3, 10)).await;
    let whole = lock(&disk.0).marks.clone();
    let lost = |disk: &MemoryDisk| match open(disk, known) {
        Err(LogError::DataLoss { why, .. }) => why,
        Err(other) => panic!("data loss was expected, not {other}"),
        Ok(_) => panic!("data loss was expected"),
    };
    for slot in 0..SLOTS {
        for record in [20, SLOT_BYTES / 2 + 20] {
            lock(&disk.0).marks[slot].as_mut().unwrap()[record] ^= 1;
            if record == 20 {
                open(&disk, known).unwrap();
            }
        }
        assert_eq!(lost(&disk), "its watermark is unreadable");
        lock(&disk.0).marks = whole.clone();
    }
    // A slot that missed a write is no better.
    for term in 1..=4 {
        store.save_vote(&vote(term)).await.unwrap();
    }
    for (slot, older) in whole.iter().enumerate() {
        let newer = lock(&disk.0).marks.clone();
        lock(&disk.0).marks[slot] = older.clone();
        assert_eq!(lost(&disk), "its watermark is unreadable");
        lock(&disk.0).marks = newer;
    }
}

#[tokio::test]
async fn while_room_is_short_appends_wait_and_a_vote_takes_them_along() {
    const MIB: u64 = 1024 * 1024;
    let space = |free| Some(Space { free: free * MIB, total: 800 * MIB });
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..100, 10)).await;
    lock(&disk.0).space = space(50);
    let mut health = store.disk_health();
    let mut held = store.clone();
    let held = tokio::spawn(async move { held.blocking_append(entries(100..110, 10)).await });
    health.wait_for(|health| *health != DiskHealth::Fine).await.unwrap();
    // A removal makes room and does not wait for them.
    while store.get_log_state().await.unwrap().last_log_id != Some(log_id(1, 109)) {
        tokio::task::yield_now().await;
    }
    store.purge(log_id(1, 50)).await.unwrap();
    assert!(!held.is_finished());
    store.save_vote(&vote(3)).await.unwrap();
    tokio::time::timeout(BOUND, held).await.expect("the vote took nothing along").unwrap().unwrap();
    // With not even the reserve left, the vote waits too.
    lock(&disk.0).space = space(1);
    let mut other = store.clone();
    let held = tokio::spawn(async move { other.blocking_append(entries(110..120, 10)).await });
    while store.get_log_state().await.unwrap().last_log_id != Some(log_id(1, 119)) {
        tokio::task::yield_now().await;
    }
    let mut voter = store.clone();
    let voted = tokio::spawn(async move { voter.save_vote(&vote(4)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished() && !voted.is_finished());
    lock(&disk.0).space = space(400);
    tokio::time::timeout(BOUND, voted).await.expect("the vote still waits").unwrap().unwrap();
    tokio::time::timeout(BOUND, held).await.expect("the append still waits").unwrap().unwrap();
    health.wait_for(|health| *health == DiskHealth::Fine).await.unwrap();
}
