//! Whole nodes of foca over the in-memory network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use macula_membership::conformance::{Faulty, Harness};
use macula_proto::{Frame, NodeId};
use macula_transport::memory::{MemoryConfig, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, Target, TokioClock, Transport};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::adapter::{FocaMembership, config};

pub(crate) type Node = FocaMembership<MemoryTransport>;

struct Route(Node);

impl Inbound<MemoryTransport> for Route {
    fn on_peer(&self, _: PeerEvent) {}

    fn on_datagram(&self, from: NodeId, frame: Frame) {
        self.0.on_datagram(from, &frame);
    }

    async fn on_lane(&self, _: NodeId, _: LaneId, _: Frame) {}

    async fn on_stream(&self, _: NodeId, _: Frame, _: MemoryTx, _: MemoryRx) {}
}

pub(crate) struct Pond {
    pub(crate) network: MemoryNetwork,
    clock: TokioClock,
    pub(crate) suspect_timeout: Duration,
    pub(crate) running: Mutex<BTreeMap<u8, Running>>,
}

pub(crate) struct Running {
    pub(crate) transport: MemoryTransport,
    stop: CancellationToken,
    driver: JoinHandle<()>,
}

impl Pond {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            network: MemoryNetwork::new(seed),
            clock: TokioClock::default(),
            suspect_timeout: Duration::from_secs(4),
            running: Mutex::default(),
        }
    }
}

impl Harness for Pond {
    type Membership = Node;

    async fn start(&self, n: u8) -> Node {
        let transport = self.network.node(MemoryConfig::from(n));
        let node = FocaMembership::new(transport.clone(), config(self.suspect_timeout), self.clock, n.into());
        let stop = CancellationToken::new();
        tokio::spawn({
            let (transport, route, stop) = (transport.clone(), Route(node.clone()), stop.clone());
            async move { transport.serve(route, stop).await }
        });
        let driver = tokio::spawn(node.clone().run(stop.clone()));
        self.running.lock().insert(n, Running { transport, stop, driver });
        node
    }

    async fn crash(&self, n: u8) {
        let running = self.running.lock().remove(&n).expect("the node runs");
        self.network.crash(running.transport.local().id);
        running.driver.abort();
        running.stop.cancel();
        // tidy: allow(sleep): time is paused; the next life begins at a later time on the wall clock
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fn nobody(&self) -> Target {
        Target::Addr(SocketAddr::from(([10, 0, 0, 250], 4_000)))
    }
}

impl Faulty for Pond {
    fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        self.network.partition_sides(one, other);
    }

    fn heal(&self) {
        self.network.heal_all();
    }
}
