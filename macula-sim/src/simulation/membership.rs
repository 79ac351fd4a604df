//! Carrying out what the membership's machine wants, as its driver does in a real node.

use macula_membership::{Effect, Effects, Event as Change, Machine, Packet};
use macula_proto::{NodeId, Timestamp};

use super::Simulation;
use super::event::{Errand, Event, Parcel};
use super::exchange::Join;
use crate::NodeIndex;
use crate::belief::{Belief, BeliefKind};
use crate::network::Fate;
use crate::node::Layer;

impl Simulation {
    /// Lets a node's membership do something, and does what it wants done.
    pub(super) fn swim_turn(
        &mut self,
        node: NodeIndex,
        act: impl FnOnce(&mut Machine, Timestamp, &mut Effects),
    ) {
        let state = &mut self.nodes[node.place()];
        let now = state.clock(self.now);
        let Some(machine) = state.swim.as_mut() else { return };
        let mut out = Effects::new();
        act(machine, now, &mut out);
        let queues = machine.queues();
        self.check_queues(node, &queues);
        for effect in out {
            self.perform(node, effect);
        }
        self.arm(node, Layer::Membership, self.now);
    }

    pub(super) fn on_packet(&mut self, from: NodeIndex, to: NodeIndex, parcel: &Parcel<Packet>) {
        if !self.network.is_live(from, to) {
            return;
        }
        self.trace.fold(self.now, to, 2, parcel.digest);
        if !self.liar_hears(from, to, &parcel.message) {
            return;
        }
        let sender = self.nodes[from.place()].id();
        self.swim_turn(to, |machine, now, out| machine.on_packet(now, sender, &parcel.message, out));
    }

    fn perform(&mut self, node: NodeIndex, effect: Effect) {
        match effect {
            Effect::Send { to, packet } => {
                if let Some(to) = self.index.get(&to).copied()
                    && !self.withholds(node, &packet)
                {
                    self.send_packet(node, to, packet);
                }
            }
            Effect::Connect(contact) => self.errand(node, contact.id, Errand::Probe),
            Effect::Sync(contact) => self.errand(node, contact.id, Errand::Sync),
            Effect::RetrySeeds => {
                for seed in self.nodes[node.place()].seeds.clone() {
                    self.connect(node, seed, Errand::Join(Join::default()));
                }
            }
            Effect::Event(change) => self.on_change(node, &change),
            Effect::Departed => self.end(node),
            other => self.violate("effect", format!("the simulator does not know {other:?}")),
        }
    }

    fn errand(&mut self, node: NodeIndex, to: NodeId, errand: Errand) {
        if let Some(to) = self.index.get(&to).copied() {
            self.connect(node, to, errand);
        }
    }

    pub(super) fn send_packet(&mut self, from: NodeIndex, to: NodeIndex, packet: Packet) {
        let Some(parcel) = self.pack_packet(packet) else { return };
        self.figures.datagrams += 1;
        self.figures.datagram_bytes += parcel.bytes;
        let lives = self.nodes[from.place()].lives;
        match self.network.datagram(self.now, from, to) {
            Fate::Arrives { at, again } => {
                if let Some(again) = again {
                    self.figures.datagrams_doubled += 1;
                    self.agenda.push(again, Event::Packet { from, to, parcel: parcel.clone() });
                }
                self.agenda.push(at, Event::Packet { from, to, parcel });
            }
            Fate::Lost => self.figures.datagrams_lost += 1,
            Fate::NoLink => {
                self.figures.datagrams_lost += 1;
                self.agenda.push(self.now, Event::LinkGone { node: from, lives, peer: to });
            }
            Fate::HalfOpen => {
                self.figures.datagrams_lost += 1;
                self.on_unknown_link(from, to);
            }
        }
    }

    fn pack_packet(&mut self, packet: Packet) -> Option<Parcel<Packet>> {
        let bytes = packet.wire_len();
        if !self.options.through_codec {
            return Some(Parcel::unencoded(packet, bytes));
        }
        let decoded = packet.to_frame().map(|frame| (frame.wire_len(), Packet::from_frame(&frame)));
        match decoded {
            Ok((len, Ok(decoded))) if len == bytes && decoded.refused == 0 && decoded.message == packet => {
                Some(Parcel::unencoded(decoded.message, bytes))
            }
            other => {
                self.violate("codec", format!("{packet:?} of {bytes} bytes comes out as {other:?}"));
                None
            }
        }
    }

    fn on_change(&mut self, observer: NodeIndex, change: &Change) {
        let member = change.member();
        let (Some(kind), Some(subject)) = (BeliefKind::of(change), self.index.get(&member.id()).copied())
        else {
            return;
        };
        match kind {
            BeliefKind::Suspected => self.figures.suspected += 1,
            BeliefKind::Refuted => self.figures.refuted += 1,
            BeliefKind::Confirmed => self.figures.confirmed += 1,
            BeliefKind::Joined | BeliefKind::Left | BeliefKind::Updated => {}
        }
        let observer_lives = self.nodes[observer.place()].lives;
        let incarnation = member.incarnation;
        let belief = Belief { at: self.now, observer, observer_lives, subject, incarnation, kind };
        self.check(|invariant, world| invariant.on_belief(world, &belief));
        if let Some(beliefs) = &mut self.beliefs {
            beliefs.push(belief);
        }
        let (id, life) = (member.id(), member.instance);
        match kind {
            BeliefKind::Confirmed | BeliefKind::Left => {
                self.directory_turn(observer, |directory, now, out| directory.peer_lost(now, &id, out));
            }
            BeliefKind::Joined => {
                self.directory_turn(observer, |directory, now, out| {
                    directory.peer_is(now, &id, life, out);
                    directory.peer_back(now, &id, out);
                });
            }
            BeliefKind::Updated => {
                self.directory_turn(observer, |directory, now, out| directory.peer_is(now, &id, life, out));
            }
            BeliefKind::Suspected | BeliefKind::Refuted => {}
        }
    }
}
