//! Who should be a voter: what the leader of a group changes, one step at a time.
//!
//! ```text
//!   a node offers itself ──▶ learner ── has caught up ──▶ voter ── gone for too long, and a replacement has caught up ──▶ out
//! ```
//!
//! Two rules keep a group safe. A voter is only let in once it has the log, so that no vote counts that could not be used. And
//! nobody is put out without a replacement, because fewer voters survive fewer deaths; only an operator may do that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};

use crate::raft::{GroupStatus, VoterId};

/// Offers that are remembered, at most.
const OFFERS_MAX: usize = 256;

/// An offer that is not repeated is forgotten after this time.
const OFFER_KEPT: Duration = Duration::from_secs(30);

/// A learner this many entries behind has caught up: the rest comes within a heartbeat.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// Voters of one group, at most: more make it slower, not safer.
const VOTERS_MAX: usize = 7;

/// The next change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Let it follow.
    AddLearner(VoterId),
    /// These are the voters from now on.
    SetVoters(BTreeSet<VoterId>),
    /// They are members no more.
    RemoveLearners(BTreeSet<VoterId>),
}

/// Why an operator's change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwilling {
    #[error("node {} is no member of the group", .0.short())]
    NoMember(NodeId),
    #[error("node {} has not offered itself: it must run, be in the realm, and know of the group", .0.short())]
    NoOffer(NodeId),
    #[error("without node {} the group would have {living} living voters of {voters}, which is no majority", .node.short())]
    NoMajority { node: NodeId, living: usize, voters: usize },
    #[error("a group has at most {VOTERS_MAX} voters")]
    Full,
}

/// The leader's view on its members.
#[derive(Debug)]
pub(super) struct Steward {
    /// So many voters are wanted.
    wanted: usize,
    /// A voter that is gone for so long is replaced.
    replace_after: Duration,
    /// The last offer of each node, and when it came.
    offers: BTreeMap<NodeId, (VoterId, Timestamp)>,
    gone: BTreeMap<VoterId, Timestamp>,
    /// Whom an operator wants to be a voter.
    invited: BTreeSet<NodeId>,
}

impl Steward {
    pub(super) fn new(wanted: usize, replace_after: Duration) -> Self {
        let (offers, gone, invited) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { wanted, replace_after, offers, gone, invited }
    }

    /// A node would be a member. Returns whether it is wanted.
    pub(super) fn on_offer(&mut self, now: Timestamp, voter: VoterId, status: &GroupStatus) -> bool {
        if self.offers.len() >= OFFERS_MAX {
            self.offers.retain(|_, (_, at)| now.since(*at) < OFFER_KEPT);
        }
        if self.offers.len() < OFFERS_MAX {
            self.offers.insert(voter.node, (voter, now));
        }
        let is_member = status.voters.contains(&voter) || status.learners.contains(&voter);
        let lost_its_store = status.voters.iter().any(|other| other.node == voter.node && *other != voter);
        is_member || lost_its_store || self.wants_more(status) || self.invited.contains(&voter.node)
    }

    /// Whether there is a place for one more.
    pub(super) fn wants_more(&self, status: &GroupStatus) -> bool {
        self.missing(status) > status.learners.len()
    }

    /// How many members are to become voters.
    fn missing(&self, status: &GroupStatus) -> usize {
        let leaving = self.gone.keys().filter(|voter| status.voters.contains(voter)).count();
        self.wanted.saturating_sub(status.voters.len()) + leaving
    }

    /// An operator wants a node to have a vote.
    pub(super) fn invite(&mut self, node: NodeId, status: &GroupStatus) -> Result<(), Unwilling> {
        if status.voters.iter().any(|voter| voter.node == node) {
            return Ok(());
        }
        if status.voters.len() >= VOTERS_MAX {
            return Err(Unwilling::Full);
        }
        let is_learner = status.learners.iter().any(|learner| learner.node == node);
        if !is_learner && !self.offers.contains_key(&node) {
            return Err(Unwilling::NoOffer(node));
        }
        self.invited.insert(node);
        Ok(())
    }

    /// An operator wants a node to be a member no more: what to do.
    pub(super) fn remove(
        &mut self,
        node: NodeId,
        status: &GroupStatus,
        is_gone: impl Fn(&NodeId) -> bool,
    ) -> Result<Step, Unwilling> {
        self.invited.remove(&node);
        let of_node = |members: &BTreeSet<VoterId>| -> BTreeSet<VoterId> {
            members.iter().filter(|member| member.node == node).copied().collect()
        };
        let (voters, learners) = (of_node(&status.voters), of_node(&status.learners));
        if voters.is_empty() {
            return if learners.is_empty() {
                Err(Unwilling::NoMember(node))
            } else {
                Ok(Step::RemoveLearners(learners))
            };
        }
        let rest: BTreeSet<_> = status.voters.difference(&voters).copied().collect();
        let living = rest.iter().filter(|voter| !is_gone(&voter.node)).count();
        if living * 2 <= rest.len() {
            return Err(Unwilling::NoMajority { node, living, voters: rest.len() });
        }
        Ok(Step::SetVoters(rest))
    }

