//! How far this node's wall clock is off, judged by those of its peers.
//!
//! Records are good for a time by their announcer's clock, and holders and readers judge them by their own. A small board whose
//! clock begins in 1970 would be found by nobody, in silence. So answers say what time it is for the sender, and a node reckons
//! with the time of the majority. A clock that is behind is believed less than one other; to be set back takes two that
//! agree, for of two clocks nobody can tell which one is right, and a record from the future is no harm.

use std::collections::VecDeque;
use std::time::Duration;

use macula_proto::{NodeId, UnixMillis};

/// Peers whose time is remembered.
const PEERS_MAX: usize = 15;

/// What may be the network's delay, or does no harm.
const SLACK_MS: i64 = 30_000;

/// Clocks that are off by more are worth a warning, and so is each further change by as much.
const WARN_MS: i64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct Skew {
    /// How far ahead of this node's clock each peer is, in milliseconds; the latest last.
    peers: VecDeque<(NodeId, i64)>,
    correction: i64,
    warned: i64,
}

impl Skew {
    /// A peer says what time it is for it, while it is `own` for this node, uncorrected. Returns whether that changed the
    /// correction.
    pub(super) fn heard(&mut self, peer: NodeId, theirs: UnixMillis, own: UnixMillis) -> bool {
        if theirs.0 == 0 {
            return false;
        }
        self.peers.retain(|(known, _)| *known != peer);
        if self.peers.len() >= PEERS_MAX {
            self.peers.pop_front();
        }
        self.peers.push_back((peer, difference(theirs, own)));
        let correction = self.reckon();
        let has_changed = (correction - self.correction).abs() > SLACK_MS;
        if has_changed {
            self.correction = correction;
            self.warn();
        }
        has_changed
    }

    /// The time to reckon with.
    pub(super) fn correct(&self, own: UnixMillis) -> UnixMillis {
        UnixMillis(own.0.saturating_add_signed(self.correction))
    }

    /// The time that was corrected.
    pub(super) fn uncorrected(&self, time: UnixMillis) -> UnixMillis {
        UnixMillis(time.0.saturating_add_signed(-self.correction))
    }

    /// By how much the time is corrected.
    pub(super) const fn millis(&self) -> i64 {
        self.correction
    }

    /// The median; of two in the middle, the one that changes less.
    fn reckon(&self) -> i64 {
        let mut sorted: Vec<i64> = self.peers.iter().map(|(_, ahead)| *ahead).collect();
        sorted.sort_unstable();
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let median = if low.abs() < high.abs() { low } else { high };
        if median.abs() <= SLACK_MS || (median < 0 && sorted.len() < 2) { 0 } else { median }
    }

    fn warn(&mut self) {
        if (self.correction - self.warned).abs() < WARN_MS {
            return;
        }
        self.warned = self.correction;
        let off = Duration::from_millis(self.correction.unsigned_abs());
        let direction = if self.correction > 0 { "behind" } else { "ahead of" };
        tracing::warn!(
            "this node's clock is {off:?} {direction} those of its peers; the directory goes by theirs"
        );
    }
}

fn difference(theirs: UnixMillis, own: UnixMillis) -> i64 {
    let clamp = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    clamp(theirs.0) - clamp(own.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const YEAR: u64 = 31_536_000_000;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn a_clock_that_is_behind_follows_one_other_and_one_that_is_ahead_follows_two() {
        let behind = UnixMillis(NOW.0 - YEAR);
        let mut skew = Skew::default();
        assert!(skew.heard(peer(1), NOW, behind));
        assert_eq!((skew.correct(behind), skew.uncorrected(NOW)), (NOW, behind));

        let mut skew = Skew::default();
        assert!(!skew.heard(peer(1), behind, NOW));
        assert!(!skew.heard(peer(1), behind, NOW), "the same one again");
        assert!(skew.heard(peer(2), behind, NOW));
        assert_eq!(skew.correct(NOW), behind);
    }

    #[test]
    fn few_that_are_wrong_change_nothing() {
        let mut skew = Skew::default();
        for n in 1..=8 {
            assert!(!skew.heard(peer(n), UnixMillis(NOW.0 + 900), NOW));
        }
        for n in 9..=15 {
            assert!(!skew.heard(peer(n), UnixMillis(NOW.0 + YEAR), NOW), "{n}");
        }
        assert_eq!(skew.millis(), 0);
    }

    #[test]
    fn a_clock_that_is_set_right_is_not_corrected_any_more() {
        let mut skew = Skew::default();
        for n in 1..=3 {
            skew.heard(peer(n), NOW, UnixMillis(NOW.0 - YEAR));
        }
        for n in 1..=2 {
            skew.heard(peer(n), NOW, NOW);
        }
        assert_eq!(skew.correct(NOW), NOW);
    }

    proptest! {
        #[test]
        fn the_median_is_within_what_the_majority_says(
            honest in prop::collection::vec(-5_000i64..5_000, 8),
            liars in prop::collection::vec(any::<i64>(), 0..7),
            own_is_off in -1_000_000_000_000i64..1_000_000_000_000,
        ) {
            let own = UnixMillis(NOW.0.saturating_add_signed(own_is_off));
            let mut skew = Skew::default();
            let all = honest.iter().chain(&liars).map(|off| UnixMillis(NOW.0.saturating_add_signed(*off)));
            for (n, theirs) in all.enumerate() {
                skew.heard(peer(n as u8), theirs, own);
            }
            let off = difference(skew.correct(own), NOW).abs();
            prop_assert!(off <= 2 * SLACK_MS + 5_000, "{off}");
        }
    }
}
