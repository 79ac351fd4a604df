//! The network between the nodes: who listens where, and what goes wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use macula_proto::NodeId;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use super::connection::Connection;
use super::endpoint::{Endpoint, Stage};
use super::{Faults, MemoryConfig, MemoryTransport};

/// A network for one test. Cheap to clone; all clones are the same network.
///
/// ```no_run
/// use macula_transport::memory::{Faults, MemoryNetwork};
/// use macula_transport::Transport;
///
/// let network = MemoryNetwork::new(42);
/// let (a, b) = (network.node(1), network.node(2)); // 10.0.0.1:4000 and 10.0.0.2:4000
/// network.set_faults(Faults::wan());
/// network.partition(a.local().id, b.local().id);
/// network.heal_all();
/// ```
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Network>,
}

pub(super) struct Network {
    state: Mutex<State>,
    /// Faults, partitions, pauses or listeners changed.
    changed: Notify,
    uses: AtomicU64,
}

struct State {
    rng: StdRng,
    faults: Faults,
    link_faults: BTreeMap<(NodeId, NodeId), Faults>,
    cut: BTreeSet<(NodeId, NodeId)>,
    paused: BTreeSet<NodeId>,
    endpoints: BTreeMap<SocketAddr, Weak<Endpoint>>,
    /// The newest connection of each pair, lower id first: simultaneous dials meet here.
    connections: BTreeMap<(NodeId, NodeId), Weak<Connection>>,
    addrs_given: u16,
}

impl MemoryNetwork {
    /// A perfect network. `seed` decides every later draw.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            link_faults: BTreeMap::new(),
            cut: BTreeSet::new(),
            paused: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            connections: BTreeMap::new(),
            addrs_given: 0,
        };
        Self {
            shared: Arc::new(Network {
                state: Mutex::new(state),
                changed: Notify::new(),
                uses: AtomicU64::new(0),
            }),
        }
    }

    /// Adds a node. From a number `n`: at 10.0.0.n:4000 with a fixed key; from a key: at an address of the network's
    /// choice; or from a whole [`MemoryConfig`].
    ///
    /// It takes part once its [`serve`](crate::Transport::serve) runs. To restart a node: [`crash`](Self::crash) or
    /// stop it, then add it again.
    ///
    /// # Panics
    /// If another node that is not stopped or crashed has the address.
    pub fn node(&self, config: impl Into<MemoryConfig>) -> MemoryTransport {
        self.endpoint(config.into())
    }

    /// Adds a node. See [`node`](Self::node).
    ///
    /// # Panics
    /// If another node that is not stopped or crashed has the address.
    pub fn endpoint(&self, config: MemoryConfig) -> MemoryTransport {
        let mut state = self.shared.state.lock();
        let listen = config.listen.unwrap_or_else(|| state.next_addr());
        let taken = state.endpoints.get(&listen).is_some_and(|endpoint| endpoint.strong_count() > 0);
        assert!(!taken, "{listen} is in use: stop or crash the node there first");
        // Drawn in any case, so that giving one does not shift the later draws.
        let drawn = state.rng.random();
        let instance = config.instance.unwrap_or(drawn);
        let endpoint = Arc::new(Endpoint::new(self.shared.clone(), config, listen, instance));
        state.endpoints.insert(listen, Arc::downgrade(&endpoint));
        MemoryTransport::new(endpoint)
    }

    /// Tells every node where all others are, as if each had heard of them.
    pub fn introduce_all(&self) {
        let endpoints = self.shared.endpoints();
        for one in &endpoints {
            for other in endpoints.iter().filter(|other| other.id() != one.id()) {
                one.config.book.learn(&other.contact);
            }
        }
    }

    /// Sets the faults of every direction that has none of its own.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.change(|state| state.faults = faults);
    }

    /// Sets the faults of one direction, in place of the network's.
    pub fn set_faults_between(&self, from: NodeId, to: NodeId, faults: Faults) {
        self.shared.change(|state| state.link_faults.insert((from, to), faults));
    }

    /// Gives one direction the network's faults again.
    pub fn clear_faults_between(&self, from: NodeId, to: NodeId) {
        self.shared.change(|state| state.link_faults.remove(&(from, to)));
    }

    /// Nothing passes between the two any more.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.shared.change(|state| state.cut.extend([(a, b), (b, a)]));
    }

    /// Nothing passes between the nodes of one side and those of the other any more.
    pub fn partition_sides(&self, one: &[NodeId], other: &[NodeId]) {
        let pairs = one.iter().flat_map(|a| other.iter().flat_map(|b| [(*a, *b), (*b, *a)]));
        self.shared.change(|state| state.cut.extend(pairs));
    }

    /// Nothing passes from one to the other any more; the way back stays open.
    pub fn partition_one_way(&self, from: NodeId, to: NodeId) {
        self.shared.change(|state| state.cut.insert((from, to)));
    }

    /// Ends the partition between the two, both ways.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.shared.change(|state| {
            state.cut.remove(&(a, b));
            state.cut.remove(&(b, a));
        });
    }

    /// Ends all partitions.
    pub fn heal_all(&self) {
        self.shared.change(|state| state.cut.clear());
    }

    /// Stops a node as SIGSTOP would: it neither sends nor receives nor notices anything until resumed. Its peers
    /// give up on it after their peer timeout. The node's own tasks and timers above the transport go on: only its
    /// transport is paused.
    pub fn pause(&self, node: NodeId) {
        self.shared.change(|state| state.paused.insert(node));
    }

    /// Lets a paused node go on. What waited for it is delivered, unless the connection timed out meanwhile.
    pub fn resume(&self, node: NodeId) {
        self.shared.change(|state| state.paused.remove(&node));
    }

    /// Ends a node as SIGKILL would: its `serve` returns at once, nothing of what it had accepted is delivered, nobody
    /// is told. Peers see [`TimedOut`](crate::CloseReason::TimedOut) after their peer timeout. Its address is free
    /// again.
    pub fn crash(&self, node: NodeId) {
        for endpoint in self.shared.endpoints() {
            if endpoint.id() == node {
                endpoint.die();
            }
        }
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("MemoryNetwork")
            .field("endpoints", &state.endpoints.len())
            .field("faults", &state.faults)
            .field("cut", &state.cut)
            .field("paused", &state.paused)
            .finish_non_exhaustive()
    }
}

