//! At least once: who took a message, whatever happens on the way.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use macula_pubsub::{
    AckLabels, AckOutcome, Acknowledged, MissReason, Missed, Payload, PublishOptions, SubscribeOptions,
    Subscription,
};
use macula_transport::memory::Faults;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use mesh::{Mesh, Node, let_pass, name, next, number, publish, realm, subscribe};

const WITHIN: Duration = Duration::from_secs(10);

async fn publish_acknowledged(node: &Node, topic: &str, n: u32, within: Duration) -> Acknowledged {
    let options = PublishOptions::default();
    node.publish_acknowledged(&realm(), &name(topic), Payload::new(n.to_string()), options, within)
        .await
        .unwrap()
}

fn in_background(node: &Node, n: u32, within: Duration) -> JoinHandle<Acknowledged> {
    let node = node.clone();
    tokio::spawn(async move { publish_acknowledged(&node, "t", n, within).await })
}

/// Takes everything, and notes it.
fn consume(mut subscription: Subscription) -> Arc<Mutex<Vec<u32>>> {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let noted = taken.clone();
    tokio::spawn(async move {
        while let Some(message) = subscription.recv().await {
            noted.lock().unwrap().push(std::str::from_utf8(&message.payload).unwrap().parse().unwrap());
        }
    });
    taken
}

fn missed(node: macula_proto::NodeId, reason: MissReason) -> Vec<Missed> {
    vec![Missed { node, reason }]
}

#[tokio::test(start_paused = true)]
async fn everybody_who_subscribes_takes_it() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let taken = [
        consume(subscribe(&anna, "t").await),
        consume(subscribe(&bert, "t").await),
        consume(subscribe(&bert, "#").await),
        consume(subscribe(&cleo, "*").await),
    ];
    let started = Instant::now();
    for n in 0..20 {
        let acknowledged = publish_acknowledged(&anna, "t", n, WITHIN).await;
        let mut all = vec![mesh.id(1), mesh.id(2), mesh.id(3)];
        all.sort();
        assert_eq!(acknowledged, Acknowledged { taken: all, ..Acknowledged::default() });
        assert!(acknowledged.is_complete());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits for a timer: {:?}", started.elapsed());
    for taken in taken {
        assert_eq!(*taken.lock().unwrap(), (0..20).collect::<Vec<u32>>());
    }
    let answers =
        anna.metrics().acknowledgements.get_or_create(&AckLabels { outcome: AckOutcome::Taken }).get();
    assert_eq!((answers, anna.metrics().resent.get()), (60, 0));
    let nobody = publish_acknowledged(&anna, "unheard", 1, WITHIN).await;
    assert!(nobody.is_complete() && nobody.taken.len() == 2, "`#` and `*` take it: {nobody:?}");
}

#[tokio::test(start_paused = true)]
async fn taken_means_that_the_application_is_done_with_it() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t").await;
    let publishing = in_background(&anna, 1, WITHIN);
    let message = next(&mut subscription).await;
    let_pass(Duration::from_secs(1)).await;
    assert!(!publishing.is_finished(), "it is still being worked on");
    let copy = message.clone();
    drop(message);
    let_pass(Duration::from_secs(1)).await;
    assert!(!publishing.is_finished());
    drop(copy);
    assert_eq!(publishing.await.unwrap().taken, [mesh.id(2)]);

    let publishing = in_background(&anna, 2, WITHIN);
    let mut message = next(&mut subscription).await;
    message.acknowledge();
    assert!(publishing.await.unwrap().is_complete(), "said early, though it is kept");

    let publishing = in_background(&anna, 2, WITHIN);
    next(&mut subscription).await.decline();
    assert_eq!(publishing.await.unwrap().missed, missed(mesh.id(2), MissReason::Lagged));

    // One that is never taken, and one whose subscription ends first.
    let silent = publish_acknowledged(&anna, "t", 3, Duration::from_secs(2)).await;
    assert_eq!(silent.missed, missed(mesh.id(2), MissReason::Silent));
    let publishing = in_background(&anna, 4, WITHIN);
    let_pass(Duration::from_secs(1)).await;
    drop(subscription);
    assert_eq!(publishing.await.unwrap().missed, missed(mesh.id(2), MissReason::Lagged));
}

