//! Who is connected to whom.

use std::time::Duration;

use macula_proto::{Contact, NodeId};

use super::node::{Node, connected_pair, frame, start, start_with, within};
use super::{Harness, NodeSpec};
use crate::{CloseReason, LaneError, LaneId, PeerEvent, Refusal, Target, Transport, TransportError};

/// Between two looks at what no event tells.
const MOMENT: Duration = Duration::from_millis(1);

/// `connect` returns after both sides accepted, and both know the other.
pub async fn connect_says_who_answered<H: Harness>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    let info = a.connect(&b).await;
    assert_eq!((info.id, info.dialled), (b.id(), true));
    assert_eq!(info.contact, b.contact());
    assert!(b.contact().addrs.contains(&info.remote));
    let seen_by_b = b.log(|log| match log.peers.as_slice() {
        [PeerEvent::Up(info)] => info.clone(),
        other => panic!("one peer came up, nothing else: {other:?}"),
    });
    assert_eq!((seen_by_b.id, seen_by_b.dialled), (a.id(), false));
    assert_eq!(seen_by_b.contact, a.contact());
    assert_ne!(seen_by_b.instance, info.instance);
}

/// Once met, a node can be reached by its id; over the live connection, without dialling again.
pub async fn a_known_id_can_be_connected_to<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let info = within("connect by id", a.transport.connect(Target::Id(b.id()))).await.expect("connected");
    assert_eq!(info.id, b.id());
    let back = within("connect back", b.transport.connect(Target::Id(a.id()))).await.expect("connected");
    assert!(!back.dialled, "the connection that is there is used");
    assert_eq!((a.log(|log| log.ups(b.id())), b.log(|log| log.ups(a.id()))), (1, 1));
}

/// Whoever listens at an address is learned in the handshake.
pub async fn an_address_alone_is_enough<H: Harness>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    let addr = b.contact().addrs[0];
    let info =
        within("connect by address", a.transport.connect(Target::Addr(addr))).await.expect("connected");
    assert_eq!(info.id, b.id());
    within("a lane by id", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
}

/// Another node at the address than the one asked for is an error that names both.
pub async fn a_wrong_id_is_an_error<H: Harness>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    let stranger = NodeId::from_bytes([9; 32]);
    let target = Target::Contact(Contact { id: stranger, addrs: b.contact().addrs });
    match within("connect to a stranger", a.transport.connect(target)).await {
        Err(TransportError::WrongPeer { expected, found, .. }) => {
            assert_eq!((expected, found), (stranger, b.id()));
        }
        other => panic!("the wrong peer answers: {other:?}"),
    }
    assert!(a.transport.peers().is_empty());
    // The right one still answers.
    a.connect(&b).await;
}

/// A node of which nobody has heard cannot be dialled.
pub async fn an_unknown_node_has_no_address<H: Harness>(harness: &H) {
    let a = start(harness, 1).await;
    let stranger = NodeId::from_bytes([9; 32]);
    let connect = within("connect", a.transport.connect(Target::Id(stranger))).await.map(|info| info.id);
    assert!(matches!(connect, Err(TransportError::NoAddress(id)) if id == stranger), "{connect:?}");
    let lane = within("a lane", a.transport.lane(stranger, LaneId::DATA)).await.map(drop);
    assert!(matches!(lane, Err(TransportError::NoAddress(id)) if id == stranger), "{lane:?}");
    let stream = within("a stream", a.transport.stream(stranger, frame(1, 0))).await.map(drop);
    assert!(matches!(stream, Err(TransportError::NoAddress(id)) if id == stranger), "{stream:?}");
}

/// A node does not connect to itself.
pub async fn nobody_connects_to_itself<H: Harness>(harness: &H) {
    let a = start(harness, 1).await;
    let outcome =
        within("connect", a.transport.connect(Target::Contact(a.contact()))).await.map(|info| info.id);
    assert!(matches!(outcome, Err(TransportError::Myself)), "{outcome:?}");
    let addr = a.contact().addrs[0];
    let outcome = within("connect", a.transport.connect(Target::Addr(addr))).await.map(|info| info.id);
    assert!(matches!(outcome, Err(TransportError::Myself)), "{outcome:?}");
}

