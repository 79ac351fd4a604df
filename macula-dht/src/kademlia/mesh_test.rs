//! A network in a heap of events, for the machines alone: latency, loss and death, from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{
    AllowAll, Contact, Domain, Key, NodeId, PublicKey, SecretKey, Signature, Signer, Timestamp, UnixMillis,
    Verifier,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::{DirectoryError, Found};

/// Signs by copying: what is tested here is not Ed25519.
pub(super) struct CheapSigner(PublicKey);

impl Signer for CheapSigner {
    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        cheap(&self.0, domain, bytes)
    }
}

struct CheapVerifier;

impl Verifier for CheapVerifier {
    fn verify(&self, key: &PublicKey, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        cheap(key, domain, bytes) == *signature
    }
}

fn cheap(key: &PublicKey, _: Domain, bytes: &[u8]) -> Signature {
    let mut sum = [0u8; 64];
    for (at, byte) in key.as_bytes().iter().chain(bytes).enumerate() {
        sum[at % 64] = sum[at % 64].wrapping_mul(31).wrapping_add(*byte);
    }
    Signature::from_bytes(sum)
}

/// What may go wrong on the way.
#[derive(Clone, Copy)]
pub(super) struct Faults {
    /// Share of messages lost, in percent.
    pub(super) loss: u32,
    pub(super) latency_ms: (u64, u64),
}

enum Event {
    Request { from: NodeId, id: RequestId, to: NodeId, request: Request },
    Response { to: NodeId, id: RequestId, response: Response },
    Unreachable { to: NodeId, id: RequestId },
}

pub(super) struct Mesh {
    pub(super) now: Duration,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) ids: Vec<NodeId>,
    pub(super) dead: BTreeSet<NodeId>,
    pub(super) done: BTreeMap<Op, Done>,
    pub(super) shown: BTreeMap<(NodeId, Key), Result<Found, DirectoryError>>,
    pub(super) metrics: DhtMetrics,
    /// Milliseconds that a node takes over an answer, beyond latency.
    pub(super) slow: BTreeMap<NodeId, u64>,
    pub(super) requests: usize,
    clock_back: BTreeMap<NodeId, u64>,
    faults: Faults,
    config: KademliaConfig,
    events: BTreeMap<u64, Event>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    timers: BTreeSet<(Timestamp, NodeId)>,
    timer_of: BTreeMap<NodeId, Timestamp>,
    /// Replies that a node still owes: whom, and under which number they wait.
    owed: BTreeMap<(NodeId, ReplyTo), (NodeId, RequestId)>,
    rng: StdRng,
    last: u64,
}

impl Mesh {
    pub(super) fn new(seed: u64, faults: Faults, config: KademliaConfig) -> Self {
        Self {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            ids: Vec::new(),
            dead: BTreeSet::new(),
            done: BTreeMap::new(),
            shown: BTreeMap::new(),
            metrics: DhtMetrics::default(),
            slow: BTreeMap::new(),
            requests: 0,
            clock_back: BTreeMap::new(),
            faults,
            config,
            events: BTreeMap::new(),
            queue: BinaryHeap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            owed: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            last: 0,
        }
    }

    /// A fault-free mesh of `count` nodes that joined through the first, one after the other, with empty tables.
    pub(super) fn joined(seed: u64, count: usize) -> Self {
        let faults = Faults { loss: 0, latency_ms: (5, 40) };
        let mut mesh = Self::new(seed, faults, KademliaConfig::default());
        mesh.grow(count);
        mesh
    }

    pub(super) fn grow(&mut self, count: usize) {
        for _ in 0..count {
            let id = self.add();
            if self.ids.len() > 1 {
                self.meet(id, self.ids[0]);
            }
            self.run_for(Duration::from_millis(50));
        }
        self.run_for(Duration::from_secs(10));
    }

    /// A connection from one to the other is up.
    pub(super) fn meet(&mut self, id: NodeId, other: NodeId) {
        let contact = self.nodes[&other].local().clone();
        self.with(id, |node, now, out| node.peer_up(now, contact, out));
    }

    /// `id` hears that `other` is gone.
    pub(super) fn lose(&mut self, id: NodeId, other: NodeId) {
        self.with(id, |node, now, out| node.peer_lost(now, &other, out));
    }

    /// `id` hears that `other` is back.
    pub(super) fn back(&mut self, id: NodeId, other: NodeId) {
        self.with(id, |node, now, out| node.peer_back(now, &other, out));
    }

    /// A node that knows nobody.
    pub(super) fn add(&mut self) -> NodeId {
        let n = self.ids.len() as u64;
        let id = self.make(n);
        self.ids.push(id);
        id
    }

