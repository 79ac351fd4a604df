//! Nodes without a thread of their own, and topics that are kept at hand.

// The lint lets tests unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use macula::{Call, Decode, Node, Reply, SubscribeOptions};

/// How long anything may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

async fn pair() -> (Node, Node) {
    let a = Node::builder().listen("127.0.0.1:0").on_this_runtime().start().await.unwrap();
    let seed = a.listen_addrs()[0].to_string();
    let b = Node::builder().listen("127.0.0.1:0").on_this_runtime().seed(&seed).start().await.unwrap();
    tokio::time::timeout(PATIENCE, b.joined()).await.unwrap().unwrap();
    (a, b)
}

#[tokio::test]
async fn nodes_on_one_runtime_publish_call_and_shut_down() {
    let (a, b) = pair().await;
    // Room for all: this task gives the nodes no turn while it publishes.
    let queue_messages = NonZeroUsize::new(4096).unwrap();
    let options = SubscribeOptions { queue_messages, ..SubscribeOptions::default() };
    let mut rooms = b.subscribe_in(b.realm(), "home.*", options).await.unwrap();
    let kitchen = a.publisher("home.kitchen").unwrap().wait(PATIENCE);
    let mut last = 0;
    for n in 0..2_000 {
        let published = kitchen.publish(n.to_string()).await.unwrap();
        assert_eq!((published.peers, published.dropped), (1, 0));
        if n % 7 == 0 {
            // By its name it is the same topic, and in the same order.
            a.publish("home.kitchen", "between").await.unwrap();
        }
    }
    while last < 2_000 + 286 {
        let message = tokio::time::timeout(PATIENCE, rooms.recv()).await.unwrap().unwrap();
        assert_eq!((message.sequence, message.topic.as_str()), (last + 1, "home.kitchen"));
        last = message.sequence;
    }
    let echo = |call: Call| async move { Ok(Reply::new(call.payload)) };
    let _offer = b.register("test.echo", echo).await.unwrap();
    assert_eq!(a.call("test.echo", "here").await.unwrap().text().unwrap(), "here");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_node_that_is_dropped_gives_its_port_back() {
    let (a, b) = pair().await;
    let addr = a.listen_addrs()[0].to_string();
    drop(a);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = Node::builder().listen(&addr).on_this_runtime().start().await {
        assert!(Instant::now() < deadline, "{addr} is still taken: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await; // tidy: allow(sleep): polling a socket, which tells nobody
    }
    b.shutdown().await;
}