/// Two nodes that share no realm have nothing to say to each other, and the dialler learns that.
pub async fn nodes_without_a_common_realm_refuse_each_other<H: Harness>(harness: &H) {
    let in_realm = |n, realm: &str| {
        let realms = vec![realm.parse().expect("a realm")];
        NodeSpec { realms, ..NodeSpec::numbered(n) }
    };
    let a = start_with(harness, in_realm(1, "here")).await;
    let b = start_with(harness, in_realm(2, "there")).await;
    let outcome =
        within("connect", a.transport.connect(Target::Contact(b.contact()))).await.map(|info| info.id);
    let refused = matches!(outcome, Err(TransportError::Refused { refusal: Refusal::Realm, .. }));
    assert!(refused, "{outcome:?}");
    assert!(a.transport.peers().is_empty());
    assert_eq!((a.log(|log| log.peers.len()), b.log(|log| log.peers.len())), (0, 0));
}

/// However many ask at once, there is one connection.
pub async fn many_connects_make_one_connection<H: Harness>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    let dials: Vec<_> = (0..16)
        .map(|_| {
            let (transport, target) = (a.transport.clone(), Target::Contact(b.contact()));
            tokio::spawn(async move { transport.connect(target).await.map(|info| info.id) })
        })
        .collect();
    for dial in dials {
        let id = within("connect", dial).await.expect("no panic").expect("connected");
        assert_eq!(id, b.id());
    }
    one_connection(&a, &b).await;
}

/// Two nodes that dial each other at once end up with one connection, the same on both sides.
pub async fn simultaneous_connects_converge<H: Harness>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    let (to_b, to_a) = (Target::Contact(b.contact()), Target::Contact(a.contact()));
    let both = async { tokio::join!(a.transport.connect(to_b), b.transport.connect(to_a)) };
    let (at_a, at_b) = within("both connect", both).await;
    assert_eq!(at_a.expect("connected").id, b.id());
    assert_eq!(at_b.expect("connected").id, a.id());
    one_connection(&a, &b).await;
    let dialled = |node: &Node<H::Transport>| {
        node.transport.peers().iter().map(|info| info.dialled).collect::<Vec<_>>()
    };
    let same = async {
        while !matches!((&dialled(&a)[..], &dialled(&b)[..]), ([true], [false]) | ([false], [true])) {
            tokio::time::sleep(MOMENT).await;
        }
    };
    within("both keep the same connection", same).await;
}

/// Frames pass both ways over what is the one connection of the two.
async fn one_connection<T: Transport>(a: &Node<T>, b: &Node<T>) {
    // The acceptor may come to know of it a moment later than the dialler.
    a.until("a sees b", |log| log.ups(b.id()) > 0).await;
    b.until("b sees a", |log| log.ups(a.id()) > 0).await;
    send(a, b, 1).await;
    send(b, a, 2).await;
    a.until("the frame from b", |log| log.numbers(LaneId::DATA) == [2]).await;
    b.until("the frame from a", |log| log.numbers(LaneId::DATA) == [1]).await;
    for (node, peer) in [(a, b), (b, a)] {
        let live: Vec<_> = node.transport.peers().iter().map(|info| info.id).collect();
        assert_eq!(live, [peer.id()]);
        let (ups, downs) = node.log(|log| (log.ups(peer.id()), log.downs(peer.id())));
        assert_eq!(ups, downs.len() + 1, "up once more than down: {downs:?}");
    }
}

/// Sends a frame by lane. While two connections become one, the lane of the one that goes may close: then the frame
/// comes back, and goes by the other.
async fn send<T: Transport>(from: &Node<T>, to: &Node<T>, number: u32) {
    let mut unsent = frame(number, 10);
    let sent = async {
        loop {
            let lane = from.transport.lane(to.id(), LaneId::DATA).await.expect("connected");
            match lane.send(unsent).await {
                Ok(()) => return,
                Err(LaneError::Closed(back) | LaneError::Full(back)) => unsent = back,
            }
            tokio::time::sleep(MOMENT).await;
        }
    };
    within("send", sent).await;
}

