//! Clocks that drift and jump.

use std::time::Duration;

use macula_proto::Timestamp;

/// A node's clock, as a function of true time in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriftingClock {
    /// At true time 0.
    offset: i64,
    /// Parts per million faster than true time.
    ppm: i64,
}

impl DriftingClock {
    pub(crate) fn new(offset: i64, ppm: i64) -> Self {
        Self { offset, ppm }
    }

    pub(crate) fn at(&self, now: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_micros(self.micros(now).max(0) as u64))
    }

    /// The true time at which the clock shows `local`, or a little after.
    pub(crate) fn when(&self, local: Timestamp) -> u64 {
        let local = local.since_start().as_micros() as i64 - self.offset;
        (local as i128 * 1_000_000 / i128::from(1_000_000 + self.ppm)).max(0) as u64 + 2
    }

    pub(crate) fn jump(&mut self, by: i64) {
        self.offset += by;
    }

    fn micros(&self, now: u64) -> i64 {
        let now = now as i64;
        self.offset + now + (i128::from(now) * i128::from(self.ppm) / 1_000_000) as i64
    }
}
