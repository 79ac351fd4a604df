//! When two nodes dial each other at once, one of the two connections is given up before anybody uses it.
//!
//! The node with the smaller id decides, at the moment when it is about to say hello or hears one:
//!
//! ```text
//!                         hears the peer's hello
//!   none ──────────────────────────────────────────▶ accepting ──▶ linked
//!    │ its own dial's TLS is done                       own dial: gives up before its hello
//!    ▼
//!   dialling ── hears the peer's hello ──▶ refuses it (CROSSED) ──▶ linked by its own dial
//! ```
//!
//! The node with the larger id accepts in either state: its own hello is refused, then.

use std::collections::BTreeMap;

use macula_proto::NodeId;
use parking_lot::Mutex;

/// Which way a connection to each peer is coming about.
#[derive(Debug)]
pub(crate) struct Crossings {
    me: NodeId,
    under_way: Mutex<BTreeMap<NodeId, Way>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Dialling,
    Accepting,
}

/// One side's turn; over when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    crossings: &'a Crossings,
    peer: NodeId,
    /// Whether dropping this ends it: not if an older turn of this node goes on.
    owns: bool,
}

impl Crossings {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, under_way: Mutex::default() }
    }

    /// Whether this node may say hello to `peer`. Not while another connection comes about, or if `linked` says that
    /// there is one.
    pub(crate) fn begin_dialling(&self, peer: NodeId, linked: impl FnOnce() -> bool) -> Option<Turn<'_>> {
        let mut under_way = self.under_way.lock();
        if under_way.contains_key(&peer) || linked() {
            return None;
        }
        under_way.insert(peer, Way::Dialling);
        Some(Turn { crossings: self, peer, owns: true })
    }

    /// Whether the hello of `peer` may be accepted.
    pub(crate) fn begin_accepting(&self, peer: NodeId) -> Option<Turn<'_>> {
        let mut under_way = self.under_way.lock();
        match under_way.get(&peer) {
            Some(Way::Dialling) if self.me < peer => None,
            Some(_) => Some(Turn { crossings: self, peer, owns: false }),
            None => {
                under_way.insert(peer, Way::Accepting);
                Some(Turn { crossings: self, peer, owns: true })
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.owns {
            self.crossings.under_way.lock().remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: NodeId = NodeId::from_bytes([1; 32]);
    const LARGE: NodeId = NodeId::from_bytes([2; 32]);

    #[test]
    fn of_two_crossing_hellos_exactly_the_smaller_ids_is_accepted() {
        let (small, large) = (Crossings::new(SMALL), Crossings::new(LARGE));
        let _dials = small.begin_dialling(LARGE, || false).unwrap();
        let _dials_too = large.begin_dialling(SMALL, || false).unwrap();
        assert!(small.begin_accepting(LARGE).is_none());
        assert!(large.begin_accepting(SMALL).is_some());
    }

    #[test]
    fn a_hello_that_came_before_ones_own_is_accepted_and_ends_ones_own_dial() {
        let small = Crossings::new(SMALL);
        let accepts = small.begin_accepting(LARGE).unwrap();
        assert!(small.begin_dialling(LARGE, || false).is_none());
        drop(accepts);
        assert!(small.begin_dialling(LARGE, || true).is_none(), "linked by now");
        assert!(small.begin_dialling(LARGE, || false).is_some(), "gone again");
    }

    #[test]
    fn a_turn_within_a_turn_does_not_end_it() {
        let large = Crossings::new(LARGE);
        let dials = large.begin_dialling(SMALL, || false).unwrap();
        drop(large.begin_accepting(SMALL).unwrap());
        assert!(large.begin_dialling(SMALL, || false).is_none(), "the first dial goes on");
        drop(dials);
        assert!(large.begin_dialling(SMALL, || false).is_some());
    }
}
