//! Who is linked, through which connection, and who must go: decisions without IO.
//!
//! Each peer has at most one connection in use: the newest. Dials that cross are sorted out before (`crossing`), so a
//! second connection means that the peer has lost the first. The node with the smaller id lets the older one go in
//! order; the other side uses the newest that is not on its way out. A peer that was restarted (another instance) is a
//! case of its own: what its former process held is dead.

use std::collections::BTreeMap;

use macula_proto::{NodeId, Timestamp};

/// Connections to one peer at once, those on their way out included; a peer that piles up more loses its oldest.
const LINKS_MAX: usize = 4;
/// Connections being closed in order at once; beyond it nobody else is evicted.
const DRAINING_MAX: usize = 32;

/// What the pool wants to know of a connection.
pub(crate) trait Pooled: Clone {
    /// Whether it has ended.
    fn is_closed(&self) -> bool;
    /// When it last carried an application frame.
    fn last_used(&self) -> Timestamp;
    /// Whether it has open streams or unacknowledged lane data.
    fn is_busy(&self, now: Timestamp) -> bool;
    /// Whether both are the same connection.
    fn is_same(&self, other: &Self) -> bool;
}

/// The connections of one node.
#[derive(Debug)]
pub(crate) struct Pool<L> {
    me: NodeId,
    connections_max: usize,
    reserved: usize,
    peers: BTreeMap<NodeId, Peer<L>>,
}

#[derive(Debug)]
struct Peer<L> {
    instance: u64,
    /// Oldest first.
    slots: Vec<Slot<L>>,
}

#[derive(Debug)]
struct Slot<L> {
    link: L,
    draining: bool,
}

/// What became of a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Added<L> {
    /// Whether the peer was not linked before, as far as others were told.
    pub(crate) is_new: bool,
    /// Whether the peer was restarted: those who were told that it is up must hear that it went.
    pub(crate) restarted: bool,
    /// To be closed in order.
    pub(crate) superseded: Vec<L>,
    /// To be closed at once.
    pub(crate) dead: Vec<L>,
}

/// Whether there is room for one more connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room<L> {
    /// A place is reserved.
    Yes,
    /// A place is reserved, and this connection must go in order.
    Evict(L),
    /// None, and nobody can go.
    Full,
}

impl<L: Pooled> Pool<L> {
    pub(crate) fn new(me: NodeId, connections_max: usize) -> Self {
        Self { me, connections_max, reserved: 0, peers: BTreeMap::new() }
    }

    /// The connection to use for a peer.
    pub(crate) fn current(&self, id: &NodeId) -> Option<L> {
        let slots = &self.peers.get(id)?.slots;
        slots.iter().rev().find(|slot| slot.is_usable()).map(|slot| slot.link.clone())
    }

    /// All connections in use, one a peer.
    pub(crate) fn all(&self) -> Vec<L> {
        self.peers.keys().filter_map(|id| self.current(id)).collect()
    }

    /// All connections, those on their way out included.
    pub(crate) fn every(&self) -> Vec<L> {
        self.peers.values().flat_map(|peer| &peer.slots).map(|slot| slot.link.clone()).collect()
    }

    /// How many there are, those on their way out included.
    pub(crate) fn len(&self) -> usize {
        self.peers.values().map(|peer| peer.slots.len()).sum()
    }

    /// All connections with one peer, those on their way out included.
    pub(crate) fn with(&self, id: &NodeId) -> Vec<L> {
        let slots = self.peers.get(id).into_iter().flat_map(|peer| &peer.slots);
        slots.map(|slot| slot.link.clone()).collect()
    }

    /// Reserves a place for a connection to come; give it back with [`add`](Self::add) or
    /// [`release`](Self::release). A peer that is linked already takes no further place for long.
    pub(crate) fn reserve(&mut self, id: Option<&NodeId>, now: Timestamp) -> Room<L> {
        if id.is_some_and(|id| self.current(id).is_some()) {
            self.reserved += 1;
            return Room::Yes;
        }
        let in_use = self.peers.values().filter(|peer| peer.slots.iter().any(Slot::is_usable)).count();
        if in_use + self.reserved < self.connections_max {
            self.reserved += 1;
            return Room::Yes;
        }
        match self.evict(now) {
            Some(link) => {
                self.reserved += 1;
                Room::Evict(link)
            }
            None => Room::Full,
        }
    }

    /// Gives a reserved place back.
    pub(crate) fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Takes a connection in, on a reserved place.
    pub(crate) fn add(&mut self, id: NodeId, instance: u64, link: L) -> Added<L> {
        self.release();
        let decides = self.me < id;
        let is_new = !self.peers.contains_key(&id);
        let peer = self.peers.entry(id).or_insert_with(|| Peer { instance, slots: Vec::new() });
        let restarted = !is_new && peer.instance != instance;
        peer.instance = instance;
        let (mut superseded, mut dead) = (Vec::new(), Vec::new());
        for slot in peer.slots.iter_mut().filter(|slot| slot.is_usable()) {
            if restarted {
                dead.push(slot.link.clone());
            } else if decides {
                superseded.push(slot.link.clone());
            }
            slot.draining |= restarted || decides;
        }
        let surplus = (peer.slots.len() + 1).saturating_sub(LINKS_MAX);
        dead.extend(peer.slots.iter().take(surplus).map(|slot| slot.link.clone()));
        peer.slots.push(Slot { link, draining: false });
        Added { is_new, restarted, superseded, dead }
    }

    /// The connection will be used no more.
    pub(crate) fn drain(&mut self, id: &NodeId, link: &L) {
        let slots = self.peers.get_mut(id).map(|peer| &mut peer.slots);
        if let Some(slot) = slots.and_then(|slots| slots.iter_mut().find(|slot| slot.link.is_same(link))) {
            slot.draining = true;
        }
    }

    /// The connection is gone. Returns whether it was the peer's last.
    pub(crate) fn remove(&mut self, id: &NodeId, link: &L) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        peer.slots.retain(|slot| !slot.link.is_same(link));
        let last = peer.slots.is_empty();
        if last {
            self.peers.remove(id);
        }
        last
    }

    /// Connections that carried no application frame for `idle`, and have nothing under way.
    pub(crate) fn idle(&self, now: Timestamp, idle: std::time::Duration) -> Vec<L> {
        let slots = self.peers.values().flat_map(|peer| &peer.slots);
        let idle = slots.filter(|slot| {
            slot.is_usable() && now.since(slot.link.last_used()) >= idle && !slot.link.is_busy(now)
        });
        idle.map(|slot| slot.link.clone()).collect()
    }

    /// Picks the connection that was not used for the longest time, among those with nothing under way.
    fn evict(&mut self, now: Timestamp) -> Option<L> {
        let slots = || self.peers.values().flat_map(|peer| &peer.slots);
        if slots().filter(|slot| slot.draining).count() >= DRAINING_MAX {
            return None;
        }
        let idlest = slots()
            .filter(|slot| slot.is_usable() && !slot.link.is_busy(now))
            .min_by_key(|slot| slot.link.last_used())?;
        let link = idlest.link.clone();
        let slots = self.peers.values_mut().flat_map(|peer| &mut peer.slots);
        slots.filter(|slot| slot.link.is_same(&link)).for_each(|slot| slot.draining = true);
        Some(link)
    }
}

impl<L: Pooled> Slot<L> {
    fn is_usable(&self) -> bool {
        !self.draining && !self.link.is_closed()
    }
}

#[cfg(test)]
#[path = "pool_test.rs"]
mod tests;
