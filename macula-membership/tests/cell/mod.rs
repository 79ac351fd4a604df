//! Whole nodes of [`Swim`] over the in-memory network, for the tests that need some.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_membership::conformance::{Faulty, Harness};
use macula_membership::{Swim, SwimConfig};
use macula_proto::{Ed25519Verifier, Frame, NodeId};
use macula_transport::memory::{MemoryConfig, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, Target, TokioClock, Transport};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) type Node = Swim<MemoryTransport>;

struct Route(Node);

impl Inbound<MemoryTransport> for Route {
    fn on_peer(&self, event: PeerEvent) {
        self.0.on_peer(&event);
    }

    fn on_datagram(&self, from: NodeId, frame: Frame) {
        self.0.on_datagram(from, frame);
    }

    async fn on_lane(&self, _: NodeId, _: LaneId, _: Frame) {}

    async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
        self.0.on_stream(from, first, tx, rx).await;
    }
}

pub(crate) struct Cell {
    pub(crate) network: MemoryNetwork,
    pub(crate) clock: TokioClock,
    pub(crate) config: SwimConfig,
    pub(crate) running: Mutex<BTreeMap<u8, Running>>,
}

pub(crate) struct Running {
    id: NodeId,
    pub(crate) transport: MemoryTransport,
    stop: CancellationToken,
    pub(crate) driver: JoinHandle<()>,
}

impl Cell {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            network: MemoryNetwork::new(seed),
            clock: TokioClock::default(),
            config: SwimConfig::default(),
            running: Mutex::default(),
        }
    }

    pub(crate) fn node(&self, n: u8) -> Node {
        let config = MemoryConfig::from(n);
        let key = Arc::new(config.key.clone());
        let transport = self.network.node(config);
        let (clock, verifier) = (Arc::new(self.clock), Arc::new(Ed25519Verifier));
        let (swim, driver) =
            Swim::new(transport.clone(), self.config.clone(), key, verifier, clock, n.into());
        let stop = CancellationToken::new();
        let (id, serving, route) = (transport.local().id, transport.clone(), Route(swim.clone()));
        tokio::spawn({
            let stop = stop.clone();
            async move { serving.serve(route, stop).await }
        });
        let driver = tokio::spawn(driver.run(stop.clone()));
        self.running.lock().insert(n, Running { id, transport, stop, driver });
        swim
    }

    pub(crate) fn kill(&self, n: u8) {
        let running = self.running.lock().remove(&n).expect("the node runs");
        self.network.crash(running.id);
        running.driver.abort();
        running.stop.cancel();
    }
}

impl Harness for Cell {
    type Membership = Node;

    async fn start(&self, n: u8) -> Node {
        self.node(n)
    }

    async fn crash(&self, n: u8) {
        self.kill(n);
        // tidy: allow(sleep): time is paused; the next life begins at a later time on the wall clock
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fn nobody(&self) -> Target {
        Target::Addr(SocketAddr::from(([10, 0, 0, 250], 4_000)))
    }
}

impl Faulty for Cell {
    fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        self.network.partition_sides(one, other);
    }

    fn heal(&self) {
        self.network.heal_all();
    }
}
