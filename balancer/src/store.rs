//! The last route table on disk, so that a balancer that starts with all controllers down can serve.
//!
//! The file is one envelope with the version and the number of routes, then one envelope per route: a table may be
//! larger than an envelope, and a damaged route is found.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_kit::{CancellationToken, file};
use pontoon_model::wire::{self, Envelope, Wire, WireError};
use pontoon_model::{EdgeEntry, EdgeTable, Route, RouteVersion};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::table::{List, Table};

const FILE: &str = "routes";
/// Domains, settings, certificates and keys: the same form, in a file of its own since it changes at other times.
const EDGE_FILE: &str = "edge";
/// Behind the name of a file that cannot be read.
const DAMAGED: &str = ".damaged";

/// Changes that come within this time are written together: a deployment of many servos changes the table many
/// times a second, and an SD card takes tens of milliseconds for one write.
const GATHER: Duration = Duration::from_millis(100);
/// A large table is not written all the time while it changes: this many times as long as the last write took is none.
const REST: u32 = 10;
/// A table on disk is never older, whatever writing it costs.
const LONGEST_GATHER: Duration = Duration::from_secs(30);
/// Routes between two pauses, and how long those are: a large table takes half a second of a core, which requests may want.
/// A pause follows half a millisecond's work.
const BETWEEN_PAUSES: usize = 200;
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes in one call to the system.
const WRITTEN_AT_ONCE: usize = 64 * 1024;
/// After a failed write (disk full), the next one.
const RETRY: Duration = Duration::from_secs(5);

/// Begins the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    version: RouteVersion,
    routes: u64,
}

/// A route in the file: the layout of [`Route`] at the time of kind 801 version 1.
const ROUTE_KIND: u16 = 801;
const ROUTE_VERSION: u16 = 1;

/// Begins the file of [`EdgeTable`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct EdgeHeader {
    version: RouteVersion,
    entries: u64,
}

/// An entry in that file.
const ENTRY_KIND: u16 = 803;
const ENTRY_VERSION: u16 = 1;

pontoon_model::wire! {
    800, 1 => Header;
    802, 1 => EdgeHeader;
}

/// Where the table is kept.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Counts what was written.
    written: Arc<watch::Sender<u64>>,
    /// How many wait for it.
    awaited: Arc<watch::Sender<usize>>,
}

