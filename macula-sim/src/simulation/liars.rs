//! Members that lie about others, together or alone: they run the same machine as all, and beside it say what they like.

use std::sync::Arc;
use std::time::Duration;

use macula_membership::{
    Accusation, Effect, Effects, Incarnation, Machine, Packet, PacketKind, Tags, Update,
};
use macula_proto::{NodeId, Signer as _};
use rand::{Rng as _, RngExt as _};

use super::Simulation;
use super::event::Event;
use crate::NodeIndex;
use crate::node::Liar;
use crate::signing::CheapSigner;

/// Between two lies of one liar.
const PAUSE: Duration = Duration::from_millis(100);

/// Accusations in one packet: as many as fit.
const ACCUSATIONS_A_PACKET: usize = 7;

/// Seeds the keys of those who are no members.
const STRANGERS: u64 = u64::MAX;

/// Other members' words that a liar keeps, to say them again later.
const HEARD_MAX: usize = 64;

/// How many of those it repeats with each lie.
const REPEATED: usize = 2;

/// A liar's incarnations begin so far from the last one: as far as can be, with room to refute what is true of it.
const JUMP: Incarnation = Incarnation(u64::MAX - (1 << 32));

/// What a liar does, ten times a second and to every member that it is linked with.
#[derive(Clone, Debug, Default)]
pub struct Lies {
    /// Whom it accuses of being dead.
    pub victims: Vec<NodeIndex>,
    /// In how many ways it does so each time: in its own name, of the life that its victim lives and of one that never was;
    /// in another member's name, and in that of somebody who is none.
    pub accusers: usize,
    /// Members that never ran, and that it says are there: one more every second.
    pub ghosts: Vec<NodeIndex>,
}

impl Simulation {
    /// Starts a node anew as a liar, with the largest incarnation that leaves it room. It accuses, replays what others said
    /// earlier, changes its tags all the time, invents members, withholds every other answer to a ping, and says that
    /// nobody answers whom it is asked to probe.
    pub fn corrupt(&mut self, node: NodeIndex, lies: Lies) {
        self.crash(node);
        let state = &mut self.nodes[node.place()];
        state.incarnation_min = JUMP;
        state.liar = Some(Liar { lies, ..Liar::default() });
        self.start(node);
        self.lie_later(node);
    }

    /// All liars stop lying. They stay suspect to the rules.
    pub fn reform(&mut self) {
        for liar in self.nodes.iter_mut().filter_map(|node| node.liar.as_mut()) {
            liar.reformed = true;
        }
    }

    fn lie_later(&mut self, node: NodeIndex) {
        let lives = self.nodes[node.place()].lives;
        self.agenda.push(self.now + PAUSE, Event::Lie { node, lives });
    }

    pub(super) fn on_lie(&mut self, node: NodeIndex, lives: u32) {
        let state = &mut self.nodes[node.place()];
        let Some(liar) = state.liar.as_mut().filter(|liar| !liar.reformed && state.lives == lives) else {
            return;
        };
        liar.told += 1;
        let (told, lies) = (liar.told, liar.lies.clone());
        let mut updates = self.accusations(node, &lies);
        updates.extend(self.repetitions(node));
        if told.is_multiple_of(10)
            && let Some(ghost) = lies.ghosts.get(told as usize / 10 - 1)
        {
            updates.extend(self.invented(*ghost));
        }
        for peer in self.network.peers(node) {
            for updates in packets(&updates) {
                let packet = Packet { kind: PacketKind::Gossip, sequence: 0, target: None, updates };
                self.figures.lies += packet.updates.len() as u64;
                self.send_packet(node, peer, packet);
            }
        }
        let tags = Tags::from([("told".to_owned(), format!("{told:0>500}"))]);
        if let Err(cause) = self.set_tags(node, tags) {
            self.violate("liars", cause.to_string());
        }
        self.lie_later(node);
    }

