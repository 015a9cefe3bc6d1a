//! Stands in for the crate of the same name, with the part of its interface that openraft uses.
//!
//! The original makes lookup tables for all sixteen resolutions it offers when the first histogram is made:
//! 27 MB that stay resident in every controller, of which one resolution is used. Here a bucket is computed.
//! docs/decisions/0005 says when this goes away. Written by us; nothing is taken from the original.

use std::fmt;
use std::marker::PhantomData;

/// Buckets per power of two, as a power of two: four, so that a percentile is off by at most a quarter.
const RESOLUTION_BITS: u32 = 2;
const PER_OCTAVE: usize = 1 << RESOLUTION_BITS;
/// Buckets for all of u64.
const BUCKETS: usize = (64 - RESOLUTION_BITS as usize + 1) * PER_OCTAVE;

/// Counts values in buckets that grow with the value. `T` is the original's tag of a time slot, not used here.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64]>,
    samples: u64,
    slots: PhantomData<T>,
}

impl Histogram<()> {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into(), samples: 0, slots: PhantomData }
    }
}

impl Default for Histogram<()> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bucket(value)] += count;
        self.samples += count;
    }

    /// The usual percentiles; all zero when nothing was counted.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.samples,
            p0_1: self.percentile(1),
            p1: self.percentile(10),
            p5: self.percentile(50),
            p10: self.percentile(100),
            p50: self.percentile(500),
            p90: self.percentile(900),
            p99: self.percentile(990),
            p99_9: self.percentile(999),
        }
    }

    /// The smallest value of the bucket in which the `permille`-th of the sorted values lies.
    fn percentile(&self, permille: u128) -> u64 {
        let rank = (u128::from(self.samples) * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= rank
        });
        reached.map_or(0, smallest)
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("stats", &self.percentile_stats()).finish()
    }
}

/// The bucket of a value: values below `PER_OCTAVE` have one each, then `PER_OCTAVE` per power of two.
fn bucket(value: u64) -> usize {
    let Some(octave) = (u64::BITS - 1).checked_sub(value.leading_zeros()).filter(|octave| *octave >= RESOLUTION_BITS)
    else {
        return value as usize;
    };
    let shift = octave - RESOLUTION_BITS;
    shift as usize * PER_OCTAVE + (value >> shift) as usize
}

/// The smallest value of a bucket.
fn smallest(bucket: usize) -> u64 {
    if bucket < 2 * PER_OCTAVE {
        return bucket as u64;
    }
    let shift = bucket / PER_OCTAVE - 1;
    ((bucket % PER_OCTAVE + PER_OCTAVE) as u64) << shift
}

/// Percentiles of a [`Histogram`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Each is the percentile that it is named after.
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "n={samples} p50={p50} p90={p90} p99={p99} p99.9={p99_9}")
    }
}

/// Named histograms, one line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart(Vec<(String, Histogram)>);

impl AsciiChart {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more line.
    #[allow(clippy::should_implement_trait)] // The original's name.
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.0.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_in_order() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for at in 0..BUCKETS {
            assert_eq!(bucket(smallest(at)), at);
            assert!(at == 0 || bucket(smallest(at) - 1) == at - 1, "{at}");
        }
    }

    #[test]
    fn percentiles_are_off_by_at_most_a_quarter() {
        let mut histogram = Histogram::<()>::new();
        (1..=1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        for (found, exact) in [(stats.p1, 10), (stats.p50, 500), (stats.p90, 900), (stats.p99_9, 999)] {
            assert!(found <= exact && found * 5 >= exact * 4, "{found} for {exact}");
        }
        assert_eq!((stats.samples, Histogram::<()>::new().percentile_stats()), (1000, PercentileStats::default()));
    }
}
