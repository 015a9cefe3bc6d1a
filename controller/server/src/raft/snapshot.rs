//! Snapshots of the state on disk: a header, one framed and checked record per row, an end.
//!
//! Written to a temporary file, synced, renamed, the folder synced: the file is whole or not there. One that is
//! received keeps what has arrived when the connection breaks ([`Incoming`]), so that the next try goes on there.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pontoon_core::State;
use pontoon_model::wire::{self, Envelope, HEADER_LEN, MAX_PAYLOAD, WireError};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::layout::SnapshotMetaRecord;
use super::runtime;
use super::types::SnapshotMeta;

const CURRENT: &str = "current.snapshot";

/// Bytes made and written between two syncs: a snapshot of hundreds of megabytes synced at once would hold up the log's own
/// syncs on the same disk for as long; this much holds them up for a few milliseconds.
const SLICE: u64 = 256 * 1024;

/// After each slice the processor and the disk are left alone for this many times as long as it took: a snapshot of a
/// million servos takes several seconds in place of two, and writes meanwhile hardly longer than without it.
const REST: u32 = 2;

/// A disk that is slow for once does not hold up a snapshot for longer.
const LONGEST_REST: Duration = Duration::from_millis(200);

/// First record: what the snapshot covers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotHeader {
    /// Drawn for each file: parts of two files are never put together, though they cover the same.
    id: u64,
    meta: SnapshotMetaRecord,
}

/// Last record: a file without it was cut.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotEnd {
    rows: u64,
}

pontoon_model::wire! {
    610, 1 => SnapshotHeader;
    611, 1 => SnapshotEnd;
}

/// Why a snapshot cannot be written, read or put in place.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk.
    #[error("cannot {doing} the snapshot {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents.
    #[error("the snapshot {} cannot be read: {source}", path.display())]
    Contents {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: WireError,
    },
}

impl SnapshotError {
    /// Whether the file is not what was written, and not merely unreadable now or written by a newer Pontoon.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Contents { source, .. } if !matches!(source, WireError::TooNew { .. }))
    }
}

/// A snapshot file, open for reading; received ones with the state they hold.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    id: u64,
    // Removed when dropped, unless it was put in place.
    temporary: bool,
    state: Option<State>,
}

impl SnapshotFile {
    /// Its bytes, from the beginning.
    pub(super) fn reader(&self) -> SnapshotReader {
        self.reader_from(0)
    }

    /// Its bytes from `at` on.
    pub(super) fn reader_from(&self, at: u64) -> SnapshotReader {
        SnapshotReader { file: self.file.clone(), at }
    }

