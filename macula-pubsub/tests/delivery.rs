//! Who gets what, in which order.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Access, Action, Forbidden, Frame, FrameKind, Gate, NodeId, Realm, wire};
use macula_pubsub::{
    LagPolicy, Message, Payload, PublishError, PublishOptions, RefuseLabels, RefuseReason, SubscribeError,
    SubscribeOptions,
};
use proptest::prelude::*;
use tokio::time::Instant;

use mesh::{Mesh, Node, let_pass, name, next, number, publish, realm, subscribe};

fn refused(node: &Node, reason: RefuseReason) -> u64 {
    node.metrics().refused.get_or_create(&RefuseLabels { reason }).get()
}

fn from_wire(header: &wire::Publish) -> Frame {
    Frame::new(FrameKind::PUBLISH, header, Bytes::from_static(b"1")).unwrap()
}

fn header(topic: &str, epoch: u64, sequence: u64) -> wire::Publish {
    wire::Publish { topic: topic.into(), epoch, sequence, ..wire::Publish::default() }
}

#[tokio::test(start_paused = true)]
async fn only_nodes_that_want_a_topic_get_a_copy() {
    let mut mesh = Mesh::new();
    let nodes: Vec<Node> = (1..=30).map(|n| mesh.node(n)).collect();
    let mut exact = subscribe(&nodes[1], "home.kitchen.light.on").await;
    let mut deep = subscribe(&nodes[2], "home.kitchen.light.on.#").await;
    let mut middle = subscribe(&nodes[3], "home.*.light.on").await;
    let mut root = subscribe(&nodes[4], "#.on").await;
    let _others = [
        subscribe(&nodes[5], "home.kitchen.*").await,
        subscribe(&nodes[6], "garden.#").await,
        subscribe(&nodes[7], "home.kitchen.light").await,
    ];
    for n in 0..20 {
        assert_eq!(publish(&nodes[0], "home.kitchen.light.on", n).await.peers, 4);
        for subscription in [&mut exact, &mut deep, &mut middle, &mut root] {
            assert_eq!(number(subscription).await, n);
        }
    }
    for node in &nodes[5..] {
        assert_eq!(node.metrics().received.get(), 0);
    }
    assert!(nodes.iter().all(|node| node.metrics().unwanted.get() == 0));
    assert_eq!(nodes[0].routes()[0].peers.len(), 4);
    assert_eq!(nodes[0].metrics().route_misses.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_like_those_before_go_to_whoever_subscribes_now() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut first = subscribe(&bert, "home.*").await;
    for n in 0..5 {
        publish(&anna, "home.door", n).await;
        assert_eq!(number(&mut first).await, n);
    }
    let mut second = subscribe(&bert, "home.door").await;
    let odd = SubscribeOptions::default().filter("header.odd").unwrap();
    let mut choosy = bert.subscribe(&realm(), "home.door".parse().unwrap(), odd).await.unwrap();
    for n in 5..8 {
        publish(&anna, "home.door", n).await;
        assert_eq!((number(&mut first).await, number(&mut second).await), (n, n));
    }
    assert!(choosy.try_recv().is_none(), "its filter lets none of them through");
    drop((first, choosy));
    for n in 8..10 {
        publish(&anna, "home.door", n).await;
        assert_eq!(number(&mut second).await, n);
    }
    // A copy of a message that came, and one that comes too late, are refused all the same.
    publish(&anna, "home.door", 10).await;
    let message = next(&mut second).await;
    let last = header("home.door", message.epoch, message.sequence);
    for sequence in [last.sequence, last.sequence - 1] {
        bert.on_lane_frame(mesh.id(1), from_wire(&wire::Publish { sequence, ..last.clone() })).await;
        bert.on_lane_pause();
    }
    assert_eq!((bert.metrics().duplicates.get(), second.try_recv().is_none()), (2, true));
}

#[tokio::test(start_paused = true)]
async fn interest_that_outgrew_its_record_brings_unwanted_copies_and_they_are_counted() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscriptions = Vec::new();
    for n in 0..200 {
        subscriptions.push(subscribe(&bert, &format!("a.*.a-long-name-{n}")).await);
    }
    publish(&anna, "a.x.something-else", 1).await;
    publish(&anna, "a.x.a-long-name-7", 2).await;
    assert_eq!(number(&mut subscriptions[7]).await, 2);
    assert_eq!((bert.metrics().received.get(), bert.metrics().unwanted.get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn concurrent_publishers_of_one_node_are_received_in_the_order_of_their_numbers() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let options = SubscribeOptions { queue_messages: NonZeroUsize::new(5000).unwrap(), ..Default::default() };
    let mut far = bert.subscribe(&realm(), "t".parse().unwrap(), options.clone()).await.unwrap();
    let mut near = anna.subscribe(&realm(), "t".parse().unwrap(), options).await.unwrap();
    // All at once, so that they meet while the first look-up and the first dial are under way.
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let anna = anna.clone();
            tokio::spawn(async move { publish(&anna, "t", n).await })
        })
        .collect();
    for task in tasks {
        let published = task.await.unwrap();
        assert_eq!((published.peers, published.local), (1, 1));
    }
    for subscription in [&mut far, &mut near] {
        for sequence in 1..=500 {
            assert_eq!(next(subscription).await.sequence, sequence);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_slows_nobody() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let tiny = SubscribeOptions { queue_messages: NonZeroUsize::new(1).unwrap(), ..Default::default() };
    let asleep = bert.subscribe(&realm(), "t".parse().unwrap(), tiny.clone()).await.unwrap();
    let stuck = SubscribeOptions { lag: LagPolicy::Wait, ..tiny };
    let stuck = bert.subscribe(&realm(), "t".parse().unwrap(), stuck).await.unwrap();
    let mut quick = subscribe(&bert, "t").await;
    let started = Instant::now();
    for n in 0..1000 {
        publish(&anna, "t", n).await;
        assert_eq!(number(&mut quick).await, n);
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!((asleep.lagged(), stuck.lagged()), (999, 999));
    let quick_info = &bert.subscriptions()[2];
    assert_eq!((quick_info.queued, quick_info.delivered, quick_info.dropped), (0, 1000, 0));
    let info = &bert.subscriptions()[0];
    assert_eq!((info.queued, info.delivered, info.dropped), (1, 0, 999));
}

#[tokio::test(start_paused = true)]
async fn the_wait_of_a_full_subscriber_is_bounded_by_the_receiver() {
    let mut mesh = Mesh::new();
    mesh.config.wait_max = Duration::from_secs(1);
    let [anna, bert] = mesh.nodes();
    let options = SubscribeOptions {
        queue_messages: NonZeroUsize::new(1).unwrap(),
        lag: LagPolicy::Wait,
        ..Default::default()
    };
    let stuck = bert.subscribe(&realm(), "t".parse().unwrap(), options).await.unwrap();
    let mut other = subscribe(&bert, "u").await;
    let patient = PublishOptions { wait: Duration::from_secs(3600), ..Default::default() };
    for topic in ["t", "t", "u"] {
        anna.publish_with(&realm(), &name(topic), Payload::new("1"), patient).await.unwrap();
    }
    let started = Instant::now();
    next(&mut other).await;
    assert_eq!(started.elapsed(), Duration::from_secs(1), "the lane waited for the stuck one, and no longer");
    assert_eq!(stuck.lagged(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_gets_nothing_more_and_its_record_goes() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let kept = subscribe(&bert, "a.*").await;
    let dropped = subscribe(&bert, "a.#").await;
    assert_eq!(publish(&anna, "a", 1).await.peers, 1);
    drop(dropped);
    // The background task takes the interest back.
    let_pass(Duration::from_millis(1)).await;
    assert_eq!(publish(&anna, "a", 2).await.peers, 0);
    assert_eq!(publish(&anna, "a.b", 3).await.peers, 1);
    drop(kept);
    let_pass(Duration::from_millis(1)).await;
    assert_eq!(publish(&anna, "a.b", 4).await.peers, 0);
    let metrics = bert.metrics();
    assert_eq!((metrics.subscriptions_added.get(), metrics.subscriptions_removed.get()), (2, 2));
    assert!(bert.subscriptions().is_empty());
}

/// What a subscriber of everything gets, and what is counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    messages: Vec<(String, u64, u64, Bytes)>,
    counts: [u64; 4],
}

/// Hands frames over, so many at a time, to a subscriber that takes them after each; `None`: one by one.
async fn hand_over(frames: &[Frame], at_once: Option<usize>, options: SubscribeOptions) -> Got {
    let mut mesh = Mesh::new();
    let [bert] = mesh.nodes();
    let anna = NodeId::from_bytes([9; 32]);
    let pattern = "#".parse().unwrap();
    let mut subscription = bert.subscribe(&Realm::default(), pattern, options).await.unwrap();
    let (mut got, mut taken) = (Got::default(), Vec::new());
    for some in frames.chunks(at_once.unwrap_or(7)) {
        match at_once {
            Some(_) => bert.on_lane_frames(anna, &mut some.to_vec()).await,
            None => {
                for frame in some {
                    bert.on_lane_frame(anna, frame.clone()).await;
                }
            }
        }
        bert.on_lane_pause();
        while subscription.lagged() == 0
            && subscription.try_recv().map(|message| taken.push(message)).is_some()
        {}
    }
    while let Some(message) = subscription.try_recv() {
        taken.push(message);
    }
    let read = |message: Message| {
        (message.topic.to_string(), message.epoch, message.sequence, message.payload.clone())
    };
    got.messages = taken.into_iter().map(read).collect();
    let metrics = bert.metrics();
    let lost = subscription.lagged();
    got.counts = [metrics.received.get(), metrics.duplicates.get(), metrics.delivered.get(), lost];
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_that_come_together_are_delivered_as_one_by_one(
        frames in prop::collection::vec((0_usize..3, 1_u64..3, 1_u64..40, 0_usize..4), 1..150),
        at_once in 1_usize..70,
    ) {
        let frame = |(topic, epoch, sequence, kind): &(usize, u64, u64, usize)| {
            let content_type = if *kind == 1 { "text/plain".into() } else { String::new() };
            let header = wire::Publish { content_type, ..header(["t", "u", "a.b"][*topic], *epoch, *sequence) };
            match kind {
                2 => Frame::new(FrameKind::PUBLISH, &wire::PublishHeader::default(), Bytes::new()).unwrap(),
                _ => Frame::new(FrameKind::PUBLISH, &header, sequence.to_string().into()).unwrap(),
            }
        };
        let frames: Vec<Frame> = frames.iter().map(frame).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let options = SubscribeOptions::default;
            let alone = hand_over(&frames, None, options()).await;
            let together = hand_over(&frames, Some(at_once), options()).await;
            prop_assert_eq!(&alone, &together);
            prop_assert!(!alone.messages.is_empty() || frames.iter().all(|frame| frame.payload().is_empty()));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_loses_the_oldest_also_of_frames_that_come_together() {
    let frames: Vec<Frame> = (1..=100).map(|sequence| from_wire(&header("t", 1, sequence))).collect();
    let queue_messages = 10.try_into().unwrap();
    let options =
        SubscribeOptions { queue_messages, lag: LagPolicy::DropOldest, ..SubscribeOptions::default() };
    let got = hand_over(&frames, Some(100), options).await;
    let sequences: Vec<u64> = got.messages.iter().map(|(_, _, sequence, _)| *sequence).collect();
    assert_eq!(sequences, (91..=100).collect::<Vec<u64>>());
    assert_eq!(got.counts, [100, 0, 100, 90]);
}

#[tokio::test(start_paused = true)]
async fn many_messages_are_received_at_once() {
    let mut mesh = Mesh::new();
    let [bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "#").await;
    let anna = NodeId::from_bytes([9; 32]);
    let mut frames: Vec<Frame> = (1..=25).map(|sequence| from_wire(&header("t", 1, sequence))).collect();
    bert.on_lane_frames(anna, &mut frames).await;
    bert.on_lane_pause();
    let mut messages = Vec::new();
    for (count, in_all) in [(10, 10), (10, 20), (5, 25)] {
        assert_eq!(subscription.recv_many(&mut messages, 10).await, count);
        assert_eq!(messages.len(), in_all);
    }
    assert!(messages.iter().map(|message| message.sequence).eq(1..=25));
    let waiting = tokio::time::timeout(Duration::from_secs(9), subscription.recv_many(&mut messages, 10));
    assert!(waiting.await.is_err(), "there is none");
    bert.on_lane_frame(anna, from_wire(&header("t", 1, 26))).await;
    bert.on_lane_pause();
    assert_eq!(subscription.recv_many(&mut messages, 10).await, 1);
}

#[tokio::test(start_paused = true)]
async fn duplicates_stragglers_and_forgeries_are_counted_and_dropped() {
    let mut mesh = Mesh::new();
    let [bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "#").await;
    let anna = NodeId::from_bytes([9; 32]);
    for (epoch, sequence) in [(1, 5), (1, 5), (1, 4), (1, 6), (2, 1), (1, 7)] {
        bert.on_lane_frame(anna, from_wire(&header("t", epoch, sequence))).await;
    }
    let received: Vec<(u64, u64)> = std::iter::from_fn(|| subscription.try_recv())
        .map(|message| (message.epoch, message.sequence))
        .collect();
    assert_eq!(received, [(1, 5), (1, 6), (2, 1)]);
    assert_eq!(bert.metrics().duplicates.get(), 3);

    let forged = wire::Publish { publisher: Bytes::from(vec![8; 32]), ..header("t", 1, 1) };
    let foreign = wire::Publish { realm: "elsewhere".into(), ..header("t", 1, 1) };
    let wild = header("t.*", 1, 1);
    for bad in [&forged, &foreign, &wild] {
        bert.on_lane_frame(anna, from_wire(bad)).await;
    }
    let garbage = Frame::new(FrameKind::PUBLISH, &wire::PublishHeader::default(), Bytes::new()).unwrap();
    bert.on_lane_frame(anna, garbage).await;
    let unknown = Frame::new(FrameKind(31), &header("t", 1, 1), Bytes::new()).unwrap();
    bert.on_lane_frame(anna, unknown).await;
    assert_eq!(refused(&bert, RefuseReason::Publisher), 1);
    assert_eq!(refused(&bert, RefuseReason::Realm), 1);
    assert_eq!(refused(&bert, RefuseReason::Malformed), 2);
    assert_eq!(refused(&bert, RefuseReason::UnknownKind), 1);
    assert!(subscription.try_recv().is_none());
}

/// Lets everything through but what touches `topic`, for one node.
struct Deny {
    peer: NodeId,
    topic: &'static str,
}

impl Gate for Deny {
    fn check(&self, access: Access<'_>) -> Result<(), Forbidden> {
        let touches = match access.action {
            Action::Publish(topic) => topic.as_str() == self.topic,
            Action::Subscribe(pattern) => pattern == self.topic,
            _ => false,
        };
        if touches && access.peer == self.peer { Err(access.forbidden()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn the_gate_is_asked_on_both_sides() {
    let mut mesh = Mesh::new();
    let anna = mesh.node(1);
    mesh.gate = Arc::new(Deny { peer: mesh.id(1), topic: "secret" });
    let bert = mesh.node(2);
    let mut all = subscribe(&bert, "#").await;
    // Anna's own gate lets it through, Bert's does not.
    assert_eq!(publish(&anna, "secret", 1).await.peers, 1);
    publish(&anna, "open", 2).await;
    assert_eq!(number(&mut all).await, 2);
    assert_eq!(refused(&bert, RefuseReason::Forbidden), 1);

    let _listening = subscribe(&anna, "secret").await;
    assert_eq!(publish(&bert, "secret", 3).await.peers, 0, "a publisher does not send to whom it must not");
    assert_eq!(number(&mut all).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_may_not_is_told_so() {
    let mut mesh = Mesh::new();
    let [probe] = mesh.nodes();
    let peer = mesh.id(1);
    drop(probe);
    mesh.network.crash(peer);
    mesh.gate = Arc::new(Deny { peer, topic: "secret" });
    let node = mesh.node(1);
    let published = node.publish(&realm(), &name("secret"), Payload::new("")).await;
    assert!(matches!(published, Err(PublishError::Forbidden(_))));
    let options = SubscribeOptions::default();
    let subscribed = node.subscribe(&realm(), "secret".parse().unwrap(), options.clone()).await;
    assert!(matches!(subscribed, Err(SubscribeError::Forbidden(_))));
    let foreign = "elsewhere".parse().unwrap();
    let published = node.publish(&foreign, &name("a"), Payload::new("")).await;
    assert_eq!(published, Err(PublishError::NotInRealm(foreign.clone())));
    let subscribed = node.subscribe(&foreign, "a".parse().unwrap(), options).await;
    assert_eq!(subscribed.unwrap_err(), SubscribeError::NotInRealm(foreign));
}
