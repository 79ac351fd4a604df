//! Trees over whole nodes on the in-memory network: nobody is left out, in order and once, while trees come into being, lose
//! nodes, and are given up.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use std::sync::Arc;
use std::time::Duration;

use macula_proto::{NodeId, SecretKey};
use macula_pubsub::{Payload, PublishOptions, SubscribeOptions, Subscription};

use mesh::{Mesh, Node, let_pass, name, next, number, publish, realm, subscribe};

/// Nodes with the pattern, more than are sent to directly.
const SUBSCRIBERS: u8 = 24;

fn crowded() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.config.direct_max = 8;
    mesh.has_trees = true;
    mesh
}

async fn subscribers(mesh: &mut Mesh, pattern: &str) -> Vec<(Node, Subscription)> {
    let mut subscribers = Vec::new();
    for n in 1..=SUBSCRIBERS {
        let node = mesh.node(n);
        let subscription = subscribe(&node, pattern).await;
        subscribers.push((node, subscription));
    }
    subscribers
}

/// Publishes until the trees are announced; returns the next number.
async fn until_announced(publisher: &Node, subscribers: &[(Node, Subscription)], topic: &str) -> u32 {
    for n in 0..100 {
        publish(publisher, topic, n).await;
        let_pass(Duration::from_millis(500)).await;
        if subscribers.iter().all(|(node, _)| node.trees().iter().any(|tree| tree.is_announced)) {
            return n + 1;
        }
    }
    panic!("not all take part in the tree");
}

/// What came, as far as it has come by now.
fn received(subscription: &mut Subscription) -> Vec<u32> {
    std::iter::from_fn(|| subscription.try_recv())
        .map(|message| std::str::from_utf8(&message.payload).unwrap().parse().unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_crowd_becomes_a_tree_and_nobody_misses_anything() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news.*").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news.today").await;
    let sent = publisher.metrics().sent.get();
    for n in first..first + 20 {
        let published = publish(&publisher, "news.today", n).await;
        assert_eq!(published.by_trees, usize::from(SUBSCRIBERS));
        let_pass(Duration::from_millis(100)).await;
    }
    let_pass(Duration::from_secs(2)).await;
    let copies = publisher.metrics().sent.get() - sent;
    assert!(copies <= 20 * 3, "the publisher itself sent {copies} copies");
    let expected: Vec<u32> = (0..first + 20).collect();
    for (node, subscription) in &mut subscribers {
        assert_eq!(received(subscription), expected);
        let tree = &node.trees()[0];
        assert!((1..=8).contains(&tree.links.len()) && tree.pattern.as_str() == "news.*", "{tree:?}");
        assert_eq!(node.metrics().tree.lost.get(), 0);
    }
    let most = subscribers.iter().map(|(node, _)| node.metrics().tree.pushed.get()).max();
    assert!(most <= Some(8 * u64::from(first + 20)));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_publishes_through_its_own_links() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news").await;
    let publisher = subscribers[3].0.clone();
    let first = until_announced(&publisher, &subscribers, "news").await;
    for n in first..first + 10 {
        publish(&publisher, "news", n).await;
    }
    let_pass(Duration::from_secs(2)).await;
    for (_, subscription) in &mut subscribers {
        assert_eq!(received(subscription), (0..first + 10).collect::<Vec<u32>>());
    }
}

