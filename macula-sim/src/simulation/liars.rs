//! Members that lie about others, together or alone: they run the same machine as all, and beside it say what they like.

use std::time::Duration;

use macula_membership::{
    Effect, Effects, Incarnation, Machine, Packet, PacketKind, Rumour, Tags, Update, suspector,
};
use macula_proto::NodeId;
use rand::{Rng as _, RngExt as _};

use super::Simulation;
use super::event::Event;
use crate::NodeIndex;
use crate::node::Liar;

/// Between two lies of one liar.
const PAUSE: Duration = Duration::from_millis(100);

/// Rumours in one packet: as many as fit.
const RUMOURS_A_PACKET: usize = 16;

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
    /// In how many members' names it does so each time: of others, and of some that do not exist.
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
        let mut updates = self.accusations(&lies);
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

    /// Every victim is dead, say many: some of them exist. The incarnation is the largest, which may be held against any
    /// life of the victim's.
    fn accusations(&mut self, lies: &Lies) -> Vec<Update> {
        let mut updates = Vec::new();
        for victim in &lies.victims {
            let id = self.nodes[victim.place()].id();
            for number in 0..lies.accusers {
                let somebody = self.rng.random_range(0..self.nodes.len());
                let exists = number.is_multiple_of(2);
                let by = if exists { suspector(&self.nodes[somebody].id()) } else { self.rng.next_u64() };
                let rumour = Rumour { id, incarnation: Incarnation(u64::MAX), by };
                updates.push(if exists { Update::Dead(rumour) } else { Update::Suspect(rumour) });
            }
        }
        updates
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
        let words = packet.updates.iter().filter(|update| matches!(update, Update::Statement(_)));
        for word in words {
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
    let rumours = rumours.chunks(RUMOURS_A_PACKET).map(<[_]>::to_vec);
    words.into_iter().map(|word| vec![word]).chain(rumours).collect()
}
