//! Whole nodes' directories on one in-memory network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula_dht::{Kademlia, KademliaConfig};
use macula_proto::{AllowAll, Clock, Ed25519Verifier, Frame, NodeId};
use macula_transport::memory::{Faults, MemoryConfig, MemoryNetwork, MemoryTransport};
use macula_transport::{Inbound, LaneId, PeerEvent, Target, TokioClock, Transport};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) struct Mesh {
    pub(crate) network: MemoryNetwork,
    config: KademliaConfig,
    clock: Arc<dyn Clock>,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) kademlia: Kademlia<MemoryTransport>,
    pub(crate) transport: MemoryTransport,
    stop: CancellationToken,
}

/// Wires a transport to its directory, as a whole node does.
struct Wiring(Kademlia<MemoryTransport>);

impl Inbound<MemoryTransport> for Wiring {
    fn on_peer(&self, event: PeerEvent) {
        if let PeerEvent::Up(peer) = event {
            self.0.peer_up(&peer);
        }
    }

    fn on_datagram(&self, _: NodeId, _: Frame) {}

    async fn on_lane(&self, _: NodeId, _: LaneId, _: Frame) {}

    async fn on_stream(
        &self,
        from: NodeId,
        first: Frame,
        tx: <MemoryTransport as Transport>::Tx,
        rx: <MemoryTransport as Transport>::Rx,
    ) {
        self.0.on_stream(from, first, tx, rx).await;
    }
}

impl Mesh {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self::with_config(seed, faults, KademliaConfig::default())
    }

    pub(crate) fn with_config(seed: u64, faults: Faults, config: KademliaConfig) -> Self {
        let network = MemoryNetwork::new(seed);
        network.set_faults(faults);
        let clock = Arc::new(TokioClock::default());
        Self { network, config, clock, nodes: Mutex::default() }
    }

    /// A node that knows nobody.
    pub(crate) fn lone(&self, n: u8) -> Node {
        let config = MemoryConfig::from(n);
        let (id, key) = (config.key.node_id(), Arc::new(config.key.clone()));
        let transport = self.network.node(config);
        let (kademlia, driver) = Kademlia::new(
            transport.clone(),
            self.config.clone(),
            key,
            Arc::new(Ed25519Verifier),
            self.clock.clone(),
            Arc::new(AllowAll),
            n.into(),
        );
        let stop = CancellationToken::new();
        tokio::spawn(driver.run(stop.clone()));
        let serving = transport.clone();
        let wiring = Wiring(kademlia.clone());
        let until = stop.clone();
        tokio::spawn(async move { serving.serve(wiring, until).await });
        let node = Node { id, kademlia, transport, stop };
        self.nodes.lock().insert(id, node.clone());
        node
    }

    /// A node that joined through the first.
    pub(crate) async fn node(&self, n: u8) -> Node {
        let seed = self.nodes.lock().values().map(|node| node.transport.local()).find(is_first);
        let node = self.lone(n);
        if let Some(seed) = seed {
            node.kademlia.bootstrap(vec![Target::Addr(seed.addrs[0])]).await.expect("the first node answers");
        }
        node
    }

    /// Ends a node without a farewell; the others learn it from what would be their membership.
    pub(crate) async fn kill(&self, id: NodeId) {
        self.network.crash(id);
        let node = self.nodes.lock().remove(&id).expect("the node lives");
        node.stop.cancel();
        let others: Vec<Node> = self.nodes.lock().values().cloned().collect();
        for other in others {
            other.kademlia.peer_lost(id);
        }
        tokio::time::sleep(Duration::from_secs(5)).await; // tidy: allow(sleep): every user runs under paused time
    }
}

fn is_first(contact: &macula_proto::Contact) -> bool {
    contact.addrs.first().is_some_and(|addr| addr.ip().to_string() == "10.0.0.1")
}
