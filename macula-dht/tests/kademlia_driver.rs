//! Kademlia over the in-memory network: what the conformance suite does not ask.

mod mesh;

use std::time::Duration;

use bytes::Bytes;
use macula_dht::kademlia::{LookupStep, StepOutcome};
use macula_dht::{Directory, DirectoryError, KademliaConfig};
use macula_proto::{Frame, FrameKind, Key, Realm, wire};
use macula_transport::memory::Faults;
use macula_transport::{StreamError, StreamRx, StreamTx, Target, Transport};
use tokio::time::{Instant, timeout};

use mesh::Mesh;

fn key(n: u8) -> Key {
    Key::derive("driver", &Realm::default(), &n.to_string())
}

#[tokio::test(start_paused = true)]
async fn nobody_known_is_an_error_of_its_own() {
    let lone = Mesh::new(1, Faults::default()).lone(1);
    assert_eq!(lone.kademlia.find(key(1)).await, Err(DirectoryError::NoPeers));
    assert_eq!(lone.kademlia.bootstrap(Vec::new()).await, Err(DirectoryError::NoPeers));
    let nowhere = Target::Addr("10.0.0.99:4000".parse().unwrap());
    let unreachable = lone.kademlia.bootstrap(vec![nowhere]).await;
    assert!(matches!(unreachable, Err(DirectoryError::Unreachable { asked: 1, .. })), "{unreachable:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_set_before_joining_shows_what_is_announced_after() {
    let mesh = Mesh::new(2, Faults::lan());
    let early = mesh.lone(1);
    let watch = early.kademlia.watch(key(1));
    assert!(watch.ready().await.unwrap().records.is_empty());
    early.kademlia.announce(key(2), Bytes::from_static(b"early")).await.unwrap();

    let first = mesh.lone(2);
    let second = mesh.lone(3);
    let target = Target::Contact(first.transport.local());
    second.kademlia.bootstrap(vec![target.clone()]).await.unwrap();
    first.kademlia.announce(key(1), Bytes::from_static(b"there")).await.unwrap();
    early.kademlia.bootstrap(vec![target]).await.unwrap();
    let shown = timeout(Duration::from_secs(5), async {
        while watch.current().records.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    shown.await.expect("the watch catches up by itself");

    let announced = second.kademlia.announce(key(1), Bytes::from_static(b"new")).await.unwrap();
    assert_eq!((announced.watchers_told, announced.watchers_lapsed), (1, 0));
    assert!(watch.current().by(&second.id).is_some());
    let spread = second.kademlia.find(key(2)).await.unwrap();
    assert_eq!(spread.records.len(), 1, "what was announced alone has spread");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_hangs_delays_an_announcement_by_half_a_second_at_most() {
    let mesh = Mesh::new(3, Faults::lan());
    let mut nodes = Vec::new();
    for n in 1..=5 {
        nodes.push(mesh.node(n).await);
    }
    let watch = nodes[4].kademlia.watch(key(1));
    watch.ready().await.unwrap();
    mesh.network.pause(nodes[4].id);
    let started = Instant::now();
    let announced = nodes[0].kademlia.announce(key(1), Bytes::from_static(b"v")).await.unwrap();
    // The hung node is a holder as well: looking for it and storing there have limits of their own.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!((announced.watchers_told, announced.watchers_lapsed), (0, 1));
    mesh.network.resume(nodes[4].id);
    let shown = timeout(Duration::from_secs(60), async {
        while watch.current().by(&nodes[0].id).is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    shown.await.expect("its next refresh shows the record");
}

#[tokio::test(start_paused = true)]
async fn a_table_brings_a_restarted_node_back_without_seeds() {
    let mesh = Mesh::new(4, Faults::lan());
    for n in 1..=6 {
        mesh.node(n).await;
    }
    let node = mesh.node(7).await;
    node.kademlia.announce(key(1), Bytes::from_static(b"before")).await.unwrap();
    let saved = node.kademlia.export_table().await.unwrap();
    mesh.kill(node.id).await;

    let again = mesh.lone(7);
    assert_eq!(again.kademlia.import_table(saved), 6);
    assert_eq!(again.kademlia.import_table(Bytes::from_static(b"\xff\xff")), 0);
    let joined = timeout(Duration::from_secs(10), async {
        while again.kademlia.routing_table().await.unwrap().len() < 6 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    joined.await.expect("those it knew let it in");
    again.kademlia.announce(key(1), Bytes::from_static(b"after")).await.unwrap();
    let found = again.kademlia.find(key(1)).await.unwrap();
    assert_eq!(found.by(&again.id).unwrap().value, "after", "the new life's word is the newer");
}

#[tokio::test(start_paused = true)]
async fn unreachable_is_not_the_same_as_nothing_there() {
    let mesh = Mesh::new(5, Faults::lan());
    let mut nodes = Vec::new();
    for n in 1..=4 {
        nodes.push(mesh.node(n).await);
    }
    let others: Vec<_> = nodes[1..].iter().map(|node| node.id).collect();
    mesh.network.partition_sides(&[nodes[0].id], &others);
    let found = nodes[0].kademlia.find(key(9)).await;
    assert!(matches!(found, Err(DirectoryError::Unreachable { asked: 1.., .. })), "{found:?}");
    mesh.network.heal_all();
    let healed = timeout(Duration::from_secs(60), async {
        while nodes[0].kademlia.find(key(9)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    healed.await.expect("a node that was cut off finds back");
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_who_was_asked_and_what_came_of_it() {
    let mesh = Mesh::new(6, Faults::lan());
    let mut nodes = Vec::new();
    for n in 1..=8 {
        nodes.push(mesh.node(n).await);
    }
    nodes[2].kademlia.announce(key(1), "here".into()).await.unwrap();
    let (trace, found) = nodes[7].kademlia.lookup_trace(key(1)).await.unwrap();
    assert_eq!(found.records[0].value, "here");
    let with_record = |step: &&LookupStep| matches!(step.outcome, StepOutcome::Answered { records: 1, .. });
    assert_eq!(trace.steps.iter().filter(with_record).count(), 7, "{trace:?}");
    assert_eq!(trace.closest.len(), 7);
    assert!(trace.steps.iter().all(|step| step.took.is_some() && step.round >= 1));
    let closest = nodes[7].kademlia.find_node(key(1)).await.unwrap();
    assert!(closest.is_sorted_by_key(|contact| key(1).distance(&contact.id.into())));
    let table = nodes[7].kademlia.routing_table().await.unwrap();
    assert_eq!(table.len(), 7);
    assert!(table.buckets.iter().flat_map(|bucket| &bucket.contacts).all(|known| known.seen <= table.at));
    let over_two_paths = nodes[7].kademlia.find_disjoint(key(1), 2).await.unwrap();
    assert_eq!(over_two_paths.records, found.records);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_counted_and_does_no_harm() {
    let mesh = Mesh::new(7, Faults::lan());
    let (victim, attacker) = (mesh.node(1).await, mesh.node(2).await);
    let before = victim.kademlia.metrics().garbage.get();
    let bad_key = wire::DhtFind { key: Bytes::from_static(b"short"), ..Default::default() };
    let no_record = wire::DhtStore { sender: None, records: vec![wire::Signed::default()] };
    let frames = [
        Frame::new(FrameKind::DHT_FIND, &bad_key, Bytes::new()).unwrap(),
        Frame::new(FrameKind::DHT_FOUND, &wire::DhtFound::default(), Bytes::new()).unwrap(),
        Frame::new(FrameKind(23), &wire::DhtFind::default(), Bytes::new()).unwrap(),
    ];
    for frame in frames {
        let (_tx, mut rx) = attacker.transport.stream(victim.id, frame).await.unwrap();
        assert!(matches!(rx.recv().await, Err(StreamError::Reset(_))));
    }
    assert_eq!(victim.kademlia.metrics().garbage.get(), before + 3);

    let store = Frame::new(FrameKind::DHT_STORE, &no_record, Bytes::new()).unwrap();
    let (mut tx, mut rx) = attacker.transport.stream(victim.id, store).await.unwrap();
    tx.finish().unwrap();
    let answer: wire::DhtStored = rx.recv().await.unwrap().unwrap().header().unwrap();
    assert_eq!(answer.outcomes[0].refusal, 1);
    assert!(victim.kademlia.find(key(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_directory_is_closed() {
    let mesh = Mesh::new(8, Faults::lan());
    let node = mesh.node(1).await;
    let never_ready = node.kademlia.watch(key(1));
    never_ready.ready().await.unwrap();
    mesh.kill(node.id).await;
    assert_eq!(node.kademlia.find(key(1)).await, Err(DirectoryError::Closed));
    assert_eq!(node.kademlia.watch(key(2)).ready().await, Err(DirectoryError::Closed));
}

#[tokio::test(start_paused = true)]
async fn records_expire_with_their_announcer_and_dropped_watches_are_forgotten() {
    let config = KademliaConfig {
        record_ttl: Duration::from_secs(30),
        republish_interval: Duration::from_secs(10),
        ..KademliaConfig::default()
    };
    let mesh = Mesh::with_config(9, Faults::lan(), config);
    let mut nodes = Vec::new();
    for n in 1..=4 {
        nodes.push(mesh.node(n).await);
    }
    nodes[3].kademlia.announce(key(1), Bytes::from_static(b"mortal")).await.unwrap();
    let watch = nodes[0].kademlia.watch(key(1));
    watch.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(nodes[1].kademlia.find(key(1)).await.unwrap().records.len(), 1, "republished");
    assert_eq!(watch.current().records.len(), 1);
    let held = |node: &mesh::Node| node.kademlia.metrics().watches_held.get();
    assert!(nodes[..3].iter().map(held).sum::<i64>() > 0);

    mesh.kill(nodes[3].id).await;
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert!(nodes[1].kademlia.find(key(1)).await.unwrap().records.is_empty(), "expired");
    assert!(watch.current().records.is_empty());
    drop(watch);
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(nodes[..3].iter().map(held).sum::<i64>(), 0);
}