#[tokio::test(start_paused = true)]
async fn few_are_sent_to_directly() {
    let mut mesh = crowded();
    let publisher = mesh.node(100);
    let mut few = Vec::new();
    for n in 1..=8 {
        let node = mesh.node(n);
        few.push((subscribe(&node, "news").await, node));
    }
    for n in 0..20 {
        assert_eq!(publish(&publisher, "news", n).await.by_trees, 0);
        let_pass(Duration::from_secs(1)).await;
    }
    for (subscription, node) in &mut few {
        assert_eq!(received(subscription), (0..20).collect::<Vec<u32>>());
        assert_eq!(node.trees(), []);
    }
    assert_eq!(publisher.metrics().tree_invitations.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_is_served_at_once_and_then_by_the_tree() {
    let mut mesh = crowded();
    let subscribers = subscribers(&mut mesh, "news").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    let late = mesh.node(101);
    let mut subscription = subscribe(&late, "news").await;
    for n in first..first + 60 {
        publish(&publisher, "news", n).await;
        let_pass(Duration::from_millis(250)).await;
    }
    let_pass(Duration::from_secs(1)).await;
    assert_eq!(received(&mut subscription), (first..first + 60).collect::<Vec<u32>>());
    assert!(late.trees()[0].is_announced);
    assert_eq!(publish(&publisher, "news", 0).await.by_trees, usize::from(SUBSCRIBERS) + 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_publisher_finds_the_tree_and_sends_few_copies() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    let second = mesh.node(101);
    let published = publish(&second, "news", 7_777).await;
    assert_eq!((published.by_trees, published.peers), (usize::from(SUBSCRIBERS), 3));
    let_pass(Duration::from_secs(3)).await;
    for (_, subscription) in &mut subscribers {
        let all = received(subscription);
        assert_eq!(all.len(), first as usize + 1);
        assert_eq!(all.last(), Some(&7_777));
    }
}

#[tokio::test(start_paused = true)]
async fn the_rest_goes_on_when_nodes_die() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    let mut published = first;
    for victim in [2, 9, 17, 23] {
        mesh.network.crash(mesh.id(victim));
        for _ in 0..20 {
            publish(&publisher, "news", published).await;
            published += 1;
            let_pass(Duration::from_millis(250)).await;
        }
    }
    let_pass(Duration::from_secs(20)).await;
    for (n, (node, subscription)) in subscribers.iter_mut().enumerate() {
        if ![2, 9, 17, 23].contains(&(n + 1)) {
            assert_eq!(received(subscription), (0..published).collect::<Vec<u32>>(), "subscriber {}", n + 1);
            assert_eq!(node.metrics().tree.lost.get(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_too_small_is_given_up_without_loss() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    let left = subscribers.split_off(3);
    for (_, subscription) in left {
        subscription.unsubscribe().await.unwrap();
    }
    let mut published = first;
    for _ in 0..1_300 {
        publish(&publisher, "news", published).await;
        published += 1;
        let_pass(Duration::from_millis(500)).await;
        if published % 100 == 0 {
            for (_, subscription) in &mut subscribers {
                received(subscription);
            }
        }
    }
    let before = publish(&publisher, "news", published).await;
    let_pass(Duration::from_secs(1)).await;
    assert_eq!((before.by_trees, before.peers), (0, 3));
    for (node, subscription) in &mut subscribers {
        let all = received(subscription);
        assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
        assert_eq!(all.last(), Some(&published));
        assert_eq!(node.trees(), [], "it has left");
        assert_eq!(node.metrics().tree.lost.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledged_messages_go_to_all_that_are_known_and_lose_nothing_of_the_others() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    let takers = subscribers.iter_mut().map(|(_, subscription)| async {
        let mut taken = Vec::new();
        for _ in 0..first + 2 {
            taken.push(number(subscription).await);
        }
        taken
    });
    let publishing = async {
        publish(&publisher, "news", first).await;
        let payload = Payload::new("1000000");
        let within = Duration::from_secs(5);
        let options = PublishOptions::default();
        publisher.publish_acknowledged(&realm(), &name("news"), payload, options, within).await.unwrap()
    };
    let (acknowledged, taken) = tokio::join!(publishing, join_all(takers));
    assert_eq!(acknowledged.taken.len(), usize::from(SUBSCRIBERS));
    for mut taken in taken {
        taken.sort_unstable();
        assert_eq!(taken, (0..=first).chain([1_000_000]).collect::<Vec<u32>>());
    }
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn queue_groups_and_filters_keep_their_promises_in_a_tree() {
    let mut mesh = crowded();
    let mut plain = subscribers(&mut mesh, "news").await;
    let workers = SubscribeOptions::default().group("workers").unwrap();
    let mut group = Vec::new();
    for (node, _) in &plain[..5] {
        group.push(node.subscribe(&realm(), "news".parse().unwrap(), workers.clone()).await.unwrap());
    }
    let choosy = mesh.node(101);
    let hot = SubscribeOptions::default().filter("header.hot").unwrap();
    let mut hot = choosy.subscribe(&realm(), "news".parse().unwrap(), hot).await.unwrap();
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &plain, "news").await;
    let_pass(Duration::from_secs(10)).await;
    for n in first..first + 20 {
        let payload = Payload::new(n.to_string());
        let payload = if n % 2 == 0 { payload.header("hot", "1") } else { payload };
        publisher.publish(&realm(), &name("news"), payload).await.unwrap();
        let_pass(Duration::from_millis(100)).await;
    }
    let_pass(Duration::from_secs(2)).await;
    let all: Vec<u32> = (0..first + 20).collect();
    for (_, subscription) in &mut plain {
        assert_eq!(received(subscription), all);
    }
    let mut shared: Vec<u32> = group.iter_mut().flat_map(received).collect();
    shared.sort_unstable();
    assert_eq!(shared, all, "each once for the whole group");
    let even: Vec<u32> = (first..first + 20).filter(|n| n % 2 == 0).collect();
    assert_eq!(received(&mut hot), even);
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_trees_gets_everything_directly() {
    let mut mesh = crowded();
    let subscribers = subscribers(&mut mesh, "news").await;
    mesh.has_trees = false;
    let older = mesh.node(101);
    let mut subscription = subscribe(&older, "news").await;
    mesh.has_trees = true;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    for n in first..first + 10 {
        publish(&publisher, "news", n).await;
    }
    for n in 0..first + 10 {
        assert_eq!(next(&mut subscription).await.payload, n.to_string());
    }
}

/// Ids are of keys: this one's is what its transport says.
#[tokio::test(start_paused = true)]
async fn the_publisher_is_proven_to_those_who_get_it_from_others() {
    let mut mesh = crowded();
    let mut subscribers = subscribers(&mut mesh, "news").await;
    let publisher = mesh.node(100);
    let first = until_announced(&publisher, &subscribers, "news").await;
    publish(&publisher, "news", first).await;
    let_pass(Duration::from_secs(1)).await;
    let expected: NodeId = Arc::new(SecretKey::from_seed([100; 32])).node_id();
    for (_, subscription) in &mut subscribers {
        while let Some(message) = subscription.try_recv() {
            assert_eq!(message.publisher, expected);
        }
    }
}
