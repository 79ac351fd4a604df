//! How long things took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer ones count as so long.
const MAX: Duration = Duration::from_secs(600);

/// Many durations, to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

/// What is shown of them, in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let max = u64::try_from(MAX.as_nanos()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(1, max, 3).expect("the bounds are constant"))
    }

    pub(super) fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn add(&mut self, others: &Self) {
        self.0 += &others.0;
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len()
    }

    /// `None` of none.
    pub(super) fn summary(&self) -> Option<Latency> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Latency {
            min: micros(self.0.min()),
            mean: self.0.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(self.0.max()),
        })
    }
}

impl Latency {
    /// For people.
    pub(super) fn line(&self) -> String {
        let shown = [
            ("min", self.min),
            ("mean", self.mean),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("max", self.max),
        ];
        let text =
            shown.map(|(name, micros)| format!("{name} {}", crate::output::micros(micros.round() as u64)));
        text.join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|n| latencies.record(Duration::from_micros(n)));
        let summary = latencies.summary().unwrap();
        assert!((summary.p50 - 500.0).abs() < 2.0 && (summary.p99 - 990.0).abs() < 2.0, "{summary:?}");
        assert!((summary.max - 1000.0).abs() < 2.0 && (summary.min - 1.0).abs() < 0.1);
        assert!(Latencies::new().summary().is_none());
    }
}
