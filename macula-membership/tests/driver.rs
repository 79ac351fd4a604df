//! Whole nodes: the driver over the in-memory transport, under paused time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_membership::conformance::{Faulty, Harness};
use macula_membership::{
    Event, Member, Membership, Refused, RefusedLabel, StaticHub, StaticMembership, Swim, SwimConfig,
};
use macula_proto::{Contact, Ed25519Verifier, Frame, FrameKind, NodeId, wire};
use macula_transport::memory::{Faults, MemoryConfig, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, Target, TokioClock, Transport};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

type Node = Swim<MemoryTransport>;

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

struct Cell {
    network: MemoryNetwork,
    clock: TokioClock,
    config: SwimConfig,
    running: Mutex<BTreeMap<u8, Running>>,
}

struct Running {
    id: NodeId,
    transport: MemoryTransport,
    stop: CancellationToken,
    driver: JoinHandle<()>,
}

impl Cell {
    fn new(seed: u64) -> Self {
        Self {
            network: MemoryNetwork::new(seed),
            clock: TokioClock::default(),
            config: SwimConfig::default(),
            running: Mutex::default(),
        }
    }

    fn node(&self, n: u8) -> Node {
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

    fn kill(&self, n: u8) {
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

#[derive(Default)]
struct Static(StaticHub);

impl Harness for Static {
    type Membership = StaticMembership;

    async fn start(&self, n: u8) -> StaticMembership {
        self.0.node(contact(n))
    }

    async fn crash(&self, n: u8) {
        self.0.crash(contact(n).id);
    }

    fn nobody(&self) -> Target {
        Target::Contact(contact(250))
    }
}

fn contact(n: u8) -> Contact {
    Contact::new(NodeId::from_bytes([n; 32]), SocketAddr::from(([10, 0, 0, n], 4_000)))
}

fn seed(node: &Node) -> Target {
    Target::Contact((*node.local().contact).clone())
}

async fn until(what: &str, nodes: &[Node], wanted: impl Fn(&[Member]) -> bool) {
    for node in nodes {
        let mut events = node.subscribe();
        let wait = async {
            while !wanted(&node.members()) {
                events.recv().await.ok();
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(600), wait).await.is_ok();
        assert!(seen, "{what}: {node:?} sees {:?}", node.members());
    }
}

mod swim_conforms {
    use super::*;
    use macula_membership::{
        membership_conformance, membership_goodbye_conformance, membership_healing_conformance,
        membership_seeds_conformance, membership_suspicion_conformance, membership_tags_conformance,
    };

    membership_conformance! { #[tokio::test(start_paused = true)] Cell::new(1) }
    membership_tags_conformance! { #[tokio::test(start_paused = true)] Cell::new(2) }
    membership_goodbye_conformance! { #[tokio::test(start_paused = true)] Cell::new(3) }
    membership_suspicion_conformance! { #[tokio::test(start_paused = true)] Cell::new(4) }
    membership_seeds_conformance! { #[tokio::test(start_paused = true)] Cell::new(5) }
    membership_healing_conformance! { #[tokio::test(start_paused = true)] Cell::new(6) }
}

mod the_static_one_conforms {
    use super::*;
    use macula_membership::{
        membership_conformance, membership_goodbye_conformance, membership_suspicion_conformance,
        membership_tags_conformance,
    };

    membership_conformance! { #[tokio::test(start_paused = true)] Static::default() }
    membership_tags_conformance! { #[tokio::test(start_paused = true)] Static::default() }
    membership_goodbye_conformance! { #[tokio::test(start_paused = true)] Static::default() }
    membership_suspicion_conformance! { #[tokio::test(start_paused = true)] Static::default() }
}

#[tokio::test(start_paused = true)]
async fn twenty_nodes_over_a_bad_network_keep_together() {
    let cell = Cell::new(3);
    cell.network.set_faults(Faults { loss: 0.05, ..Faults::wan() });
    let nodes: Vec<Node> = (1..=20).map(|n| cell.node(n)).collect();
    for node in &nodes[1..] {
        node.join(vec![seed(&nodes[0])]).await.expect("the seed is there");
    }
    until("all twenty", &nodes, |members| members.len() == 20).await;
    let mut events = nodes[0].subscribe();
    tokio::time::sleep(Duration::from_secs(300)).await;
    while let Ok(Some(event)) = events.try_recv() {
        assert!(!matches!(event, Event::Confirmed(_)), "nobody died: {event:?}");
    }
    assert!(nodes.iter().all(|node| node.members().len() == 20));
}

#[tokio::test(start_paused = true)]
async fn a_partition_heals() {
    let cell = Cell::new(4);
    let nodes: Vec<Node> = (1..=10).map(|n| cell.node(n)).collect();
    for node in &nodes[1..] {
        node.join(vec![seed(&nodes[0])]).await.expect("the seed is there");
    }
    until("all ten", &nodes, |members| members.len() == 10).await;
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.local().id()).collect();
    cell.network.partition_sides(&ids[..5], &ids[5..]);
    until("five on each side", &nodes, |members| members.len() == 5).await;
    cell.network.heal_all();
    until("all ten again", &nodes, |members| members.len() == 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_died_is_replaced_and_nothing_is_lost() {
    let cell = Cell::new(6);
    let nodes: Vec<Node> = (1..=3).map(|n| cell.node(n)).collect();
    for node in &nodes[1..] {
        node.join(vec![seed(&nodes[0])]).await.expect("the seed is there");
    }
    until("all three", &nodes, |members| members.len() == 3).await;
    cell.running.lock()[&1].driver.abort();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stop = CancellationToken::new();
    tokio::spawn(nodes[0].driver().run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(nodes.iter().all(|node| node.members().len() == 3));
    cell.kill(3);
    until("three is found dead", &nodes[..2], |members| members.len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn garbage_is_counted_and_dropped() {
    let cell = Cell::new(7);
    let (one, two) = (cell.node(1), cell.node(2));
    two.join(vec![seed(&one)]).await.expect("the seed is there");
    let transport = cell.running.lock()[&2].transport.clone();
    let header = wire::Hello::default();
    for kind in [FrameKind::SWIM_PING_REQ, FrameKind::SWIM_SYNC] {
        let frame = Frame::new(kind, &header, bytes::Bytes::new()).expect("small");
        transport.datagram(one.local().id(), frame.clone()).expect("connected");
    }
    let frame = Frame::new(FrameKind::SWIM_SYNC, &header, bytes::Bytes::new()).expect("small");
    let _stream = transport.stream(one.local().id(), frame).await.expect("connected");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = one.metrics().refused.get_or_create(&RefusedLabel { reason: Refused::Garbage }).get();
    assert_eq!(refused, 3);
    assert_eq!(one.members().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_counts() {
    let mut cell = Cell::new(8);
    cell.config.queue_max = 16;
    let one = cell.node(1);
    let frame = Frame::new(FrameKind::SWIM_GOSSIP, &wire::SwimPacket::default(), bytes::Bytes::new());
    let frame = frame.expect("small");
    for _ in 0..20 {
        one.on_datagram(NodeId::from_bytes([9; 32]), frame.clone());
    }
    let refused = one.metrics().refused.get_or_create(&RefusedLabel { reason: Refused::QueueFull }).get();
    assert_eq!(refused, 4);
}
