//! Whether the disk has room for what is to be written, so that sled is never stopped by a full disk in the
//! normal course.

use tokio::sync::watch;

use super::disk::Space;

/// Kept free for votes, markers and what they take along: a full queue of the largest appends.
const RESERVE: u64 = 64 * 1024 * 1024;

/// Of a small file system this part is kept free instead.
const RESERVE_PART: u64 = 8;

/// Bytes of the file per byte of entries, at most: sled writes a key's neighbours again with it.
const GROWTH: u64 = 4;

/// sled's file grows by segments; one may be begun for any write.
const SEGMENT: u64 = 512 * 1024;

/// Whether the log has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskHealth {
    /// It has.
    Fine,
    /// It has too little: appends are held until there is more, and new commands are best refused.
    Full {
        /// Bytes left.
        free: u64,
        /// Bytes that must be free before it goes on.
        needed: u64,
    },
}

/// What is left for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomLeft {
    /// It can be written.
    Enough,
    /// Only from the reserve.
    Reserve,
    /// Not at all.
    Nothing,
}

/// The room of one disk.
pub(super) struct Room {
    health: watch::Sender<DiskHealth>,
    space: Space,
    /// What an append that is held waits for.
    wanted: u64,
    /// Space ran out in the middle of a write, which is not yet done.
    out: bool,
}

impl Room {
    pub(super) fn new() -> Self {
        let space = Space { free: u64::MAX, total: u64::MAX };
        Self { health: watch::Sender::new(DiskHealth::Fine), space, wanted: 0, out: false }
    }

    pub(super) fn health(&self) -> watch::Receiver<DiskHealth> {
        self.health.subscribe()
    }

    fn reserve(&self) -> u64 {
        RESERVE.min(self.space.total / RESERVE_PART)
    }

    pub(super) fn is_fine(&self) -> bool {
        *self.health.borrow() == DiskHealth::Fine
    }

    /// Learns how much room there is. It is called full a quarter of the reserve before anything is held, so that
    /// what is under way then still gets through, and fine again another quarter above.
    pub(super) fn look(&mut self, space: Space) {
        self.space = space;
        let quarter = self.reserve() / 4;
        let fine_above = self.wanted.max(self.reserve() + if self.is_fine() { quarter } else { 2 * quarter });
        let now = match space.free {
            free if free >= fine_above && !self.out => DiskHealth::Fine,
            free => DiskHealth::Full { free, needed: self.wanted.max(self.reserve() + 2 * quarter) },
        };
        if now == DiskHealth::Fine {
            self.wanted = 0;
        }
        self.publish(now);
    }

    fn publish(&self, now: DiskHealth) {
        let was = self.health.send_replace(now);
        match (was, now) {
            (DiskHealth::Fine, DiskHealth::Full { free, needed }) => {
                tracing::error!(
                    free,
                    needed,
                    "the disk of the Raft log is full: nothing is appended until there is room"
                );
            }
            (DiskHealth::Full { .. }, DiskHealth::Fine) => tracing::info!("the Raft log has room again"),
            _ => {}
        }
    }

    fn need(bytes: usize) -> u64 {
        bytes as u64 * GROWTH + SEGMENT
    }

    /// What is left for writing `bytes` of entries.
    pub(super) fn left(&self, bytes: usize) -> RoomLeft {
        let need = Self::need(bytes);
        match self.space.free {
            free if free >= self.reserve().saturating_add(need) => RoomLeft::Enough,
            free if free >= need.saturating_add(self.reserve() / 4) => RoomLeft::Reserve,
            _ => RoomLeft::Nothing,
        }
    }

    /// An append of `bytes` is held.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.wanted = self.wanted.max(self.reserve() + Self::need(bytes));
        self.publish(DiskHealth::Full { free: self.space.free, needed: self.wanted });
    }

    /// Space ran out all the same.
    pub(super) fn ran_out(&mut self) {
        self.space.free = 0;
        self.out = true;
        self.hold(0);
    }

    /// What space had run out for is written.
    pub(super) fn goes_on(&mut self) {
        self.out = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn room(free: u64) -> Room {
        let mut room = Room::new();
        room.look(Space { free: free * MIB, total: 64 * MIB });
        room
    }

    #[test]
    fn a_small_file_system_keeps_an_eighth() {
        assert_eq!(room(10).left(MIB as usize / 4), RoomLeft::Enough);
        assert_eq!(room(9).left(MIB as usize / 4), RoomLeft::Reserve);
        assert_eq!(room(2).left(MIB as usize / 4), RoomLeft::Nothing);
    }

    #[test]
    fn it_is_called_full_before_anything_is_held_and_fine_a_little_later() {
        let mut room = room(11);
        let health = room.health();
        assert_eq!(*health.borrow(), DiskHealth::Fine);
        for (free, fine) in [(9, false), (11, false), (12, true), (11, true)] {
            room.look(Space { free: free * MIB, total: 64 * MIB });
            assert_eq!(*health.borrow() == DiskHealth::Fine, fine, "{free} MiB");
        }
    }

    #[test]
    fn what_is_held_says_how_much_it_needs() {
        let mut room = room(11);
        room.hold(4 * MIB as usize);
        assert_eq!(*room.health().borrow(), DiskHealth::Full { free: 11 * MIB, needed: 24 * MIB + SEGMENT });
        room.look(Space { free: 20 * MIB, total: 64 * MIB });
        assert!(!room.is_fine());
        room.look(Space { free: 25 * MIB, total: 64 * MIB });
        assert!(room.is_fine());
    }
}
