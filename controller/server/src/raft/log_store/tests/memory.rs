//! A disk in memory that loses what was not synced, and stops at any operation.

use std::collections::BTreeMap;

use super::super::disk::{BLOCK, COPIES, DiskError, Space};
use super::*;

type Map = BTreeMap<Bytes, Bytes>;

/// Small, so that its halves are used in turns.
const JOURNAL_BYTES: usize = 32 * BLOCK;

/// What is on it.
#[derive(Default, Clone)]
pub(super) struct Contents {
    pub(super) synced: Map,
    pub(super) pending: Vec<Batch>,
    pub(super) journal: [Vec<u8>; COPIES],
    /// Operations that change something, until the crash.
    pub(super) left: Option<u64>,
    /// The write to the journal that the crash cuts short leaves as many blocks of each copy.
    pub(super) torn: Option<[usize; COPIES]>,
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
        Ok(lock(&self.0).now().get(key).map(|value| value.to_vec()))
    }

    fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut contents = lock(&self.0);
        contents.step()?;
        contents.pending.push(batch.clone());
        Ok(())
    }

    fn apply_in_parts(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut contents = lock(&self.0);
        contents.step()?;
        contents.pending.extend(batch.changes().iter().map(|change| std::iter::once(change.clone()).collect()));
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
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        Ok(lock(&self.0).now().range(from..to).take(limit).map(|(key, _)| key.to_vec()).collect())
    }

    fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        enough: &mut dyn FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        let mut keys = Vec::new();
        for (key, _) in lock(&self.0).now().range(from..to).rev() {
            keys.push(key.to_vec());
            if enough(&keys) {
                break;
            }
        }
        Ok(keys)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), DiskError> {
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        for (key, value) in lock(&self.0).now().range(from..to) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn journal_bytes(&self) -> usize {
        JOURNAL_BYTES
    }

    fn read_journal(&self) -> Result<[Vec<u8>; COPIES], DiskError> {
        Ok(lock(&self.0).journal.clone())
    }

    fn write_journal(&self, at: usize, bytes: &[u8]) -> Result<(), DiskError> {
        let mut contents = lock(&self.0);
        let done = contents.step();
        let torn = if done.is_err() { contents.torn.take() } else { None };
        for (copy, journal) in contents.journal.iter_mut().enumerate() {
            let blocks = torn.map_or(0, |torn| torn[copy]);
            let len = if done.is_ok() { bytes.len() } else { bytes.len().min(blocks * BLOCK) };
            journal.resize(journal.len().max(at + len), 0);
            journal[at..at + len].copy_from_slice(&bytes[..len]);
        }
        done
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
    let Ok(store) = open(disk, Some(IdentityRecord::new(ID))) else { return acked };
    let mut worker = Worker::new(store, seed);
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
        for left in 0..120 {
            let cases = [(0, None), (1, None), (2, None), (7, None), (usize::MAX, None)];
            let torn = [[0, 1], [1, 0], [1, 1], [9, 0], [0, 9], [9, 9]].map(|torn| (0, Some(torn)));
            for (kept, torn) in cases.into_iter().chain(torn) {
                let disk = MemoryDisk::default();
                open(&disk, None).unwrap();
                (lock(&disk.0).left, lock(&disk.0).torn) = (Some(left), torn);
                let acked = work(&disk, seed, 200).await;
                assert_eq!(lock(&disk.0).left, Some(0), "the work ends before the crash");
                lock(&disk.0).restart(kept);
                let at = format!("seed {seed}, after {left} operations, {kept} kept, torn {torn:?}: {acked:?}");
                let mut store =
                    open(&disk, Some(IdentityRecord::new(ID))).unwrap_or_else(|error| panic!("{at}: {error}"));
                acked.missing_from(&mut store).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            }
        }
    }
}

/// Opens the log with a database as it was after each step of some work, and its journal as it is at the end: how often
/// all was there, and how often it was called lost.
async fn with_older_databases(seed: u64) -> (usize, usize) {
    let disk = MemoryDisk::default();
    open(&disk, None).unwrap();
    let mut before = vec![lock(&disk.0).synced.clone()];
    let mut worker = Worker::new(open(&disk, Some(IdentityRecord::new(ID))).unwrap(), seed);
    let (mut truncated, mut acked) = (0, Acked::default());
    for step in 0..200 {
        let tell = &mut |told| {
            acked.note(told);
            if matches!(told, Told::Truncating(_)) {
                truncated = step + 1
            }
        };
        worker.step(tell).await.unwrap();
        before.push(lock(&disk.0).now());
    }
    let (mut mended, mut lost) = (0, 0);
    // A truncation legitimately goes back, so what was before the last one may look like what is after it.
    for (step, old) in before.into_iter().enumerate().skip(truncated + 1).rev().skip(1) {
        let journal = lock(&disk.0).journal.clone();
        let aged = MemoryDisk(Arc::new(Mutex::new(Contents { synced: old, journal, ..Contents::default() })));
        match open(&aged, Some(IdentityRecord::new(ID))) {
            Ok(mut store) => {
                acked.missing_from(&mut store).await.unwrap_or_else(|error| panic!("step {step}: {error}"));
                mended += 1;
            }
            Err(error) => {
                assert!(matches!(error, LogError::DataLoss { .. }), "{error}");
                lost += 1;
            }
        }
    }
    (mended, lost)
}

