//! Suspicions and when they run out (Lifeguard §IV-B): soon if others confirm, late if this node is alone
//! with it, and later still where nobody could confirm and this node is not well.
//!
//! Who confirms is hearsay as well. But each signs what he says, so that one liar cannot speak in many names, and is believed
//! only of the few that he may watch. What protects those from some who lie together is that even the shortest suspicion is
//! several times as long as a refutation takes, that it is told again at half that time so that whoever knows better says so,
//! and that a member which refuted is not suspected on hearsay for as long. What is said in that time counts afterwards, if no
//! newer word of the member has come: it may have died.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};

use crate::Accusation;

/// Most independent confirmations that matter.
const CONFIRMATIONS_MAX: usize = 8;

/// Members that are remembered to have refuted; hearsay about further ones counts as usual.
pub(crate) const PROVEN_MAX: usize = 4_096;

/// How long a suspicion lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// With all confirmations.
    pub(crate) min: Duration,
    /// With none.
    pub(crate) max: Duration,
    /// How many confirmations are all. With 0 there is nobody to ask, and the health of this node decides.
    pub(crate) confirmations: usize,
}

/// By how much the shortest suspicion is stretched at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stretch {
    /// Every one, because so many are suspected at once; 1 is not at all.
    pub(crate) crowd: f64,
    /// Those that nobody can confirm, because this node is not well; 1 is not at all.
    pub(crate) alone: u32,
}

/// All running suspicions.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    by_id: BTreeMap<NodeId, Suspicion>,
    by_deadline: BTreeSet<(Timestamp, NodeId)>,
    /// Who refuted what others said.
    proven: BTreeMap<NodeId, Proven>,
    /// The same in the order of time.
    proven_until: BTreeSet<(Timestamp, NodeId)>,
    /// Those of them of whom hearsay waits.
    waiting: BTreeSet<(Timestamp, NodeId)>,
}

#[derive(Debug)]
struct Suspicion {
    started: Timestamp,
    span: Span,
    /// What began it.
    first: Arc<Accusation>,
    /// Who suspects, the first one included.
    by: Vec<NodeId>,
    /// It was told again.
    reminded: bool,
    /// Too many were suspected at once when it would have ended: it ends no sooner than this.
    postponed: Option<Timestamp>,
}

#[derive(Debug)]
struct Proven {
    /// Until then hearsay does not count against it.
    until: Timestamp,
    /// But then it does, if no newer word of the member's has come: it may not be told again.
    waiting: Option<Arc<Accusation>>,
}

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Half of the shortest time is over: tell again what began it.
    Reminder(Arc<Accusation>),
    /// Nobody refuted in time.
    End(NodeId),
    /// Hearsay that did not count when it came.
    Hearsay(Arc<Accusation>),
}

impl Suspicions {
    /// Starts to suspect. A suspicion that runs already goes on.
    pub(crate) fn start(&mut self, now: Timestamp, first: Arc<Accusation>, span: Span) {
        let (id, accuser) = (first.subject(), first.accuser());
        if self.by_id.contains_key(&id) {
            return;
        }
        let span = Span { confirmations: span.confirmations.min(CONFIRMATIONS_MAX), ..span };
        let by = vec![accuser];
        let suspicion = Suspicion { started: now, span, first, by, reminded: false, postponed: None };
        self.by_deadline.insert((suspicion.next(), id));
        self.by_id.insert(id, suspicion);
    }

    /// Whether it is news that `by` suspects the same, and counts.
    pub(crate) fn is_confirmation(&self, id: &NodeId, by: &NodeId) -> bool {
        let is_news = |suspicion: &Suspicion| {
            suspicion.by.len() <= suspicion.span.confirmations && !suspicion.by.contains(by)
        };
        self.by_id.get(id).is_some_and(is_news)
    }

    /// Another member suspects the same. Returns whether that was news and counts.
    pub(crate) fn confirm(&mut self, id: NodeId, by: NodeId) -> bool {
        if !self.is_confirmation(&id, &by) {
            return false;
        }
        let Some(suspicion) = self.by_id.get_mut(&id) else { return false };
        self.by_deadline.remove(&(suspicion.next(), id));
        suspicion.by.push(by);
        self.by_deadline.insert((suspicion.next(), id));
        true
    }

    /// The subject refuted, left or died.
    pub(crate) fn end(&mut self, id: &NodeId) {
        if let Some(suspicion) = self.by_id.remove(id) {
            self.by_deadline.remove(&(suspicion.next(), *id));
        }
    }

    /// Somebody refuted what others said: until `until` it takes more than hearsay to suspect it. Whoever lies about others
    /// could otherwise have each of them refute, and the whole mesh pass that on, as often as it lies.
    pub(crate) fn prove(&mut self, now: Timestamp, id: NodeId, until: Timestamp) {
        while let Some((at, other)) = self.proven_until.first().copied()
            && at <= now
            && !self.waiting.contains(&(at, other))
        {
            self.unprove(&other);
        }
        self.unprove(&id);
        if self.proven.len() < PROVEN_MAX {
            self.proven.insert(id, Proven { until, waiting: None });
            self.proven_until.insert((until, id));
        }
    }

