//! Whole nodes: the driver over the in-memory transport, under paused time.

mod cell;

use std::net::SocketAddr;
use std::time::Duration;

use cell::{Cell, Node};
use macula_membership::conformance::Harness;
use macula_membership::{Event, Member, Membership, Refused, RefusedLabel, StaticHub, StaticMembership};
use macula_proto::{Contact, Frame, FrameKind, NodeId, wire};
use macula_transport::memory::Faults;
use macula_transport::{Target, Transport};
use tokio_util::sync::CancellationToken;

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
        membership_alone_conformance, membership_conformance, membership_goodbye_conformance,
        membership_healing_conformance, membership_suspicion_conformance, membership_tags_conformance,
    };

    membership_conformance! { #[tokio::test(start_paused = true)] Cell::new(1) }
    membership_tags_conformance! { #[tokio::test(start_paused = true)] Cell::new(2) }
    membership_goodbye_conformance! { #[tokio::test(start_paused = true)] Cell::new(3) }
    membership_suspicion_conformance! { #[tokio::test(start_paused = true)] Cell::new(4) }
    membership_alone_conformance! { #[tokio::test(start_paused = true)] Cell::new(5) }
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
