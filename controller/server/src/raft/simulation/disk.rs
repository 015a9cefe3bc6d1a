//! A simulated disk under production's log: what was not synced is lost in a crash, from some batch on.

use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdMap;
use tokio::sync::Notify;

use super::events::{self, Event};
use super::life::Life;
use super::lock;
use super::plan::Planted;
use super::world::World;
use crate::raft::log_store::disk::{BLOCK, Batch, COPIES, Disk, DiskError, Space};
use crate::raft::log_store::{IdentityRecord, Writer};

/// Room on the disk while it is not full; nothing here comes near it.
const ROOM: u64 = 1 << 30;

/// And while it is: less than the log keeps for votes.
const LEFT: u64 = 1 << 20;

/// Small, so that its halves are used in turns, and large changes go by it.
const JOURNAL_BYTES: usize = 32 * BLOCK;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

type Map = OrdMap<Bytes, Bytes>;

/// Where in a write the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Before the sync has done anything, or with a part of it done.
    InSync,
    /// While the journal is written.
    InJournal,
    /// After the sync, before anybody is told.
    AfterSync,
}

/// What of one controller's log outlives its process.
pub(super) struct SimDisk {
    node: usize,
    state: Mutex<State>,
    moving: Notify,
}

struct State {
    durable: Map,
    /// What reads see.
    now: Map,
    /// Applied to `now` since `durable`, in order.
    unsynced: Vec<Batch>,
    /// With a planted fault: what the last sync was asked for.
    promised: Option<Map>,
    journal: [Vec<u8>; COPIES],
    /// With [`Planted::AcknowledgedEarly`]: what is left of it in a crash.
    durable_journal: [Vec<u8>; COPIES],
    identity: Option<IdentityRecord>,
    /// What a sync takes, in percent of the plan's.
    slowness: u64,
    full: bool,
    stalled: bool,
    armed: Option<Cut>,
}

impl SimDisk {
    pub(super) fn new(node: usize) -> Arc<Self> {
        let state = State {
            durable: Map::new(),
            now: Map::new(),
            unsynced: Vec::new(),
            promised: None,
            journal: Default::default(),
            durable_journal: Default::default(),
            identity: None,
            slowness: 100,
            full: false,
            stalled: false,
            armed: None,
        };
        Arc::new(Self { node, state: Mutex::new(state), moving: Notify::new() })
    }

    /// What is left after the process or the machine ended: the durable part and some of the batches after it.
    pub(super) fn crash(&self, world: &World) {
        let mut state = lock(&self.state);
        let kept = world.below(state.unsynced.len() as u64 + 1) as usize;
        let lost = state.unsynced.len() - kept;
        let mut left = state.durable.clone();
        state.unsynced.iter().take(kept).for_each(|batch| apply(&mut left, batch));
        state.durable = left.clone();
        state.now = left;
        state.unsynced.clear();
        state.promised = None;
        if world.plan.planted == Planted::AcknowledgedEarly {
            state.journal = state.durable_journal.clone();
        }
        state.armed = None;
        drop(state);
        world.observe(Event::Disk { node: self.node, what: events::Disk::Cut { kept, lost } });
    }

    pub(super) fn identity(&self) -> Option<IdentityRecord> {
        lock(&self.state).identity
    }

    pub(super) fn keep_identity(&self, identity: IdentityRecord) {
        lock(&self.state).identity = Some(identity);
    }

    /// The power goes when the disk is next at this point.
    pub(super) fn arm(&self, cut: Cut) {
        lock(&self.state).armed = Some(cut);
    }

    pub(super) fn set_slowness(&self, percent: u64) {
        lock(&self.state).slowness = percent;
    }

    pub(super) fn set_full(&self, full: bool) {
        lock(&self.state).full = full;
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        lock(&self.state).stalled = stalled;
        self.moving.notify_waiters();
    }

    /// Nothing is wrong with it any more.
    pub(super) fn heal(&self) {
        self.set_slowness(100);
        self.set_full(false);
        self.set_stalled(false);
    }

    pub(super) fn read_delay(&self, world: &World) -> Duration {
        Duration::from_micros(world.below(world.plan.sync.as_micros() as u64))
    }

    fn write_delay(&self, world: &World) -> Duration {
        let usual = world.plan.sync.as_micros() as u64;
        let once = usual / 2 + world.below(usual + 1);
        let spike = if world.below(200) == 0 { 20 } else { 1 };
        Duration::from_micros(once * spike * lock(&self.state).slowness / 100)
    }

    async fn until_moving(&self) {
        while lock(&self.state).stalled {
            self.moving.notified().await;
        }
    }
}

