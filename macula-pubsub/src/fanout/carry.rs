//! Doing what a tree's machine asks for.

use std::collections::VecDeque;
use std::sync::Arc;

use macula_dht::Directory;
use macula_proto::{Contact, NodeId};
use macula_transport::Transport;

use super::wire::{self, Carried};
use super::{State, TreeKey};
use crate::link::{Link, Offered, Sent};
use crate::local::Delivery;
use crate::message::Incoming;
use crate::pubsub::Inner;
use crate::tree::{Effect, Parcel, Word};

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Carries out effects, and those that follow from them. Returns to how many nodes messages were pushed.
    pub(super) fn carry_out(
        self: &Arc<Self>,
        state: &mut State,
        tree: &TreeKey,
        effects: Vec<Effect<Carried>>,
    ) -> usize {
        let mut effects = VecDeque::from(effects);
        let mut pushed = 0;
        while let Some(effect) = effects.pop_front() {
            let mut more = Vec::new();
            match effect {
                Effect::Tell { to, word } => self.tell_neighbour(state, tree, &to, &word, &mut more),
                Effect::Push { to, parcel } => pushed += self.push(state, tree, &to, &parcel, &mut more),
                Effect::Deliver(parcel) => self.deliver_carried(&parcel.body),
                Effect::Alone => self.look_for_others(state, tree),
            }
            effects.extend(more);
        }
        pushed
    }

    fn tell_neighbour(
        self: &Arc<Self>,
        state: &mut State,
        tree: &TreeKey,
        to: &Contact,
        word: &Word,
        more: &mut Vec<Effect<Carried>>,
    ) {
        let Ok(frame) = wire::word(tree, &self.transport.local(), word) else { return };
        let link = self.link_of(state, tree, to);
        let offered = link.offer(frame, false, &self.transport, &self.tasks);
        if !self.watch_link(tree, to.id, offered)
            && let Some(member) = state.members.get_mut(tree)
        {
            member.tree.on_slow(self.clock.now(), &to.id, more);
        }
    }

    fn push(
        self: &Arc<Self>,
        state: &mut State,
        tree: &TreeKey,
        to: &[NodeId],
        parcel: &Parcel<Carried>,
        more: &mut Vec<Effect<Carried>>,
    ) -> usize {
        let Some(Ok(frame)) = wire::message(parcel) else { return 0 };
        let mut pushed = 0;
        for peer in to {
            let link = self.link_of(state, tree, &Contact { id: *peer, addrs: Vec::new() });
            let offered = link.offer(frame.clone(), false, &self.transport, &self.tasks);
            if self.watch_link(tree, *peer, offered) {
                pushed += 1;
            } else if let Some(member) = state.members.get_mut(tree) {
                self.metrics.tree_slow.inc();
                member.tree.on_slow(self.clock.now(), peer, more);
            }
        }
        pushed
    }

    /// The way to somebody; kept while it is a neighbour.
    fn link_of(&self, state: &mut State, tree: &TreeKey, to: &Contact) -> Arc<Link> {
        let Some(member) = state.members.get_mut(tree) else { return self.routes.link(to) };
        member.ways.entry(to.id).or_insert_with(|| self.routes.link(to)).clone()
    }

    /// Waits, elsewhere, for a connection that is being made. `false`: there is no room.
    fn watch_link(self: &Arc<Self>, tree: &TreeKey, peer: NodeId, offered: Offered) -> bool {
        let outcome = match offered {
            Offered::Sent => return true,
            Offered::Full => return false,
            Offered::Waits(_, outcome) => outcome,
        };
        let (inner, tree) = (self.clone(), tree.clone());
        self.tasks.spawn(async move {
            let sent = tokio::time::timeout(inner.config.dial_timeout, outcome).await;
            if !matches!(sent, Ok(Ok(Sent::Yes))) {
                inner.link_failed(&tree, &peer);
            }
        });
        true
    }

    /// Keeps a frame that waits for its connection from being given up.
    pub(super) fn keep_waiting(&self, offered: Offered) {
        if let Offered::Waits(_, outcome) = offered {
            let patience = self.config.dial_timeout;
            self.tasks.spawn(async move { tokio::time::timeout(patience, outcome).await });
        }
    }

    fn link_failed(self: &Arc<Self>, tree: &TreeKey, peer: &NodeId) {
        let Some(fanout) = self.fanout.get() else { return };
        let mut state = fanout.state.lock();
        if let Some(member) = state.members.get_mut(tree) {
            member.tree.on_lost(self.clock.now(), peer);
            self.plan(&mut state);
        }
    }

    /// Gives a message that came by a tree to the subscribers here. It never waits for any: others wait behind it.
    pub(super) fn deliver_carried(self: &Arc<Self>, carried: &Carried) {
        let content = carried.content();
        let subscribers = self.local.matching(&content.realm, &content.topic);
        if subscribers.is_empty() {
            self.metrics.unwanted.inc();
            return;
        }
        let incoming = Incoming {
            content: content.clone(),
            wait: std::time::Duration::ZERO,
            scope: carried.scope().clone(),
            number: None,
            places: Vec::new(),
        };
        match self.deliver_in_order(&subscribers, &incoming, false) {
            Some(delivery) => self.count_delivery(&Delivery::default(), &delivery),
            None => {
                self.metrics.duplicates.inc();
            }
        }
    }
}