impl Network {
    /// Wakes whoever waits for the network to change.
    pub(super) fn announce_change(&self) {
        self.changed.notify_waiters();
    }

    /// Numbers the uses of connections, so that the least recent one is known.
    pub(super) fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a packet leaves one node for the other, now. Whether the other runs is found out there.
    pub(super) fn can_send(&self, from: NodeId, to: NodeId) -> bool {
        let state = self.state.lock();
        state.is_open(from, to) && !state.paused.contains(&from)
    }

    /// Whether packets pass from one to the other, now.
    pub(super) fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        self.state.lock().is_open(from, to)
    }

    /// Whether neither hears the other, or only one does: a connection does not survive that for long.
    pub(super) fn is_silent(&self, a: NodeId, b: NodeId) -> bool {
        let state = self.state.lock();
        !(state.delivers(a, b) && state.delivers(b, a))
    }

    /// Waits until the network is as asked; looks again after each change.
    pub(super) async fn until(&self, ready: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            if ready() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until packets pass and both ends run.
    pub(super) async fn until_delivers(&self, from: NodeId, to: NodeId) {
        self.until(|| self.state.lock().delivers(from, to)).await;
    }

    /// Waits until a node runs.
    pub(super) async fn until_running(&self, node: NodeId) {
        self.until(|| !self.state.lock().paused.contains(&node)).await;
    }

    /// Whether packets pass and both ends run.
    pub(super) fn delivers(&self, from: NodeId, to: NodeId) -> bool {
        self.state.lock().delivers(from, to)
    }

    /// How long something reliable is under way, and how long it occupies the line first.
    pub(super) fn reliable_trip(&self, from: NodeId, to: NodeId, bytes: usize) -> (Duration, Duration) {
        let mut state = self.state.lock();
        let faults = state.faults_between(from, to).clone();
        (faults.transmission(bytes), faults.reliable_trip(&mut state.rng))
    }

    /// How long the copies of a datagram are under way, and how long it occupies the line first.
    pub(super) fn datagram_trips(
        &self,
        from: NodeId,
        to: NodeId,
        bytes: usize,
    ) -> (Duration, [Option<Duration>; 2]) {
        let mut state = self.state.lock();
        let faults = state.faults_between(from, to).clone();
        (faults.transmission(bytes), faults.datagram_trips(&mut state.rng))
    }

    /// There and back, without jitter.
    pub(super) fn rtt(&self, a: NodeId, b: NodeId) -> Duration {
        let state = self.state.lock();
        state.faults_between(a, b).latency + state.faults_between(b, a).latency
    }

    /// Lets a packet of a handshake travel: waits for its arrival, and for a partition to end.
    pub(super) async fn travel(&self, from: NodeId, to: NodeId) {
        let (line, trip) = self.reliable_trip(from, to, HANDSHAKE_BYTES);
        if !(line + trip).is_zero() {
            tokio::time::sleep(line + trip).await;
        }
        self.until_delivers(from, to).await;
    }

    /// Waits until somebody accepts connections at an address.
    pub(super) async fn until_listening(&self, addr: SocketAddr) -> Arc<Endpoint> {
        let listening = || {
            let endpoint = self.state.lock().endpoints.get(&addr).and_then(Weak::upgrade)?;
            (endpoint.stage() != Stage::New).then_some(endpoint)
        };
        loop {
            self.until(|| listening().is_some()).await;
            if let Some(endpoint) = listening() {
                return endpoint;
            }
        }
    }

    /// Frees an address.
    pub(super) fn forget_endpoint(&self, addr: SocketAddr) {
        let forgotten = self.state.lock().endpoints.remove(&addr);
        // Dropped only now: the last reference to an endpoint would come back here for the lock.
        drop(forgotten);
        self.announce_change();
    }

    /// The connection between two nodes, if both ends are up.
    pub(super) fn connection(&self, a: NodeId, b: NodeId) -> Option<Arc<Connection>> {
        let connection = self.state.lock().connections.get(&pair(a, b)).and_then(Weak::upgrade);
        connection.filter(|connection| connection.is_up())
    }

    /// Makes this the connection between two nodes.
    pub(super) fn put_connection(&self, a: NodeId, b: NodeId, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        state.connections.retain(|_, connection| connection.strong_count() > 0);
        state.connections.insert(pair(a, b), Arc::downgrade(connection));
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.state.lock().endpoints.values().filter_map(Weak::upgrade).collect()
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) {
        change(&mut self.state.lock());
        self.announce_change();
    }
}

/// What a flight of a handshake takes on the line.
const HANDSHAKE_BYTES: usize = 1200;

impl State {
    fn faults_between(&self, from: NodeId, to: NodeId) -> &Faults {
        self.link_faults.get(&(from, to)).unwrap_or(&self.faults)
    }

    fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to)) && !self.faults_between(from, to).is_silent()
    }

    fn delivers(&self, from: NodeId, to: NodeId) -> bool {
        self.is_open(from, to) && !self.paused.contains(&from) && !self.paused.contains(&to)
    }

    fn next_addr(&mut self) -> SocketAddr {
        loop {
            self.addrs_given = self.addrs_given.wrapping_add(1);
            let [high, low] = self.addrs_given.to_be_bytes();
            let addr = SocketAddr::from(([10, 1, high, low], 4000));
            if !self.endpoints.contains_key(&addr) {
                return addr;
            }
        }
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}
