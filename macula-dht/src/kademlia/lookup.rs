//! The iterative lookup (Maymounkov & Mazières 2002, §2.3), with disjoint paths on request (S/Kademlia, §4.4).
//!
//! ```text
//!              poll: ask it             answered
//!   ┌───────┐ ──────────────► ┌───────┐ ────────► ┌──────────┐
//!   │ Fresh │                 │ Asked │           │ Answered │
//!   └───────┘ ◄────────────── └───┬───┘ ◄──┐      └──────────┘
//!              next page wanted   │ slow   │           ▲
//!                             ┌───▼───┐    │ answered  │
//!                             │ Slow  ├────┴───────────┘
//!                             └───┬───┘  failed   ┌────────┐
//!                                 └──────────────►│ Failed │
//!                                                 └────────┘
//! ```
//!
//! Who is referred to by nodes whose referrals came to nothing is asked last: see [`Credit`].
//!
//! A peer that is slow keeps its chance to answer, but holds up nobody: it does not count among those under way, and
//! the next closest is asked in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::limits::CONTACT_ADDRS_MAX;
use macula_proto::{Contact, Distance, Key, NodeId, Timestamp};

use super::credit::Credit;
use super::message::Find;
use super::record::SignedRecord;

/// Pages that are read from one holder, at most.
const PAGES_MAX: u32 = 16;

/// Candidates kept, in multiples of the number wanted.
const CANDIDATES_FACTOR: usize = 8;

/// Referrers of one candidate that are remembered.
const REFERRERS_MAX: usize = 20;

/// What a lookup is for, and how far it may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    /// Near what.
    pub(super) target: Key,
    /// How many of the closest nodes are to answer.
    pub(super) want: usize,
    /// Collect records.
    pub(super) records: bool,
    /// Register a watch for so long.
    pub(super) watch: Option<Duration>,
    /// End once so many holders gave the same complete answer; `None`: hear all out.
    pub(super) agree: Option<usize>,
    /// Node-disjoint paths: more make it harder for hostile nodes to capture the lookup. 1 is the usual.
    pub(super) paths: usize,
    /// Requests under way on each path, at first.
    pub(super) alpha: usize,
    /// The most that it grows to.
    pub(super) alpha_max: usize,
    /// Requests in all.
    pub(super) requests_max: usize,
    /// Referrals of referrals.
    pub(super) hops_max: u32,
    /// When it ends, with what there is.
    pub(super) deadline: Timestamp,
}

/// A checked answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// Referrals.
    pub(super) contacts: Vec<Contact>,
    /// Records whose signatures were checked.
    pub(super) records: Vec<Arc<SignedRecord>>,
    /// How many the holder has.
    pub(super) estimate: usize,
    /// There are further pages.
    pub(super) more: bool,
}

/// One lookup on its way.
#[derive(Debug)]
pub(super) struct Lookup {
    goal: Goal,
    own: NodeId,
    started: Timestamp,
    paths: Vec<Path>,
    /// On several paths: who belongs to one already.
    taken: BTreeSet<NodeId>,
    records: BTreeMap<NodeId, Arc<SignedRecord>>,
    estimate: usize,
    requests: usize,
    hedged: usize,
    steps: Vec<LookupStep>,
}

#[derive(Debug)]
struct Path {
    candidates: BTreeMap<Distance, Candidate>,
    credit: Credit,
    alpha: usize,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    state: State,
    /// Who referred to it; nobody had to if the own table has it.
    referrers: Vec<NodeId>,
    /// How many nodes were asked one after the other to get here; 1 for those of the own table.
    hops: u32,
    after: Option<NodeId>,
    pages: u32,
    /// What it holds, in a number that does not depend on order; `None` until all of it is here.
    complete: Option<u64>,
    fingerprint: u64,
    live: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Asked(Timestamp),
    Slow,
    Answered,
    Failed,
}

/// One question of a lookup, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupStep {
    /// Which round: the asked node was found by so many referrals, plus one.
    pub round: u32,
    /// Who was asked.
    pub peer: Contact,
    /// How many leading bits its id shares with the target.
    pub shared_bits: u32,
    /// When, counted from the lookup's start.
    pub asked: Duration,
    /// How long it took until the outcome; until the lookup's end if there was none.
    pub took: Option<Duration>,
    /// What came of it.
    pub outcome: StepOutcome,
}

/// See [`LookupStep::outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// The lookup ended before the answer.
    Unanswered,
    /// It answered.
    Answered {
        /// Contacts in the answer.
        contacts: usize,
        /// Records in the answer.
        records: usize,
    },
    /// It did not answer in time, or could not be reached.
    Failed,
}

