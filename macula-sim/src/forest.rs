//! The subscribers of one topic: many trees' machines over a network that loses messages.
//!
//! Two networks: one as QUIC makes it, where what is lost is sent again and all that comes behind waits for it; and a bare
//! one, where each word and each copy of a message is lost for good, as if links broke all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};
use macula_pubsub::tree::{Body, Effect, Parcel, StreamId, Tree, TreeConfig, TreeMetrics, Word};
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt as _, SeedableRng as _};

use crate::agenda::Agenda;
use crate::trace::{Trace, TraceHash};
use crate::{NodeIndex, Violation};

/// The way from one node to another: between these, drawn once for each pair.
const LATENCY_MIN_MICROS: u64 = 2_000;
const LATENCY_MAX_MICROS: u64 = 40_000;

/// What is added to it each time, at most.
const JITTER_MICROS: u64 = 3_000;

/// What a lost packet of a connection costs until it is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

/// How many others a subscriber is told of by whoever invites it.
const INVITED_WITH: usize = 8;

/// How long after a node died the others hear of it, at most: membership tells them.
const DEATH_KNOWN_AFTER: Duration = Duration::from_secs(8);

/// A published message. All that is measured of it is when it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    sent: Timestamp,
}

impl Body for Note {
    fn bytes(&self) -> usize {
        64
    }
}

/// How the network behaves, and how the trees are bounded.
#[derive(Clone, Debug)]
pub(crate) struct ForestOptions {
    pub(crate) nodes: u32,
    pub(crate) seed: u64,
    /// The share of words and copies that are lost.
    pub(crate) loss: f64,
    /// Whether they are sent again.
    pub(crate) repeats: bool,
    pub(crate) tree: TreeConfig,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// Messages published.
    pub(crate) published: u64,
    /// Copies delivered to subscribers other than the publisher.
    pub(crate) delivered: u64,
    /// Those that should have been.
    pub(crate) expected: u64,
    /// How often each delivered copy had been sent.
    pub(crate) hops: Vec<u32>,
    pub(crate) latencies: Vec<Duration>,
    /// Copies that had come before.
    pub(crate) redundant: u64,
    /// Copies sent by each node.
    pub(crate) uplinks: Vec<u64>,
    /// Words said, other than messages.
    pub(crate) words: u64,
    /// Messages that had to be asked for, by all together.
    pub(crate) wanted: u64,
    pub(crate) grafts: u64,
    pub(crate) links_most: usize,
}

enum Event {
    Word { to: NodeIndex, from: NodeIndex, word: Word },
    Copy { to: NodeIndex, from: NodeIndex, parcel: Parcel<Note> },
    Timer { node: NodeIndex, at: Timestamp },
    Death { of: NodeIndex, to: NodeIndex },
}

struct Subscriber {
    tree: Tree<Note>,
    metrics: TreeMetrics,
    alive: bool,
    wakes: Option<Timestamp>,
    published: u64,
    sent: u64,
    /// The next number expected from each publisher.
    next: BTreeMap<NodeId, u64>,
}

/// All subscribers of one topic.
pub(crate) struct Forest {
    options: ForestOptions,
    now: Timestamp,
    agenda: Agenda<Event>,
    rng: StdRng,
    nodes: Vec<Subscriber>,
    /// When the last word or copy arrives, from one node to another.
    arrivals: BTreeMap<(NodeIndex, NodeIndex), Timestamp>,
    trace: Trace,
    measured: Measured,
    violations: Vec<Violation>,
}

impl Forest {
    /// Subscribers that have just been invited, each by somebody who told it of a few others.
    pub(crate) fn new(options: ForestOptions) -> Self {
        let mut forest = Self {
            now: Timestamp::ZERO,
            agenda: Agenda::new(),
            rng: StdRng::seed_from_u64(options.seed),
            nodes: Vec::new(),
            arrivals: BTreeMap::new(),
            trace: Trace::default(),
            measured: Measured::default(),
            violations: Vec::new(),
            options,
        };
        for number in 0..forest.options.nodes {
            let metrics = TreeMetrics::default();
            let (config, seed) = (forest.options.tree.clone(), forest.rng.random());
            let tree = Tree::new(forest.now, contact(NodeIndex(number)), config, metrics.clone(), seed);
            let next = BTreeMap::new();
            forest.nodes.push(Subscriber {
                tree,
                metrics,
                alive: true,
                wakes: None,
                published: 0,
                sent: 0,
                next,
            });
        }
        let count = forest.nodes.len();
        for place in 0..count {
            let told = index::sample(&mut forest.rng, count, INVITED_WITH.min(count));
            let told = told.into_iter().map(|other| contact(NodeIndex(other as u32))).collect();
            forest.nodes[place].tree.learn(Timestamp::ZERO, told);
            forest.wake(NodeIndex(place as u32));
        }
        forest
    }