/// Somebody waits for what is written, until this is dropped.
pub(crate) struct Awaited(Arc<watch::Sender<usize>>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Store {
    /// In `folder`, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), written: Arc::default(), awaited: Arc::default() })
    }

    /// Removes the tables, also damaged ones: there are keys in them.
    pub(crate) fn forget(&self) -> io::Result<()> {
        for file in [FILE, EDGE_FILE] {
            for name in [file.to_owned(), format!("{file}{DAMAGED}")] {
                match std::fs::remove_file(self.folder.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Where.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Changes when a table was written.
    pub(crate) fn watch_written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// A table was written, here or by another process.
    pub(crate) fn tell_written(&self) {
        self.written.send_modify(|written| *written += 1);
    }

    /// From now on changes are written as soon as a few are gathered, whatever that costs: another process routes what it has in
    /// flight by what is written.
    pub(crate) fn await_writes(&self) -> Awaited {
        self.awaited.send_modify(|count| *count += 1);
        Awaited(self.awaited.clone())
    }

    /// Returns after `rest`, or a moment if somebody waits.
    async fn gather(&self, rest: Duration) {
        let mut awaited = self.awaited.subscribe();
        let soon = async {
            let waits = awaited.wait_for(|count| *count > 0).await.is_ok();
            // This holds the other end.
            debug_assert!(waits);
            sleep(GATHER).await;
        };
        tokio::select! {
            () = sleep(rest) => {}
            () = soon => {}
        }
    }

    /// What another process has written; unlike [`Self::load`] it leaves alone what it cannot read.
    pub(crate) fn peek(&self) -> io::Result<Option<Stored>> {
        self.look(FILE, Stored::read)
    }

    /// The same for what counts besides the routes.
    pub(crate) fn peek_edge(&self) -> io::Result<Option<EdgeTable>> {
        self.look(EDGE_FILE, decode_edge)
    }

    fn look<T>(&self, file: &str, decode: impl FnOnce(Vec<u8>) -> Result<T, WireError>) -> io::Result<Option<T>> {
        let bytes = file::read_if_there(&self.folder.join(file))?;
        bytes.map(decode).transpose().map_err(io::Error::other)
    }

    /// The last table. A damaged file is set aside: the controllers send the table again.
    pub(crate) fn load(&self) -> io::Result<Option<Stored>> {
        self.read(FILE, Stored::read)
    }

    fn read<T>(&self, file: &str, decode: impl FnOnce(Vec<u8>) -> Result<T, WireError>) -> io::Result<Option<T>> {
        let path = self.folder.join(file);
        let Some(bytes) = file::read_if_there(&path)? else { return Ok(None) };
        match decode(bytes) {
            Ok(table) => Ok(Some(table)),
            Err(error) => {
                let aside = self.folder.join(format!("{file}{DAMAGED}"));
                tracing::error!(%error, "{} cannot be read; moved to {}; starting without it until a controller sends it anew", path.display(), aside.display());
                std::fs::rename(&path, &aside)?;
                Ok(None)
            }
        }
    }

    /// Writes the routes one after the other, with `pause` after some of them.
    fn save(&self, list: &List, pause: impl Fn()) -> io::Result<()> {
        file::replace_with(&self.folder.join(FILE), 0o600, |file| {
            let mut file = BufWriter::with_capacity(WRITTEN_AT_ONCE, file);
            let header = Header { version: list.version, routes: list.len() as u64 };
            let mut bytes = wire::encode(&header).map_err(io::Error::other)?;
            for (at, route) in (1..).zip(list.routes()) {
                bytes = wire::seal_after(bytes, ROUTE_KIND, ROUTE_VERSION, &route).map_err(io::Error::other)?;
                file.write_all(&bytes)?;
                bytes.clear();
                if at % BETWEEN_PAUSES == 0 {
                    pause();
                }
            }
            file.write_all(&bytes)?;
            file.flush()
        })
    }

    /// Domains, settings, certificates and keys, as they were last. A damaged file is set aside.
    pub(crate) fn load_edge(&self) -> io::Result<Option<EdgeTable>> {
        self.read(EDGE_FILE, decode_edge)
    }

    fn save_edge(&self, table: &EdgeTable) -> io::Result<()> {
        let bytes = encode_edge(table).map_err(io::Error::other)?;
        file::replace(&self.folder.join(EDGE_FILE), &bytes, 0o600)
    }

    /// Writes `table` after each change, until `shutdown`; then once more if something is unwritten.
    pub(crate) fn keep(self, table: Arc<Table>, shutdown: CancellationToken) -> impl Future<Output = ()> {
        let stopping = shutdown.clone();
        let pause = move || {
            if !stopping.is_cancelled() {
                std::thread::sleep(PAUSE);
            }
        };
        let save = move |store: &Self, table: &Table| match table.list() {
            Some(list) => store.save(&list, &pause).map(|()| Some(list.version)),
            None => Ok(None),
        };
        let (versions, current) = (table.watch(), Table::version);
        self.keep_with(table, versions, current, save, shutdown)
    }

    /// The same for what counts besides the routes.
    pub(crate) fn keep_edge(self, table: Arc<Table>, shutdown: CancellationToken) -> impl Future<Output = ()> {
        let save = move |store: &Self, table: &Table| {
            let snapshot = table.edge();
            store.save_edge(&snapshot).map(|()| Some(snapshot.version))
        };
        let (versions, current) = (table.watch_edge(), |table: &Table| *table.watch_edge().borrow());
        self.keep_with(table, versions, current, save, shutdown)
    }

    /// What `table` holds now is on disk: whatever it holds later is not, be this future polled when it may.
    fn keep_with(
        self,
        table: Arc<Table>,
        mut versions: watch::Receiver<RouteVersion>,
        current: impl Fn(&Table) -> RouteVersion,
        save: impl Fn(&Self, &Table) -> io::Result<Option<RouteVersion>> + Clone + Send + 'static,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> {
        let mut written = *versions.borrow_and_update();
        let mut rest = GATHER;
        async move {
            loop {
                tokio::select! {
                    _ = versions.changed() => {}
                    () = shutdown.cancelled() => break,
                }
                // Ends early on shutdown: the last write below takes what was gathered.
                shutdown.run_until_cancelled(self.gather(rest)).await;
                versions.mark_unchanged();
                let begun = Instant::now();
                match self.write(&table, save.clone()).await {
                    Ok(Some(version)) => {
                        written = version;
                        rest = (begun.elapsed() * REST).clamp(GATHER, LONGEST_GATHER);
                        self.tell_written();
                    }
                    // It changes once all of it has come.
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(%error, folder = %self.folder.display(), "cannot write the route table; trying again in {RETRY:?}");
                        versions.mark_changed();
                        let _ = tokio::time::timeout(RETRY, shutdown.cancelled()).await;
                    }
                }
            }
            if written != current(&table)
                && let Err(error) = self.write(&table, save).await
            {
                tracing::error!(%error, "cannot write the route table; the next start begins with an older one");
            }
        }
    }

    async fn write(
        &self,
        table: &Arc<Table>,
        save: impl Fn(&Self, &Table) -> io::Result<Option<RouteVersion>> + Send + 'static,
    ) -> io::Result<Option<RouteVersion>> {
        let (store, table) = (self.clone(), table.clone());
        tokio::task::spawn_blocking(move || save(&store, &table)).await.map_err(io::Error::other)?
    }
}

fn encode_edge(table: &EdgeTable) -> Result<Vec<u8>, WireError> {
    let mut bytes = wire::encode(&EdgeHeader { version: table.version, entries: table.entries.len() as u64 })?;
    for entry in &table.entries {
        bytes.extend(wire::seal(ENTRY_KIND, ENTRY_VERSION, &**entry)?);
    }
    Ok(bytes)
}

fn decode_edge(bytes: Vec<u8>) -> Result<EdgeTable, WireError> {
    let header: EdgeHeader = header_of(&bytes)?;
    let rows = rows::<EdgeEntry>(&bytes, ENTRY_KIND, ENTRY_VERSION)?;
    let entries = rows.map(|row| row.map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    if entries.len() as u64 != header.entries {
        return Err(WireError::Malformed("fewer or more entries than its header says"));
    }
    Ok(EdgeTable { version: header.version, entries })
}

/// A table that was read and found whole. Its routes are decoded one by one: all of them take several times as much.
pub(crate) struct Stored {
    header: Header,
    bytes: Vec<u8>,
}

impl Stored {
    fn read(bytes: Vec<u8>) -> Result<Self, WireError> {
        let (header, mut routes) = (header_of::<Header>(&bytes)?, 0);
        for route in rows::<Route>(&bytes, ROUTE_KIND, ROUTE_VERSION)? {
            route?;
            routes += 1;
        }
        if routes != header.routes {
            return Err(WireError::Malformed("fewer or more routes than its header says"));
        }
        Ok(Self { header, bytes })
    }

    /// Which.
    pub(crate) fn version(&self) -> RouteVersion {
        self.header.version
    }

    /// How many routes there are.
    pub(crate) fn len(&self) -> u64 {
        self.header.routes
    }

    /// The routes.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Route> {
        // Each was decoded before.
        rows(&self.bytes, ROUTE_KIND, ROUTE_VERSION).into_iter().flatten().map_while(Result::ok)
    }
}

fn header_of<H: Wire>(bytes: &[u8]) -> Result<H, WireError> {
    let (_, rest) = Envelope::read(bytes)?;
    wire::decode(&bytes[..bytes.len() - rest.len()])
}

/// What comes after the header: rows, all of one kind. Ends after one that cannot be read.
fn rows<R: DeserializeOwned>(
    bytes: &[u8],
    kind: u16,
    version: u16,
) -> Result<impl Iterator<Item = Result<R, WireError>>, WireError> {
    let (_, mut rest) = Envelope::read(bytes)?;
    Ok(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let row = row(rest, kind, version);
        rest = row.as_ref().map_or(&[][..], |(_, after)| *after);
        Some(row.map(|(row, _)| row))
    }))
}

/// The first row, and what comes after it.
fn row<R: DeserializeOwned>(bytes: &[u8], kind: u16, version: u16) -> Result<(R, &[u8]), WireError> {
    let (envelope, after) = Envelope::read(bytes)?;
    if envelope.kind != kind {
        return Err(WireError::WrongKind { expected: kind, found: envelope.kind });
    }
    if envelope.version != version {
        return Err(WireError::TooNew { kind, version: envelope.version });
    }
    Ok((envelope.decode()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_model::{AppName, ReleaseNumber, RouteServo, RouteTable, Secret, ServoId, SiteName, Traffic};

    fn table() -> RouteTable {
        let route = Route {
            host: "a.b".into(),
            app: AppName::new("a").unwrap(),
            release: Some(ReleaseNumber(2)),
            servos: vec![RouteServo {
                id: ServoId(3),
                site: SiteName::new("s").unwrap(),
                address: "127.0.0.1:8080".parse().unwrap(),
                suspect: true,
            }],
            reason: String::new(),
        };
        RouteTable { version: RouteVersion(5), routes: vec![Arc::new(route)] }
    }

    fn list() -> List {
        let routes = Table::new(SiteName::new("s").unwrap());
        routes.apply_table(&table()).unwrap();
        routes.list().unwrap()
    }

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap().save(&list(), || ()).unwrap();
        std::fs::read(folder.path().join(FILE)).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<RouteTable, WireError> {
        Stored::read(bytes.to_vec()).map(whole)
    }

    fn whole(stored: Stored) -> RouteTable {
        RouteTable { version: stored.version(), routes: stored.routes().map(Arc::new).collect() }
    }

    fn loaded(store: &Store) -> Option<RouteTable> {
        store.load().unwrap().map(whole)
    }

    /// Golden: what a balancer of this version wrote must stay readable.
    #[test]
    fn golden_bytes_of_the_file() {
        let hex: String = written().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "b72003010010000000b91aac7d05000000000000000100000000000000b721030100450000009938012c0300000000000000\
        612e62010000000000000061010200000001000000000000000300000000000000010000000000000073000000007f000001901f010000000000000000";

    fn edge() -> EdgeTable {
        let entries = [
            EdgeEntry::Domain { domain: "a.b/c".parse().unwrap(), route: "x.y".to_owned() },
            EdgeEntry::App { app: AppName::new("a").unwrap(), traffic: Traffic::default() },
            EdgeEntry::Keys(vec![Secret("k".to_owned())]),
        ];
        EdgeTable { version: RouteVersion(7), entries: entries.into_iter().map(Arc::new).collect() }
    }

    #[test]
    fn golden_bytes_of_the_file_of_the_rest() {
        let hex: String = encode_edge(&edge()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, EDGE_GOLDEN);
        assert_eq!(decode_edge(encode_edge(&edge()).unwrap()), Ok(edge()));
    }

    const EDGE_GOLDEN: &str = "b72203010010000000177e537f07000000000000000300000000000000b72303010024000000a119157800000000030000000000000061\
        2e6202000000000000002f630300000000000000782e79b72303010052000000c5d9a60601000000010000000000000061000000000000\
        0000000010270000000000000000000000000000000000000080000060ea00000000000000000000000000000000000000000000000000\
        0000000000000000b72303010015000000a4d2ff9703000000010000000000000001000000000000006b";

    #[test]
    fn every_cut_is_found() {
        let bytes = written();
        assert_eq!(decode(&bytes), Ok(table()));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("new")).unwrap();
        assert_eq!(loaded(&store), None);
        store.save(&list(), || ()).unwrap();
        assert_eq!(loaded(&store), Some(table()));
        let path = folder.path().join("new").join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(loaded(&store), None);
        assert!(folder.path().join("new").join("routes.damaged").exists());
        assert_eq!(loaded(&store), None);
    }

    /// A write takes 200 ms here, so that there is none for two seconds after it.
    #[tokio::test]
    async fn nothing_rests_while_another_process_waits_for_what_is_written() {
        const WRITE: Duration = Duration::from_millis(200);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let routes = Arc::new(Table::new(SiteName::new("s").unwrap()));
        let save = |_: &Store, table: &Table| {
            std::thread::sleep(WRITE);
            Ok(Some(table.version()))
        };
        let shutdown = CancellationToken::new();
        let keeping = store.clone().keep_with(routes.clone(), routes.watch(), Table::version, save, shutdown.clone());
        let keeper = tokio::spawn(keeping);
        let mut written = store.watch_written();
        let mut change = async |version: u64, meanwhile: Duration| {
            routes.apply_table(&RouteTable { version: RouteVersion(version), routes: Vec::new() }).unwrap();
            let begun = Instant::now();
            tokio::time::timeout(meanwhile, written.changed()).await.ok().map(|_| begun.elapsed())
        };
        change(1, REST * WRITE).await.unwrap();
        assert_eq!(change(2, REST * WRITE / 2).await, None, "it rests");
        let awaited = store.await_writes();
        change(3, REST * WRITE / 2).await.expect("the rest is over");
        change(4, REST * WRITE / 2).await.expect("there is none");
        drop(awaited);
        assert_eq!(change(5, REST * WRITE / 2).await, None, "it rests again");
        shutdown.cancel();
        keeper.await.unwrap();
    }

    #[tokio::test]
    async fn the_newest_table_is_written_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let routes = Arc::new(Table::new(SiteName::new("s").unwrap()));
        let shutdown = CancellationToken::new();
        let keeper = tokio::spawn(store.clone().keep(routes.clone(), shutdown.clone()));
        tokio::task::yield_now().await;
        routes.apply_table(&table()).unwrap();
        shutdown.cancel();
        keeper.await.unwrap();
        assert_eq!(loaded(&store), Some(table()));
    }
}
