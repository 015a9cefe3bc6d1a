//! The disk is full: a real one, small.

use std::io::Write;

use futures_util::FutureExt;

use super::super::disk::{COPIES, DiskError, Space};
use super::image::Image;
use super::*;

/// Fills what is left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let chunk = vec![1; 64 * 1024];
    while file.write_all(&chunk).is_ok() {}
    while file.write_all(&chunk[..512]).is_ok() {}
    let _ = file.sync_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_appends_and_goes_on_by_itself() {
    let Some(image) = Image::or_skip("a_full_disk_holds_appends_and_goes_on_by_itself", 64) else { return };
    let path = image.mounted.join("raft");
    let mut store = LogStore::open(&path, ID, COVERED).unwrap();
    let health = store.disk_health();
    let mut next = 0;
    while *health.borrow() == DiskHealth::Fine {
        assert!(next < 2_000, "64 MiB never fill");
        append(&mut store, entries(next..next + 1, 100_000)).await;
        next += 1;
    }
    // Somebody else takes all the rest.
    fill(&image.mounted.join("filler"));
    let mut other = store.clone();
    let mut held = Box::pin(async move { other.blocking_append(entries(next..next + 5, 100_000)).await });
    // With that it is in the writer's queue, before the vote: readable it is a moment earlier.
    assert!(held.as_mut().now_or_never().is_none(), "answered without room");
    let held = tokio::spawn(held);
    let mut voter = store.clone();
    let voted = tokio::spawn(async move { voter.save_vote(&vote(9)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!held.is_finished() && !voted.is_finished(), "answered without room");
    fs::remove_file(image.mounted.join("filler")).unwrap();
    // What the filler left is only the reserve: enough for the vote and what is before it.
    tokio::time::timeout(BOUND, voted).await.expect("the vote still waits").unwrap().unwrap();
    tokio::time::timeout(BOUND, held).await.expect("the appends still wait").unwrap().unwrap();
    next += 5;
    store.purge(log_id(1, next - 10)).await.unwrap();
    let mut store = reopen(store, &path).await;
    assert_eq!(everything(&mut store).await, entries(next - 9..next, 100_000));
    assert_eq!(store.read_vote().await.unwrap(), Some(vote(9)));
    store.close().await;
}

/// Says that there is room, whatever the truth: as if another process took it at the last moment.
struct Boasting(Database);

impl Disk for Boasting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.0.get(key)
    }
    fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        self.0.apply(batch)
    }
    fn apply_in_parts(&self, batch: &Batch) -> Result<(), DiskError> {
        self.0.apply_in_parts(batch)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.0.sync()
    }
    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, DiskError> {
        self.0.keys(from, to, limit)
    }
    fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        enough: &mut dyn FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        self.0.keys_from_the_end(from, to, enough)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), DiskError> {
        self.0.scan(from, to, visit)
    }
    fn journal_bytes(&self) -> usize {
        self.0.journal_bytes()
    }

    fn read_journal(&self) -> Result<[Vec<u8>; COPIES], DiskError> {
        self.0.read_journal()
    }

    fn write_journal(&self, at: usize, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.write_journal(at, bytes)
    }
    fn space(&self) -> Result<Space, DiskError> {
        Ok(Space { free: 1 << 40, total: 1 << 40 })
    }
    fn reopen(&self) -> Result<(), DiskError> {
        self.0.reopen()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_that_runs_out_in_the_middle_of_a_write_loses_nothing() {
    let Some(image) = Image::or_skip("space_that_runs_out_in_the_middle_of_a_write_loses_nothing", 64) else { return };
    let path = image.mounted.join("raft");
    LogStore::open(&path, ID, COVERED).unwrap().close().await;
    // So that some of it can be given back.
    fs::write(image.mounted.join("filler"), vec![1; 16 * 1024 * 1024]).unwrap();
    let (database, home) = open_database(&path, ID).unwrap();
    let (mut store, writer) = LogStore::on(Arc::new(Boasting(database)), home, COVERED).unwrap();
    let thread = std::thread::spawn(move || writer.run());
    // Too large for the journal: it would acknowledge what the database has no room for.
    const BYTES: usize = 300_000;
    let mut written = 0;
    let mut health = store.disk_health();
    let stuck = loop {
        let mut other = store.clone();
        let mut one = tokio::spawn(async move { other.blocking_append(entries(written..written + 2, BYTES)).await });
        written += 2;
        assert!(written < 1_000, "48 MiB never fill");
        tokio::select! {
            done = &mut one => done.unwrap().unwrap(),
            full = health.wait_for(|health| *health != DiskHealth::Fine) => {
                full.unwrap();
                break one;
            }
        }
    };
    assert!(!stuck.is_finished());
    fs::remove_file(image.mounted.join("filler")).unwrap();
    tokio::time::timeout(BOUND, stuck).await.expect("it does not go on").unwrap().unwrap();
    append(&mut store, entries(written..written + 2, BYTES)).await;
    store.save_vote(&vote(4)).await.unwrap();
    store.close().await;
    thread.join().unwrap();
    let mut store = LogStore::open(&path, ID, COVERED).unwrap();
    assert_eq!(everything(&mut store).await, entries(0..written + 2, BYTES));
    assert_eq!(store.read_vote().await.unwrap(), Some(vote(4)));
    store.close().await;
}