    /// Every victim is dead, says the liar, again and again.
    fn accusations(&mut self, node: NodeIndex, lies: &Lies) -> Vec<Update> {
        let mut updates = Vec::new();
        for victim in &lies.victims {
            let id = self.nodes[victim.place()].id();
            let swim = self.nodes[node.place()].swim.as_ref();
            let Some(incarnation) = swim.and_then(|swim| swim.incarnation_of(&id)) else { continue };
            let ready = |liar: &Liar| {
                let (of, ready) = liar.slanders.get(victim)?;
                (*of == incarnation).then(|| ready.clone())
            };
            let ready = self.nodes[node.place()].liar.as_ref().and_then(ready).unwrap_or_else(|| {
                let told: Vec<Update> =
                    (0..lies.accusers).map(|way| self.accusation(node, id, incarnation, way)).collect();
                if let Some(liar) = &mut self.nodes[node.place()].liar {
                    liar.slanders.insert(*victim, (incarnation, told.clone()));
                }
                told
            });
            updates.extend(ready);
        }
        updates
    }

    fn accusation(&mut self, node: NodeIndex, id: NodeId, incarnation: Incarnation, way: usize) -> Update {
        let own = &self.nodes[node.place()].signer;
        let accusation = match way % 4 {
            0 => Accusation::new(own, id, incarnation),
            1 => Accusation::new(own, id, Incarnation(u64::MAX)),
            2 => {
                let somebody = self.rng.random_range(0..self.nodes.len());
                let name = self.nodes[somebody].signer.public_key();
                let mut signed = Accusation::new(own, id, incarnation).signed().clone();
                signed.public_key = name.as_bytes().to_vec().into();
                Accusation::parse(signed).expect("well formed, though not signed by whom it names")
            }
            _ => Accusation::new(&CheapSigner::new(STRANGERS, node.0), id, incarnation),
        };
        let accusation = Arc::new(accusation);
        if way.is_multiple_of(2) { Update::Dead(accusation) } else { Update::Suspect(accusation) }
    }

    fn repetitions(&mut self, node: NodeIndex) -> Vec<Update> {
        let Some(liar) = &self.nodes[node.place()].liar else { return Vec::new() };
        if liar.heard.is_empty() {
            return Vec::new();
        }
        (0..REPEATED).map(|_| liar.heard[self.rng.random_range(0..liar.heard.len())].clone()).collect()
    }

    /// The word of a member that never ran, as it would say it itself.
    fn invented(&mut self, ghost: NodeIndex) -> Vec<Update> {
        let (now, seed) = (self.clocks(ghost), self.rng.next_u64());
        let parts = self.parts(ghost, now.unix, seed);
        let mut machine = Machine::new(parts, now.at);
        let ping = Packet { kind: PacketKind::Ping, sequence: 1, target: None, updates: Vec::new() };
        let mut out = Effects::new();
        machine.on_packet(now.at, NodeId::from_bytes([0; 32]), &ping, &mut out);
        let answers = out.into_iter().filter_map(|effect| match effect {
            Effect::Send { packet, .. } => Some(packet.updates),
            _ => None,
        });
        answers.flatten().collect()
    }

    /// A liar hears something. Returns whether its machine may have it.
    pub(super) fn liar_hears(&mut self, from: NodeIndex, to: NodeIndex, packet: &Packet) -> bool {
        let Some(liar) = self.nodes[to.place()].liar.as_mut().filter(|liar| !liar.reformed) else {
            return true;
        };
        for word in packet.updates.iter().filter(|update| !matches!(update, Update::Doubt(_))) {
            if liar.heard.len() >= HEARD_MAX {
                // The oldest half stays: it is the most outdated.
                liar.heard.truncate(HEARD_MAX / 2);
            }
            liar.heard.push(word.clone());
        }
        if packet.kind == PacketKind::PingReq {
            let nack = Packet {
                kind: PacketKind::Nack,
                sequence: packet.sequence,
                target: None,
                updates: Vec::new(),
            };
            self.send_packet(to, from, nack);
            return false;
        }
        true
    }

    /// Whether a liar keeps an answer to itself.
    pub(super) fn withholds(&mut self, node: NodeIndex, packet: &Packet) -> bool {
        let lies = self.nodes[node.place()].liar.as_ref().is_some_and(|liar| !liar.reformed);
        lies && packet.kind == PacketKind::Ack && self.rng.random_bool(0.5)
    }
}

/// Cuts updates into packets: what is said by its subject is long, so each has one of those at most.
fn packets(updates: &[Update]) -> Vec<Vec<Update>> {
    let (words, rumours): (Vec<Update>, Vec<Update>) =
        updates.iter().cloned().partition(|update| matches!(update, Update::Statement(_)));
    let rumours = rumours.chunks(ACCUSATIONS_A_PACKET).map(<[_]>::to_vec);
    words.into_iter().map(|word| vec![word]).chain(rumours).collect()
}