    fn unprove(&mut self, id: &NodeId) -> Option<Arc<Accusation>> {
        let Proven { until, waiting } = self.proven.remove(id)?;
        self.proven_until.remove(&(until, *id));
        self.waiting.remove(&(until, *id));
        waiting
    }

    /// Hearsay about somebody who [is proven](Self::is_proven) has to wait. One piece does.
    pub(crate) fn put_off(&mut self, accusation: &Arc<Accusation>) {
        let id = accusation.subject();
        if let Some(proven) = self.proven.get_mut(&id)
            && proven.waiting.is_none()
        {
            proven.waiting = Some(accusation.clone());
            self.waiting.insert((proven.until, id));
        }
    }

    /// Whether hearsay about a member waits.
    pub(crate) fn is_put_off(&self, id: &NodeId) -> bool {
        self.proven.get(id).is_some_and(|proven| proven.waiting.is_some())
    }

    /// Whether hearsay does not count against a member now.
    pub(crate) fn is_proven(&self, now: Timestamp, id: &NodeId) -> bool {
        self.proven.get(id).is_some_and(|proven| proven.until > now)
    }

    /// When something is due.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let firsts = [self.by_deadline.first(), self.waiting.first()];
        firsts.into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// Takes what is due by `now`; the shortest suspicion is `stretch` times as long as it was when it started.
    pub(crate) fn due(&mut self, now: Timestamp, stretch: Stretch) -> Option<Due> {
        if let Some((at, id)) = self.waiting.first().copied()
            && at <= now
        {
            return self.unprove(&id).map(Due::Hearsay);
        }
        loop {
            let (at, id) = *self.by_deadline.first()?;
            if at > now {
                return None;
            }
            self.by_deadline.pop_first();
            let suspicion = self.by_id.get_mut(&id)?;
            let reminds = !suspicion.reminded;
            suspicion.reminded = true;
            suspicion.postponed = Some(suspicion.started + suspicion.span.shortest(stretch));
            if !reminds && suspicion.next() <= now {
                self.by_id.remove(&id);
                return Some(Due::End(id));
            }
            self.by_deadline.insert((suspicion.next(), id));
            if reminds {
                return Some(Due::Reminder(suspicion.first.clone()));
            }
        }
    }

    /// Those who are suspected by nobody else.
    pub(crate) fn only_by(&self, accuser: &NodeId) -> impl Iterator<Item = NodeId> {
        let alone = move |(_, suspicion): &(&NodeId, &Suspicion)| suspicion.by == [*accuser];
        self.by_id.iter().filter(alone).map(|(id, _)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn proven_len(&self) -> usize {
        self.proven.len()
    }
}

impl Span {
    fn shortest(self, stretch: Stretch) -> Duration {
        let alone = if self.confirmations == 0 { (self.min * stretch.alone).min(self.max) } else { self.min };
        self.min.mul_f64(stretch.crowd).max(alone)
    }
}

impl Suspicion {
    /// When to do something about it: first to tell it again, then to end it. No suspicion is shorter than its shortest time,
    /// so that the former comes first.
    fn next(&self) -> Timestamp {
        if !self.reminded {
            return self.started + self.span.min / 2;
        }
        self.postponed.map_or(self.deadline(), |at| at.max(self.deadline()))
    }

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
    use macula_proto::SecretKey;

    use super::*;
    use crate::Incarnation;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs_f64(seconds))
    }

    fn span(confirmations: usize) -> Span {
        Span { min: Duration::from_secs(4), max: Duration::from_secs(24), confirmations }
    }

    /// Nothing is stretched.
    const WELL: Stretch = among(1.0);

    const fn among(crowd: f64) -> Stretch {
        Stretch { crowd, alone: 1 }
    }

    const ID: NodeId = NodeId::from_bytes([1; 32]);

