//! How well this node itself is doing (Lifeguard §IV-A): one that is slow must not call others dead.

use std::time::Duration;

/// Local health: 0 is well. Each point makes probes rarer and their timeouts longer by one more measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalHealth {
    score: u32,
    score_max: u32,
}

impl LocalHealth {
    /// Well; never worse than `score_max`.
    pub(crate) const fn new(score_max: u32) -> Self {
        Self { score: 0, score_max }
    }

    /// Something went as it should.
    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// Something points at this node being slow.
    pub(crate) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(self.score_max);
    }

    pub(crate) const fn score(self) -> u32 {
        self.score
    }

    /// A time, stretched by the score.
    pub(crate) fn stretch(self, time: Duration) -> Duration {
        time * (self.score + 1)
    }
}