/// How a lookup went, question by question.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupTrace {
    /// What was looked up.
    pub key: Key,
    /// How long it took.
    pub took: Duration,
    /// Every question, in the order in which they were asked.
    pub steps: Vec<LookupStep>,
    /// The closest nodes that answered, closest first.
    pub closest: Vec<Contact>,
    /// How many nodes were asked one after the other to get to the closest.
    pub hops: u32,
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// The closest nodes that answered, closest first; at most as many as wanted.
    pub(super) closest: Vec<Contact>,
    /// The newest record of each announcer, withdrawals included.
    pub(super) records: BTreeMap<NodeId, Arc<SignedRecord>>,
    /// Live records that there seem to be besides these: the answers were samples.
    pub(super) unseen: usize,
    /// How many were asked.
    pub(super) asked: usize,
    /// How many answered.
    pub(super) answered: usize,
    /// How many were slow.
    pub(super) hedged: usize,
    /// How it went.
    pub(super) trace: LookupTrace,
}

impl Lookup {
    /// Starts from the contacts that are known, at `now`, in the name of `own`.
    pub(super) fn new(now: Timestamp, own: NodeId, goal: Goal, seeds: Vec<Contact>) -> Self {
        let count = goal.paths.max(1);
        let path =
            || Path { candidates: BTreeMap::new(), credit: Credit::default(), alpha: goal.alpha.max(1) };
        let mut lookup = Self {
            goal,
            own,
            started: now,
            paths: std::iter::repeat_with(path).take(count).collect(),
            taken: BTreeSet::new(),
            records: BTreeMap::new(),
            estimate: 0,
            requests: 0,
            hedged: 0,
            steps: Vec::new(),
        };
        for (n, seed) in seeds.into_iter().enumerate() {
            lookup.refer(n % count, seed, 1, None);
        }
        lookup
    }

    /// What it looks for.
    pub(super) fn goal(&self) -> &Goal {
        &self.goal
    }

    /// The newest record of one announcer so far: an equal envelope need not be checked again.
    pub(super) fn record_of(&self, announcer: &NodeId) -> Option<&Arc<SignedRecord>> {
        self.records.get(announcer)
    }

    /// Whom to ask now. Peers that have not answered for `hedge_after` are from now on slow.
    pub(super) fn poll(&mut self, now: Timestamp, hedge_after: Duration, out: &mut Vec<(Contact, Find)>) {
        for at in 0..self.paths.len() {
            self.hedged += self.paths[at].hedge(now, hedge_after);
            while self.requests < self.goal.requests_max
                && self.paths[at].under_way() < self.paths[at].alpha
                && let Some(distance) = self.paths[at].next(self.goal.want)
            {
                out.push(self.ask(at, distance, now));
            }
        }
    }

    /// When [`poll`](Self::poll) has something to do without an answer.
    pub(super) fn next_hedge(&self, hedge_after: Duration) -> Option<Timestamp> {
        let asked = self.paths.iter().flat_map(|path| path.candidates.values());
        let oldest = asked.filter_map(|candidate| match candidate.state {
            State::Asked(at) => Some(at),
            State::Fresh | State::Slow | State::Answered | State::Failed => None,
        });
        oldest.min().map(|at| at + hedge_after)
    }

    /// A peer answered.
    pub(super) fn answered(&mut self, now: Timestamp, from: &NodeId, answer: Answer) {
        let distance = self.goal.target.distance(&(*from).into());
        let Some(at) = self.path_awaiting(&distance) else { return };
        self.step(
            now,
            from,
            StepOutcome::Answered { contacts: answer.contacts.len(), records: answer.records.len() },
        );
        self.collect(&answer);
        let path = &mut self.paths[at];
        let closest_before = path.candidates.keys().next().copied();
        let candidate = path.candidates.get_mut(&distance).expect("path_awaiting found it");
        let hops = candidate.hops;
        path.credit.answered(&candidate.referrers, candidate.state == State::Slow);
        candidate.take(&answer);
        // Only a sample leaves more than was given; what another holder missed hearing of is no such thing.
        if candidate.state == State::Answered && candidate.live < answer.estimate {
            self.estimate = self.estimate.max(answer.estimate);
        }
        for contact in answer.contacts.into_iter().take(self.goal.want.max(20)) {
            self.refer(at, contact, hops + 1, Some(*from));
        }
        self.paths[at].adapt(closest_before, self.goal.alpha_max);
        self.paths[at].trim(self.goal.want);
    }