#[tokio::test(start_paused = true)]
async fn what_is_pushed_out_of_a_queue_was_not_taken() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let tiny = SubscribeOptions { queue_messages: NonZeroUsize::new(1).unwrap(), ..Default::default() };
    let mut tiny = bert.subscribe(&realm(), "t".parse().unwrap(), tiny).await.unwrap();
    let other = consume(subscribe(&bert, "t").await);
    let first = in_background(&anna, 1, WITHIN);
    let_pass(Duration::from_millis(10)).await;
    let second = in_background(&anna, 2, WITHIN);
    assert_eq!(first.await.unwrap().missed, missed(mesh.id(2), MissReason::Lagged));
    assert_eq!(number(&mut tiny).await, 2);
    assert_eq!(second.await.unwrap().taken, [mesh.id(2)]);
    assert_eq!(*other.lock().unwrap(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_with_a_connection_is_sent_again_in_order_and_taken_once() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let taken = consume(subscribe(&bert, "t").await);
    assert!(publish_acknowledged(&anna, "t", 0, WITHIN).await.is_complete());
    mesh.network.partition(mesh.id(1), mesh.id(2));
    let patient = Duration::from_secs(300);
    let mut publishing = Vec::new();
    for n in 1..=20 {
        publishing.push(in_background(&anna, n, patient));
        let_pass(Duration::from_millis(1)).await;
    }
    // Long enough for the connection to be given up, and for dials to fail.
    let_pass(Duration::from_secs(60)).await;
    assert_eq!(*taken.lock().unwrap(), [0]);
    mesh.network.heal_all();
    for publishing in publishing {
        assert_eq!(publishing.await.unwrap().taken, [mesh.id(2)]);
    }
    assert_eq!(*taken.lock().unwrap(), (0..=20).collect::<Vec<u32>>());
    assert!(anna.metrics().resent.get() > 0);
    assert_eq!(publish(&anna, "t", 21).await.peers, 1, "and plain messages go on");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_taken_twice() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let taken = consume(subscribe(&bert, "t").await);
    assert!(publish_acknowledged(&anna, "t", 0, WITHIN).await.is_complete());
    mesh.network.partition_one_way(mesh.id(2), mesh.id(1));
    let publishing = in_background(&anna, 1, Duration::from_secs(300));
    let_pass(Duration::from_secs(60)).await;
    assert_eq!(*taken.lock().unwrap(), [0, 1], "it arrived");
    assert!(!publishing.is_finished());
    mesh.network.heal_all();
    assert!(publishing.await.unwrap().is_complete());
    assert_eq!(*taken.lock().unwrap(), [0, 1]);
    assert!(bert.metrics().duplicates.get() > 0, "it came again, and was known");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_reached_and_who_is_gone_is_told_apart() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let _unreachable = subscribe(&bert, "t").await;
    mesh.network.partition(mesh.id(1), mesh.id(2));
    let acknowledged = publish_acknowledged(&anna, "t", 1, Duration::from_secs(3)).await;
    assert_eq!(acknowledged.missed, missed(mesh.id(2), MissReason::Unreachable));
    mesh.network.heal_all();
    drop(_unreachable);
    let_pass(Duration::from_secs(1)).await;

    // A node that started again and has not subscribed yet, while its record still stands.
    let _before = subscribe(&cleo, "t").await;
    assert_eq!(publish(&anna, "t", 2).await.peers, 1);
    mesh.network.crash(mesh.id(3));
    let _cleo = mesh.node(3);
    let acknowledged = publish_acknowledged(&anna, "t", 3, Duration::from_secs(120)).await;
    assert_eq!(acknowledged.missed, missed(mesh.id(3), MissReason::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_starts_again_in_time_takes_it() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let asleep = subscribe(&bert, "t").await;
    let publishing = in_background(&anna, 1, Duration::from_secs(300));
    let_pass(Duration::from_secs(1)).await;
    mesh.network.crash(mesh.id(2));
    let again = mesh.node(2);
    let mut awake = subscribe(&again, "t").await;
    assert_eq!(number(&mut awake).await, 1);
    assert_eq!(publishing.await.unwrap().taken, [mesh.id(2)]);
    drop(asleep);
}

#[tokio::test(start_paused = true)]
async fn unacknowledged_messages_are_bounded() {
    let mut mesh = Mesh::new();
    mesh.config.unacked_bytes = 10_000;
    let [anna, bert] = mesh.nodes();
    let _asleep = subscribe(&bert, "t").await;
    let large = Payload::new(vec![b'1'; 3_000]);
    let publishing: Vec<JoinHandle<Acknowledged>> = (0..10)
        .map(|_| {
            let (anna, large, options) = (anna.clone(), large.clone(), PublishOptions::default());
            tokio::spawn(async move {
                anna.publish_acknowledged(&realm(), &name("t"), large, options, WITHIN).await.unwrap()
            })
        })
        .collect();
    let mut reasons = Vec::new();
    for publishing in publishing {
        reasons.push(publishing.await.unwrap().missed[0].reason);
    }
    assert_eq!(reasons.iter().filter(|reason| **reason == MissReason::Full).count(), 7);
    assert_eq!(reasons.iter().filter(|reason| **reason == MissReason::Silent).count(), 3);
    let later = publish_acknowledged(&anna, "t", 1, Duration::from_secs(1)).await;
    assert_eq!(later.missed[0].reason, MissReason::Silent, "what was given up makes room");
}

#[tokio::test(start_paused = true)]
async fn a_group_has_it_when_one_member_does() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let join = async |node: &Node| {
        let options = SubscribeOptions::default().group("workers").unwrap();
        node.subscribe(&realm(), "t".parse().unwrap(), options).await.unwrap()
    };
    let taken = consume(join(&bert).await);
    let asleep = join(&cleo).await;
    let plain = consume(subscribe(&cleo, "t").await);
    for n in 0..10 {
        let acknowledged = publish_acknowledged(&anna, "t", n, WITHIN).await;
        assert_eq!(acknowledged.groups, [("workers".parse().unwrap(), mesh.id(2))], "message {n}");
        assert_eq!(acknowledged.taken, [mesh.id(3)]);
        assert!(acknowledged.is_complete());
    }
    assert_eq!(*taken.lock().unwrap(), (0..10).collect::<Vec<u32>>());
    assert_eq!(*plain.lock().unwrap(), (0..10).collect::<Vec<u32>>(), "handing over is not for them");
    assert_eq!(anna.metrics().group_handovers.get(), 5, "who sleeps is asked in turn, and in vain");
    drop(asleep);

    mesh.network.crash(mesh.id(2));
    let lonely = publish_acknowledged(&anna, "t", 10, Duration::from_secs(3)).await;
    assert_eq!((lonely.unserved, lonely.groups), (vec!["workers".parse().unwrap()], vec![]));
    let own = consume(join(&anna).await);
    let served = publish_acknowledged(&anna, "t", 11, WITHIN).await;
    assert_eq!(served.groups, [("workers".parse().unwrap(), mesh.id(1))]);
    assert_eq!(*own.lock().unwrap(), [11]);
}

/// Connections break, packets are lost, nodes are cut off – and whatever is acknowledged was taken, once, in order.
#[tokio::test(start_paused = true)]
async fn whatever_was_acknowledged_was_taken_once_and_in_order() {
    for seed in 0..8_u64 {
        let mut mesh = Mesh::new();
        let [anna, bert, cleo] = mesh.nodes();
        let taken = [consume(subscribe(&bert, "t").await), consume(subscribe(&cleo, "#").await)];
        let lossy = Faults {
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(30),
            loss: 0.1,
            ..Faults::default()
        };
        mesh.network.set_faults(lossy);
        let mut publishing = Vec::new();
        let mut draw = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for n in 0..120 {
            publishing.push(in_background(&anna, n, Duration::from_secs(60)));
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match draw >> 60 {
                0 => mesh.network.partition(mesh.id(1), mesh.id(2)),
                1 => mesh.network.partition_one_way(mesh.id(3), mesh.id(1)),
                2 => mesh.network.pause(mesh.id(3)),
                3..=6 => {
                    mesh.network.heal_all();
                    mesh.network.resume(mesh.id(3));
                }
                _ => {}
            }
            let_pass(Duration::from_millis(500)).await;
        }
        mesh.network.heal_all();
        mesh.network.resume(mesh.id(3));
        let mut promised = [BTreeSet::new(), BTreeSet::new()];
        for (n, publishing) in publishing.into_iter().enumerate() {
            let acknowledged = publishing.await.unwrap();
            for (promised, node) in promised.iter_mut().zip([mesh.id(2), mesh.id(3)]) {
                if acknowledged.taken.contains(&node) {
                    promised.insert(n as u32);
                }
            }
        }
        for (promised, taken) in promised.iter().zip(&taken) {
            let taken = taken.lock().unwrap();
            assert!(taken.is_sorted_by(|a, b| a < b), "seed {seed}: not in order, or twice: {taken:?}");
            let taken: BTreeSet<u32> = taken.iter().copied().collect();
            assert!(promised.is_subset(&taken), "seed {seed}: {:?}", promised.difference(&taken));
            assert!(promised.len() > 80, "seed {seed}: only {} were acknowledged", promised.len());
        }
    }
}
