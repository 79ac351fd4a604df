//! A small deterministic network of machines: one event queue, latency, loss, crashes, partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_membership::{
    Effect, Effects, Event, Incarnation, Machine, MachineParts, MemberState, Packet, SwimConfig, SwimMetrics,
    Tags,
};
use macula_proto::{Contact, Ed25519Verifier, NodeId, SecretKey, Timestamp, UnixMillis};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// After so long without an answer, the transport gives a link up.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
const START_UNIX: u64 = 1_800_000_000_000;

pub(crate) struct Network {
    pub(crate) now: Timestamp,
    pub(crate) config: SwimConfig,
    pub(crate) metrics: SwimMetrics,
    pub(crate) loss: f64,
    /// What subscribers saw, with who saw it.
    pub(crate) events: Vec<(Timestamp, usize, Event)>,
    /// Every packet sent, in order: for comparing two runs.
    pub(crate) trace: Vec<(Timestamp, usize, usize, usize)>,
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, usize>,
    queue: BTreeMap<(Timestamp, u64), Happening>,
    serial: u64,
    links: BTreeSet<(usize, usize)>,
    /// Which side of a partition a node is on.
    side: Vec<u8>,
    rng: StdRng,
}

struct Node {
    machine: Option<Machine>,
    /// Which life this is: what was meant for an earlier one is dropped.
    life: u32,
    timer: Timestamp,
    key: SecretKey,
}

enum Happening {
    Timer { node: usize, life: u32 },
    Packet { from: usize, to: usize, packet: Packet },
    Dialled { from: usize, to: usize, life: u32 },
    DialFailed { from: usize, to: usize, life: u32 },
    Synced { from: usize, to: usize, life: u32 },
    LinkLost { at: usize, to: usize, life: u32 },
}

impl Network {
    pub(crate) fn new(seed: u64, loss: f64) -> Self {
        Self {
            now: Timestamp::from_start(Duration::from_secs(1)),
            config: SwimConfig::default(),
            metrics: SwimMetrics::default(),
            loss,
            events: Vec::new(),
            trace: Vec::new(),
            nodes: Vec::new(),
            index: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            links: BTreeSet::new(),
            side: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds nodes that join through the first one, one after the other.
    pub(crate) fn grow(&mut self, count: usize) {
        for _ in 0..count {
            let n = self.nodes.len();
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
            let key = SecretKey::from_seed(seed);
            self.index.insert(key.node_id(), n);
            self.nodes.push(Node { machine: None, life: 0, timer: Timestamp::ZERO, key });
            self.side.push(0);
            self.start(n, START_UNIX);
            if n > 0 {
                self.join(n, 0);
            }
            self.run(Duration::from_millis(50));
        }
    }

    /// Starts (or restarts) a node whose wall clock began at `unix`.
    pub(crate) fn start(&mut self, n: usize, unix: u64) {
        let unix = UnixMillis(unix + self.now.since_start().as_millis() as u64);
        let addr = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4_000));
        let seed = self.rng.random();
        let node = &mut self.nodes[n];
        node.life += 1;
        let parts = MachineParts {
            config: self.config.clone(),
            contact: Contact::new(node.key.node_id(), addr),
            tags: Tags::new(),
            incarnation_min: Incarnation::default(),
            signer: Arc::new(node.key.clone()),
            verifier: Arc::new(Ed25519Verifier),
            metrics: self.metrics.clone(),
            unix,
            seed,
        };
        node.machine = Some(Machine::new(parts, self.now));
        node.timer = Timestamp::ZERO;
        self.arm(n);
    }

    pub(crate) fn restart(&mut self, n: usize, unix: u64) {
        self.start(n, START_UNIX.saturating_add_signed(unix as i64));
        self.join(n, usize::from(n == 0));
    }

    /// Stops a node without a word. The others' transports notice some time later.
    pub(crate) fn crash(&mut self, n: usize) {
        self.nodes[n].machine = None;
        self.cut(|a, b| a == n || b == n);
    }

