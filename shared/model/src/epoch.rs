//! How often a cluster has begun anew: from a backup, or from the one copy that was left of it.
//!
//! The epoch is the upper part of every index that controllers count, so of each assignment's generation and each route
//! table's version too: it needs no message and no record of its own, and of two the higher is the newer
//! (docs/decisions/0015).

/// Bits of an index below its epoch: 5,000 entries a second fill them in a hundred years, and 511 epochs still fit into
/// the 53 bits that every JSON reader keeps.
const EPOCH_BITS: u32 = 44;

/// The epoch in which `index` was given.
pub fn epoch_of(index: u64) -> u64 {
    index >> EPOCH_BITS
}

/// The first index of an epoch.
pub fn beginning_of(epoch: u64) -> u64 {
    epoch << EPOCH_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_of_an_epoch_is_above_all_of_the_one_before() {
        assert_eq!((epoch_of(0), epoch_of(beginning_of(1) - 1), epoch_of(beginning_of(1))), (0, 0, 1));
        assert_eq!(epoch_of(beginning_of(511)), 511);
        assert!(beginning_of(512) <= 1 << 53);
    }
}
