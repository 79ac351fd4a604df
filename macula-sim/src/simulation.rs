//! The simulation: nodes, network and agenda, and the loop that turns them.

mod dialling;
mod directory;
mod event;
mod exchange;
mod first_word;
mod liars;
mod lifecycle;
mod membership;
mod options;

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::time::Duration;

use macula_dht::kademlia::{DhtMetrics, Done, Now, Op};
use macula_membership::{Queue, SwimMetrics};
use macula_proto::{NodeId, Timestamp, UnixMillis};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use directory::DirectoryFaults;
pub(crate) use event::Event;
pub use liars::Lies;
pub use options::{Layers, Options};

use crate::agenda::Agenda;
use crate::invariant::{Invariant, Violation, World};
use crate::network::Network;
use crate::node::{Layer, SimNode};
use crate::trace::Trace;
use crate::{Belief, Figures, Life, NodeIndex, TraceHash};
use exchange::{Exchange, ExchangeId};
use first_word::FirstWord;

/// Wall clock at the start of every run: 14 November 2023, because a run must not depend on today.
const UNIX_START: UnixMillis = UnixMillis(1_700_000_000_000);

/// Timers are no finer than this, as in the real driver.
const TICK: Duration = Duration::from_millis(1);

/// Links are looked through for idle ones so often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Violations that are kept; a broken rule is seldom broken once.
const VIOLATIONS_MAX: usize = 32;

/// Many nodes in one process, from one seed.
///
/// Call order: [`new`](Self::new), [`add`](Self::add) and [`start`](Self::start) nodes, then [`run_for`](Self::run_for) and
/// acts such as [`crash`](Self::crash) in turn; [`finish`](Self::finish) checks what must hold at the end.
pub struct Simulation {
    options: Options,
    seed: u64,
    now: Timestamp,
    agenda: Agenda<Event>,
    network: Network,
    nodes: Vec<SimNode>,
    index: HashMap<NodeId, NodeIndex, BuildHasherDefault<FirstWord>>,
    exchanges: BTreeMap<ExchangeId, Exchange>,
    done: BTreeMap<(NodeIndex, Op), Done>,
    rng: StdRng,
    trace: Trace,
    figures: Figures,
    links_max: usize,
    inbox_max: usize,
    beliefs: Option<Vec<Belief>>,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<Violation>,
    swim_metrics: SwimMetrics,
    dht_metrics: DhtMetrics,
    last_number: u64,
}

impl Simulation {
    /// A simulation without nodes, with all invariants on watch.
    pub fn new(options: Options, seed: u64) -> Self {
        let mut simulation = Self {
            network: Network::new(options.faults.clone(), seed ^ 0x6e65_7477_6f72_6b00),
            options,
            seed,
            now: Timestamp::ZERO,
            agenda: Agenda::new(),
            nodes: Vec::new(),
            index: HashMap::default(),
            exchanges: BTreeMap::new(),
            done: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            trace: Trace::default(),
            figures: Figures::default(),
            links_max: 0,
            inbox_max: 0,
            beliefs: None,
            invariants: crate::invariant::all(),
            violations: Vec::new(),
            swim_metrics: SwimMetrics::default(),
            dht_metrics: DhtMetrics::default(),
            last_number: 0,
        };
        simulation.agenda.push(Timestamp::ZERO + SWEEP_INTERVAL, Event::Sweep);
        for partition in simulation.options.faults.partitions.clone() {
            simulation.schedule_partition(partition);
        }
        simulation
    }

    /// Simulated time since the start.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The options given.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// All nodes, the dead included, by number.
    pub fn nodes(&self) -> &[SimNode] {
        &self.nodes
    }

    /// The numbers of those that live and have not left.
    pub fn living(&self) -> Vec<NodeIndex> {
        let numbers = NodeIndex::each(0..self.nodes.len() as u32);
        numbers.filter(|node| self.nodes[node.place()].is_there()).collect()
    }

    /// What was counted so far.
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    /// The most links that one node had at any time.
    pub const fn links_max(&self) -> usize {
        self.links_max
    }

