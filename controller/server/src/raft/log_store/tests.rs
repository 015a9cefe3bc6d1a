mod child;
mod damage;
mod full;
mod growth;
mod image;
mod memory;
mod power_cut;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::{RaftLeaderId, RaftVote};
use openraft::{RaftLogReader, StorageError, storage::RaftLogStorage};
use pontoon_model::wire;

use super::super::snapshot::SnapshotStore;
use super::super::state_machine::StateMachine;
use super::super::types::EntryBytes;
use super::disk::Batch;
use super::record::{OwnerRecord, VOTE};
use super::*;

use work::{Acked, Dice, Told, Worker};

type Committed = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;

const ID: ControllerId = ControllerId(7);

/// These logs stand alone: whatever was removed from them is as good as in a snapshot.
const COVERED: Option<u64> = Some(u64::MAX);

/// Long enough for a busy machine; a write that takes longer is stuck.
const BOUND: Duration = Duration::from_secs(30);

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Committed::new(term), index)
}

fn entry(index: u64, len: usize) -> Entry {
    let bytes: Vec<u8> = (0..len).map(|at| (index as usize + at) as u8).collect();
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(EntryBytes(bytes.into())) }
}

fn entries(range: std::ops::Range<u64>, len: usize) -> Vec<Entry> {
    range.map(|index| entry(index, len)).collect()
}

fn vote(term: u64) -> Vote {
    Vote::from_leader_id(LeaderId::new(term, ID.0), false)
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    tokio::time::timeout(BOUND, store.blocking_append(entries)).await.expect("an append takes too long").unwrap();
}

async fn everything(store: &mut LogStore) -> Vec<Entry> {
    store.try_get_log_entries(..).await.unwrap()
}

/// Closes and opens again.
async fn reopen(store: LogStore, folder: &Path) -> LogStore {
    store.close().await;
    drop(store);
    LogStore::open(folder, ID, COVERED).unwrap()
}

fn data_loss(folder: &Path) -> String {
    match LogStore::open(folder, ID, COVERED).err() {
        Some(error @ LogError::DataLoss { .. }) => error.to_string(),
        other => panic!("data loss was expected, not {other:?}"),
    }
}

struct Builder;

struct Guard {
    _folder: tempfile::TempDir,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        // openraft's suite calls itself node 0.
        let store = LogStore::open(folder.path(), ControllerId(0), COVERED).unwrap();
        let snapshots = SnapshotStore::open(&folder.path().join("snapshots")).unwrap();
        let (state_machine, _) = StateMachine::new(Arc::new(snapshots));
        Ok((Guard { _folder: folder }, store, state_machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    // Below a part, exactly around parts, and many parts.
    let sizes = [0, 1, 3_800, 3_900, 7_801, 200_000];
    let written: Vec<Entry> = (0..).zip(sizes).map(|(index, len)| entry(index, len)).collect();
    append(&mut store, written.clone()).await;
    store.save_vote(&vote(3)).await.unwrap();
    store.save_committed(Some(log_id(1, 4))).await.unwrap();

    let mut store = reopen(store, folder.path()).await;
    assert_eq!(everything(&mut store).await, written);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote(3)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 4)));
    store.close().await;
}

/// Copies the files as they are at this moment: what a killed process leaves behind.
fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("log")).unwrap();
    for inner in ["", "log"] {
        for file in fs::read_dir(folder.join(inner)).unwrap().map(|file| file.unwrap().path()) {
            if file.is_file() {
                fs::copy(&file, copy.path().join(inner).join(file.file_name().unwrap())).unwrap();
            }
        }
    }
    copy
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    for round in 0..20 {
        let end = (round + 1) * 7;
        append(&mut store, entries(round * 7..end, 2_000)).await;
        store.save_vote(&vote(round)).await.unwrap();
        let copy = copy_of(folder.path());
        let mut killed = LogStore::open(copy.path(), ID, COVERED).unwrap();
        assert_eq!(everything(&mut killed).await, entries(0..end, 2_000));
        assert_eq!(killed.read_vote().await.unwrap(), Some(vote(round)));
        killed.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn purged_entries_stay_gone_and_the_marker_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    append(&mut store, entries(0..3_000, 10)).await;
    store.purge(log_id(1, 2_499)).await.unwrap();
    let mut store = reopen(store, folder.path()).await;
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 2_499)));
    assert_eq!(state.last_log_id, Some(log_id(1, 2_999)));
    assert_eq!(everything(&mut store).await, entries(2_500..3_000, 10));

    // Everything, as after the installation of a snapshot that lies ahead.
    store.purge(log_id(2, 5_000)).await.unwrap();
    append(&mut store, vec![Entry { log_id: log_id(2, 5_001), payload: EntryPayload::Blank }]).await;
    let mut store = reopen(store, folder.path()).await;
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(2, 5_000)));
    assert_eq!(everything(&mut store).await.iter().map(RaftEntry::index).collect::<Vec<_>>(), [5_001]);
    store.close().await;
}