    /// A new life of a node, with empty memory and a wall clock that went back.
    pub(super) fn restart(&mut self, id: NodeId, back_ms: u64) {
        let n = self.ids.iter().position(|known| *known == id).unwrap() as u64;
        self.clock_back.insert(id, back_ms);
        assert_eq!(self.make(n), id);
    }

    pub(super) fn signer(&self, secret: &SecretKey) -> CheapSigner {
        CheapSigner(secret.public_key())
    }

    fn make(&mut self, n: u64) -> NodeId {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let key = SecretKey::from_seed(seed).public_key();
        let id = key.node_id();
        let local = contact(&id, n);
        let node = Node::new(
            self.time(),
            local,
            self.config.clone(),
            Arc::new(CheapSigner(key)),
            Arc::new(CheapVerifier),
            Arc::new(AllowAll),
            self.metrics.clone(),
            n,
        );
        self.nodes.insert(id, node);
        self.with(id, |_, _, _| {});
        id
    }

    pub(super) fn watch(&mut self, id: NodeId, key: Key) {
        self.with(id, |node, now, out| node.watch(now, key, out));
    }

    /// Hands a node records as a stranger would.
    pub(super) fn store(&mut self, holder: NodeId, records: Vec<macula_proto::wire::Signed>) -> Stored {
        let now = self.time();
        let mut out = Vec::new();
        let stranger = NodeId::from_bytes([200; 32]);
        let node = self.nodes.get_mut(&holder).unwrap();
        node.on_request(now, stranger, None, Request::Store(records), ReplyTo(0), &mut out);
        match out.pop() {
            Some(Effect::Reply { response: Response::Stored(stored), .. }) => stored,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn time(&self) -> Now {
        let unix = UnixMillis(1_700_000_000_000 + self.now.as_millis() as u64);
        Now { at: Timestamp::from_start(self.now), unix }
    }

    /// Calls a node and carries its effects out.
    pub(super) fn with<R>(
        &mut self,
        id: NodeId,
        call: impl FnOnce(&mut Node, Now, &mut Vec<Effect>) -> R,
    ) -> R {
        let mut now = self.time();
        now.unix.0 -= self.clock_back.get(&id).copied().unwrap_or(0);
        let mut out = Vec::new();
        let node = self.nodes.get_mut(&id).unwrap();
        let result = call(node, node.correct(now), &mut out);
        let deadline = node.deadline();
        if let Some(old) = self.timer_of.remove(&id) {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = deadline {
            self.timer_of.insert(id, at);
            self.timers.insert((at, id));
        }
        for effect in out {
            self.carry_out(id, effect);
        }
        result
    }

    pub(super) fn op(&mut self) -> Op {
        self.last += 1;
        Op(self.last)
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span, |_| false);
    }

    /// Runs until the command is done.
    pub(super) fn finish(&mut self, op: Op) -> Done {
        self.run_until(self.now + Duration::from_secs(60), |mesh| mesh.done.contains_key(&op));
        self.done.remove(&op).expect("the command ends within a minute")
    }

    pub(super) fn announce(
        &mut self,
        id: NodeId,
        key: Key,
        value: &'static str,
    ) -> Result<crate::Announced, DirectoryError> {
        let op = self.op();
        self.with(id, |node, now, out| {
            node.announce(now, op, key, Bytes::from_static(value.as_bytes()), out);
        });
        match self.finish(op) {
            Done::Announced(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// A node's wall clock is behind from now on.
    pub(super) fn set_back(&mut self, id: NodeId, millis: u64) {
        self.clock_back.insert(id, millis);
    }

    /// A node's process is in this run from now on.
    pub(super) fn live(&mut self, id: NodeId, life: u64) {
        self.nodes.get_mut(&id).expect("a node of the mesh").set_life(life);
    }

    pub(super) fn announce_lasting(&mut self, id: NodeId, key: Key, value: &'static str) {
        let op = self.op();
        let value = Bytes::from_static(value.as_bytes());
        self.with(id, |node, now, out| node.announce_lasting(now, op, key, value, out));
        assert!(matches!(self.finish(op), Done::Announced(Ok(_))));
    }

    pub(super) fn withdraw(&mut self, id: NodeId, key: Key) -> Result<(), DirectoryError> {
        let op = self.op();
        self.with(id, |node, now, out| node.withdraw(now, op, key, out));
        match self.finish(op) {
            Done::Withdrawn(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn find(&mut self, id: NodeId, key: Key, paths: usize) -> Result<Found, DirectoryError> {
        let op = self.op();
        self.with(id, |node, now, out| node.find(now, op, key, Some(paths), out));
        match self.finish(op) {
            Done::Found(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn trace(&mut self, id: NodeId, key: Key) -> LookupTrace {
        let op = self.op();
        self.with(id, |node, now, out| node.find_node(now, op, key, out));
        match self.finish(op) {
            Done::Nodes(result) => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn values(&self, id: NodeId, key: Key) -> Vec<Bytes> {
        let found = self.shown.get(&(id, key)).expect("the watch has shown something");
        found.as_ref().unwrap().records.iter().map(|record| record.value.clone()).collect()
    }

    /// The living nodes truly closest to `key`.
    pub(super) fn closest(&self, key: &Key, count: usize) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> = self.ids.iter().filter(|id| !self.dead.contains(id)).copied().collect();
        ids.sort_by_key(|id| key.distance(&(*id).into()));
        ids.truncate(count);
        ids
    }

    fn run_until(&mut self, end: Duration, is_over: impl Fn(&Self) -> bool) {
        while !is_over(self) {
            let event = self.queue.peek().map(|Reverse((at, _))| *at);
            let timer = self.timers.first().map(|(at, _)| at.since_start());
            let Some(next) = event.into_iter().chain(timer).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if event == Some(next) {
                let Reverse((_, number)) = self.queue.pop().unwrap();
                let event = self.events.remove(&number).unwrap();
                self.deliver(event);
            } else {
                let (_, id) = self.timers.pop_first().unwrap();
                self.timer_of.remove(&id);
                if !self.dead.contains(&id) {
                    self.with(id, Node::on_timeout);
                }
            }
        }
        if !is_over(self) {
            self.now = self.now.max(end);
        }
    }

    fn carry_out(&mut self, from: NodeId, effect: Effect) {
        match effect {
            Effect::Send { id, to, request, .. } => {
                self.requests += 1;
                // Whatever is sent must fit a frame and come out of it as it went in.
                let frame = request.to_frame(self.nodes[&from].local()).unwrap();
                assert_eq!(Request::from_frame(&frame).unwrap().1, request);
                self.post(0, Event::Request { from, id, to: to.id, request });
            }
            Effect::Reply { to, response } => {
                let (asker, id) = self.owed.remove(&(from, to)).expect("each request is answered once");
                let frame = response.to_frame().unwrap();
                assert_eq!(Response::from_frame(&frame).unwrap(), response);
                let extra = self.slow.get(&from).copied().unwrap_or(0);
                self.post(extra, Event::Response { to: asker, id, response });
            }
            Effect::Watched { key, found } => {
                self.shown.insert((from, key), found);
            }
            Effect::Done { op, outcome } => {
                self.done.insert(op, outcome);
            }
        }
    }

    fn post(&mut self, extra_ms: u64, event: Event) {
        if self.rng.random_range(0..100) < self.faults.loss {
            return;
        }
        let (min, max) = self.faults.latency_ms;
        let at = self.now + Duration::from_millis(self.rng.random_range(min..=max) + extra_ms);
        self.last += 1;
        self.events.insert(self.last, event);
        self.queue.push(Reverse((at, self.last)));
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Request { to, .. } if !self.nodes.contains_key(&to) => {}
            Event::Request { from, id, to, .. } if self.dead.contains(&to) => {
                // Half of the dead answer with a reset, the others are silent.
                if to.as_bytes()[31] & 1 == 0 {
                    self.post(0, Event::Unreachable { to: from, id });
                }
            }
            Event::Request { from, id, to, request } => {
                self.last += 1;
                let reply = ReplyTo(self.last);
                self.owed.insert((to, reply), (from, id));
                let sender = self.nodes[&from].local().clone();
                self.with(to, |node, now, out| node.on_request(now, from, Some(sender), request, reply, out));
            }
            Event::Response { to, .. } | Event::Unreachable { to, .. } if self.dead.contains(&to) => {}
            Event::Response { to, id, response } => {
                self.with(to, |node, now, out| node.on_response(now, id, response, out));
            }
            Event::Unreachable { to, id } => {
                self.with(to, |node, now, out| node.on_failure(now, id, Failure::Peer, out));
            }
        }
    }
}

pub(super) fn contact(id: &NodeId, n: u64) -> Contact {
    let port = 1 + (n % 60_000) as u16;
    Contact::new(*id, SocketAddr::from(([127, 0, 0, 1], port)))
}

pub(super) fn key(n: u8) -> Key {
    Key::derive("test", &macula_proto::Realm::default(), &n.to_string())
}