/// A full pool makes room by closing the connection that was unused for longest.
pub async fn a_full_pool_evicts_the_least_recently_used<H: Harness>(harness: &H) {
    let spec = NodeSpec { connections_max: 2, ..NodeSpec::numbered(1) };
    let a = start_with(harness, spec).await;
    let (b, c, d) = (start(harness, 2).await, start(harness, 3).await, start(harness, 4).await);
    a.connect(&b).await;
    a.connect(&c).await;
    // Now b is the more recently used one.
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    within("send", lane.send(frame(1, 10))).await.expect("the lane is open");
    b.until("the frame", |log| log.numbers(LaneId::DATA) == [1]).await;
    acknowledged(&a, &b).await;
    a.connect(&d).await;
    a.until("c is evicted", |log| log.downs(c.id()) == [CloseReason::Evicted]).await;
    c.until("c hears of it", |log| log.downs(a.id()).len() == 1).await;
    let mut live: Vec<_> = a.transport.peers().iter().map(|info| info.id).collect();
    live.sort();
    let mut expected = [b.id(), d.id()];
    expected.sort();
    assert_eq!(live, expected);
}

/// A connection with an open stream is in use: a full pool says no rather than close it.
pub async fn a_full_pool_spares_what_is_in_use<H: Harness>(harness: &H) {
    let spec = NodeSpec { connections_max: 1, ..NodeSpec::numbered(1) };
    let a = start_with(harness, spec).await;
    let (mut b, c) = (start(harness, 2).await, start(harness, 3).await);
    a.connect(&b).await;
    let stream = within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let opened = b.next_stream().await;
    let full = within("connect", a.transport.connect(Target::Contact(c.contact()))).await.map(|info| info.id);
    assert!(matches!(full, Err(TransportError::PoolFull(1))), "{full:?}");
    let full = within("be connected to", c.transport.connect(Target::Contact(a.contact()))).await;
    let refused = matches!(full, Err(TransportError::Refused { refusal: Refusal::Full, .. }));
    assert!(refused, "{:?}", full.map(|info| info.id));
    assert!(a.log(|log| log.downs(b.id()).is_empty()));
    drop((stream, opened));
}

/// A round trip, so that what was sent before has been acknowledged.
async fn acknowledged<T: Transport>(a: &Node<T>, b: &Node<T>) {
    let lane = within("a lane back", b.transport.lane(a.id(), LaneId::CONTROL)).await.expect("connected");
    within("send", lane.send(frame(1, 10))).await.expect("the lane is open");
    a.until("the answer", |log| log.numbers(LaneId::CONTROL) == [1]).await;
}

/// `peers` lists what is live, and counts what passed.
pub async fn peers_tells_the_truth<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let c = start(harness, 3).await;
    c.connect(&a).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    for n in 0..5 {
        within("send", lane.send(frame(n, 10))).await.expect("the lane is open");
    }
    b.until("five frames", |log| log.numbers(LaneId::DATA).len() == 5).await;
    let to_b = a.transport.peers().into_iter().find(|info| info.id == b.id()).expect("live");
    let to_c = a.transport.peers().into_iter().find(|info| info.id == c.id()).expect("live");
    assert!(to_b.dialled && !to_c.dialled);
    assert!(to_b.frames_sent >= to_c.frames_sent + 5, "{} {}", to_b.frames_sent, to_c.frames_sent);
    assert!(b.transport.peers()[0].frames_received >= 5);
    b.stopped().await;
    a.until("b is down", |log| log.peers.iter().any(|event| matches!(event, PeerEvent::Down { .. }))).await;
    let live: Vec<_> = a.transport.peers().iter().map(|info| info.id).collect();
    assert_eq!(live, [c.id()]);
}
