//! What this node remembers about the providers of one procedure: calls under way, reported load, recent failures.
//!
//! Pure: time is a parameter. Bounded by the providers that the directory shows, plus those with a call under way.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};

/// For how long a reported load is believed.
const LOAD_TTL: Duration = Duration::from_secs(5);

/// Memory of the providers of one procedure.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    providers: BTreeMap<NodeId, Provider>,
}

#[derive(Debug, Default)]
struct Provider {
    /// Calls of this node there that have no answer yet.
    in_flight: u32,
    /// What the provider last said about its load, and when.
    reported: Option<(u32, Timestamp)>,
    failed: Option<Failed>,
}

/// A recent failure to reach a provider.
#[derive(Debug)]
struct Failed {
    /// Failures in a row.
    count: u32,
    until: Timestamp,
    /// The provider's directory record at that time: a newer one means that it is back.
    sequence: u64,
}

/// How long failures count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Penalty {
    /// After the first failure; doubled with each further one in a row.
    pub(crate) base: Duration,
    /// At most this.
    pub(crate) max: Duration,
}

impl Roster {
    /// A call was handed to `id`.
    pub(crate) fn sent(&mut self, id: NodeId) {
        self.providers.entry(id).or_default().in_flight += 1;
    }

    /// A call that was handed to `id` is over, however it ended.
    pub(crate) fn over(&mut self, id: NodeId) {
        if let Some(provider) = self.providers.get_mut(&id) {
            provider.in_flight = provider.in_flight.saturating_sub(1);
        }
    }

    /// `id` answered, and said that so many calls run there.
    pub(crate) fn answered(&mut self, id: NodeId, load: u32, now: Timestamp) {
        let provider = self.providers.entry(id).or_default();
        provider.reported = Some((load, now));
        provider.failed = None;
    }

    /// `id` could not be reached, or was lost. `sequence` is that of its directory record.
    pub(crate) fn failed(&mut self, id: NodeId, sequence: u64, now: Timestamp, penalty: Penalty) {
        let provider = self.providers.entry(id).or_default();
        let count = provider.failed.as_ref().map_or(0, |failed| failed.count).saturating_add(1);
        let wait = penalty.base.saturating_mul(1 << (count - 1).min(16)).min(penalty.max);
        provider.failed = Some(Failed { count, until: now + wait, sequence });
    }

    /// A connection to `id` is up again.
    pub(crate) fn back(&mut self, id: &NodeId) {
        if let Some(provider) = self.providers.get_mut(id) {
            provider.failed = None;
        }
    }

    /// Whether `id`, whose directory record has this sequence number, failed lately.
    pub(crate) fn is_penalised(&self, id: &NodeId, sequence: u64, now: Timestamp) -> bool {
        let failed = self.providers.get(id).and_then(|provider| provider.failed.as_ref());
        failed.is_some_and(|failed| failed.until > now && failed.sequence >= sequence)
    }

    /// How many calls run at `id`, as far as is known.
    pub(crate) fn load(&self, id: &NodeId, now: Timestamp) -> u32 {
        let Some(provider) = self.providers.get(id) else { return 0 };
        let reported = provider.reported.filter(|(_, at)| now - *at < LOAD_TTL).map_or(0, |(load, _)| load);
        reported.max(provider.in_flight)
    }

    /// Forgets everyone who is neither known to the directory any more nor has a call under way.
    pub(crate) fn retain(&mut self, is_known: impl Fn(&NodeId) -> bool) {
        self.providers.retain(|id, provider| provider.in_flight > 0 || is_known(id));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.providers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: NodeId = NodeId::from_bytes([1; 32]);
    const PENALTY: Penalty = Penalty { base: Duration::from_secs(1), max: Duration::from_secs(5) };

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn a_penalty_doubles_up_to_its_limit_and_lapses() {
        let mut roster = Roster::default();
        for (now, until) in [(0, 1000), (1000, 3000), (3000, 7000), (7000, 12000), (12000, 17000)] {
            roster.failed(ID, 1, at(now), PENALTY);
            assert!(roster.is_penalised(&ID, 1, at(until - 1)), "{now}");
            assert!(!roster.is_penalised(&ID, 1, at(until)), "{now}");
        }
    }

    #[test]
    fn a_newer_record_an_answer_or_a_connection_ends_a_penalty() {
        let mut roster = Roster::default();
        roster.failed(ID, 1, at(0), PENALTY);
        assert!(!roster.is_penalised(&ID, 2, at(1)));
        roster.answered(ID, 0, at(1));
        assert!(!roster.is_penalised(&ID, 1, at(1)));
        roster.failed(ID, 1, at(2), PENALTY);
        roster.back(&ID);
        assert!(!roster.is_penalised(&ID, 1, at(3)));
    }

    #[test]
    fn load_is_what_was_reported_or_is_under_way_and_reports_grow_old() {
        let mut roster = Roster::default();
        roster.sent(ID);
        assert_eq!(roster.load(&ID, at(0)), 1);
        roster.answered(ID, 7, at(0));
        roster.over(ID);
        assert_eq!(roster.load(&ID, at(4999)), 7);
        assert_eq!(roster.load(&ID, at(5000)), 0);
    }

    #[test]
    fn the_unknown_are_forgotten_unless_a_call_is_under_way() {
        let mut roster = Roster::default();
        roster.sent(ID);
        roster.answered(NodeId::from_bytes([2; 32]), 1, at(0));
        roster.retain(|_| false);
        assert_eq!(roster.len(), 1);
        roster.over(ID);
        roster.retain(|_| false);
        assert_eq!(roster.len(), 0);
    }
}
