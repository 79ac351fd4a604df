//! How long to wait for a peer before asking the next one as well.

use std::time::Duration;

/// How fast peers usually answer (RFC 6298, §2): after that much, another is asked as well.
#[derive(Debug)]
pub(super) struct Pace {
    smoothed: Option<(Duration, Duration)>,
    max: Duration,
}

/// Below this, scheduling noise would make everybody slow.
const HEDGE_MIN: Duration = Duration::from_millis(20);

impl Pace {
    pub(super) fn new(max: Duration) -> Self {
        Self { smoothed: None, max }
    }

    pub(super) fn sample(&mut self, took: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (took, took / 2),
            Some((mean, deviation)) => ((mean * 7 + took) / 8, (deviation * 3 + mean.abs_diff(took)) / 4),
        });
    }

    pub(super) fn hedge_after(&self) -> Duration {
        let usual = self.smoothed.map_or(self.max, |(mean, deviation)| mean + deviation * 4);
        usual.clamp(HEDGE_MIN.min(self.max), self.max)
    }
}
