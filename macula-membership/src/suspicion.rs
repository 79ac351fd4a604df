//! Suspicions and when they run out (Lifeguard §IV-B): soon if others confirm, late if this node is alone with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};

/// Most independent confirmations that matter.
const CONFIRMATIONS_MAX: usize = 8;

/// How long a suspicion lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// With all confirmations.
    pub(crate) min: Duration,
    /// With none.
    pub(crate) max: Duration,
    /// How many confirmations are all.
    pub(crate) confirmations: usize,
}

/// All running suspicions.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    by_id: BTreeMap<NodeId, Suspicion>,
    by_deadline: BTreeSet<(Timestamp, NodeId)>,
}

#[derive(Debug)]
struct Suspicion {
    started: Timestamp,
    span: Span,
    /// Who suspects, the first one included.
    by: Vec<u64>,
}

impl Suspicions {
    /// Starts to suspect. A suspicion that runs already goes on.
    pub(crate) fn start(&mut self, now: Timestamp, id: NodeId, by: u64, span: Span) {
        if self.by_id.contains_key(&id) {
            return;
        }
        let span = Span { confirmations: span.confirmations.min(CONFIRMATIONS_MAX), ..span };
        let suspicion = Suspicion { started: now, span, by: vec![by] };
        self.by_deadline.insert((suspicion.deadline(), id));
        self.by_id.insert(id, suspicion);
    }

    /// Another member suspects the same. Returns whether that was news and counts.
    pub(crate) fn confirm(&mut self, id: NodeId, by: u64) -> bool {
        let Some(suspicion) = self.by_id.get_mut(&id) else { return false };
        if suspicion.by.len() > suspicion.span.confirmations || suspicion.by.contains(&by) {
            return false;
        }
        self.by_deadline.remove(&(suspicion.deadline(), id));
        suspicion.by.push(by);
        self.by_deadline.insert((suspicion.deadline(), id));
        true
    }

    /// The subject refuted, left or died.
    pub(crate) fn end(&mut self, id: &NodeId) {
        if let Some(suspicion) = self.by_id.remove(id) {
            self.by_deadline.remove(&(suspicion.deadline(), *id));
        }
    }

    /// The first suspicion to run out.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.by_deadline.first().map(|(at, _)| *at)
    }

    /// Takes one that has run out by `now`.
    pub(crate) fn expired(&mut self, now: Timestamp) -> Option<NodeId> {
        let (at, id) = *self.by_deadline.first()?;
        if at > now {
            return None;
        }
        self.end(&id);
        Some(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl Suspicion {
    /// max − (max − min) · ln(c + 1) / ln(k + 1), with c of k confirmations.
    fn deadline(&self) -> Timestamp {
        let Span { min, max, confirmations } = self.span;
        if confirmations == 0 {
            return self.started + min;
        }
        let confirmed = self.by.len() - 1;
        let share = ((confirmed + 1) as f64).ln() / ((confirmations + 1) as f64).ln();
        self.started + max.saturating_sub(max.saturating_sub(min).mul_f64(share.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs_f64(seconds))
    }

    fn span(confirmations: usize) -> Span {
        Span { min: Duration::from_secs(4), max: Duration::from_secs(24), confirmations }
    }

    const ID: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn each_independent_confirmation_brings_the_end_nearer() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Timestamp::ZERO, ID, 1, span(3));
        assert_eq!(suspicions.deadline(), Some(at(24.0)));
        assert!(!suspicions.confirm(ID, 1), "the same member again is no confirmation");
        assert!(suspicions.confirm(ID, 2));
        assert_eq!(suspicions.deadline(), Some(at(14.0)));
        assert!(suspicions.confirm(ID, 3));
        assert!(suspicions.confirm(ID, 4));
        assert_eq!(suspicions.deadline(), Some(at(4.0)));
        assert!(!suspicions.confirm(ID, 5), "more than all changes nothing");
        assert_eq!(suspicions.expired(at(3.9)), None);
        assert_eq!(suspicions.expired(at(4.0)), Some(ID));
        assert_eq!(suspicions.len(), 0);
    }

    #[test]
    fn where_nobody_can_confirm_the_shortest_time_holds() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Timestamp::ZERO, ID, 1, span(0));
        assert_eq!(suspicions.deadline(), Some(at(4.0)));
        suspicions.end(&ID);
        assert_eq!(suspicions.deadline(), None);
    }
}