    /// The number that this file was given when it was written.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// Reads a snapshot file at a position of its own: several may read one, and its name may mean another by now.
#[derive(Debug)]
pub(super) struct SnapshotReader {
    file: Arc<File>,
    at: u64,
}

impl Read for SnapshotReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl SnapshotFile {
    /// Reads what it covers. A temporary one is removed when dropped, also now if it is none.
    fn open(path: PathBuf, file: File, temporary: bool) -> Result<(SnapshotMeta, Self), SnapshotError> {
        let mut snapshot = Self { path, file: Arc::new(file), id: 0, temporary, state: None };
        let rows = Rows::open(&snapshot)?;
        snapshot.id = rows.id;
        Ok((rows.meta, snapshot))
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Ends the name of a snapshot that has arrived in part.
const PART: &str = "part";

/// A snapshot that is being received.
#[derive(Debug)]
pub(super) struct Incoming {
    store: Arc<SnapshotStore>,
    path: PathBuf,
    file: File,
    at: u64,
    transfer: u64,
}

impl Incoming {
    /// Where the next bytes belong.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Adds the next bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.store.transfer.load(Ordering::SeqCst) != self.transfer {
            let source = io::Error::other("a newer transfer has taken its place");
            return Err(SnapshotError::Io { doing: "receive", path: self.path.clone(), source });
        }
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|source| SnapshotError::Io { doing: "receive", path: self.path.clone(), source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Checks what has arrived and reads its state; what is not as it should be is removed.
    pub(super) fn finish(self) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
        let io = |source| SnapshotError::Io { doing: "receive", path: self.path.clone(), source };
        // What an earlier try left behind the end of this one.
        self.file.set_len(self.at).map_err(io)?;
        self.store.received(self.path.clone())
    }
}

/// The folder of snapshots.
#[derive(Debug)]
pub struct SnapshotStore {
    folder: PathBuf,
    // What is in place; held while another is put there, so that an older one never replaces a newer.
    current: Mutex<Option<SnapshotMeta>>,
    // Which transfer is the newest: an older one whose connection died unnoticed writes no more.
    transfer: AtomicU64,
}

impl SnapshotStore {
    /// Opens or makes the folder, and removes what a crash left half written.
    pub fn open(folder: &Path) -> Result<Self, SnapshotError> {
        let wrap = |doing| move |source| SnapshotError::Io { doing, path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(wrap("make the folder of"))?;
        for entry in fs::read_dir(folder).map_err(wrap("list the folder of"))? {
            let path = entry.map_err(wrap("list the folder of"))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(wrap("remove a half-written file beside"))?;
            }
        }
        let store = Self { folder: folder.to_owned(), current: Mutex::new(None), transfer: AtomicU64::new(0) };
        let meta = store.current()?.map(|(meta, _)| meta);
        *store.current.lock().unwrap_or_else(PoisonError::into_inner) = meta;
        Ok(store)
    }

    /// The last entry that the snapshot in place holds.
    pub(super) fn covered(&self) -> Option<u64> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().and_then(|current| current.last_log_id).map(|last| last.index())
    }

    fn current_path(&self) -> PathBuf {
        self.folder.join(CURRENT)
    }

    /// A name for a file that is being written or received.
    pub(super) fn temporary_path(&self) -> PathBuf {
        self.folder.join(format!("{:016x}.tmp", runtime::rng().next_u64()))
    }

