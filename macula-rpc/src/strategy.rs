//! Which of several providers to call: a pure function of what is known about them.

use std::time::Duration;

use macula_proto::NodeId;
use rand::Rng;
use rand::seq::SliceRandom;

/// How to choose among the providers of a procedure.
///
/// A strategy puts the providers in an order: the first is called, the others only while the call certainly has
/// not been delivered. Under every strategy, providers that failed lately come after those that did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// This node, if it offers the procedure; else any.
    #[default]
    LocalFirst,
    /// Each in turn, in order of node id.
    RoundRobin,
    /// Any, all equally likely.
    Random,
    /// The smallest round-trip time; this node's own is zero. Providers without a live connection come last.
    Nearest,
    /// The fewest calls of the procedure running, as far as is known: what the provider reported with its latest
    /// answer (forgotten after five seconds) or this node's own unanswered calls there, whichever is more.
    /// Among equals, any.
    LeastLoaded,
}

/// What is known about one provider when a call is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub id: NodeId,
    /// Whether that is this very node.
    pub local: bool,
    /// Smoothed round-trip time, if a connection is up.
    pub rtt: Option<Duration>,
    /// Calls of the procedure that run there, as far as is known.
    pub load: u32,
    /// It failed lately.
    pub penalised: bool,
}

impl Strategy {
    /// Sorts `candidates` into the order in which to try them. `turn` counts the procedure's calls, for
    /// [`Strategy::RoundRobin`]; `rng` breaks ties.
    ///
    /// ```
    /// use macula_proto::NodeId;
    /// use macula_rpc::{Candidate, Strategy};
    /// use rand::SeedableRng;
    ///
    /// let candidate = |n: u8, load| Candidate {
    ///     id: NodeId::from_bytes([n; 32]), local: false, rtt: None, load, penalised: false,
    /// };
    /// let mut candidates = [candidate(1, 9), candidate(2, 3)];
    /// let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    /// Strategy::LeastLoaded.order(&mut candidates, 0, &mut rng);
    /// assert_eq!(candidates[0].load, 3);
    /// ```
    pub fn order(self, candidates: &mut [Candidate], turn: u64, rng: &mut impl Rng) {
        match self {
            Self::RoundRobin => rotate(candidates, turn),
            Self::LocalFirst => {
                candidates.shuffle(rng);
                candidates.sort_by_key(|c| !c.local);
            }
            Self::Random => candidates.shuffle(rng),
            Self::Nearest => {
                candidates.shuffle(rng);
                candidates
                    .sort_by_key(|c| if c.local { Duration::ZERO } else { c.rtt.unwrap_or(Duration::MAX) });
            }
            Self::LeastLoaded => {
                candidates.shuffle(rng);
                candidates.sort_by_key(|c| c.load);
            }
        }
        candidates.sort_by_key(|c| c.penalised);
    }
}

