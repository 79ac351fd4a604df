//! Changes of what a node believes about another, in the simulator's own terms.

use macula_membership::{Event, Incarnation};
use macula_proto::Timestamp;

use crate::NodeIndex;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// When.
    pub at: Timestamp,
    /// Who believes.
    pub observer: NodeIndex,
    /// In which of its lives: a new one begins with an empty memory.
    pub observer_lives: u32,
    /// About whom.
    pub subject: NodeIndex,
    /// As of which of the subject's words.
    pub incarnation: Incarnation,
    /// What.
    pub kind: BeliefKind,
}

/// Which change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeliefKind {
    /// It is there.
    Joined,
    /// It may be dead.
    Suspected,
    /// It is alive after all.
    Refuted,
    /// It counts as dead.
    Confirmed,
    /// It said goodbye.
    Left,
    /// It told something new about itself.
    Updated,
}

impl BeliefKind {
    /// The kind of a membership's event; `None` for a kind that this crate does not know yet.
    pub(crate) const fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Joined(_) => Some(Self::Joined),
            Event::Suspected(_) => Some(Self::Suspected),
            Event::Refuted(_) => Some(Self::Refuted),
            Event::Confirmed(_) => Some(Self::Confirmed),
            Event::Left(_) => Some(Self::Left),
            Event::Updated(_) => Some(Self::Updated),
            _ => None,
        }
    }
}