    /// The snapshot in place.
    pub(super) fn current(&self) -> Result<Option<(SnapshotMeta, SnapshotFile)>, SnapshotError> {
        let path = self.current_path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SnapshotError::Io { doing: "open", path, source }),
        };
        let (meta, snapshot) = SnapshotFile::open(path, file, false)?;
        Ok(Some((meta, snapshot)))
    }

    /// What the snapshot in place covers, and the state it holds; every record is checked.
    pub(super) fn load(&self) -> Result<Option<(SnapshotMeta, State)>, SnapshotError> {
        self.current()?.map(|(_, snapshot)| read(&snapshot)).transpose()
    }

    /// Bytes of the snapshot in place.
    pub(super) fn current_len(&self) -> u64 {
        fs::metadata(self.current_path()).map_or(0, |found| found.len())
    }

    /// Writes `state` and puts it in place.
    pub(super) fn build(&self, meta: &SnapshotMeta, state: &State) -> Result<SnapshotFile, SnapshotError> {
        let path = self.temporary_path();
        write(&path, meta, state).inspect_err(|_| drop(fs::remove_file(&path)))?;
        let (_, mut snapshot) = self.open_temporary(path)?;
        self.put_in_place(meta, &mut snapshot)?;
        Ok(snapshot)
    }

    /// Checks a received file at `path` and reads its state; it is removed unless it is installed.
    pub(super) fn received(&self, path: PathBuf) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
        let (meta, mut snapshot) = self.open_temporary(path)?;
        snapshot.state = Some(read(&snapshot)?.1);
        Ok((meta, snapshot))
    }

    fn incoming_path(&self, id: u64, len: u64) -> PathBuf {
        self.folder.join(format!("{id:016x}-{len}.{PART}"))
    }

    /// How much of the snapshot `id` of `len` bytes has arrived in earlier tries.
    pub(super) fn arrived(&self, id: u64, len: u64) -> u64 {
        fs::metadata(self.incoming_path(id, len)).map_or(0, |found| found.len().min(len))
    }

    /// Goes on to receive the snapshot `id` of `len` bytes at `from`; parts of all others are removed.
    pub(super) fn incoming(self: &Arc<Self>, id: u64, len: u64, from: u64) -> Result<Incoming, SnapshotError> {
        let path = self.incoming_path(id, len);
        let wrap = |doing| {
            let path = path.clone();
            move |source| SnapshotError::Io { doing, path, source }
        };
        let transfer = self.transfer.fetch_add(1, Ordering::SeqCst) + 1;
        for entry in fs::read_dir(&self.folder).map_err(wrap("list the folder of"))? {
            let found = entry.map_err(wrap("list the folder of"))?.path();
            if found != path && found.extension().is_some_and(|extension| extension == PART) {
                fs::remove_file(&found).map_err(wrap("remove parts beside"))?;
            }
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(wrap("receive"))?;
        let arrived = file.metadata().map_err(wrap("receive"))?.len();
        if arrived < from {
            let why = WireError::Malformed("its transfer goes on behind what has arrived");
            return Err(SnapshotError::Contents { path, source: why });
        }
        Ok(Incoming { store: self.clone(), path, file, at: from, transfer })
    }

    /// Puts `snapshot` in place, a copy of it if it is another store's, and returns the state it holds.
    pub(super) fn install(&self, mut snapshot: SnapshotFile) -> Result<State, SnapshotError> {
        let (meta, state) = match snapshot.state.take() {
            Some(state) => (Rows::open(&snapshot)?.meta, state),
            None => read(&snapshot)?,
        };
        if snapshot.temporary {
            self.put_in_place(&meta, &mut snapshot)?;
        } else if snapshot.path != self.current_path() {
            self.build(&meta, &state)?;
        }
        Ok(state)
    }

    fn open_temporary(&self, path: PathBuf) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
        let file =
            File::open(&path).map_err(|source| SnapshotError::Io { doing: "open", path: path.clone(), source })?;
        SnapshotFile::open(path, file, true)
    }

    fn put_in_place(&self, meta: &SnapshotMeta, snapshot: &mut SnapshotFile) -> Result<(), SnapshotError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let path = self.current_path();
        let placed = (|| {
            snapshot.file.sync_all()?;
            fs::rename(&snapshot.path, &path)?;
            File::open(&self.folder)?.sync_all()
        })();
        placed.map_err(|source| SnapshotError::Io { doing: "put in place", path: path.clone(), source })?;
        snapshot.path = path;
        snapshot.temporary = false;
        *current = Some(meta.clone());
        Ok(())
    }
}

fn write(path: &Path, meta: &SnapshotMeta, state: &State) -> Result<(), SnapshotError> {
    let io = |source| SnapshotError::Io { doing: "write", path: path.to_owned(), source };
    let contents = |source| SnapshotError::Contents { path: path.to_owned(), source };
    let file = File::create_new(path).map_err(io)?;
    let mut file = BufWriter::new(InSlices { file, since: 0, begun: Instant::now() });
    let header =
        wire::encode(&SnapshotHeader { id: runtime::rng().next_u64(), meta: meta.into() }).map_err(contents)?;
    file.write_all(&header).map_err(io)?;
    let mut rows = 0;
    for record in state.to_records() {
        file.write_all(&record.map_err(contents)?).map_err(io)?;
        rows += 1;
    }
    file.write_all(&wire::encode(&SnapshotEnd { rows }).map_err(contents)?).map_err(io)?;
    file.into_inner().map_err(|error| io(error.into_error()))?.file.sync_all().map_err(io)
}

/// A file whose writer never leaves more than a [`SLICE`] to be synced, and rests after each.
struct InSlices {
    file: File,
    /// Written since the last sync.
    since: u64,
    begun: Instant,
}