    pub(crate) fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    pub(crate) fn living(&self) -> Vec<NodeIndex> {
        let living = self.nodes.iter().enumerate().filter(|(_, node)| node.alive);
        living.map(|(place, _)| NodeIndex(place as u32)).collect()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn events(&self) -> u64 {
        self.trace.events()
    }

    pub(crate) fn trace_hash(&self) -> TraceHash {
        self.trace.hash()
    }

    pub(crate) fn violate(&mut self, rule: &'static str, what: String) {
        self.violations.push(Violation { at: self.now, rule, what });
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some((at, event)) = self.agenda.pop(until) {
            self.now = at;
            self.handle(event);
        }
        self.now = until;
    }

    /// A subscriber publishes to all others.
    pub(crate) fn publish(&mut self, by: NodeIndex) {
        let now = self.now;
        let node = &mut self.nodes[by.place()];
        node.published += 1;
        let parcel = Parcel {
            stream: StreamId { origin: id(by), run: 1 },
            number: node.published,
            since: node.published.saturating_sub(50).max(1),
            continued: false,
            hops: 0,
            answer: false,
            body: Note { sent: now },
        };
        let mut out = Vec::new();
        node.tree.publish(now, parcel, &mut out);
        self.measured.published += 1;
        self.measured.expected += self.living().len() as u64 - 1;
        self.carry_out(by, out);
    }

    /// A node dies without a word; what it should have got is not counted.
    pub(crate) fn kill(&mut self, node: NodeIndex) {
        self.nodes[node.place()].alive = false;
        let linked: Vec<NodeIndex> = self
            .living()
            .into_iter()
            .filter(|other| self.nodes[other.place()].tree.links().iter().any(|link| link.peer == id(node)))
            .collect();
        for to in linked {
            let after = self.rng.random_range(DEATH_KNOWN_AFTER / 4..DEATH_KNOWN_AFTER);
            self.agenda.push(self.now + after, Event::Death { of: node, to });
        }
    }

    /// How often copies were sent so far, and how long that took, is not of interest: the tree took shape meanwhile.
    pub(crate) fn forget_ways(&mut self) {
        self.measured.hops.clear();
        self.measured.latencies.clear();
    }

    /// Ends it, and says what was measured.
    pub(crate) fn finish(mut self) -> (Measured, Vec<Violation>) {
        let mut measured = std::mem::take(&mut self.measured);
        for node in &self.nodes {
            measured.redundant += node.metrics.duplicates.get();
            measured.wanted += node.metrics.wanted.get();
            measured.grafts += node.metrics.grafts.get();
            measured.uplinks.push(node.sent);
            measured.links_most = measured.links_most.max(node.tree.links().len());
        }
        (measured, self.violations)
    }

    /// What was published and should have come to `node` by now, but did not.
    pub(crate) fn lacks(&self, node: NodeIndex) -> u64 {
        let receiver = &self.nodes[node.place()];
        let others = self.nodes.iter().enumerate().filter(|(place, _)| *place != node.place());
        let lacks = others.map(|(place, publisher)| {
            let next = receiver.next.get(&id(NodeIndex(place as u32))).copied().unwrap_or(1);
            (publisher.published + 1).saturating_sub(next)
        });
        lacks.sum()
    }

    fn handle(&mut self, event: Event) {
        let (now, mut out) = (self.now, Vec::new());
        let (to, kind, what) = match &event {
            Event::Word { to, from, .. } => (*to, 1, u64::from(from.0)),
            Event::Copy { to, parcel, .. } => (*to, 2, parcel.number),
            Event::Timer { node, .. } => (*node, 3, 0),
            Event::Death { of, to } => (*to, 4, u64::from(of.0)),
        };
        let node = &mut self.nodes[to.place()];
        if !node.alive {
            return;
        }
        match event {
            Event::Word { from, word, .. } => node.tree.on_word(now, &contact(from), word, &mut out),
            Event::Copy { from, parcel, .. } => node.tree.on_parcel(now, id(from), parcel, &mut out),
            Event::Timer { at, .. } => {
                if node.wakes != Some(at) {
                    return;
                }
                node.wakes = None;
                node.tree.on_timeout(now, &mut out);
            }
            Event::Death { of, .. } => node.tree.on_lost(now, &id(of)),
        }
        self.trace.fold(now, to, kind, what);
        self.carry_out(to, out);
    }

    fn carry_out(&mut self, from: NodeIndex, effects: Vec<Effect<Note>>) {
        for effect in effects {
            match effect {
                Effect::Tell { to, word } => {
                    self.measured.words += 1;
                    let to = index_of(&to.id);
                    self.send(from, to, Event::Word { to, from, word });
                }
                Effect::Push { to, parcel } => {
                    for to in to.iter().map(index_of) {
                        self.nodes[from.place()].sent += 1;
                        self.send(from, to, Event::Copy { to, from, parcel: parcel.clone() });
                    }
                }
                Effect::Deliver(parcel) => self.deliver(from, &parcel),
                Effect::Alone => {
                    let count = self.nodes.len();
                    let told = index::sample(&mut self.rng, count, INVITED_WITH.min(count));
                    let told = told.into_iter().map(|other| contact(NodeIndex(other as u32))).collect();
                    self.nodes[from.place()].tree.learn(self.now, told);
                }
            }
        }
        self.wake(from);
    }

    fn send(&mut self, from: NodeIndex, to: NodeIndex, event: Event) {
        let mut lost = Duration::ZERO;
        while self.rng.random_bool(self.options.loss) {
            if !self.options.repeats {
                return;
            }
            lost += REPEAT_AFTER;
        }
        // The same for a pair whenever it is asked for.
        let pair = u64::from(from.0.min(to.0)) << 32 | u64::from(from.0.max(to.0));
        let mut of_pair = StdRng::seed_from_u64(pair ^ self.options.seed);
        let latency = of_pair.random_range(LATENCY_MIN_MICROS..LATENCY_MAX_MICROS);
        let jitter = self.rng.random_range(0..=JITTER_MICROS);
        let mut at = self.now + lost + Duration::from_micros(latency + jitter);
        if self.options.repeats {
            let last = self.arrivals.entry((from, to)).or_insert(at);
            at = at.max(*last);
            *last = at;
        }
        self.agenda.push(at, event);
    }

    fn deliver(&mut self, to: NodeIndex, parcel: &Parcel<Note>) {
        let node = &mut self.nodes[to.place()];
        let next = node.next.entry(parcel.stream.origin).or_insert(1);
        if parcel.number != *next {
            let what = format!("{to} got number {} where {next} was due", parcel.number);
            self.violations.push(Violation { at: self.now, rule: "order", what });
        }
        *next = (parcel.number + 1).max(*next);
        self.measured.delivered += 1;
        self.measured.hops.push(parcel.hops);
        self.measured.latencies.push(self.now.since(parcel.body.sent));
    }

    fn wake(&mut self, node: NodeIndex) {
        let state = &mut self.nodes[node.place()];
        let deadline = state.tree.deadline();
        if let Some(at) = deadline
            && state.wakes.is_none_or(|wakes| at < wakes)
        {
            state.wakes = Some(at);
            self.agenda.push(at.max(self.now), Event::Timer { node, at });
        }
    }
}

fn id(node: NodeIndex) -> NodeId {
    let mut bytes = [0; 32];
    // Spread, so that the order of ids says nothing.
    bytes[..4].copy_from_slice(&node.0.wrapping_mul(0x9e37_79b1).to_be_bytes());
    bytes[28..].copy_from_slice(&node.0.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn index_of(id: &NodeId) -> NodeIndex {
    let bytes = id.as_bytes();
    NodeIndex(u32::from_be_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]))
}

fn contact(node: NodeIndex) -> Contact {
    Contact { id: id(node), addrs: Vec::new() }
}
