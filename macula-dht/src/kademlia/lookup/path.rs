//! One way of a lookup: its candidates, and who of them is next.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::limits::CONTACT_ADDRS_MAX;
use macula_proto::{Contact, Distance, NodeId, Timestamp};

use super::super::config::SubnetLimits;
use super::super::credit::Credit;
use super::super::record::SignedRecord;
use super::super::subnet::{Subnet, Tally};
use super::Answer;

/// Pages that are read from one holder, at most.
const PAGES_MAX: u32 = 16;

/// So long a lookup that has other answers waits for slow peers: in a small mesh, somebody dead would hold up every lookup
/// until its request fails.
pub(super) const SLOW_MAX: Duration = Duration::from_secs(1);

/// Candidates kept, in multiples of the number wanted.
const CANDIDATES_FACTOR: usize = 8;

/// Referrers of one candidate that are remembered.
const REFERRERS_MAX: usize = 20;

/// Those asked, by subnet: whoever has failed does not count, so nobody can be kept from being asked by naming made-up
/// neighbours of it.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) limits: SubnetLimits,
    asked: Tally,
}

impl Crowd {
    pub(super) fn new(limits: SubnetLimits) -> Self {
        Self { limits, asked: Tally::default() }
    }

    fn has_room(&self, candidate: &Candidate) -> bool {
        self.asked.has_room(&candidate.subnets, self.limits.lookup_max)
    }
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) candidates: BTreeMap<Distance, Candidate>,
    pub(super) credit: Credit,
    pub(super) alpha: usize,
    pub(super) requests: usize,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) contact: Contact,
    pub(super) state: State,
    /// Who referred to it; nobody had to if the own table has it.
    pub(super) referrers: Vec<NodeId>,
    /// How many nodes were asked one after the other to get here; 1 for those of the own table.
    pub(super) hops: u32,
    pub(super) after: Option<NodeId>,
    pub(super) pages: u32,
    /// What it holds, in a number that does not depend on order; `None` until all of it is here.
    pub(super) complete: Option<u64>,
    fingerprint: u64,
    pub(super) live: usize,
    subnets: Vec<Subnet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fresh,
    Asked(Timestamp),
    /// Since then.
    Slow(Timestamp),
    Answered,
    Failed,
}

impl Path {
    pub(super) fn new(alpha: usize) -> Self {
        Self { candidates: BTreeMap::new(), credit: Credit::default(), alpha: alpha.max(1), requests: 0 }
    }

    /// A candidate that somebody named, or the own table.
    pub(super) fn refer(
        &mut self,
        distance: Distance,
        contact: Contact,
        hops: u32,
        by: Option<NodeId>,
        limits: &SubnetLimits,
    ) {
        match self.candidates.get_mut(&distance) {
            Some(known) => {
                known.merge_addrs(&contact, limits);
                known.name(by);
            }
            None => {
                self.candidates.insert(distance, Candidate::new(contact, hops, by, limits));
            }
        }
    }

    /// The candidate is asked from now on.
    pub(super) fn ask(&mut self, distance: &Distance, now: Timestamp, crowd: &mut Crowd) -> &Candidate {
        let candidate = self.candidates.get_mut(distance).expect("next() found it");
        if candidate.pages == 0 {
            crowd.asked.add(&candidate.subnets);
        }
        candidate.state = State::Asked(now);
        self.requests += 1;
        candidate
    }

    /// The candidate did not answer, or could not be reached.
    pub(super) fn fail(&mut self, distance: &Distance, crowd: &mut Crowd) {
        if let Some(candidate) = self.candidates.get_mut(distance) {
            if !matches!(candidate.state, State::Slow(_)) {
                self.credit.silent(&candidate.referrers);
            }
            if candidate.pages == 0 {
                crowd.asked.remove(&candidate.subnets);
            }
            candidate.state = State::Failed;
        }
    }

    pub(super) fn awaits(&self, distance: &Distance) -> bool {
        let state = self.candidates.get(distance).map(|candidate| candidate.state);
        matches!(state, Some(State::Asked(_) | State::Slow(_)))
    }

    pub(super) fn under_way(&self) -> usize {
        self.candidates.values().filter(|candidate| matches!(candidate.state, State::Asked(_))).count()
    }

