//! How well this node itself is doing (Lifeguard §IV-A): one that is slow must not call others dead.

use std::time::Duration;

/// Highest score.
const SCORE_MAX: u32 = 8;

/// Local health: 0 is well. Each point makes probes rarer and their timeouts longer by one more measure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalHealth {
    score: u32,
}

impl LocalHealth {
    /// Something went as it should.
    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// Something points at this node being slow.
    pub(crate) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(SCORE_MAX);
    }

    pub(crate) const fn score(self) -> u32 {
        self.score
    }

    /// A time, stretched by the score.
    pub(crate) fn stretch(self, time: Duration) -> Duration {
        time * (self.score + 1)
    }
}
