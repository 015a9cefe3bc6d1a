//! Answers to the keys that controllers drew, forgotten in the order they were given.
//!
//! The newest are a list with a table that says where each is. When they fill a block they are put aside in one that never
//! changes and is forgotten as a whole. A key is looked for where entries after its birth were answered, which is nearly
//! always among the newest.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, OnceLock};

use imbl::Vector;
use pontoon_model::IdempotencyKey;

use super::answers::Kept;

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    pub(super) key: IdempotencyKey,
    /// Of its entry.
    pub(super) index: u64,
    pub(super) kept: Kept,
}

/// As many answers as fill it.
#[derive(Debug)]
struct Block {
    /// In the order they were given.
    given: Vec<Given>,
    /// Where each key's is, by key: made when a retry comes so late, which few do.
    places: OnceLock<Vec<(IdempotencyKey, u32)>>,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.given == other.given
    }
}

impl Block {
    fn new(given: Vec<Given>) -> Self {
        Self { given, places: OnceLock::new() }
    }

    fn get(&self, key: IdempotencyKey) -> Option<&Kept> {
        let places = self.places.get_or_init(|| {
            let mut places: Vec<_> = (0..).zip(&self.given).map(|(at, given)| (given.key, at)).collect();
            places.sort_unstable();
            places
        });
        let at = places.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.given.get(places[at].1 as usize).map(|given| &given.kept)
    }

    /// Index of its newest answer's entry.
    fn last(&self) -> u64 {
        self.given.last().map_or(0, |given| given.index)
    }
}

#[expect(clippy::disallowed_types, reason = "it is asked for keys and never walked through, so its order is nobody's")]
type Table = std::collections::HashMap<IdempotencyKey, u32, BuildHasherDefault<KeyHasher>>;

/// Where the newest answers are. No part of the state: a copy, of which a controller makes one for each entry, begins
/// without and finds out when it is asked.
#[derive(Debug, Default)]
struct Places {
    of: Table,
    /// So many of the newest are in it.
    known: usize,
}

impl Clone for Places {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    fn get(&mut self, key: IdempotencyKey, newest: &Vector<Given>) -> Option<usize> {
        while let Some(given) = newest.get(self.known) {
            self.add(given.key);
        }
        self.of.get(&key).map(|at| *at as usize)
    }

    /// The next of the newest has this key.
    fn add(&mut self, key: IdempotencyKey) {
        self.of.insert(key, self.known as u32);
        self.known += 1;
    }

    fn clear(&mut self) {
        self.of.clear();
        self.known = 0;
    }
}

/// A key is random already where it matters: controllers draw half of it.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u128(u128::from(*byte)));
    }

    fn write_u128(&mut self, key: u128) {
        // By the golden ratio, so that numbers which follow each other (a test's) differ in all bits too.
        self.0 = (self.0 ^ key as u64 ^ (key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How many are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// At most.
    pub(super) most: usize,
    /// Put aside and forgotten together.
    pub(super) block: usize,
}

/// What was answered to controllers' keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Recent {
    /// Oldest first.
    blocks: Vector<Arc<Block>>,
    /// In the order they were given.
    newest: Vector<Given>,
    places: Places,
    /// In `blocks`.
    aside: usize,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.aside + self.newest.len()
    }

    pub(super) fn get(&mut self, key: IdempotencyKey, birth: u64) -> Option<&Kept> {
        if let Some(at) = self.places.get(key, &self.newest) {
            return self.newest.get(at).map(|given| &given.kept);
        }
        let after_birth = |block: &&Arc<Block>| block.last() > birth;
        self.blocks.iter().rev().take_while(after_birth).find_map(|block| block.get(key))
    }

    /// Adds an answer to a key that has none; returns the index of the newest that had to be forgotten for it.
    pub(super) fn add(&mut self, room: Room, key: IdempotencyKey, index: u64, kept: Kept) -> Option<u64> {
        if self.places.known == self.newest.len() {
            self.places.add(key);
        }
        self.newest.push_back(Given { key, index, kept });
        if self.newest.len() >= room.block {
            let given: Vec<_> = std::mem::take(&mut self.newest).into_iter().collect();
            self.places.clear();
            self.aside += given.len();
            self.blocks.push_back(Arc::new(Block::new(given)));
        }
        if self.len() <= room.most {
            return None;
        }
        let forgotten = self.blocks.pop_front()?;
        self.aside -= forgotten.given.len();
        Some(forgotten.last())
    }

    /// Each, in the order they were given.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Given> {
        self.blocks.iter().flat_map(|block| &block.given).chain(&self.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    #[test]
    fn a_copy_knows_what_was_answered_before_and_nothing_of_what_comes_after() {
        let room = Room { most: 100, block: 10 };
        let key = |n: u64| IdempotencyKey::born(0, n);
        let mut recent = Recent::default();
        (0..25).for_each(|n| assert_eq!(recent.add(room, key(n), n + 1, Ok(Reply::Done)), None));
        assert!(recent.get(key(24), 0).is_some());
        let mut copy = recent.clone();
        assert_eq!(copy, recent);
        recent.add(room, key(25), 26, Ok(Reply::Done));
        (0..26).for_each(|n| assert!(recent.get(key(n), 0).is_some(), "{n}"));
        (0..26).for_each(|n| assert_eq!(copy.get(key(n), 0).is_some(), n < 25, "{n}"));
        copy.add(room, key(30), 26, Ok(Reply::Done));
        assert!(copy.get(key(30), 0).is_some() && recent.get(key(30), 0).is_none());
        // What was answered before a key's birth was not answered to it.
        assert!(recent.get(key(3), 20).is_none() && recent.get(key(24), 20).is_some());
        assert_eq!((recent.len(), copy.len(), recent.iter().count()), (26, 26, 26));
    }
}
