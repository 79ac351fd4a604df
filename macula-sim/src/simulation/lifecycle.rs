//! What a scenario does to nodes and network: add, start, crash, restart, pause, leave, cut.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use macula_dht::kademlia::{Node as Directory, Op};
use macula_membership::{Machine, MachineParts, Tags, TagsError};
use macula_proto::{AllowAll, UnixMillis};
use rand::{Rng as _, RngExt as _};

use super::Simulation;
use super::event::{Errand, Event};
use super::exchange::Join;
use crate::faults::{Partition, Stops};
use crate::node::{Layer, SimNode};
use crate::signing::CheapVerifier;
use crate::{Life, NodeIndex};

impl Simulation {
    /// Adds a node that is not running yet. It will join through `seeds`.
    pub fn add(&mut self, seeds: &[NodeIndex]) -> NodeIndex {
        let index = NodeIndex(self.nodes.len() as u32);
        let mut node = SimNode::new(self.seed, index);
        node.seeds = seeds.to_vec();
        let drift = self.options.drift_ppm.min(999_999) as i32;
        if drift > 0 {
            node.drift_ppm = self.rng.random_range(-drift..=drift);
        }
        self.index.insert(node.id(), index);
        self.nodes.push(node);
        index
    }

    /// Starts a node, for the first time or again, with an empty memory: it joins through its seeds. Returns the number
    /// of the directory's bootstrap, if it has a directory and seeds.
    pub fn start(&mut self, node: NodeIndex) -> Option<Op> {
        let now = self.clocks(node);
        let seeds = [self.rng.next_u64(), self.rng.next_u64()];
        let state = &mut self.nodes[node.place()];
        state.wipe();
        state.lives += 1;
        state.life = Life::Running;
        if self.options.layers.membership() {
            let machine = Machine::new(self.parts(node, now.unix, seeds[0]), now.at);
            let state = &mut self.nodes[node.place()];
            state.born = machine.local().incarnation;
            state.swim = Some(machine);
        }
        if self.options.layers.directory() {
            let state = &mut self.nodes[node.place()];
            let (signer, verifier) = (Arc::new(state.signer.clone()), Arc::new(CheapVerifier));
            let (contact, config) = (state.contact.clone(), self.options.kademlia.clone());
            let metrics = self.dht_metrics.clone();
            let gate = Arc::new(AllowAll);
            let directory = Directory::new(now, contact, config, signer, verifier, gate, metrics, seeds[1]);
            state.directory = Some(directory);
        }
        self.trace.fold(self.now, node, 10, seeds[0]);
        self.arm(node, Layer::Membership, self.now);
        self.arm(node, Layer::Directory, self.now);
        self.join(node)
    }

    /// What a node's membership is made of.
    pub(super) fn parts(&self, node: NodeIndex, unix: UnixMillis, seed: u64) -> MachineParts {
        let state = &self.nodes[node.place()];
        MachineParts {
            config: self.options.swim.clone(),
            contact: state.contact.clone(),
            tags: Tags::new(),
            incarnation_min: state.incarnation_min,
            signer: Arc::new(state.signer.clone()),
            verifier: Arc::new(CheapVerifier),
            metrics: self.swim_metrics.clone(),
            unix,
            seed,
        }
    }

    fn join(&mut self, node: NodeIndex) -> Option<Op> {
        let mut bootstrap = None;
        for seed in self.nodes[node.place()].seeds.clone() {
            if seed == node {
                continue;
            }
            if self.options.layers.membership() {
                self.connect(node, seed, Errand::Join(Join::default()));
            }
            if self.options.layers.directory() {
                let op = Op(self.number());
                self.connect(node, seed, Errand::Bootstrap(op));
                bootstrap = Some(op);
            }
        }
        bootstrap
    }

    /// Kills a node without a word. Its links are noticed as dead only much later.
    pub fn crash(&mut self, node: NodeIndex) {
        let state = &mut self.nodes[node.place()];
        state.wipe();
        state.life = Life::Down;
        state.disturbed = Some(self.now);
        self.trace.fold(self.now, node, 11, 0);
        self.lose_links(node, self.options.link_silence);
    }

    /// Starts a dead node again: the same id, an empty memory, and a wall clock that is `clock_back` slow.
    pub fn restart(&mut self, node: NodeIndex, clock_back: Duration) {
        let state = &mut self.nodes[node.place()];
        state.clock_back_ms = clock_back.as_millis() as u64;
        state.disturbed = Some(self.now);
        self.start(node);
    }

    /// Stops a node's process; the network goes on around it.
    pub fn pause(&mut self, node: NodeIndex) {
        let state = &mut self.nodes[node.place()];
        if state.life == Life::Running {
            state.life = Life::Paused;
            self.trace.fold(self.now, node, 12, 0);
        }
    }

    /// Takes a node the time to read: its timers run, but what arrives waits until it [goes on](Self::resume).
    pub fn starve(&mut self, node: NodeIndex) {
        let state = &mut self.nodes[node.place()];
        if state.life == Life::Running {
            state.starved = true;
            self.trace.fold(self.now, node, 16, 0);
        }
    }

    /// Replaces a node's tags.
    ///
    /// # Errors
    /// [`TagsError`]; nothing has changed then.
    pub fn set_tags(&mut self, node: NodeIndex, tags: Tags) -> Result<(), TagsError> {
        let mut outcome = Ok(());
        self.swim_turn(node, |machine, now, out| outcome = machine.set_tags(now, tags, out));
        outcome
    }

    /// Lets a paused or starved node go on: first with what arrived meanwhile.
    pub fn resume(&mut self, node: NodeIndex) {
        let state = &mut self.nodes[node.place()];
        if state.life != Life::Paused && !state.starved {
            return;
        }
        state.life = Life::Running;
        state.starved = false;
        state.disturbed = Some(self.now);
        state.timers = [None; 2];
        let inbox = std::mem::take(&mut state.inbox);
        self.trace.fold(self.now, node, 13, inbox.len() as u64);
        for event in inbox {
            self.agenda.push(self.now, event);
        }
        self.arm(node, Layer::Membership, self.now);
        self.arm(node, Layer::Directory, self.now);
    }

    /// Lets a node say goodbye. It ends once its neighbours have heard it.
    pub fn leave(&mut self, node: NodeIndex) {
        self.trace.fold(self.now, node, 14, 0);
        self.nodes[node.place()].disturbed = Some(self.now);
        self.swim_turn(node, Machine::leave);
    }

    /// Cuts some nodes off from all others, from now on for `span`.
    pub fn cut(&mut self, side: Range<NodeIndex>, stops: Stops, span: Duration) {
        let partition = Partition { time: self.now..self.now + span, side, stops };
        self.network.faults_mut().partitions.push(partition.clone());
        self.schedule_partition(partition);
    }

    /// A node has said goodbye and ends; its links are closed in order.
    pub(super) fn end(&mut self, node: NodeIndex) {
        let state = &mut self.nodes[node.place()];
        state.wipe();
        state.life = Life::Departed;
        self.trace.fold(self.now, node, 15, 0);
        let delay = self.options.faults.latency_mean;
        self.lose_links(node, delay);
    }

    fn lose_links(&mut self, node: NodeIndex, after: Duration) {
        for other in self.network.abandon(node) {
            let lives = self.nodes[other.place()].lives;
            self.agenda.push(self.now + after, Event::LinkGone { node: other, lives, peer: node });
        }
    }
}