#[tokio::test]
async fn purged_entries_leave_the_disk_in_slices() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    append(&mut store, entries(0..2_500, 10)).await;
    store.purge(log_id(1, 2_400)).await.unwrap();
    let disk = lock(&store.shared.disk).clone().unwrap();
    let stored = || disk.keys(&record::from_index(0), record::AFTER_ENTRIES, usize::MAX).unwrap().len();
    // The purge is answered with its first slice, so that votes need not wait for the rest.
    let all_gone = async {
        while stored() > 99 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, all_gone).await.expect("purged entries stay on disk");
    assert_eq!(stored(), 99);
    drop(disk);
    store.close().await;
}

#[tokio::test]
async fn truncated_entries_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    // Many parts per entry, so that removing takes several slices.
    append(&mut store, entries(0..40, 200_000)).await;
    store.truncate_after(Some(log_id(1, 9))).await.unwrap();
    let replacement = Entry { log_id: log_id(2, 10), payload: EntryPayload::Blank };
    append(&mut store, vec![replacement.clone()]).await;
    let mut expected = entries(0..10, 200_000);
    expected.push(replacement);
    assert_eq!(everything(&mut store).await, expected);
    let mut store = reopen(store, folder.path()).await;
    assert_eq!(everything(&mut store).await, expected);
    store.truncate_after(None).await.unwrap();
    let mut store = reopen(store, folder.path()).await;
    assert_eq!(everything(&mut store).await, []);
    store.close().await;
}

#[tokio::test]
async fn entries_that_left_memory_are_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    let written = entries(0..60, 500_000);
    for slice in written.chunks(6) {
        append(&mut store, slice.to_vec()).await;
    }
    assert!(!lock(&store.shared.window).locate(0, 60).stored.is_empty(), "all is still in memory");
    assert_eq!(everything(&mut store).await, written);
    let streamed: Vec<_> = store.entries_stream(3..57).await.collect().await;
    let streamed: Vec<Entry> = streamed.into_iter().map(Result::unwrap).collect();
    assert_eq!(streamed, written[3..57]);
    // One message's worth, and at least one entry.
    assert_eq!(store.limited_get_log_entries(0, 60).await.unwrap().len(), 2);
    store.close().await;
}

#[tokio::test]
async fn the_largest_entries_stay_out_of_sleds_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    for index in 0..12 {
        append(&mut store, entries(index..index + 1, 512 * 1024)).await;
    }
    store.purge(log_id(1, 5)).await.unwrap();
    let blobs = || fs::read_dir(folder.path().join("log/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs(), 0);
    let mut store = reopen(store, folder.path()).await;
    assert_eq!(everything(&mut store).await, entries(6..12, 512 * 1024));
    assert_eq!(blobs(), 0);
    store.close().await;
}

#[tokio::test]
async fn a_hole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    append(&mut store, entries(0..3, 10)).await;
    assert!(store.blocking_append(entries(5..6, 10)).await.is_err());
    store.close().await;
}

#[tokio::test]
async fn a_closed_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    store.close().await;
    let error = store.save_vote(&vote(1)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_lost_database_is_not_taken_for_a_new_controller() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    store.close().await;
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    assert!(data_loss(folder.path()).contains("does not vote as c7 any more"));
    // Nor when something has made an empty one in its place.
    drop(database(folder.path()));
    assert!(data_loss(folder.path()).contains("its database is empty"));
}

#[tokio::test]
async fn a_lost_identity_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    store.close().await;
    fs::remove_file(folder.path().join("identity")).unwrap();
    assert!(data_loss(folder.path()).contains("its identity file is not"));
}

#[tokio::test]
async fn another_controllers_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    LogStore::open(folder.path(), ID, COVERED).unwrap().close().await;
    let error = LogStore::open(folder.path(), ControllerId(8), COVERED).err().unwrap();
    assert!(matches!(error, LogError::OtherOwner { found: ID, .. }), "{error}");
}