    fn by(n: u8) -> NodeId {
        key(n).node_id()
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    /// The first word of `n` about [`ID`].
    fn word(n: u8) -> Arc<Accusation> {
        Arc::new(Accusation::new(&key(n), ID, Incarnation(1)))
    }

    #[test]
    fn each_independent_confirmation_brings_the_end_nearer() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Timestamp::ZERO, word(1), span(3));
        assert_eq!(suspicions.due(at(2.0), WELL), Some(Due::Reminder(word(1))));
        assert_eq!(suspicions.deadline(), Some(at(24.0)));
        assert!(!suspicions.confirm(ID, by(1)), "the same member again is no confirmation");
        assert!(suspicions.confirm(ID, by(2)));
        assert_eq!(suspicions.deadline(), Some(at(14.0)));
        assert!(suspicions.confirm(ID, by(3)));
        assert!(suspicions.confirm(ID, by(4)));
        assert_eq!(suspicions.deadline(), Some(at(4.0)));
        assert!(!suspicions.confirm(ID, by(5)), "more than all changes nothing");
        assert_eq!(suspicions.due(at(3.9), WELL), None);
        assert_eq!(suspicions.due(at(4.0), WELL), Some(Due::End(ID)));
        assert_eq!(suspicions.len(), 0);
    }

    #[test]
    fn where_nobody_can_confirm_the_shortest_time_holds() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Timestamp::ZERO, word(1), span(0));
        assert_eq!(suspicions.due(at(4.0), WELL), Some(Due::Reminder(word(1))));
        assert_eq!(suspicions.deadline(), Some(at(4.0)));
        suspicions.end(&ID);
        assert_eq!(suspicions.deadline(), None);
    }

    #[test]
    fn a_suspicion_is_told_again_once_at_half_its_shortest_time() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Timestamp::ZERO, word(1), span(1));
        assert_eq!(suspicions.deadline(), Some(at(2.0)));
        assert!(suspicions.confirm(ID, by(2)), "all confirm: the shortest time");
        assert_eq!(suspicions.due(at(1.9), WELL), None);
        assert_eq!(suspicions.due(at(2.0), WELL), Some(Due::Reminder(word(1))));
        assert_eq!(suspicions.due(at(2.0), WELL), None);
        assert_eq!(suspicions.due(at(4.0), WELL), Some(Due::End(ID)));
        assert_eq!((suspicions.due(at(9.0), WELL), suspicions.len()), (None, 0));
    }

    #[test]
    fn who_refuted_is_proven_for_a_while_and_then_forgotten() {
        let (mut suspicions, other) = (Suspicions::default(), NodeId::from_bytes([2; 32]));
        suspicions.prove(at(0.0), ID, at(4.0));
        suspicions.prove(at(1.0), ID, at(5.0));
        assert!(suspicions.is_proven(at(4.9), &ID) && !suspicions.is_proven(at(5.0), &ID));
        suspicions.prove(at(5.0), other, at(8.0));
        assert_eq!((suspicions.proven_len(), suspicions.proven_until.len()), (1, 1));
        for number in 0..PROVEN_MAX as u64 + 1 {
            let mut bytes = [3; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            suspicions.prove(at(5.0), NodeId::from_bytes(bytes), at(9.0));
        }
        assert_eq!((suspicions.proven_len(), suspicions.proven_until.len()), (PROVEN_MAX, PROVEN_MAX));
    }

    #[test]
    fn hearsay_about_the_proven_waits_until_they_are_proven_no_more() {
        let mut suspicions = Suspicions::default();
        suspicions.put_off(&word(1));
        assert_eq!((suspicions.deadline(), suspicions.is_put_off(&ID)), (None, false), "not proven");
        suspicions.prove(at(0.0), ID, at(4.0));
        for n in [1, 2] {
            suspicions.put_off(&word(n));
        }
        assert_eq!((suspicions.deadline(), suspicions.due(at(3.9), WELL)), (Some(at(4.0)), None));
        assert_eq!(suspicions.due(at(4.0), WELL), Some(Due::Hearsay(word(1))));
        assert_eq!((suspicions.due(at(9.0), WELL), suspicions.proven_len()), (None, 0));
        suspicions.prove(at(9.0), ID, at(13.0));
        suspicions.put_off(&word(1));
        suspicions.prove(at(10.0), ID, at(14.0));
        assert_eq!(suspicions.deadline(), None, "a newer word has come");
    }

    #[test]
    fn a_suspicion_among_many_ends_later_and_is_asked_again_then() {
        let mut suspicions = Suspicions::default();
        suspicions.start(Timestamp::ZERO, word(1), span(0));
        assert_eq!(suspicions.due(at(2.0), WELL), Some(Due::Reminder(word(1))));
        assert_eq!(suspicions.due(at(4.0), among(2.5)), None);
        assert_eq!(suspicions.deadline(), Some(at(10.0)));
        assert_eq!(suspicions.due(at(10.0), among(3.0)), None);
        assert_eq!(suspicions.due(at(12.0), WELL), Some(Due::End(ID)));
    }

    #[test]
    fn who_is_not_well_and_alone_with_a_suspicion_waits_longer_but_not_for_ever() {
        let unwell = Stretch { crowd: 1.0, alone: 9 };
        let (mut alone, mut asked) = (Suspicions::default(), Suspicions::default());
        alone.start(Timestamp::ZERO, word(1), span(0));
        asked.start(Timestamp::ZERO, word(1), span(1));
        assert!(asked.confirm(ID, by(2)));
        for suspicions in [&mut alone, &mut asked] {
            assert_eq!(suspicions.due(at(2.0), unwell), Some(Due::Reminder(word(1))));
        }
        assert_eq!(asked.due(at(4.0), unwell), Some(Due::End(ID)), "another says so too");
        assert_eq!(alone.due(at(23.9), unwell), None);
        assert_eq!(alone.due(at(24.0), unwell), Some(Due::End(ID)), "the longest time holds");
    }
}
