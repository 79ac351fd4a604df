//! Publishing by trees.

use std::sync::Arc;

use macula_dht::Directory;
use macula_proto::{Frame, NodeId};
use macula_transport::Transport;

use super::own::Own;
use super::wire::{self, Carried};
use super::{State, TreeKey};
use crate::link::{Link, Offered};
use crate::message::{Content, PLACES_MAX, Place};
use crate::metrics::DropReason;
use crate::pubsub::Inner;
use crate::reading::{Reading, Roster};
use crate::tree::Parcel;

/// Where one message goes by trees.
#[derive(Default)]
pub(crate) struct Spread {
    pub(crate) places: Vec<Place>,
    rosters: Vec<Arc<Roster>>,
}

impl Spread {
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Gives a message of this node its place in each tree that is for it. Hold the topic's order, so that it is the trees', too.
    pub(crate) fn places(&self, reading: &Reading, last_sequence: u64) -> Spread {
        let Some(fanout) = self.fanout.get().filter(|_| !reading.trees.is_empty()) else {
            return Spread::default();
        };
        let now = self.clock.now();
        let mut state = fanout.state.lock();
        let State { own, rng, .. } = &mut *state;
        let rosters: Vec<Arc<Roster>> = reading.trees.iter().take(PLACES_MAX).cloned().collect();
        let place = |roster: &Arc<Roster>| {
            let own = own
                .entry(roster.tree.clone())
                .or_insert_with(|| Own::new(now, roster.clone(), last_sequence > 0, &self.config.tree, rng));
            own.learn(roster);
            own.place(now, &roster.tree)
        };
        let places = rosters.iter().map(place).collect();
        Spread { places, rosters }
    }

    /// Hands a message to its trees, and invites those who should take part. Returns how many nodes it was handed to.
    pub(crate) fn spread(self: &Arc<Self>, content: &Content, spread: &Spread) -> usize {
        let Some(fanout) = self.fanout.get().filter(|_| !spread.is_empty()) else { return 0 };
        let payload_hash = wire::hash(&content.payload.bytes);
        let mut handed = 0;
        for (place, roster) in spread.places.iter().zip(&spread.rosters) {
            let carried = Carried::seal(content.clone(), place, payload_hash.clone(), fanout.signer.as_ref());
            let parcel = wire::parcel(place, carried);
            let mut state = fanout.state.lock();
            handed += self.enter(&mut state, &roster.tree, parcel);
            self.invite(&mut state, &roster.tree);
        }
        handed
    }

    /// A message enters the tree: through this node itself if it takes part, else through a few that do.
    fn enter(self: &Arc<Self>, state: &mut State, tree: &TreeKey, parcel: Parcel<Carried>) -> usize {
        let now = self.clock.now();
        let Some(own) = state.own.get_mut(tree) else { return 0 };
        own.keep(now, parcel.clone());
        if let Some(member) = state.members.get_mut(tree)
            && member.tree.linked_since().is_some()
        {
            let mut out = Vec::new();
            member.tree.publish(now, parcel, &mut out);
            let handed = self.carry_out(state, tree, out);
            self.plan(state);
            return handed;
        }
        let first_hop = Parcel { hops: 1, ..parcel };
        let Some(Ok(frame)) = wire::message(&first_hop) else { return 0 };
        let entries = own.entries(&mut state.rng);
        let handed = entries.iter().filter(|link| self.hand_to(state, tree, link, &frame)).count();
        self.metrics.tree.pushed.inc_by(handed as u64);
        handed
    }

    /// Hands a message to an entry of a tree, or to another one in its place. `false`: there is none.
    fn hand_to(self: &Arc<Self>, state: &mut State, tree: &TreeKey, link: &Arc<Link>, frame: &Frame) -> bool {
        let mut link = link.clone();
        loop {
            match link.offer(frame.clone(), false, &self.transport, &self.tasks) {
                Offered::Sent => return true,
                Offered::Waits(_, outcome) => {
                    self.watch_entry(tree, link.peer(), frame.clone(), outcome);
                    return true;
                }
                Offered::Full => self.metrics.drop_copies(DropReason::PeerFull, 1),
            }
            let State { own, rng, .. } = &mut *state;
            match own.get_mut(tree).and_then(|own| own.replace(&link.peer(), rng)) {
                Some(other) => link = other,
                None => return false,
            }
        }
    }

    /// Waits for the connection to an entry, and takes another one if there is none.
    fn watch_entry(
        self: &Arc<Self>,
        tree: &TreeKey,
        peer: NodeId,
        frame: Frame,
        outcome: tokio::sync::oneshot::Receiver<crate::link::Sent>,
    ) {
        let (inner, tree) = (self.clone(), tree.clone());
        self.tasks.spawn(async move {
            let sent = tokio::time::timeout(inner.config.dial_timeout, outcome).await;
            if matches!(sent, Ok(Ok(crate::link::Sent::Yes))) {
                return;
            }
            inner.metrics.drop_copies(DropReason::PeerFailed, 1);
            let Some(fanout) = inner.fanout.get() else { return };
            let mut state = fanout.state.lock();
            let State { own, rng, .. } = &mut *state;
            if let Some(other) = own.get_mut(&tree).and_then(|own| own.replace(&peer, rng)) {
                inner.hand_to(&mut state, &tree, &other, &frame);
            }
        });
    }

    /// An entry says that it does not take part. What it was handed lately goes to another one.
    pub(super) fn entry_refused(self: &Arc<Self>, state: &mut State, tree: &TreeKey, peer: &NodeId) {
        let State { own, rng, .. } = &mut *state;
        let Some(own) = own.get_mut(tree) else { return };
        let Some(other) = own.replace(peer, rng) else { return };
        for parcel in own.handed_lately(self.clock.now()) {
            if let Some(Ok(frame)) = wire::message(&Parcel { hops: 1, ..parcel }) {
                self.hand_to(state, tree, &other, &frame);
            }
        }
    }

    fn invite(self: &Arc<Self>, state: &mut State, tree: &TreeKey) {
        let State { own, rng, .. } = &mut *state;
        let Some(own) = own.get_mut(tree) else { return };
        let (local, known) = (self.transport.local(), own.some_others(rng));
        let invitations = own.invitations(self.clock.now(), rng);
        for (link, others) in invitations {
            if let Ok(frame) = wire::invitation(tree, &local, &others) {
                self.metrics.tree_invitations.inc();
                // It has just been sent a message: this queues behind it. If it is lost, it is sent again later.
                let offered = link.offer(frame, false, &self.transport, &self.tasks);
                self.keep_waiting(offered);
            }
        }
        // A publisher that subscribes itself takes part as all others.
        self.invited(state, tree, known);
    }
}
