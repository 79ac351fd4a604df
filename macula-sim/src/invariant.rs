//! What must hold in every run, one file a rule. Each rule's own tests plant a violation and see it found.

mod bounded_queues;
mod convergence;
mod incarnation_monotonic;
mod no_false_confirm;
mod no_lasting_suspicion;
mod no_resurrection;

use std::fmt;
use std::time::Duration;

use macula_membership::{Incarnation, Queue};
use macula_proto::Timestamp;

use crate::faults::{Partition, Stops};
use crate::node::SimNode;
use crate::{Belief, NodeIndex};

/// Rules that remember something for each pair of nodes watch so many observers, and of the others one in so many.
const OBSERVERS_ALL: usize = 128;
const OBSERVERS_EVERY: usize = 64;

/// A probe sent during a cut may make a suspicion so long after it: a dial fails, and then helpers fail.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// A rule that is checked while a simulation runs. What it returns as an error is a violation.
pub(crate) trait Invariant {
    /// The rule's name.
    fn name(&self) -> &'static str;

    /// A node changed what it believes.
    fn on_belief(&mut self, _world: &World<'_>, _belief: &Belief) -> Result<(), String> {
        Ok(())
    }

    /// A node did something; these are its queues.
    fn on_queues(&mut self, _node: NodeIndex, _queues: &[Queue]) -> Result<(), String> {
        Ok(())
    }

    /// The run is over.
    fn at_end(&mut self, _world: &World<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// All rules.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(bounded_queues::BoundedQueues),
        Box::new(convergence::Convergence),
        Box::new(incarnation_monotonic::IncarnationMonotonic::default()),
        Box::new(no_false_confirm::NoFalseConfirm::default()),
        Box::new(no_lasting_suspicion::NoLastingSuspicion::default()),
        Box::new(no_resurrection::NoResurrection::default()),
    ]
}

/// A rule was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// When, in simulated time.
    pub at: Timestamp,
    /// In which way.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.3} s: {}", self.rule, self.at.since_start().as_secs_f64(), self.what)
    }
}

/// How things really are, whatever the nodes believe.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) now: Timestamp,
    pub(crate) nodes: &'a [SimNode],
    pub(crate) partitions: &'a [Partition],
    /// How long after a disturbance a node may still be held for dead.
    pub(crate) grace: Duration,
    /// How long the dead and those who left are remembered.
    pub(crate) forget_after: Duration,
}

impl World<'_> {
    /// Whether `observer` has a reason to hold `subject`, as of one of its words, for dead, after it suspected it `since`
    /// then; `None` if that is not known.
    pub(crate) fn excuses(
        &self,
        observer: NodeIndex,
        subject: NodeIndex,
        incarnation: Incarnation,
        since: Option<Timestamp>,
    ) -> bool {
        let node = &self.nodes[subject.place()];
        // Whoever lies, for instance by not answering, must bear being held for dead.
        if node.liar.is_some() {
            return true;
        }
        let is_recent = |at: Timestamp| self.now.since(at) <= self.grace;
        let disturbed = node.disturbed.is_some_and(is_recent);
        // Those who cannot be heard hear what others say of their like, but no refutation.
        let unheard = |cut: &Partition| cut.stops == Stops::Outgoing && cut.side.contains(&subject);
        // The longest suspicion lasts for three times the grace.
        let longest = self.grace * 3;
        let began = |cut: &Partition| match since {
            Some(since) => cut.time.start <= since && since < cut.time.end + PROBE_MAX,
            None => cut.time.start <= self.now && self.now.since(cut.time.end) <= PROBE_MAX + longest,
        };
        let separated = self
            .partitions
            .iter()
            .any(|cut| (cut.separates(observer, subject) || unheard(cut)) && began(cut));
        node.life != crate::Life::Running || node.starved || incarnation < node.born || disturbed || separated
    }

    /// The observers that a rule watches: the first ones, and a few of the others. Always the same, however the mesh grows:
    /// a rule must not miss half of what an observer believes.
    pub(crate) fn is_watched(&self, observer: NodeIndex) -> bool {
        observer.place() < OBSERVERS_ALL || observer.place().is_multiple_of(OBSERVERS_EVERY)
    }
}

/// What an observer remembers about each other node, in one of its lives.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    observers: Vec<(u32, Vec<Option<T>>)>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { observers: Vec::new() }
    }
}

impl<T: Copy> Memory<T> {
    /// The place of what a belief's observer remembers about its subject. A new life begins with nothing.
    pub(crate) fn of(&mut self, belief: &Belief) -> &mut Option<T> {
        let (observer, subject) = (belief.observer.place(), belief.subject.place());
        if self.observers.len() <= observer {
            self.observers.resize_with(observer + 1, || (0, Vec::new()));
        }
        let (lives, memory) = &mut self.observers[observer];
        if *lives != belief.observer_lives {
            (*lives, *memory) = (belief.observer_lives, Vec::new());
        }
        if memory.len() <= subject {
            memory.resize(subject + 1, None);
        }
        &mut memory[subject]
    }
}

impl<T: Copy> Memory<T> {
    /// What an observer remembers in one of its lives, by subject.
    pub(crate) fn about(&self, observer: NodeIndex, lives: u32) -> impl Iterator<Item = (NodeIndex, T)> {
        let memory = self.observers.get(observer.place()).filter(|(known, _)| *known == lives);
        let memory = memory.map_or(&[][..], |(_, memory)| memory);
        let subjects = NodeIndex::each(0..memory.len() as u32);
        subjects.zip(memory).filter_map(|(subject, remembered)| Some((subject, (*remembered)?)))
    }
}

/// Beliefs for the rules' tests.
#[cfg(test)]
pub(crate) mod planted {
    use super::*;
    use crate::BeliefKind;

    /// Node 0, in its first life, believes something of node 1.
    pub(crate) fn belief(kind: BeliefKind, incarnation: u64) -> Belief {
        Belief {
            at: Timestamp::ZERO,
            observer: NodeIndex(0),
            observer_lives: 1,
            subject: NodeIndex(1),
            incarnation: Incarnation(incarnation),
            kind,
        }
    }

    /// The verdicts of a rule on one belief after the other, in a quiet world of two.
    pub(crate) fn verdicts(rule: &mut dyn Invariant, beliefs: &[Belief]) -> Vec<bool> {
        let nodes = [0, 1].map(|n| {
            let mut node = SimNode::new(1, NodeIndex(n));
            node.life = crate::Life::Running;
            node
        });
        let grace = Duration::from_secs(8);
        let forget_after = Duration::from_secs(3_600);
        let world = World { now: Timestamp::ZERO, nodes: &nodes, partitions: &[], grace, forget_after };
        beliefs.iter().map(|belief| rule.on_belief(&world, belief).is_ok()).collect()
    }
}
