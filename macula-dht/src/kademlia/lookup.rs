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
//! the next closest is asked in its place. Where there are too few others, the lookup waits for it a second longer.

mod path;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Distance, Key, NodeId, Timestamp};

use super::config::SubnetLimits;
use super::message::Find;
use super::record::SignedRecord;
use path::{Crowd, Path, SLOW_MAX, State, fingerprint};

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
    /// How many of one subnet may be asked.
    pub(super) subnets: SubnetLimits,
    /// Requests under way on each path, at first.
    pub(super) alpha: usize,
    /// The most that it grows to.
    pub(super) alpha_max: usize,
    /// Requests in all; each path has its part of them, so that none can use up the others'.
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
    /// Who was asked on one path and is lost to the others.
    taken: BTreeSet<NodeId>,
    crowd: Crowd,
    records: BTreeMap<NodeId, Arc<SignedRecord>>,
    estimate: usize,
    requests: usize,
    hedged: usize,
    steps: Vec<LookupStep>,
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
    /// Starts at `now` in the name of `own`: one path from each of `starts`.
    pub(super) fn new(now: Timestamp, own: NodeId, goal: Goal, starts: Vec<Vec<Contact>>) -> Self {
        let mut lookup = Self {
            own,
            started: now,
            paths: starts.iter().map(|_| Path::new(goal.alpha)).collect(),
            taken: BTreeSet::new(),
            crowd: Crowd::new(goal.subnets),
            records: BTreeMap::new(),
            estimate: 0,
            requests: 0,
            hedged: 0,
            steps: Vec::new(),
            goal,
        };
        for (at, start) in starts.into_iter().enumerate() {
            start.into_iter().for_each(|contact| lookup.refer(at, contact, 1, None));
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
        let want = self.want_each();
        for at in 0..self.paths.len() {
            self.hedged += self.paths[at].hedge(now, hedge_after);
            while !self.is_spent(&self.paths[at])
                && self.paths[at].under_way() < self.paths[at].alpha
                && let Some(distance) = self.paths[at].next(want, &self.crowd)
            {
                out.push(self.ask(at, distance, now));
            }
        }
    }

    /// When [`poll`](Self::poll) has something to do without an answer.
    pub(super) fn next_hedge(&self, now: Timestamp, hedge_after: Duration) -> Option<Timestamp> {
        let asked = self.paths.iter().flat_map(|path| path.candidates.values());
        let due = asked.filter_map(|candidate| match candidate.state {
            State::Asked(at) => Some(at + hedge_after),
            State::Slow(since) => Some(since + SLOW_MAX),
            State::Fresh | State::Answered | State::Failed => None,
        });
        due.filter(|at| *at > now).min()
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
        path.credit.answered(&candidate.referrers, matches!(candidate.state, State::Slow(_)));
        candidate.take(&answer);
        // Only a sample leaves more than was given; what another holder missed hearing of is no such thing.
        if candidate.state == State::Answered && candidate.live < answer.estimate {
            self.estimate = self.estimate.max(answer.estimate);
        }
        for contact in answer.contacts.into_iter().take(self.goal.want.max(20)) {
            self.refer(at, contact, hops + 1, Some(*from));
        }
        self.paths[at].adapt(closest_before, self.goal.alpha_max);
        self.paths[at].trim(self.goal.want, &self.crowd);
    }

    /// A peer did not answer, or could not be reached.
    pub(super) fn failed(&mut self, now: Timestamp, id: &NodeId) {
        let distance = self.goal.target.distance(&(*id).into());
        let Some(at) = self.path_awaiting(&distance) else { return };
        self.step(now, id, StepOutcome::Failed);
        self.paths[at].fail(&distance, &mut self.crowd);
    }

    /// Whether there is nothing more to wait for.
    pub(super) fn is_done(&self, now: Timestamp) -> bool {
        let want = self.want_each();
        let is_settled = |path: &Path| path.is_settled(now, want, self.is_spent(path), &self.crowd);
        now >= self.goal.deadline || self.holders_agree() || self.paths.iter().all(is_settled)
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
        if self.taken.contains(&contact.id) {
            // The path that asked it may still learn of more referrers, which is of no use any more.
            return;
        }
        let distance = self.goal.target.distance(&contact.id.into());
        self.paths[at].refer(distance, contact, hops, by, &self.crowd.limits);
    }

    /// How many answers each path is to bring: together twice as many as wanted, so that half of the paths may be lost.
    fn want_each(&self) -> usize {
        (2 * self.goal.want).div_ceil(self.paths.len().max(1)).min(self.goal.want)
    }

    fn is_spent(&self, path: &Path) -> bool {
        path.requests >= self.goal.requests_max / self.paths.len().max(1)
    }

    fn ask(&mut self, at: usize, distance: Distance, now: Timestamp) -> (Contact, Find) {
        let candidate = self.paths[at].ask(&distance, now, &mut self.crowd);
        let (contact, after) = (candidate.contact.clone(), candidate.after);
        self.requests += 1;
        self.steps.push(LookupStep {
            round: candidate.hops,
            peer: contact.clone(),
            shared_bits: distance.leading_zeros(),
            asked: now - self.started,
            took: None,
            outcome: StepOutcome::Unanswered,
        });
        if self.paths.len() > 1 && self.taken.insert(contact.id) {
            let others = self.paths.iter_mut().enumerate().filter(|(other, _)| *other != at);
            others.for_each(|(_, path)| {
                path.candidates.remove(&distance);
            });
        }
        let goal = &self.goal;
        (contact, Find { key: goal.target, records: goal.records, watch: goal.watch, after })
    }

    fn path_awaiting(&self, distance: &Distance) -> Option<usize> {
        self.paths.iter().position(|path| path.awaits(distance))
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

#[cfg(test)]
#[path = "lookup_test.rs"]
mod tests;