#[tokio::test]
async fn a_log_in_use_is_not_called_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    let path = folder.path().to_owned();
    let second = tokio::task::spawn_blocking(move || LogStore::open(&path, ID, COVERED).err()).await.unwrap().unwrap();
    assert!(matches!(second, LogError::InUse { .. }), "{second}");
    store.close().await;
}

#[tokio::test]
async fn the_marker_of_a_made_cluster_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    assert!(!store.is_initialized());
    store.mark_initialized().unwrap();
    let store = reopen(store, folder.path()).await;
    assert!(store.is_initialized());
    store.close().await;
}

fn database(folder: &Path) -> Database {
    assert!(Database::wait_until_free(&folder.join("log")).unwrap());
    Database::open(&folder.join("log"), &folder.join("journal")).unwrap()
}

/// Opens the database alone and changes it.
fn tamper(folder: &Path, change: impl FnOnce(&mut Batch)) {
    let database = database(folder);
    let mut batch = Batch::default();
    change(&mut batch);
    database.apply(&batch).unwrap();
    database.sync().unwrap();
}

async fn closed_with_ten_entries(folder: &tempfile::TempDir) -> PathBuf {
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    append(&mut store, entries(0..10, 9_000)).await;
    store.close().await;
    folder.path().to_owned()
}

#[tokio::test]
async fn a_missing_entry_is_data_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed_with_ten_entries(&folder).await;
    tamper(&path, |batch| (0..3).for_each(|part| batch.remove(&record::key(4, part))));
    assert!(data_loss(&path).contains("entry 4 is damaged"));
}

#[tokio::test]
async fn a_missing_part_is_data_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed_with_ten_entries(&folder).await;
    tamper(&path, |batch| batch.remove(&record::key(9, 2)));
    assert!(data_loss(&path).contains("2 of 3 parts"));
}

#[tokio::test]
async fn an_entry_of_a_newer_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed_with_ten_entries(&folder).await;
    tamper(&path, |batch| batch.put(VOTE, wire::seal(602, 9, &1_u64).unwrap()));
    let error = LogStore::open(&path, ID, COVERED).err().unwrap();
    assert!(matches!(error, LogError::TooNew { .. }), "{error}");
    assert!(error.to_string().contains("kind 602 version 9"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = closed_with_ten_entries(&folder).await;
    let file = path.join("log").join("db");
    let len = fs::metadata(&file).unwrap().len();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len - 4_096).unwrap();
    // sled panics, which is caught, or forgets its end without a word, which the watermark notices.
    match LogStore::open(&path, ID, COVERED) {
        Err(error) => assert!(matches!(error, LogError::DataLoss { .. }), "{error}"),
        Ok(mut store) => {
            let left = everything(&mut store).await;
            assert_eq!(left, entries(0..left.len() as u64, 9_000));
        }
    }
}

#[test]
fn golden_bytes_of_what_is_stored() {
    let hex = |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let first = record::FirstPart { index: 1, parts: 2, len: 3, crc: 4, bytes: Bytes::from_static(b"ab") };
    let next = record::NextPart { index: 1, part: 1, bytes: Bytes::from_static(b"c") };
    let frame = journal::FrameRecord {
        store: 9,
        sequence: 5,
        base: 4,
        last: Some((&log_id(3, 258)).into()),
        first: Some(1),
        vote: Some((&vote(3)).into()),
        purged: Some((&log_id(2, 200)).into()),
        changes: vec![(Bytes::from_static(b"k"), Some(Bytes::from_static(b"v"))), (Bytes::from_static(b"gone"), None)],
    };
    let all = [
        hex(wire::encode(&IdentityRecord { initialized: true, ..IdentityRecord::new(ID) }).unwrap()),
        hex(wire::encode(&IdentityRecord { id: 8, ..IdentityRecord::replacing(ID) }).unwrap()),
        hex(wire::encode(&frame).unwrap()),
        hex(wire::encode(&journal::JournalRecord { store: 9 }).unwrap()),
        hex(wire::encode(&OwnerRecord { id: 7 }).unwrap()),
        hex(wire::encode(&first).unwrap()),
        hex(wire::encode(&next).unwrap()),
        hex(record::key(258, 3).to_vec()),
    ];
    expect_test::expect_file!["stored.golden"].assert_eq(&(all.join("\n") + "\n"));
}