    /// Those that count: the closest ones that neither failed nor dawdle, nor are merely named by nodes without credit, nor
    /// of a subnet of which enough were asked.
    fn top<'a>(
        &'a self,
        want: usize,
        crowd: &'a Crowd,
    ) -> impl Iterator<Item = (&'a Distance, &'a Candidate)> {
        let counts = |(_, candidate): &(&Distance, &Candidate)| match candidate.state {
            State::Failed | State::Slow(_) => false,
            State::Asked(_) | State::Answered => true,
            State::Fresh => !self.is_doubtful(candidate) && candidate.is_allowed(crowd),
        };
        self.candidates.iter().filter(counts).take(want)
    }

    fn is_doubtful(&self, candidate: &Candidate) -> bool {
        candidate.state == State::Fresh && candidate.pages == 0 && !self.credit.is_good(&candidate.referrers)
    }

    pub(super) fn next(&self, want: usize, crowd: &Crowd) -> Option<Distance> {
        let mut count = 0;
        for (distance, candidate) in self.top(want, crowd) {
            if candidate.state == State::Fresh {
                return Some(*distance);
            }
            count += 1;
        }
        // With too few others, the doubtful ones are worth a try.
        let is_next = |(_, it): &(&Distance, &Candidate)| self.is_doubtful(it) && it.is_allowed(crowd);
        let mut doubtful = self.candidates.iter().filter(is_next);
        (count < want).then(|| doubtful.next().map(|(distance, _)| *distance)).flatten()
    }

    pub(super) fn hedge(&mut self, now: Timestamp, hedge_after: Duration) -> usize {
        let mut hedged = 0;
        for candidate in self.candidates.values_mut() {
            if matches!(candidate.state, State::Asked(at) if at + hedge_after <= now) {
                candidate.state = State::Slow(now);
                self.credit.silent(&candidate.referrers);
                hedged += 1;
            }
        }
        hedged
    }

    /// Once answers bring nothing closer, only hearing out is left: do more of it at once.
    pub(super) fn adapt(&mut self, closest_before: Option<Distance>, alpha_max: usize) {
        if self.candidates.keys().next().copied() == closest_before {
            self.alpha = (self.alpha * 2).min(alpha_max.max(self.alpha));
        }
    }

    /// Forgets the farthest of those never asked: first of subnets of which enough were asked, then the doubtful ones.
    pub(super) fn trim(&mut self, want: usize, crowd: &Crowd) {
        while self.candidates.len() > CANDIDATES_FACTOR * want.max(20) {
            let farthest = |is_next: &dyn Fn(&Candidate) -> bool| {
                let mut fresh = self.candidates.iter().rev().filter(|(_, it)| it.state == State::Fresh);
                fresh.find(|(_, it)| is_next(it)).map(|(distance, _)| *distance)
            };
            let farthest = farthest(&|it| !it.is_allowed(crowd))
                .or_else(|| farthest(&|it| self.is_doubtful(it)))
                .or_else(|| farthest(&|_| true));
            let Some(farthest) = farthest else { break };
            self.candidates.remove(&farthest);
        }
    }

    /// Whether it has heard out the closest; `spent`: it may ask nobody any more.
    pub(super) fn is_settled(&self, now: Timestamp, want: usize, spent: bool, crowd: &Crowd) -> bool {
        let mut answered = 0;
        for (_, candidate) in self.top(want, crowd) {
            match candidate.state {
                State::Answered => answered += 1,
                State::Fresh if spent => {}
                State::Fresh | State::Asked(_) | State::Slow(_) | State::Failed => return false,
            }
        }
        // With too few answers, the slow ones are worth waiting for a while unless they are doubtful, and the doubtful ones
        // worth asking. With none at all, a slow one is all that there is.
        let is_worth_it = |candidate: &Candidate| match candidate.state {
            State::Slow(since) => {
                self.credit.is_good(&candidate.referrers) && (answered == 0 || now < since + SLOW_MAX)
            }
            State::Fresh => !spent && candidate.is_allowed(crowd),
            State::Asked(_) | State::Answered | State::Failed => false,
        };
        answered >= want || !self.candidates.values().any(is_worth_it)
    }
}

impl Candidate {
    fn new(contact: Contact, hops: u32, by: Option<NodeId>, limits: &SubnetLimits) -> Self {
        Self {
            subnets: limits.subnets(&contact),
            contact,
            state: State::Fresh,
            referrers: by.into_iter().collect(),
            hops,
            after: None,
            pages: 0,
            complete: None,
            fingerprint: 0,
            live: 0,
        }
    }

    /// Whether its subnet has not had its share, or it was asked already and has more to say.
    fn is_allowed(&self, crowd: &Crowd) -> bool {
        self.pages > 0 || crowd.has_room(self)
    }

    /// Notes an answer; a further page is asked for like the first.
    pub(super) fn take(&mut self, answer: &Answer) {
        self.pages += 1;
        for record in &answer.records {
            self.fingerprint ^= fingerprint(record);
            self.live += usize::from(!record.body().withdrawn);
        }
        let last = answer.records.last().map(|record| record.body().announcer.id);
        self.state = State::Answered;
        if answer.more && last > self.after && self.pages < PAGES_MAX {
            self.after = last;
            self.state = State::Fresh;
        } else if !answer.more && self.live >= answer.estimate && self.live > 0 {
            self.complete = Some(self.fingerprint);
        }
    }

    /// Somebody else refers to it, too.
    fn name(&mut self, by: Option<NodeId>) {
        // Those that nobody had to refer to need no good word.
        if let Some(by) = by
            && (1..REFERRERS_MAX).contains(&self.referrers.len())
            && !self.referrers.contains(&by)
        {
            self.referrers.push(by);
        }
    }

    /// Two referrers may know different addresses; a wrong one must not hide the right one.
    fn merge_addrs(&mut self, other: &Contact, limits: &SubnetLimits) {
        if self.state != State::Fresh || self.pages > 0 {
            return;
        }
        for addr in &other.addrs {
            if self.contact.addrs.len() < CONTACT_ADDRS_MAX && !self.contact.addrs.contains(addr) {
                self.contact.addrs.push(*addr);
            }
        }
        self.subnets = limits.subnets(&self.contact);
    }
}

/// FNV-1a of what identifies a record's version.
pub(super) fn fingerprint(record: &SignedRecord) -> u64 {
    let body = record.body();
    let sequence = body.sequence.to_be_bytes();
    let bytes = body.announcer.id.as_bytes().iter().chain(&sequence);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