    /// The longest queue of a paused node.
    pub const fn inbox_max(&self) -> usize {
        self.inbox_max
    }

    /// The hash of the run so far: the same for the same options, seed and acts.
    pub fn trace_hash(&self) -> TraceHash {
        self.trace.hash()
    }

    /// Events handled so far.
    pub const fn events(&self) -> u64 {
        self.trace.events()
    }

    /// What has been broken so far; at most 32 entries.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// From now on beliefs are kept, for [`beliefs`](Self::beliefs).
    pub fn record_beliefs(&mut self) {
        self.beliefs.get_or_insert_default();
    }

    /// The beliefs recorded so far.
    pub fn beliefs(&self) -> &[Belief] {
        self.beliefs.as_deref().unwrap_or_default()
    }

    /// Random choices of a scenario, from the same seed.
    pub const fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// Lets simulated time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((at, event)) = self.agenda.pop(end) {
            self.now = at;
            self.handle(event);
        }
        self.now = end;
    }

    /// Lets time pass until `is_over`, asked once a `step`, but no longer than `span`. Returns the time that passed, or
    /// `None` if it never was.
    pub fn run_until(
        &mut self,
        step: Duration,
        span: Duration,
        mut is_over: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while self.now - start <= span {
            if is_over(self) {
                return Some(self.now - start);
            }
            self.run_for(step);
        }
        None
    }

    /// Whether every living node's list is as long as it should be: quick to tell, and true well before all lists are
    /// known to be right, which [`finish`](Self::finish) checks.
    pub fn is_settled(&self) -> bool {
        let living = self.nodes.iter().filter(|node| node.is_there()).count();
        let machines = self.nodes.iter().filter_map(SimNode::membership);
        machines.into_iter().all(|machine| machine.members_len() == living && machine.suspects_len() == 0)
    }

    /// Checks what must hold at the end. Returns everything that was broken in the whole run.
    pub fn finish(&mut self) -> Vec<Violation> {
        self.check(|invariant, world| invariant.at_end(world));
        self.violations.clone()
    }

    /// A rule of the scenario's own is broken.
    pub fn violate(&mut self, rule: &'static str, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, at: self.now, what });
        }
    }

    fn check(&mut self, ask: impl Fn(&mut dyn Invariant, &World<'_>) -> Result<(), String>) {
        let mut invariants = std::mem::take(&mut self.invariants);
        let world = World {
            now: self.now,
            nodes: &self.nodes,
            partitions: &self.network.faults().partitions,
            grace: self.options.grace(self.nodes.len()),
            forget_after: self.options.swim.forget_after,
        };
        let broken: Vec<_> = invariants
            .iter_mut()
            .filter_map(|invariant| Some((invariant.name(), ask(invariant.as_mut(), &world).err()?)))
            .collect();
        self.invariants = invariants;
        for (rule, what) in broken {
            self.violate(rule, what);
        }
    }

    fn check_queues(&mut self, node: NodeIndex, queues: &[Queue]) {
        for at in 0..self.invariants.len() {
            let invariant = &mut self.invariants[at];
            if let Err(what) = invariant.on_queues(node, queues) {
                let rule = invariant.name();
                self.violate(rule, what);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(to) = event.recipient() {
            let node = &mut self.nodes[to.place()];
            let is_timer = matches!(event, Event::Timer { .. });
            match node.life {
                // All timers are set anew when it goes on.
                Life::Paused if is_timer => return,
                Life::Paused => return self.put_off(to, event),
                Life::Running if node.starved && !is_timer => return self.put_off(to, event),
                Life::Down | Life::Departed => return,
                Life::Running => {}
            }
        }
        self.dispatch(event);
    }

    /// What arrives at a node that does not read now waits, if there is room.
    fn put_off(&mut self, node: NodeIndex, event: Event) {
        let inbox = &mut self.nodes[node.place()].inbox;
        if inbox.len() >= self.options.swim.queue_max {
            self.figures.inputs_dropped += 1;
            return;
        }
        inbox.push_back(event);
        self.inbox_max = self.inbox_max.max(inbox.len());
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Timer { node, lives, layer, due } => self.on_timer(node, lives, layer, due),
            Event::Packet { from, to, parcel } => self.on_packet(from, to, &parcel),
            Event::Dialled { from, lives, to, errand } => self.on_dialled(from, lives, to, errand),
            Event::DialFailed { from, lives, to, errand } => self.on_dial_failed(from, lives, to, errand),
            Event::LinkGone { node, lives, peer } => self.on_link_gone(node, lives, peer),
            Event::Silence { partition } => self.on_silence(&partition),
            Event::Step { exchange, to, parcels } => self.on_step(exchange, to, parcels),
            Event::ExchangeRefused { exchange, .. } => self.on_exchange_refused(exchange),
            Event::ExchangeOver { exchange } => self.on_exchange_over(exchange),
            Event::JoinAgain { from, lives, join } => self.on_join_again(from, lives, join),
            Event::Request { from, lives, to, id, parcel } => self.on_request(from, lives, to, id, parcel),
            Event::Response { to, lives, id, parcel } => self.on_response(to, lives, id, parcel),
            Event::RequestOver { node, lives, id } => self.on_request_over(node, lives, id),
            Event::Lie { node, lives } => self.on_lie(node, lives),
            Event::Sweep => self.on_sweep(),
        }
    }

    fn on_timer(&mut self, node: NodeIndex, lives: u32, layer: Layer, due: Timestamp) {
        let state = &mut self.nodes[node.place()];
        if state.lives != lives || state.timers[layer as usize] != Some(due) {
            return;
        }
        state.timers[layer as usize] = None;
        self.trace.fold(self.now, node, 1, layer as u64);
        match layer {
            Layer::Membership => self.swim_turn(node, |machine, now, out| {
                if machine.deadline() <= now {
                    machine.on_timeout(now, out);
                }
            }),
            Layer::Directory => self.directory_turn(node, |machine, now, out| {
                if machine.deadline().is_some_and(|at| at <= now.at) {
                    machine.on_timeout(now, out);
                }
            }),
        }
        self.arm(node, layer, self.now + TICK);
    }

    /// Puts the layer's next timer on the agenda, unless one is there that is due no later.
    fn arm(&mut self, node: NodeIndex, layer: Layer, not_before: Timestamp) {
        let state = &mut self.nodes[node.place()];
        if state.life != Life::Running {
            return;
        }
        let deadline = match layer {
            Layer::Membership => state.swim.as_ref().map(macula_membership::Machine::deadline),
            Layer::Directory => state.directory.as_ref().and_then(macula_dht::kademlia::Node::deadline),
        };
        let Some(due) = deadline.and_then(|due| whole_tick(state.moment(due))) else { return };
        let due = due.max(not_before);
        let timer = &mut state.timers[layer as usize];
        if timer.is_none_or(|set| due < set) {
            *timer = Some(due);
            self.agenda.push(due, Event::Timer { node, lives: state.lives, layer, due });
        }
    }

    /// What time it is for one node.
    fn clocks(&self, node: NodeIndex) -> Now {
        let node = &self.nodes[node.place()];
        let at = node.clock(self.now);
        let (passed, back) = (at.since_start().as_millis() as u64, node.clock_back_ms);
        Now { at, unix: UnixMillis((UNIX_START.0 + passed).saturating_sub(back)) }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("now", &self.now)
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// The next full tick; `None` for what lies beyond all time.
fn whole_tick(at: Timestamp) -> Option<Timestamp> {
    const FOREVER: Duration = Duration::from_secs(1 << 40);
    let passed = at.since_start();
    let ticks = passed.as_nanos().div_ceil(TICK.as_nanos());
    (passed < FOREVER).then(|| Timestamp::from_start(Duration::from_millis(ticks as u64)))
}

#[cfg(test)]
#[path = "simulation_test.rs"]
mod tests;