    pub(crate) fn join(&mut self, n: usize, seed: usize) {
        self.link(n, seed);
        self.sync(n, seed);
    }

    pub(crate) fn leave(&mut self, n: usize) {
        self.act(n, Machine::leave);
    }

    /// Nodes from `first` on are on another side; `0` heals. Links across break without notice.
    pub(crate) fn partition(&mut self, first: usize) {
        for n in 0..self.nodes.len() {
            self.side[n] = u8::from(first > 0 && n >= first);
        }
        let side = self.side.clone();
        self.cut(|a, b| side[a] != side[b]);
    }

    pub(crate) fn act<R>(
        &mut self,
        n: usize,
        act: impl FnOnce(&mut Machine, Timestamp, &mut Effects) -> R,
    ) -> Option<R> {
        let mut out = Effects::new();
        let machine = self.nodes[n].machine.as_mut()?;
        let result = act(machine, self.now, &mut out);
        for effect in out {
            self.perform(n, effect);
        }
        self.arm(n);
        Some(result)
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    pub(crate) fn id(&self, n: usize) -> NodeId {
        self.nodes[n].key.node_id()
    }

    pub(crate) fn machine(&self, n: usize) -> &Machine {
        self.nodes[n].machine.as_ref().expect("the node is up")
    }

    pub(crate) fn is_up(&self, n: usize) -> bool {
        self.nodes[n].machine.is_some()
    }

    /// Pairs (who, about whom) for which a running node does not believe `state` of `about`.
    pub(crate) fn disagreeing(&self, about: usize, state: MemberState) -> Vec<usize> {
        let id = self.id(about);
        (0..self.nodes.len())
            .filter(|n| self.is_up(*n) && *n != about && self.machine(*n).state_of(&id) != Some(state))
            .collect()
    }

    pub(crate) fn assert_full(&self, members: usize) {
        for n in (0..self.nodes.len()).filter(|n| self.is_up(*n)) {
            assert_eq!(self.machine(n).members_len(), members, "members as node {n} sees them");
        }
    }

    /// How many links there are in all.
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    pub(crate) fn confirmed(&self) -> Vec<(usize, NodeId)> {
        let confirmed = |event: &Event| matches!(event, Event::Confirmed(_));
        self.events.iter().filter(|(_, _, e)| confirmed(e)).map(|(_, n, e)| (*n, e.member().id())).collect()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Timer { node, life } if self.nodes[node].life == life => {
                self.nodes[node].timer = Timestamp::ZERO;
                let due =
                    self.nodes[node].machine.as_ref().is_some_and(|machine| machine.deadline() <= self.now);
                if due {
                    self.act(node, Machine::on_timeout);
                } else {
                    self.arm(node);
                }
            }
            Happening::Packet { from, to, packet } if self.linked(from, to) => {
                let from = self.id(from);
                self.act(to, |machine, now, out| machine.on_packet(now, from, &packet, out));
            }
            Happening::Dialled { from, to, life } if self.nodes[from].life == life => self.link(from, to),
            Happening::DialFailed { from, to, life } if self.nodes[from].life == life => {
                let to = self.id(to);
                self.act(from, |machine, now, out| machine.on_dial_failed(now, to, false, out));
            }
            Happening::Synced { from, to, life } if self.nodes[from].life == life => self.sync(from, to),
            Happening::LinkLost { at, to, life } if self.nodes[at].life == life && !self.linked(at, to) => {
                let to = self.id(to);
                self.act(at, |machine, now, _| machine.on_link_down(now, to));
            }
            _ => {}
        }
    }

