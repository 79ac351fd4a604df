//! Whom not to dial yet, after failed dials.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};
use rand::RngExt as _;

/// Failures remembered at most; when full, the one that ends first is forgotten.
const PEERS_MAX: usize = 4_096;

/// Jittered exponential back-off, a peer at a time.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: BTreeMap<NodeId, Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    times: u32,
    until: Timestamp,
    cause: String,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: BTreeMap::new() }
    }

    /// How long to wait still, and why; `None` when a dial is allowed.
    pub(crate) fn wait(&self, id: &NodeId, now: Timestamp) -> Option<(Duration, String)> {
        let failure = self.failures.get(id).filter(|failure| failure.until > now)?;
        Some((failure.until - now, failure.cause.clone()))
    }

    /// A dial failed: the pause is drawn from half to all of `min` · 2ⁿ, at most `max`.
    pub(crate) fn failed(&mut self, id: NodeId, cause: String, now: Timestamp, rng: &mut impl rand::Rng) {
        if self.failures.len() >= PEERS_MAX && !self.failures.contains_key(&id) {
            let first =
                self.failures.iter().min_by_key(|(id, failure)| (failure.until, **id)).map(|(id, _)| *id);
            first.map(|id| self.failures.remove(&id));
        }
        let times = self.failures.get(&id).map_or(0, |failure| failure.times).saturating_add(1);
        let full = self.min.saturating_mul(1 << (times - 1).min(20)).min(self.max);
        let pause = full.mul_f64(rng.random_range(0.5..=1.0));
        self.failures.insert(id, Failure { times, until: now + pause, cause });
    }

    /// A dial succeeded, or the peer dialled.
    pub(crate) fn succeeded(&mut self, id: &NodeId) {
        self.failures.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn id(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn pauses_double_with_jitter_up_to_the_longest_and_a_success_clears_them() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(8));
        let mut backoff = Backoff::new(min, max);
        let mut rng = StdRng::seed_from_u64(1);
        let mut now = Timestamp::ZERO;
        for full in [1, 2, 4, 8, 8, 8] {
            backoff.failed(id(1), "why".into(), now, &mut rng);
            let (pause, cause) = backoff.wait(&id(1), now).unwrap();
            assert_eq!(cause, "why");
            let full = Duration::from_secs(full);
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
            now = now + pause;
            assert_eq!(backoff.wait(&id(1), now), None);
        }
        backoff.failed(id(1), "why".into(), now, &mut rng);
        backoff.succeeded(&id(1));
        assert_eq!(backoff.wait(&id(1), now), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
        let mut rng = StdRng::seed_from_u64(1);
        for n in 0..PEERS_MAX as u32 + 10 {
            let now = Timestamp::from_start(Duration::from_secs(u64::from(n)));
            backoff.failed(id(n), String::new(), now, &mut rng);
        }
        assert_eq!(backoff.failures.len(), PEERS_MAX);
    }
}