/// Sorts by id and begins with the one whose turn it is, among those without a penalty: otherwise the successor
/// of a penalised one would get its share as well.
fn rotate(candidates: &mut [Candidate], turn: u64) {
    candidates.sort_by_key(|c| (c.penalised, c.id));
    let healthy = candidates.iter().filter(|c| !c.penalised).count();
    let turning = if healthy > 0 { &mut candidates[..healthy] } else { candidates };
    if !turning.is_empty() {
        let first = turn % turning.len() as u64;
        turning.rotate_left(first as usize);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{Candidate, Duration, NodeId, Strategy};

    const ALL: [Strategy; 5] = [
        Strategy::LocalFirst,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Nearest,
        Strategy::LeastLoaded,
    ];

    fn candidate(n: u8) -> Candidate {
        Candidate { id: NodeId::from_bytes([n; 32]), local: false, rtt: None, load: 0, penalised: false }
    }

    fn first(strategy: Strategy, candidates: &[Candidate], turn: u64, rng: &mut StdRng) -> u8 {
        let mut ordered = candidates.to_vec();
        strategy.order(&mut ordered, turn, rng);
        ordered[0].id.as_bytes()[0]
    }

    #[test]
    fn round_robin_gives_each_its_turn_and_shares_a_failed_ones_turns_evenly() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut candidates = [candidate(3), candidate(1), candidate(2)];
        let firsts: Vec<u8> =
            (0..6).map(|turn| first(Strategy::RoundRobin, &candidates, turn, &mut rng)).collect();
        assert_eq!(firsts, [1, 2, 3, 1, 2, 3]);
        candidates[2].penalised = true;
        let firsts: Vec<u8> =
            (0..4).map(|turn| first(Strategy::RoundRobin, &candidates, turn, &mut rng)).collect();
        assert_eq!(firsts, [1, 3, 1, 3]);
    }

    #[test]
    fn random_is_even_within_five_standard_deviations() {
        let mut rng = StdRng::seed_from_u64(7);
        let candidates: Vec<_> = (0..4).map(candidate).collect();
        let mut counts = [0u32; 4];
        for _ in 0..4000 {
            counts[first(Strategy::Random, &candidates, 0, &mut rng) as usize] += 1;
        }
        assert!(counts.iter().all(|n| n.abs_diff(1000) < 137), "{counts:?}");
    }

    #[test]
    fn equals_share_evenly_under_every_strategy() {
        let mut rng = StdRng::seed_from_u64(11);
        let equals: Vec<_> = (0..4).map(candidate).collect();
        // A fifth that is worse in every way gets nothing.
        let worse = Candidate { rtt: Some(Duration::from_secs(1)), load: 9, penalised: true, ..candidate(4) };
        let near = |c: &Candidate| Candidate { rtt: Some(Duration::from_millis(3)), ..c.clone() };
        let candidates: Vec<_> = equals.iter().map(near).chain([worse]).collect();
        for strategy in ALL {
            let mut counts = [0u32; 5];
            for turn in 0..4000 {
                counts[first(strategy, &candidates, turn, &mut rng) as usize] += 1;
            }
            // Five standard deviations; taking turns is exact.
            let tolerance = if strategy == Strategy::RoundRobin { 1 } else { 137 };
            assert!(counts[..4].iter().all(|n| n.abs_diff(1000) < tolerance), "{strategy:?}: {counts:?}");
            assert_eq!(counts[4], 0, "{strategy:?}");
        }
    }

    #[test]
    fn local_first_nearest_and_least_loaded_put_theirs_first() {
        let mut rng = StdRng::seed_from_u64(3);
        let near = Candidate { rtt: Some(Duration::from_millis(2)), load: 5, ..candidate(1) };
        let far = Candidate { rtt: Some(Duration::from_millis(90)), load: 1, ..candidate(2) };
        let unconnected = Candidate { load: 3, ..candidate(3) };
        let local = Candidate { local: true, load: 9, ..candidate(4) };
        let all = [unconnected, far, near, local];
        for _ in 0..20 {
            assert_eq!(first(Strategy::LocalFirst, &all, 0, &mut rng), 4);
            assert_eq!(first(Strategy::Nearest, &all, 0, &mut rng), 4);
            assert_eq!(first(Strategy::Nearest, &all[..3], 0, &mut rng), 1);
            assert_eq!(first(Strategy::LeastLoaded, &all, 0, &mut rng), 2);
        }
    }

    proptest! {
        #[test]
        fn an_order_loses_nobody_and_ends_with_the_penalised(
            states in prop::collection::vec((any::<bool>(), 0u32..4, prop::option::of(0u64..50)), 0..8),
            turn: u64,
            seed: u64,
        ) {
            for strategy in ALL {
                let before: Vec<_> = states.iter().enumerate().map(|(n, (penalised, load, rtt))| Candidate {
                    penalised: *penalised, load: *load, rtt: rtt.map(Duration::from_millis), ..candidate(n as u8)
                }).collect();
                let mut after = before.clone();
                strategy.order(&mut after, turn, &mut StdRng::seed_from_u64(seed));
                prop_assert!(after.is_sorted_by_key(|c| c.penalised));
                after.sort_by_key(|c| c.id);
                prop_assert_eq!(&after, &before);
            }
        }
    }
}
