//! How often a cluster has begun anew: from a backup, or from the one copy that was left of it.
//!
//! The epoch is the upper part of every index that controllers count, so of each assignment's generation and each route
//! table's version too: it needs no message and no record of its own, and of two the higher is the newer. Below it comes when
//! the cluster began anew, so that of two that were made of the same copy the later is the newer (docs/decisions/0015).

use crate::Timestamp;

/// Bits of an index below its epoch: half of them are for when it began, and 5,000 entries a second fill the other half in
/// fifty years; 511 epochs still fit into the 53 bits that every JSON reader keeps.
const EPOCH_BITS: u32 = 44;

/// Indexes for each second that passes before a cluster begins anew: more entries than a cluster writes in one, so that it
/// begins above all that one that was made of the same copy before has reached.
const A_SECOND: u64 = 1 << 13;

/// Seconds that are told apart, from [`SINCE`] on: until 2060. Who begins anew later begins as if it were then.
const SECONDS: u64 = 1 << 30;

/// 2026-01-01 in seconds: no cluster is older.
const SINCE: u64 = 1_767_225_600;

/// So far behind its cluster is no controller that follows it: seventeen minutes of beginning, or half an hour of 5,000
/// entries a second, a hundred times what a log keeps.
const FAR: u64 = 1 << 23;

/// The epoch in which `index` was given.
pub fn epoch_of(index: u64) -> u64 {
    index >> EPOCH_BITS
}

/// The first index of an epoch that begins at `now`.
pub fn beginning_of(epoch: u64, now: Timestamp) -> u64 {
    let seconds = (now.0 / 1_000).saturating_sub(SINCE).min(SECONDS - 1);
    (epoch << EPOCH_BITS) + seconds * A_SECOND
}

/// Whether who gives `given` belongs to what the cluster was before it became the one that gave `known`: to an earlier epoch,
/// or to another cluster that was made of the same copy earlier.
pub fn is_former(given: u64, known: u64) -> bool {
    epoch_of(given) < epoch_of(known) || given.saturating_add(FAR) < known
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of a moment that many seconds after the beginning of 2026.
    fn at(seconds: u64) -> Timestamp {
        Timestamp((SINCE + seconds) * 1_000)
    }

    #[test]
    fn every_index_of_an_epoch_is_above_all_of_the_one_before() {
        for now in [Timestamp(0), at(0), at(29_000_000), at(SECONDS), Timestamp(u64::MAX)] {
            let first = beginning_of(1, now);
            assert_eq!(epoch_of(first), 1, "{now:?}");
            assert_eq!(epoch_of(first + (1 << (EPOCH_BITS - 1)) - 1), 1, "half of it is left for counting: {now:?}");
            assert!(beginning_of(2, Timestamp(0)) > first);
        }
        assert_eq!(epoch_of(0), 0);
        assert_eq!(epoch_of(beginning_of(511, at(SECONDS))), 511);
        assert!(beginning_of(512, Timestamp(0)) <= 1 << 53);
    }

    #[test]
    fn of_two_clusters_made_of_the_same_copy_the_later_is_above_the_earlier() {
        let (earlier, later) = (beginning_of(1, at(1_000)), beginning_of(1, at(1_600)));
        assert!(later > earlier + 600 * 5_000, "also after ten minutes of as many writes as it can take");
        assert_eq!(epoch_of(earlier), epoch_of(later));
    }

    #[test]
    fn a_former_cluster_is_told_from_a_controller_that_lags() {
        let (earlier, later) = (beginning_of(1, at(0)), beginning_of(1, at(3_600)));
        let cases = [
            (later, later + 100_000, false),
            (later + 100_000, later, false),
            (0, 1_000_000, false),
            (FAR, later, true),
            (earlier + 1_000_000, later, true),
            (later, earlier, false),
            (later, beginning_of(2, at(0)), true),
        ];
        for (given, known, former) in cases {
            assert_eq!(is_former(given, known), former, "{given} after {known}");
        }
    }
}