    /// A peer did not answer, or could not be reached.
    pub(super) fn failed(&mut self, now: Timestamp, id: &NodeId) {
        let distance = self.goal.target.distance(&(*id).into());
        let Some(at) = self.path_awaiting(&distance) else { return };
        self.step(now, id, StepOutcome::Failed);
        let path = &mut self.paths[at];
        if let Some(candidate) = path.candidates.get_mut(&distance) {
            if candidate.state != State::Slow {
                path.credit.silent(&candidate.referrers);
            }
            candidate.state = State::Failed;
        }
    }

    /// Whether there is nothing more to wait for.
    pub(super) fn is_done(&self, now: Timestamp) -> bool {
        let spent = self.requests >= self.goal.requests_max;
        now >= self.goal.deadline
            || self.holders_agree()
            || self.paths.iter().all(|path| path.is_settled(self.goal.want, spent))
    }

    /// Ends it.
    pub(super) fn finish(self, now: Timestamp) -> Outcome {
        let mut answered: Vec<(Distance, u32, Contact)> = Vec::new();
        for path in self.paths {
            let candidates = path.candidates.into_iter();
            answered.extend(
                candidates
                    .filter(|(_, candidate)| candidate.state == State::Answered || candidate.pages > 0)
                    .map(|(distance, candidate)| (distance, candidate.hops, candidate.contact)),
            );
        }
        answered.sort_by_key(|(distance, ..)| *distance);
        let hops = answered.first().map_or(0, |(_, hops, _)| *hops);
        let count = answered.len();
        let closest: Vec<Contact> =
            answered.into_iter().take(self.goal.want).map(|(_, _, contact)| contact).collect();
        let live = self.records.values().filter(|record| !record.body().withdrawn).count();
        Outcome {
            closest: closest.clone(),
            unseen: self.estimate.saturating_sub(live),
            records: self.records,
            asked: self.requests,
            answered: count,
            hedged: self.hedged,
            trace: LookupTrace {
                key: self.goal.target,
                took: now - self.started,
                steps: self.steps,
                closest,
                hops,
            },
        }
    }

    /// A candidate, if it is new and not too far down a chain of referrals.
    fn refer(&mut self, at: usize, contact: Contact, hops: u32, by: Option<NodeId>) {
        if contact.id == self.own || contact.addrs.is_empty() || hops > self.goal.hops_max {
            return;
        }
        let distance = self.goal.target.distance(&contact.id.into());
        if let Some(known) = self.paths[at].candidates.get_mut(&distance) {
            known.merge_addrs(&contact);
            known.name(by);
            return;
        }
        if self.paths.len() > 1 && !self.taken.insert(contact.id) {
            return;
        }
        self.paths[at].candidates.insert(distance, Candidate::new(contact, hops, by));
    }

    fn ask(&mut self, at: usize, distance: Distance, now: Timestamp) -> (Contact, Find) {
        let candidate = self.paths[at].candidates.get_mut(&distance).expect("next() found it");
        candidate.state = State::Asked(now);
        self.requests += 1;
        self.steps.push(LookupStep {
            round: candidate.hops,
            peer: candidate.contact.clone(),
            shared_bits: distance.leading_zeros(),
            asked: now - self.started,
            took: None,
            outcome: StepOutcome::Unanswered,
        });
        let goal = &self.goal;
        let find =
            Find { key: goal.target, records: goal.records, watch: goal.watch, after: candidate.after };
        (candidate.contact.clone(), find)
    }

    fn path_awaiting(&self, distance: &Distance) -> Option<usize> {
        let awaits = |path: &Path| {
            let state = path.candidates.get(distance).map(|candidate| candidate.state);
            matches!(state, Some(State::Asked(_) | State::Slow))
        };
        self.paths.iter().position(awaits)
    }

    fn step(&mut self, now: Timestamp, peer: &NodeId, outcome: StepOutcome) {
        let started = self.started;
        let asked = |step: &&mut LookupStep| step.peer.id == *peer && step.took.is_none();
        if let Some(step) = self.steps.iter_mut().rev().find(asked) {
            step.took = Some(now.since(started + step.asked));
            step.outcome = outcome;
        }
    }

    fn collect(&mut self, answer: &Answer) {
        for record in &answer.records {
            let announcer = record.body().announcer.id;
            let is_news = |held: &Arc<SignedRecord>| held.body().sequence < record.body().sequence;
            if self.records.get(&announcer).is_none_or(is_news) {
                self.records.insert(announcer, record.clone());
            }
        }
    }

