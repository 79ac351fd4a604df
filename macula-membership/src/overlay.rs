//! The monitoring overlay: whom this node probes, and with whom it gossips first.
//!
//! On each of a few rings the members are ordered by SHA-256(ring number ‖ id). A node probes its successor on each ring and
//! is probed by its predecessors; so it keeps two links a ring, however many members there are, and every
//! member is watched from as many sides (the idea of Rapid §4.1, with fewer rings).

use macula_proto::NodeId;
use sha2::{Digest, Sha256};

use crate::Statement;

/// Most rings.
pub(crate) const RINGS_MAX: usize = 8;

/// So many members are expected between a member and the farthest that is believed about it, on one ring.
const BETWEEN: u128 = 8;

/// Where a node stands on each ring.
pub(crate) fn positions(id: &NodeId) -> [u64; RINGS_MAX] {
    std::array::from_fn(|ring| {
        let hash = Sha256::new().chain_update([ring as u8]).chain_update(id.as_bytes()).finalize();
        u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
    })
}

/// This node's neighbours on each ring, among the members that count as there.
#[derive(Debug)]
pub(crate) struct Overlay {
    me: NodeId,
    here: [u64; RINGS_MAX],
    rings: Vec<Ring>,
    /// Successors and predecessors, each once, in order of id.
    neighbours: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    successor: Option<Neighbour>,
    predecessor: Option<Neighbour>,
}

/// A member and how far along the ring it is. Ordered by distance, then by id, should two ever share a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Neighbour {
    distance: u64,
    id: NodeId,
}

impl Overlay {
    pub(crate) fn new(me: NodeId, here: [u64; RINGS_MAX], rings: usize) -> Self {
        Self { me, here, rings: vec![Ring::default(); rings], neighbours: Vec::new() }
    }

    /// A member is there: it may be nearer than a neighbour. Returns whether it is a neighbour now and was none.
    pub(crate) fn insert(&mut self, member: &Statement) -> bool {
        let placed = self.place(member);
        if placed {
            self.list();
        }
        placed
    }

    /// Puts a member where it is nearer than a neighbour. Returns whether it is anywhere.
    fn place(&mut self, member: &Statement) -> bool {
        let id = member.id();
        if id == self.me {
            return false;
        }
        let there = member.positions();
        let mut placed = false;
        for (ring, (here, there)) in self.rings.iter_mut().zip(self.here.iter().zip(there)) {
            placed |= nearer(&mut ring.successor, Neighbour { distance: there.wrapping_sub(*here), id });
            placed |= nearer(&mut ring.predecessor, Neighbour { distance: here.wrapping_sub(*there), id });
        }
        placed
    }

    fn list(&mut self) {
        let both = self.rings.iter().flat_map(|ring| [ring.successor, ring.predecessor]);
        self.neighbours.clear();
        self.neighbours.extend(both.flatten().map(|neighbour| neighbour.id));
        self.neighbours.sort_unstable();
        self.neighbours.dedup();
    }

    /// A member is gone; `rest` are those who are still there. Costs nothing unless it was a neighbour; returns whether.
    pub(crate) fn remove<'a>(&mut self, gone: &NodeId, rest: impl Iterator<Item = &'a Statement>) -> bool {
        if !self.contains(gone) {
            return false;
        }
        self.rings.fill(Ring::default());
        for member in rest {
            self.place(member);
        }
        self.list();
        true
    }

    /// The successors on all rings.
    pub(crate) fn successors(&self) -> impl Iterator<Item = NodeId> {
        self.rings.iter().filter_map(|ring| ring.successor).map(|neighbour| neighbour.id)
    }

    /// The successor on one ring; `turn` counts round and round.
    pub(crate) fn successor(&self, turn: usize) -> Option<NodeId> {
        self.rings[turn % self.rings.len()].successor.map(|neighbour| neighbour.id)
    }

    /// Successors and predecessors, each once, in order of id.
    pub(crate) fn neighbours(&self) -> &[NodeId] {
        &self.neighbours
    }

    pub(crate) fn contains(&self, id: &NodeId) -> bool {
        self.neighbours.binary_search(id).is_ok()
    }
}

/// How many different members watch `subject`: its predecessors on `rings` rings among `members`.
pub(crate) fn monitors<'a>(
    subject: &Statement,
    rings: usize,
    members: impl Iterator<Item = &'a Statement>,
) -> usize {
    let mut overlay = Overlay::new(subject.id(), *subject.positions(), rings);
    for member in members {
        overlay.place(member);
    }
    let mut watching: Vec<NodeId> =
        overlay.rings.iter().filter_map(|ring| ring.predecessor).map(|neighbour| neighbour.id).collect();
    watching.sort_unstable();
    watching.dedup();
    watching.len()
}

/// Whether `watcher` may well watch `subject`, among so many members that count as there: few of them can lie between the two
/// on one of the rings. Some may, for the nearer ones may have died, or not be known to the watcher yet.
///
/// With n members the distance to the next is exponentially distributed around one in n parts of the ring, so that the next one
/// itself is farther away than [`BETWEEN`] of them once in three thousand cases.
pub(crate) fn is_watcher(watcher: &Statement, subject: &Statement, rings: usize, present: usize) -> bool {
    let near = |(from, to): (&u64, &u64)| {
        let between = u128::from(to.wrapping_sub(*from)) * present as u128;
        between < BETWEEN << u64::BITS
    };
    watcher.positions().iter().zip(subject.positions()).take(rings).any(near)
}

/// Takes the candidate if it is nearer. Returns whether it was.
fn nearer(slot: &mut Option<Neighbour>, candidate: Neighbour) -> bool {
    let is_nearer = slot.is_none_or(|current| candidate < current);
    if is_nearer {
        *slot = Some(candidate);
    }
    is_nearer
}