impl Write for InSlices {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.since += written as u64;
        if self.since >= SLICE {
            self.file.sync_data()?;
            std::thread::sleep((self.begun.elapsed() * REST).min(LONGEST_REST));
            (self.since, self.begun) = (0, Instant::now());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn read(snapshot: &SnapshotFile) -> Result<(SnapshotMeta, State), SnapshotError> {
    let mut rows = Rows::open(snapshot)?;
    let mut failed = None;
    let state = State::from_records(std::iter::from_fn(|| {
        rows.next().unwrap_or_else(|error| {
            failed = Some(error);
            None
        })
    }));
    match failed {
        Some(error) => Err(error),
        None => match state {
            Ok(state) => Ok((rows.meta, state)),
            Err(source) => Err(SnapshotError::Contents { path: snapshot.path.clone(), source }),
        },
    }
}

/// The rows of a snapshot file, one at a time.
struct Rows {
    path: PathBuf,
    file: BufReader<SnapshotReader>,
    id: u64,
    meta: SnapshotMeta,
    rows: u64,
}

impl Rows {
    fn open(snapshot: &SnapshotFile) -> Result<Self, SnapshotError> {
        let path = snapshot.path.clone();
        let contents = |source| SnapshotError::Contents { path: path.clone(), source };
        let mut file = BufReader::new(snapshot.reader());
        let header = read_record(&mut file).map_err(|error| error.at(&path))?;
        let header: SnapshotHeader = wire::decode(&header).map_err(contents)?;
        let meta = header.meta.try_into().map_err(contents)?;
        Ok(Self { path, file, id: header.id, meta, rows: 0 })
    }

    /// The next row; none after the end record, which must agree with what came.
    fn next(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let contents = |source| SnapshotError::Contents { path: self.path.clone(), source };
        let record = read_record(&mut self.file).map_err(|error| error.at(&self.path))?;
        let (envelope, _) = Envelope::read(&record).map_err(contents)?;
        if envelope.kind != <SnapshotEnd as wire::Wire>::KIND {
            self.rows += 1;
            return Ok(Some(record));
        }
        let end: SnapshotEnd = wire::decode(&record).map_err(contents)?;
        if end.rows == self.rows { Ok(None) } else { Err(contents(WireError::Malformed("rows are missing"))) }
    }
}

enum RecordError {
    Io(io::Error),
    Wire(WireError),
}

impl RecordError {
    fn at(self, path: &Path) -> SnapshotError {
        let path = path.to_owned();
        match self {
            RecordError::Io(source) => SnapshotError::Io { doing: "read", path, source },
            RecordError::Wire(source) => SnapshotError::Contents { path, source },
        }
    }
}

/// One envelope; its checksum is checked by whoever decodes it.
fn read_record(file: &mut impl Read) -> Result<Vec<u8>, RecordError> {
    let mut record = vec![0; HEADER_LEN];
    read_exactly(file, &mut record)?;
    let len = u32::from_le_bytes([record[5], record[6], record[7], record[8]]) as usize;
    if len > MAX_PAYLOAD {
        return Err(RecordError::Wire(WireError::TooLarge { len }));
    }
    record.resize(HEADER_LEN + len, 0);
    read_exactly(file, &mut record[HEADER_LEN..])?;
    Ok(record)
}

fn read_exactly(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), RecordError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => RecordError::Wire(WireError::Malformed("cut short")),
        _ => RecordError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_core::command::CreateApp;
    use pontoon_core::{Entry, Stamped};
    use pontoon_model::{IdempotencyKey, Timestamp};

    type Committed = openraft::type_config::alias::CommittedLeaderIdOf<super::super::types::TypeConfig>;

    fn meta(index: u64) -> SnapshotMeta {
        let last = super::super::types::LogId::new(Committed::new(1), index);
        SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() }
    }