fn apply(map: &mut Map, batch: &Batch) {
    for (key, value) in batch.changes() {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

/// Runs the log's writer in simulated time: the disk's time passes before each group is written.
pub(super) async fn run(life: Arc<Life>, disk: Arc<SimDisk>, mut writer: Writer) {
    while writer.gather().await {
        tokio::time::sleep(disk.write_delay(&life.world)).await;
        disk.until_moving().await;
        if !writer.step() {
            break;
        }
    }
    writer.finish();
}

/// The disk as one life of its controller has it: a dead process writes nothing.
pub(super) struct Mounted {
    pub(super) life: Arc<Life>,
    pub(super) disk: Arc<SimDisk>,
}

impl Mounted {
    fn check(&self, doing: &'static str) -> Result<(), DiskError> {
        if self.life.has_ended() {
            return Err(DiskError { doing, why: "the process has ended".to_owned(), full: false });
        }
        Ok(())
    }

    /// Loses the power if it was to go here.
    fn maybe_cut(&self, here: Cut) -> Result<(), DiskError> {
        if lock(&self.disk.state).armed != Some(here) {
            return Ok(());
        }
        self.life.end();
        self.disk.crash(&self.life.world);
        self.check("losing power")
    }

    fn range<T>(
        &self,
        from: &[u8],
        to: &[u8],
        read: impl FnOnce(&mut dyn DoubleEndedIterator<Item = (&Bytes, &Bytes)>) -> T,
    ) -> Result<T, DiskError> {
        self.check("reading")?;
        let now = lock(&self.disk.state).now.clone();
        let bounds = (Bound::Included(Bytes::copy_from_slice(from)), Bound::Excluded(Bytes::copy_from_slice(to)));
        Ok(read(&mut now.range(bounds)))
    }
}

impl Disk for Mounted {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.check("reading")?;
        Ok(lock(&self.disk.state).now.get(key).map(|value| value.to_vec()))
    }

    fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        self.check("writing")?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = lock(&self.disk.state);
        if state.full {
            return Err(DiskError { doing: "writing", why: "no space left on the device".to_owned(), full: true });
        }
        apply(&mut state.now, batch);
        state.unsynced.push(batch.clone());
        Ok(())
    }

    fn apply_in_parts(&self, batch: &Batch) -> Result<(), DiskError> {
        batch.changes().iter().try_for_each(|change| self.apply(&std::iter::once(change.clone()).collect()))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.check("syncing")?;
        self.maybe_cut(Cut::InSync)?;
        let world = &self.life.world;
        let writes = {
            let mut state = lock(&self.disk.state);
            let writes = state.unsynced.len();
            // Not before the store is claimed: its identity file is honest.
            let lies = matches!(world.plan.planted, Planted::SyncLies | Planted::AcknowledgedEarly);
            if lies && state.identity.is_some() {
                // One sync late.
                let now = state.now.clone();
                if let Some(promised) = state.promised.replace(now) {
                    state.durable = promised;
                }
                state.unsynced.clear();
            } else {
                state.durable = state.now.clone();
                state.unsynced.clear();
            }
            writes
        };
        if writes > 0 {
            world.observe(Event::Disk { node: self.disk.node, what: events::Disk::Synced { writes } });
        }
        self.maybe_cut(Cut::AfterSync)
    }

    fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, DiskError> {
        self.range(from, to, |pairs| pairs.take(limit).map(|(key, _)| key.to_vec()).collect())
    }

    fn keys_from_the_end(
        &self,
        from: &[u8],
        to: &[u8],
        enough: &mut dyn FnMut(&[Vec<u8>]) -> bool,
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        self.range(from, to, |pairs| {
            let mut keys = Vec::new();
            while let Some((key, _)) = pairs.next_back() {
                keys.push(key.to_vec());
                if enough(&keys) {
                    break;
                }
            }
            keys
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), DiskError> {
        self.range(from, to, |pairs| {
            for (key, value) in pairs {
                if !visit(key, value) {
                    break;
                }
            }
        })
    }

    fn journal_bytes(&self) -> usize {
        JOURNAL_BYTES
    }

    fn read_journal(&self) -> Result<[Vec<u8>; COPIES], DiskError> {
        self.check("reading the journal")?;
        Ok(lock(&self.disk.state).journal.clone())
    }

    fn write_journal(&self, at: usize, bytes: &[u8]) -> Result<(), DiskError> {
        self.check("writing the journal")?;
        let world = &self.life.world;
        let mut state = lock(&self.disk.state);
        let is_cut = state.armed == Some(Cut::InJournal);
        // One write late, but not before the store is claimed: its identity file is honest.
        if world.plan.planted == Planted::AcknowledgedEarly && state.identity.is_some() {
            state.durable_journal = state.journal.clone();
        }
        for copy in &mut state.journal {
            // Old, new or torn between two sectors, each copy on its own.
            let sectors = bytes.len().div_ceil(SECTOR) as u64;
            let len = if is_cut { world.below(sectors + 1) as usize * SECTOR } else { bytes.len() };
            let len = len.min(bytes.len());
            copy.resize(copy.len().max(at + len), 0);
            copy[at..at + len].copy_from_slice(&bytes[..len]);
        }
        if state.identity.is_none() {
            state.durable_journal = state.journal.clone();
        }
        drop(state);
        self.maybe_cut(Cut::InJournal)
    }

    fn space(&self) -> Result<Space, DiskError> {
        let free = if lock(&self.disk.state).full { LEFT } else { ROOM };
        Ok(Space { free, total: ROOM })
    }

    fn reopen(&self) -> Result<(), DiskError> {
        self.check("reopening")?;
        let mut state = lock(&self.disk.state);
        state.unsynced.clear();
        state.now = state.durable.clone();
        Ok(())
    }
}
