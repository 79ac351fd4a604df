//! Subscriptions that want some of a topic's messages.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, NodeId, wire};
use macula_pubsub::{FilterLabels, FilterPlace, Payload, Published, SubscribeOptions, Subscription};

use mesh::{Mesh, Node, name, next, realm, subscribe};

async fn subscribe_if(node: &Node, pattern: &str, filter: &str) -> Subscription {
    let options = SubscribeOptions { filter: Some(filter.parse().unwrap()), ..Default::default() };
    node.subscribe(&realm(), pattern.parse().unwrap(), options).await.unwrap()
}

async fn publish_json(node: &Node, topic: &str, json: &str) -> Published {
    let payload = Payload::new(json.to_owned()).header("kind", "reading");
    node.publish(&realm(), &name(topic), payload).await.unwrap()
}

fn filtered(node: &Node, place: FilterPlace) -> u64 {
    node.metrics().filtered.get_or_create(&FilterLabels { place }).get()
}

async fn text(subscription: &mut Subscription) -> String {
    String::from_utf8(next(subscription).await.payload.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_publisher_sends_only_what_some_filter_of_a_node_lets_through() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let mut hot = subscribe_if(&bert, "room.*", r#"header.kind == "reading" && json.celsius > 30"#).await;
    let mut cold = subscribe_if(&bert, "room.kitchen", "json.celsius < 5").await;
    let mut all = subscribe(&cleo, "room.#").await;
    for (celsius, peers) in [(20, 1), (35, 2), (2, 2), (31, 2), (21, 1)] {
        let published = publish_json(&anna, "room.kitchen", &format!("{{\"celsius\": {celsius}}}")).await;
        assert_eq!(published.peers, peers, "{celsius}");
        assert_eq!(text(&mut all).await, format!("{{\"celsius\": {celsius}}}"));
    }
    assert_eq!(
        (text(&mut hot).await, text(&mut hot).await),
        ("{\"celsius\": 35}".into(), "{\"celsius\": 31}".into())
    );
    assert_eq!(text(&mut cold).await, "{\"celsius\": 2}");
    assert!(hot.try_recv().is_none() && cold.try_recv().is_none());
    assert_eq!(bert.metrics().received.get(), 3, "the others did not leave the publisher");
    assert_eq!((filtered(&anna, FilterPlace::Publisher), filtered(&anna, FilterPlace::Subscriber)), (2, 0));
    assert_eq!(filtered(&bert, FilterPlace::Subscriber), 3, "each of the three was for one of the two");
    assert_eq!(anna.routes()[0].peers, [mesh.id(2), mesh.id(3)]);
    assert_eq!(bert.subscriptions()[1].filter, cold.filter().cloned());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_wants_everything_too_gets_everything_once() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut some = subscribe_if(&bert, "t", "json.n == 2").await;
    assert_eq!(publish_json(&anna, "t", "{\"n\": 1}").await.peers, 0);
    let mut all = subscribe(&bert, "#").await;
    for n in [1, 2, 3] {
        assert_eq!(publish_json(&anna, "t", &format!("{{\"n\": {n}}}")).await.peers, 1);
    }
    assert_eq!(text(&mut some).await, "{\"n\": 2}");
    for n in [1, 2, 3] {
        assert_eq!(text(&mut all).await, format!("{{\"n\": {n}}}"));
    }
    all.unsubscribe().await.unwrap();
    assert_eq!(publish_json(&anna, "t", "{\"n\": 1}").await.peers, 0, "the filter is announced again");
    assert!(some.try_recv().is_none());
}

#[tokio::test(start_paused = true)]
async fn filters_hold_for_this_nodes_own_subscriptions_and_for_publishers_that_know_none() {
    let mut mesh = Mesh::new();
    let [anna] = mesh.nodes();
    let mut some = subscribe_if(&anna, "t", "header.kind").await;
    assert_eq!(anna.publish(&realm(), &name("t"), Payload::new("bare")).await.unwrap().local, 0);
    assert_eq!(publish_json(&anna, "t", "{}").await.local, 1);
    assert_eq!(text(&mut some).await, "{}");

    // From a node of an earlier version, which reads no conditions.
    let header = wire::Publish { topic: "t".into(), epoch: 1, sequence: 1, ..Default::default() };
    let frame = Frame::new(FrameKind::PUBLISH, &header, Bytes::from_static(b"bare")).unwrap();
    anna.on_lane_frame(NodeId::from_bytes([9; 32]), frame).await;
    assert!(some.try_recv().is_none());
    assert_eq!(filtered(&anna, FilterPlace::Subscriber), 2);
}

#[tokio::test(start_paused = true)]
async fn filters_too_large_for_a_record_are_evaluated_by_the_subscribers_node() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscriptions = Vec::new();
    for n in 0..5 {
        let filter = format!("json.n == {n} && header.kind != \"{}\"", "x".repeat(400));
        subscriptions.push(subscribe_if(&bert, "t", &filter).await);
    }
    for n in 0..6 {
        assert_eq!(publish_json(&anna, "t", &format!("{{\"n\": {n}}}")).await.peers, 1);
    }
    for (n, subscription) in subscriptions.iter_mut().enumerate() {
        assert_eq!(text(subscription).await, format!("{{\"n\": {n}}}"));
    }
    while bert.metrics().received.get() < 6 {
        tokio::task::yield_now().await;
    }
    assert!(subscriptions.iter_mut().all(|subscription| subscription.try_recv().is_none()));
    assert_eq!(filtered(&bert, FilterPlace::Subscriber), 25);
}
