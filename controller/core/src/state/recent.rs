//! Answers to the keys that controllers drew, forgotten in the order they were given.
//!
//! The newest are in a tree that is small enough to stay in a processor's cache. When they fill a block they are put aside
//! in one that never changes and is forgotten as a whole: a tree of all would be changed at both ends by each command. A
//! key is looked for where entries after its birth were answered, which is nearly always at the end.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
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
#[derive(Debug, PartialEq)]
struct Block {
    /// In the order they were given.
    given: Vec<Given>,
    /// Where each key's is, by key.
    places: Vec<(IdempotencyKey, u32)>,
}

impl Block {
    fn new(given: Vec<Given>) -> Self {
        let mut places: Vec<_> = (0..).zip(&given).map(|(at, given)| (given.key, at)).collect();
        places.sort_unstable();
        Self { given, places }
    }

    fn get(&self, key: IdempotencyKey) -> Option<&Kept> {
        let at = self.places.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.given.get(self.places[at].1 as usize).map(|given| &given.kept)
    }

    /// Index of its newest answer's entry.
    fn last(&self) -> u64 {
        self.given.last().map_or(0, |given| given.index)
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
    /// Each with its place among them.
    newest: OrdMap<IdempotencyKey, (u32, Given)>,
    /// In `blocks` and `newest`.
    len: usize,
}

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: IdempotencyKey, birth: u64) -> Option<&Kept> {
        let after_birth = |block: &&Arc<Block>| block.last() > birth;
        let newest = self.newest.get(&key).map(|(_, given)| &given.kept);
        newest.or_else(|| self.blocks.iter().rev().take_while(after_birth).find_map(|block| block.get(key)))
    }

    /// Adds an answer; returns the index of the newest that had to be forgotten for it.
    pub(super) fn add(&mut self, room: Room, key: IdempotencyKey, index: u64, kept: Kept) -> Option<u64> {
        let place = self.newest.len() as u32;
        if self.newest.insert(key, (place, Given { key, index, kept })).is_none() {
            self.len += 1;
        }
        if self.newest.len() >= room.block {
            let given = in_order(&self.newest).cloned().collect();
            self.blocks.push_back(Arc::new(Block::new(given)));
            self.newest.clear();
        }
        if self.len <= room.most {
            return None;
        }
        let forgotten = self.blocks.pop_front()?;
        self.len -= forgotten.given.len();
        Some(forgotten.last())
    }

    /// Each, in the order they were given.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Given> {
        self.blocks.iter().flat_map(|block| &block.given).chain(in_order(&self.newest))
    }
}

fn in_order(newest: &OrdMap<IdempotencyKey, (u32, Given)>) -> impl Iterator<Item = &Given> {
    let mut given: Vec<_> = newest.values().collect();
    given.sort_unstable_by_key(|(place, _)| *place);
    given.into_iter().map(|(_, given)| given)
}