    fn perform(&mut self, n: usize, effect: Effect) {
        let life = self.nodes[n].life;
        match effect {
            Effect::Send { to, packet } => {
                let frame = packet.to_frame().expect("a packet fits a frame");
                assert!(
                    frame.wire_len() <= macula_membership::PACKET_BYTES_MAX,
                    "{} bytes",
                    frame.wire_len()
                );
                let to = self.index[&to];
                self.trace.push((self.now, n, to, frame.wire_len()));
                if self.linked(n, to) && !self.rng.random_bool(self.loss) {
                    self.after(5..25, Happening::Packet { from: n, to, packet });
                }
            }
            Effect::Connect(contact) => {
                let to = self.index[&contact.id];
                if self.reaches(n, to) {
                    self.after(20..60, Happening::Dialled { from: n, to, life });
                } else {
                    self.at(self.now + DIAL_PATIENCE, Happening::DialFailed { from: n, to, life });
                }
            }
            Effect::Sync(contact) => {
                let to = self.index[&contact.id];
                self.after(40..90, Happening::Synced { from: n, to, life });
            }
            Effect::Event(event) => self.events.push((self.now, n, event)),
            Effect::RetrySeeds => self.after(40..90, Happening::Synced { from: n, to: 0, life }),
            _ => {}
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        if !self.reaches(a, b) {
            let (to, life) = (b, self.nodes[a].life);
            self.at(self.now, Happening::DialFailed { from: a, to, life });
            return;
        }
        self.links.insert((a.min(b), a.max(b)));
        let (id_a, id_b) = (self.id(a), self.id(b));
        self.act(a, |machine, now, out| machine.on_link_up(now, id_b, out));
        self.act(b, |machine, now, out| machine.on_link_up(now, id_a, out));
    }

    /// A whole exchange at once: streams do not lose anything.
    fn sync(&mut self, asker: usize, answerer: usize) {
        let (id_a, id_b) = (self.id(asker), self.id(answerer));
        if !self.reaches(asker, answerer) {
            self.act(asker, |machine, _, _| machine.on_sync_end(id_b, false));
            return;
        }
        self.link(asker, answerer);
        let mut to_answerer = vec![self.machine(asker).begin_sync()];
        while !to_answerer.is_empty() {
            let mut back = Vec::new();
            for message in to_answerer.drain(..) {
                message.to_frame().expect("a page fits a frame");
                self.act(answerer, |machine, now, out| machine.on_sync(now, id_a, &message, &mut back, out));
            }
            for message in back {
                message.to_frame().expect("a page fits a frame");
                self.act(asker, |machine, now, out| {
                    machine.on_sync(now, id_b, &message, &mut to_answerer, out);
                });
            }
        }
        self.act(asker, |machine, _, _| machine.on_sync_end(id_b, true));
    }

    fn cut(&mut self, is_cut: impl Fn(usize, usize) -> bool) {
        let cut: Vec<(usize, usize)> = self.links.iter().copied().filter(|(a, b)| is_cut(*a, *b)).collect();
        for (a, b) in cut {
            self.links.remove(&(a, b));
            for (at, to) in [(a, b), (b, a)] {
                let life = self.nodes[at].life;
                self.at(self.now + LINK_PATIENCE, Happening::LinkLost { at, to, life });
            }
        }
    }

    fn reaches(&self, a: usize, b: usize) -> bool {
        a != b && self.is_up(a) && self.is_up(b) && self.side[a] == self.side[b]
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    fn arm(&mut self, node: usize) {
        let Some(machine) = &self.nodes[node].machine else { return };
        let (deadline, armed, life) =
            (machine.deadline().max(self.now), self.nodes[node].timer, self.nodes[node].life);
        if armed == Timestamp::ZERO || deadline < armed {
            self.nodes[node].timer = deadline;
            self.at(deadline, Happening::Timer { node, life });
        }
    }

    fn after(&mut self, ms: std::ops::Range<u64>, happening: Happening) {
        let at = self.now + Duration::from_millis(self.rng.random_range(ms));
        self.at(at, happening);
    }

    fn at(&mut self, at: Timestamp, happening: Happening) {
        self.serial += 1;
        self.queue.insert((at, self.serial), happening);
    }
}