#[tokio::test]
async fn a_database_that_went_back_is_mended_by_the_journal_or_data_loss() {
    let (mut mended, mut lost) = (0, 0);
    for seed in 0..10 {
        let (more_mended, more_lost) = with_older_databases(seed).await;
        (mended, lost) = (mended + more_mended, lost + more_lost);
    }
    assert!(mended > 10 && lost > 10, "{mended} mended, {lost} lost");
}

#[tokio::test]
async fn what_is_found_beyond_the_watermark_counts_from_then_on() {
    let known = Some(IdentityRecord::new(ID));
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..3, 10)).await;
    let before = lock(&disk.0).clone();
    append(&mut store, entries(3..5, 10)).await;
    // Large ones are in the database first.
    lock(&disk.0).journal = before.journal.clone();
    let mut store = open(&disk, known).unwrap();
    assert_eq!(everything(&mut store).await.len(), 5);
    // Whoever was told of entry 4 by this controller must not see it forget.
    lock(&disk.0).synced = before.now();
    lock(&disk.0).pending.clear();
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
async fn a_log_that_lost_its_beginning_is_data_loss() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..5, 10)).await;
    let keys: Vec<_> = (0..2).map(|index| Bytes::copy_from_slice(&record::key(index, 0))).collect();
    append(&mut store, entries(5..6, 10)).await;
    drop(open(&disk, Some(IdentityRecord::new(ID))).unwrap());
    keys.iter().for_each(|key| drop(lock(&disk.0).synced.remove(key)));
    assert_eq!(why(&disk, COVERED), "entries from entry 0 on are missing");
}

#[tokio::test]
async fn a_lost_watermark_and_an_unexplained_purge_are_named() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..10, 10)).await;
    store.purge(log_id(1, 4)).await.unwrap();
    assert!(why(&disk, Some(3)).contains("entries up to 4 were removed from it, and its snapshot ends at 3"));
    assert!(why(&disk, None).contains("there is no snapshot"));
    let journal = std::mem::take(&mut lock(&disk.0).journal);
    assert_eq!(why(&disk, COVERED), "its journal is missing");
    lock(&disk.0).journal = journal.clone().map(|copy| vec![0; copy.len()]);
    assert_eq!(why(&disk, COVERED), "its journal is unreadable");
    lock(&disk.0).journal = journal.clone().map(|copy| copy[..copy.len() - BLOCK].to_vec());
    assert_eq!(why(&disk, COVERED), "its journal is unreadable");
    lock(&disk.0).journal = journal;
    assert!(why(&disk, Some(3)).contains("its snapshot ends at 3"));
}

#[tokio::test]
async fn a_damaged_block_of_the_journal_is_nothing_and_the_same_in_both_copies_is_data_loss() {
    let disk = MemoryDisk::default();
    let known = Some(IdentityRecord::new(ID));
    let mut store = open(&disk, None).unwrap();
    for index in 0..4 {
        append(&mut store, entries(index..index + 1, 10)).await;
    }
    // What the database has not synced is gone.
    let aged = || {
        let contents = Contents { pending: Vec::new(), ..lock(&disk.0).clone() };
        MemoryDisk(Arc::new(Mutex::new(contents)))
    };
    assert_eq!(lock(&aged().0).now().len(), 2, "the journal is not needed");
    // Block 0 is the first frame of all, block 1 the one that opening writes.
    for block in 0..6 {
        for copy in 0..COPIES {
            let one = aged();
            lock(&one.0).journal[copy][block * BLOCK + 20] ^= 1;
            assert_eq!(everything(&mut open(&one, known).unwrap()).await.len(), 4, "block {block}, copy {copy}");
        }
        let both = aged();
        lock(&both.0).journal.iter_mut().for_each(|copy| copy[block * BLOCK + 20] ^= 1);
        match open(&both, known) {
            Ok(mut store) => {
                assert!(block < 2 || everything(&mut store).await.len() == 3 && block == 5, "block {block}")
            }
            Err(error) => assert!(error.to_string().contains("its journal is unreadable"), "{error}"),
        }
    }
}

#[tokio::test]
async fn bytes_of_an_entry_are_not_taken_for_a_frame() {
    let disk = MemoryDisk::default();
    let mut store = open(&disk, None).unwrap();
    append(&mut store, entries(0..3, 10)).await;
    let frames = lock(&disk.0).journal[0].clone();
    let record = wire::decode_envelope::<journal::FrameRecord>(&wire::Envelope::read(&frames[BLOCK..]).unwrap().0);
    let record = record.unwrap();
    let forged = journal::FrameRecord { store: record.store ^ 1, sequence: 1_000, changes: Vec::new(), ..record };
    let forged = wire::encode(&forged).unwrap();
    lock(&disk.0)
        .journal
        .iter_mut()
        .for_each(|copy| copy[20 * BLOCK..20 * BLOCK + forged.len()].copy_from_slice(&forged));
    assert_eq!(everything(&mut open(&disk, Some(IdentityRecord::new(ID))).unwrap()).await.len(), 3);
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
