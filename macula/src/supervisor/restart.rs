//! When to restart a failed task, and when to give up: a pure decision.

use std::collections::VecDeque;
use std::time::Duration;

use macula_proto::Timestamp;
use rand::{Rng, RngExt};

/// How much failure a task is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Most restarts within `window`; one failure more and the task stays down. Default 5.
    pub restarts_max: u32,
    /// See `restarts_max`. Default 10 s.
    pub window: Duration,
    /// Pause before the first restart in a window; doubles with each further one, and half to all of it is
    /// waited. Default 10 ms: a driver that is gone holds up its whole layer.
    pub backoff_min: Duration,
    /// Longest such pause. Default 1 s: five restarts must fit into the window.
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            restarts_max: 5,
            window: Duration::from_secs(10),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start it again after this pause.
    Restart(Duration),
    /// It fails too often: leave it down.
    GiveUp,
}

/// One task's recent restarts. Holds at most `restarts_max` times.
#[derive(Debug)]
pub(super) struct Intensity {
    policy: RestartPolicy,
    restarts: VecDeque<Timestamp>,
}

impl Intensity {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Self { policy, restarts: VecDeque::new() }
    }

    /// The task failed at `now`.
    pub(super) fn on_failure(&mut self, now: Timestamp, rng: &mut impl Rng) -> Verdict {
        while self.restarts.front().is_some_and(|earlier| now.since(*earlier) > self.policy.window) {
            self.restarts.pop_front();
        }
        let recent = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        if recent >= self.policy.restarts_max {
            return Verdict::GiveUp;
        }
        self.restarts.push_back(now);
        let doubled = 1u32.checked_shl(recent).unwrap_or(u32::MAX);
        let pause = self.policy.backoff_min.saturating_mul(doubled).min(self.policy.backoff_max);
        Verdict::Restart(pause.mul_f64(rng.random_range(0.5..=1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn the_sixth_failure_within_the_window_is_one_too_many() {
        let mut intensity = Intensity::new(RestartPolicy::default());
        let mut rng = StdRng::seed_from_u64(1);
        for n in 0..5 {
            assert!(matches!(intensity.on_failure(at(n * 1_000), &mut rng), Verdict::Restart(_)));
        }
        assert_eq!(intensity.on_failure(at(10_000), &mut rng), Verdict::GiveUp);
    }

    #[test]
    fn failures_that_are_far_enough_apart_are_forgiven_for_ever() {
        let mut intensity = Intensity::new(RestartPolicy::default());
        let mut rng = StdRng::seed_from_u64(1);
        for n in 0..1_000 {
            assert!(matches!(intensity.on_failure(at(n * 2_001), &mut rng), Verdict::Restart(_)), "{n}");
        }
    }

    #[test]
    fn no_restart_at_all_is_a_possible_policy() {
        let mut intensity = Intensity::new(RestartPolicy { restarts_max: 0, ..RestartPolicy::default() });
        assert_eq!(intensity.on_failure(at(0), &mut StdRng::seed_from_u64(1)), Verdict::GiveUp);
    }

    proptest! {
        #[test]
        fn pauses_grow_within_their_bounds_and_no_window_has_too_many(
            gaps in prop::collection::vec(0u64..5_000, 1..200), seed: u64,
        ) {
            let policy = RestartPolicy::default();
            let mut intensity = Intensity::new(policy);
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut now, mut restarts) = (0, vec![]);
            for gap in gaps {
                now += gap;
                if let Verdict::Restart(pause) = intensity.on_failure(at(now), &mut rng) {
                    prop_assert!(pause >= policy.backoff_min / 2 && pause <= policy.backoff_max);
                    restarts.push(now);
                }
            }
            for window in restarts.windows(policy.restarts_max as usize + 1) {
                prop_assert!(window[window.len() - 1] - window[0] > 10_000);
            }
        }
    }
}
