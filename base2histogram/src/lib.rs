//! Stands in for the package of this name, which openraft depends on: the part of its interface that openraft uses.
//!
//! The original computes tables for all precisions at its first use, 27 MB that stay, while openraft counts in one precision and,
//! as it is built here, never looks. This one computes the bounds of a bucket when they are asked for.
//!
//! A bucket holds the values that have the same highest bit and the same two bits below it, so a percentile is off by an eighth
//! of its value at most.
//!
//! ```
//! let mut histogram = base2histogram::Histogram::<()>::new();
//! (1..=1000).for_each(|value| histogram.record(value));
//! let stats = histogram.percentile_stats();
//! assert_eq!(stats.samples, 1000);
//! assert!((440..=560).contains(&stats.p50));
//! ```

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value below its highest one that tell buckets apart.
const FINE_BITS: u32 = 2;

/// Values in each of so many buckets have the same highest bit.
const FINE: usize = 1 << FINE_BITS;

/// Counts of values, by their magnitude. `T` is of no use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Up to the largest bucket that holds something.
    counts: Vec<u64>,
    of: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { counts: Vec::new(), of: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = bucket(value);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value below which this part of all values is, about; `part` from 0 to 1.
    pub fn percentile(&self, part: f64) -> u64 {
        let rank = (self.total() as f64 * part).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return middle(bucket);
            }
        }
        0
    }

    /// Several at once.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// The number of a value's bucket.
const fn bucket(value: u64) -> usize {
    if value < FINE as u64 {
        return value as usize;
    }
    let highest = value.ilog2();
    let fine = (value >> (highest - FINE_BITS)) as usize & (FINE - 1);
    (highest - FINE_BITS + 1) as usize * FINE + fine
}

/// A value in the middle of a bucket.
const fn middle(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let shift = bucket / FINE - 1;
    let lowest = ((FINE + bucket % FINE) as u64) << shift;
    lowest + ((1 << shift) >> 1)
}

/// Percentiles of a histogram; see [`Histogram::percentile_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    /// One in a thousand is below.
    pub p0_1: u64,
    /// One in a hundred is below.
    pub p1: u64,
    /// One in twenty is below.
    pub p5: u64,
    /// One in ten is below.
    pub p10: u64,
    /// Half of them are below.
    pub p50: u64,
    /// One in ten is above.
    pub p90: u64,
    /// One in a hundred is above.
    pub p99: u64,
    /// One in a thousand is above.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(
            f,
            "{samples} values, half below {p50}, 90 % below {p90}, 99 % below {p99}, 99.9 % below {p99_9}"
        )
    }
}

/// Several histograms, one line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    series: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// None yet.
    pub const fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// With one more.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.series.push((name.to_owned(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_bucket_is_in_it_and_near_its_values() {
        let values = (0..5_000).chain((0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]));
        for value in values {
            let middle = middle(bucket(value));
            assert_eq!(bucket(middle), bucket(value), "{value}");
            assert!(middle.abs_diff(value) <= value / 8, "{middle} stands for {value}");
        }
        assert!(bucket(u64::MAX) < 256);
    }

    #[test]
    fn percentiles_are_in_order_and_an_empty_one_has_none() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!((histogram.total(), histogram.percentile(0.5)), (0, 0));
        (0..10_000).for_each(|value| histogram.record(value));
        let PercentileStats { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } =
            histogram.percentile_stats();
        assert_eq!(samples, 10_000);
        assert!([p0_1, p1, p5, p10, p50, p90, p99, p99_9].is_sorted());
        assert!((8_000..=10_000).contains(&p90), "{p90}");
        let chart = AsciiChart::new().add("latency", histogram).to_string();
        assert!(chart.starts_with("latency: 10000 values"), "{chart}");
    }
}