    /// Enough holders have all that was found, and nothing else.
    fn holders_agree(&self) -> bool {
        let Some(agree) = self.goal.agree else { return false };
        if self.records.is_empty() || self.paths.len() > 1 {
            return false;
        }
        let all = self.records.values().fold(0, |sum, record| sum ^ fingerprint(record));
        let candidates = self.paths.iter().flat_map(|path| path.candidates.values());
        candidates.filter(|candidate| candidate.complete == Some(all)).count() >= agree
    }
}

impl Path {
    fn under_way(&self) -> usize {
        self.candidates.values().filter(|candidate| matches!(candidate.state, State::Asked(_))).count()
    }

    /// Those that count: the closest ones that neither failed nor dawdle, nor are merely named by nodes without credit.
    fn top(&self, want: usize) -> impl Iterator<Item = (&Distance, &Candidate)> {
        let counts = |(_, candidate): &(&Distance, &Candidate)| match candidate.state {
            State::Failed | State::Slow => false,
            State::Asked(_) | State::Answered => true,
            State::Fresh => !self.is_doubtful(candidate),
        };
        self.candidates.iter().filter(counts).take(want)
    }

    fn is_doubtful(&self, candidate: &Candidate) -> bool {
        candidate.state == State::Fresh && candidate.pages == 0 && !self.credit.is_good(&candidate.referrers)
    }

    fn next(&self, want: usize) -> Option<Distance> {
        let mut count = 0;
        for (distance, candidate) in self.top(want) {
            if candidate.state == State::Fresh {
                return Some(*distance);
            }
            count += 1;
        }
        // With too few others, the doubtful ones are worth a try.
        let mut doubtful = self.candidates.iter().filter(|(_, candidate)| self.is_doubtful(candidate));
        (count < want).then(|| doubtful.next().map(|(distance, _)| *distance)).flatten()
    }

    fn hedge(&mut self, now: Timestamp, hedge_after: Duration) -> usize {
        let mut hedged = 0;
        for candidate in self.candidates.values_mut() {
            if matches!(candidate.state, State::Asked(at) if at + hedge_after <= now) {
                candidate.state = State::Slow;
                self.credit.silent(&candidate.referrers);
                hedged += 1;
            }
        }
        hedged
    }

    /// Once answers bring nothing closer, only hearing out is left: do more of it at once.
    fn adapt(&mut self, closest_before: Option<Distance>, alpha_max: usize) {
        if self.candidates.keys().next().copied() == closest_before {
            self.alpha = (self.alpha * 2).min(alpha_max.max(self.alpha));
        }
    }

    /// Forgets the farthest of those never asked, the doubtful ones first.
    fn trim(&mut self, want: usize) {
        while self.candidates.len() > CANDIDATES_FACTOR * want.max(20) {
            let farthest = |is_next: &dyn Fn(&Candidate) -> bool| {
                self.candidates.iter().rev().find(|(_, it)| is_next(it)).map(|(distance, _)| *distance)
            };
            let doubtful = farthest(&|it| self.is_doubtful(it));
            let Some(farthest) = doubtful.or_else(|| farthest(&|it| it.state == State::Fresh)) else { break };
            self.candidates.remove(&farthest);
        }
    }

    fn is_settled(&self, want: usize, spent: bool) -> bool {
        let mut answered = 0;
        for (_, candidate) in self.top(want) {
            match candidate.state {
                State::Answered => answered += 1,
                State::Fresh if spent => {}
                State::Fresh | State::Asked(_) | State::Slow | State::Failed => return false,
            }
        }
        // With too few answers, the slow ones are worth waiting for unless they are doubtful, and the doubtful ones worth
        // asking.
        let is_worth_it = |candidate: &Candidate| match candidate.state {
            State::Slow => self.credit.is_good(&candidate.referrers),
            State::Fresh => !spent,
            State::Asked(_) | State::Answered | State::Failed => false,
        };
        answered >= want || !self.candidates.values().any(is_worth_it)
    }
}

impl Candidate {
    fn new(contact: Contact, hops: u32, by: Option<NodeId>) -> Self {
        Self {
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

    /// Notes an answer; a further page is asked for like the first.
    fn take(&mut self, answer: &Answer) {
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
    fn merge_addrs(&mut self, other: &Contact) {
        if self.state != State::Fresh {
            return;
        }
        for addr in &other.addrs {
            if self.contact.addrs.len() < CONTACT_ADDRS_MAX && !self.contact.addrs.contains(addr) {
                self.contact.addrs.push(*addr);
            }
        }
    }
}

/// FNV-1a of what identifies a record's version.
fn fingerprint(record: &SignedRecord) -> u64 {
    let body = record.body();
    let sequence = body.sequence.to_be_bytes();
    let bytes = body.announcer.id.as_bytes().iter().chain(&sequence);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[path = "lookup_test.rs"]
mod tests;