    fn state(index: u64) -> State {
        let mut state = State::default();
        for index in 1..=index {
            let command = CreateApp { name: format!("app-{index}").parse().unwrap() }.into();
            let commands = vec![Stamped { key: IdempotencyKey(u128::from(index)), command }];
            state.apply(index, &Entry { time: Timestamp(index), commands });
        }
        state
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_built_snapshot_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        assert!(store.current().unwrap().is_none());
        drop(store.build(&meta(5), &state(5)).unwrap());
        fs::write(folder.path().join("half.tmp"), b"half").unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let (found, snapshot) = store.current().unwrap().unwrap();
        assert_eq!((found, store.install(snapshot).unwrap()), (meta(5), state(5)));
        assert_eq!(files(folder.path()), 1);
    }

    #[test]
    fn an_older_snapshot_never_replaces_a_newer() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        store.build(&meta(5), &state(5)).unwrap();
        drop(store.build(&meta(3), &state(3)).unwrap());
        assert_eq!(store.current().unwrap().unwrap().0, meta(5));
        assert_eq!(files(folder.path()), 1);
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        store.build(&meta(3), &state(3)).unwrap();
        let good = fs::read(folder.path().join(CURRENT)).unwrap();
        let received = |bytes: &[u8]| {
            let path = store.temporary_path();
            fs::write(&path, bytes).unwrap();
            store.received(path)
        };
        assert_eq!(received(&good).unwrap().1.state, Some(state(3)));
        for len in 0..good.len() {
            assert!(received(&good[..len]).is_err(), "cut to {len}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(received(&bad).is_err(), "byte {at}");
        }
        // What was refused is not kept.
        assert_eq!(files(folder.path()), 1);
    }

    #[test]
    fn what_arrived_before_a_break_is_not_sent_again() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let sender = SnapshotStore::open(folders[0].path()).unwrap();
        let receiver = Arc::new(SnapshotStore::open(folders[1].path()).unwrap());
        let sent = sender.build(&meta(5), &state(5)).unwrap();
        let (id, bytes) = (sent.id(), fs::read(folders[0].path().join(CURRENT)).unwrap());
        let len = bytes.len() as u64;
        assert_eq!(receiver.arrived(id, len), 0);
        receiver.incoming(id, len, 0).unwrap().add(&bytes[..100]).unwrap();
        // Also after a restart of the receiver.
        let receiver = Arc::new(SnapshotStore::open(folders[1].path()).unwrap());
        assert_eq!(receiver.arrived(id, len), 100);
        let mut incoming = receiver.incoming(id, len, 100).unwrap();
        incoming.add(&bytes[100..]).unwrap();
        let (found, file) = incoming.finish().unwrap();
        assert_eq!((found, receiver.install(file).unwrap()), (meta(5), state(5)));
        assert_eq!(files(folders[1].path()), 1);
    }

    #[test]
    fn a_newer_transfer_ends_an_older_one_and_other_snapshots_parts_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SnapshotStore::open(folder.path()).unwrap());
        let mut old = store.incoming(1, 10, 0).unwrap();
        old.add(b"abc").unwrap();
        assert!(store.incoming(1, 10, 4).is_err(), "behind what has arrived");
        store.incoming(2, 10, 0).unwrap().add(b"x").unwrap();
        assert!(old.add(b"def").is_err());
        assert_eq!((store.arrived(1, 10), store.arrived(2, 10), files(folder.path())), (0, 1, 1));
        // What cannot be a snapshot does not stay.
        assert!(store.incoming(2, 10, 1).unwrap().finish().is_err());
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn golden_bytes_of_header_and_end() {
        let hex = |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let header = SnapshotHeader { id: 0x0102, meta: (&meta(5)).into() };
        let golden = "b7620201002a000000c58e2fda02010000000000000101000000000000000500000000000000000000000000000000\
                      0000000000000000";
        assert_eq!(hex(wire::encode(&header).unwrap()), golden);
        assert_eq!(hex(wire::encode(&SnapshotEnd { rows: 3 }).unwrap()), "b76302010008000000e96575a10300000000000000");
    }
}
