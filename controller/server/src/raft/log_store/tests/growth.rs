//! What was purged does not stay on disk: sled's file is a log itself, and must be cleaned as fast as it is written.

use super::*;

/// Entries as a busy proposer makes them, and as many to a group.
const ENTRY_BYTES: usize = 16 * 1024;
const GROUP: u64 = 8;
/// Entries that stay after a purge: 16 MB.
const KEPT: u64 = 1_000;
const PURGED_EVERY: u64 = 2_000;

/// Written in all; the first is enough to see a file that only grows.
const WRITTEN_MB: u64 = 256;
const WRITTEN_MB_SLOW: u64 = 2_000;

/// Three times what is there between two purges, 48 MB, and a few of sled's segments.
const MOST_MB: u64 = 160;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_purged_takes_no_more_disk_however_much_was_written() {
    let mb = if std::env::var_os("PONTOON_SLOW").is_some() { WRITTEN_MB_SLOW } else { WRITTEN_MB };
    let folder = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(folder.path(), ID, COVERED).unwrap();
    let last = mb * 1_000_000 / ENTRY_BYTES as u64 / GROUP * GROUP;
    let (mut next, mut largest) = (0, 0);
    while next < last {
        append(&mut store, entries(next..next + GROUP, ENTRY_BYTES)).await;
        next += GROUP;
        if next % PURGED_EVERY == 0 {
            store.purge(log_id(1, next - KEPT)).await.unwrap();
        }
        largest = largest.max(on_disk_mb(folder.path()));
    }
    assert!(largest <= MOST_MB, "{largest} MB on disk, of {mb} MB written and mostly purged");
    let store = reopen(store, folder.path()).await;
    store.close().await;
}

/// All files of the log.
fn on_disk_mb(folder: &Path) -> u64 {
    let sizes = |folder: &Path| -> u64 {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).filter(|file| file.is_file()).map(|file| file.len()).sum()
    };
    (sizes(&folder.join("log")) + sizes(&folder.join("log/blobs"))) / 1_000_000
}