    /// The next step, if there is one to make now.
    pub(super) fn plan(
        &mut self,
        now: Timestamp,
        status: &GroupStatus,
        is_gone: impl Fn(&NodeId) -> bool,
    ) -> Option<Step> {
        if status.is_changing {
            return Some(Step::SetVoters(status.next_voters.clone()));
        }
        self.offers.retain(|node, (_, at)| now.since(*at) < OFFER_KEPT && !is_gone(node));
        self.note_gone(now, status, &is_gone);
        let ready: Vec<VoterId> =
            status.learners.iter().filter(|learner| self.is_ready(learner, status)).copied().collect();
        self.replacement(now, status, &ready)
            .or_else(|| self.growth(status, &ready))
            .or_else(|| self.newcomer(status))
            .or_else(|| self.leftover(now, status, &is_gone))
    }

    fn note_gone(&mut self, now: Timestamp, status: &GroupStatus, is_gone: impl Fn(&NodeId) -> bool) {
        let members = || status.voters.iter().chain(&status.learners);
        let lost = |member: &VoterId| is_gone(&member.node) || self.has_other_store(member);
        let gone = members().filter(|member| **member != status.me && lost(member));
        let gone: BTreeMap<_, _> =
            gone.map(|member| (*member, self.gone.get(member).copied().unwrap_or(now))).collect();
        self.gone = gone;
    }

    /// Whether the node of a member came back without the store that the member was.
    fn has_other_store(&self, member: &VoterId) -> bool {
        self.offers.get(&member.node).is_some_and(|(offer, _)| offer != member)
    }

    fn is_ready(&self, learner: &VoterId, status: &GroupStatus) -> bool {
        let matched = status.matched.get(learner).copied().flatten();
        let has_log = matched.is_some_and(|at| at + CAUGHT_UP_ENTRIES >= status.last.unwrap_or(0));
        has_log && !self.gone.contains_key(learner)
    }

    /// A voter that is gone for too long, or for good, makes room for a learner.
    fn replacement(&self, now: Timestamp, status: &GroupStatus, ready: &[VoterId]) -> Option<Step> {
        let is_due = |voter: &VoterId| {
            let since = self.gone.get(voter)?;
            (now.since(*since) >= self.replace_after || self.has_other_store(voter)).then_some(*voter)
        };
        let gone = status.voters.iter().find_map(is_due)?;
        // Its own node, if that is back, else any other.
        let new = ready.iter().find(|learner| learner.node == gone.node).or_else(|| ready.first())?;
        let mut voters = status.voters.clone();
        voters.remove(&gone);
        voters.insert(*new);
        Some(Step::SetVoters(voters))
    }

    /// More voters: from an odd number to the next, because an even one survives no more deaths than the odd one below.
    fn growth(&self, status: &GroupStatus, ready: &[VoterId]) -> Option<Step> {
        let have = status.voters.len();
        if let Some(invited) = ready.iter().find(|learner| self.invited.contains(&learner.node)) {
            return Some(Step::SetVoters(status.voters.iter().chain([invited]).copied().collect()));
        }
        let more = if have.is_multiple_of(2) { 1 } else { 2 };
        if have + more > self.wanted || ready.len() < more {
            return None;
        }
        Some(Step::SetVoters(status.voters.iter().chain(&ready[..more]).copied().collect()))
    }

    /// One more learner.
    fn newcomer(&self, status: &GroupStatus) -> Option<Step> {
        let is_new = |offer: &&VoterId| !status.voters.contains(*offer) && !status.learners.contains(*offer);
        let mut offers = self.offers.values().map(|(offer, _)| offer).filter(is_new);
        if self.wants_more(status) {
            return offers.next().copied().map(Step::AddLearner);
        }
        offers.find(|offer| self.invited.contains(&offer.node)).copied().map(Step::AddLearner)
    }

    /// Learners that are gone, or that nobody needs.
    fn leftover(
        &self,
        now: Timestamp,
        status: &GroupStatus,
        is_gone: impl Fn(&NodeId) -> bool,
    ) -> Option<Step> {
        let is_over = |learner: &&VoterId| {
            let since = self.gone.get(learner);
            since.is_some_and(|since| now.since(*since) >= self.replace_after)
                || (self.has_other_store(learner) && !is_gone(&learner.node))
        };
        let over: BTreeSet<_> = status.learners.iter().filter(is_over).copied().collect();
        (!over.is_empty()).then_some(Step::RemoveLearners(over))
    }
}

#[cfg(test)]
#[path = "steward_test.rs"]
mod tests;
