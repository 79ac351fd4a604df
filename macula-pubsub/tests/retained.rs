//! Retained values: who gets them, when, and how often.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_dht::{Announced, Directory, DirectoryError, Found, MemoryDirectory, Watch};
use macula_proto::{Access, Action, AllowAll, Forbidden, Gate, Key, Unwatched};
use macula_pubsub::{
    Payload, PubSub, PubSubConfig, PublishOptions, RETAINED_BYTES_MAX, RetainError, Retained, RetainedReport,
    SubscribeError, SubscribeOptions, Subscription,
};

use macula_transport::{TokioClock, Transport};

use mesh::{Mesh, Node, let_pass, name, next, publish, realm};

async fn retain(node: &Node, topic: &str, n: u32) -> Retained {
    let payload = Payload::new(n.to_string()).header("n", n.to_string());
    node.publish_retained(&realm(), &name(topic), payload, PublishOptions::default()).await.unwrap()
}

async fn subscribe(node: &Node, pattern: &str, options: SubscribeOptions) -> Subscription {
    node.subscribe_with_retained(&realm(), pattern.parse().unwrap(), options).await.unwrap()
}

fn numbers(subscription: &mut Subscription) -> Vec<(String, u32, bool)> {
    let mine = std::iter::from_fn(|| subscription.try_recv());
    mine.map(|message| {
        let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        (message.topic.to_string(), number, message.is_retained)
    })
    .collect()
}

fn kept(topic: &str, n: u32) -> (String, u32, bool) {
    (topic.to_owned(), n, true)
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_later_gets_the_last_value_and_then_what_follows() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    for n in 1..4 {
        assert!(retain(&anna, "home.light", n).await.holders > 0);
    }
    publish(&anna, "home.light", 4).await;
    let mut light = subscribe(&bert, "home.light", SubscribeOptions::default()).await;
    assert_eq!(light.retained(), RetainedReport { queued: 1, ..RetainedReport::default() });
    let first = next(&mut light).await;
    assert_eq!((&first.payload[..], first.is_retained, first.publisher), (&b"3"[..], true, mesh.id(1)));
    assert_eq!(first.headers.get("n").unwrap(), "3");
    publish(&anna, "home.light", 5).await;
    let second = next(&mut light).await;
    assert_eq!((&second.payload[..], second.is_retained), (&b"5"[..], false));
    assert_eq!((anna.metrics().retained.get(), bert.metrics().retained_delivered.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pattern_gets_the_values_of_all_its_topics_and_publishers() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    for (topic, n) in [("a.b", 1), ("a.c.d.e.f", 2), ("b", 3), ("a", 4)] {
        retain(&anna, topic, n).await;
    }
    retain(&bert, "a.b", 5).await;
    let find = async |pattern: &str| {
        let mut subscription = subscribe(&cleo, pattern, SubscribeOptions::default()).await;
        let mut found = numbers(&mut subscription);
        found.sort();
        found
    };
    assert_eq!(find("a.#").await, [kept("a", 4), kept("a.b", 1), kept("a.b", 5), kept("a.c.d.e.f", 2)]);
    assert_eq!(find("*.b").await, [kept("a.b", 1), kept("a.b", 5)]);
    assert_eq!(find("a.c.d.e.*").await, [kept("a.c.d.e.f", 2)]);
    assert_eq!(find("#").await.len(), 5);
    assert_eq!(find("c.#").await, []);
    assert!(anna.clear_retained(&realm(), &name("a.b")).await.unwrap());
    assert!(!anna.clear_retained(&realm(), &name("a.b")).await.unwrap());
    assert_eq!(find("a.*").await, [kept("a.b", 5)]);
    let shown = cleo.retained(&realm(), &"a.b".parse().unwrap()).await.unwrap();
    assert_eq!((shown.values.len(), shown.values[0].publisher, shown.failed), (1, mesh.id(2), 0));
}

/// A directory that stores at once and says so late: what is retained can be found for a second before it is published.
#[derive(Clone)]
struct Late(MemoryDirectory);

impl Directory for Late {
    async fn announce(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        self.0.announce(key, value).await
    }

    async fn announce_lasting(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        let announced = self.0.announce_lasting(key, value).await;
        let_pass(Duration::from_secs(1)).await;
        announced
    }

    async fn withdraw(&self, key: Key) -> Result<(), DirectoryError> {
        self.0.withdraw(key).await
    }

    async fn find(&self, key: Key) -> Result<Found, DirectoryError> {
        self.0.find(key).await
    }

    fn watch(&self, key: Key) -> Watch {
        self.0.watch(key)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_published_while_somebody_subscribes_comes_once() {
    let mut mesh = Mesh::new();
    let transport = mesh.network.node(1);
    let directory = Late(mesh.directory.directory_of(transport.local()));
    let (gate, liveness, clock) = (Arc::new(AllowAll), Arc::new(Unwatched), Arc::new(TokioClock::default()));
    let anna = PubSub::new(transport, directory, gate, liveness, clock, 9, PubSubConfig::default());
    let bert = mesh.node(2);
    for (at, pattern) in [(0, "t.0"), (1, "t.1.#"), (2, "t.2"), (3, "t.3.#")] {
        let topic = format!("t.{at}");
        let publishing = async {
            let payload = Payload::new("1");
            anna.publish_retained(&realm(), &name(&topic), payload, PublishOptions::default()).await.unwrap();
            // A later one, which says nothing of the kind.
            anna.publish(&realm(), &name(&topic), Payload::new("2")).await.unwrap();
        };
        let subscribing = async {
            // Before it is announced, or after that and before it is published.
            let_pass(Duration::from_millis(if at < 2 { 0 } else { 500 })).await;
            subscribe(&bert, pattern, SubscribeOptions::default()).await
        };
        let ((), mut subscription) = tokio::join!(publishing, subscribing);
        let_pass(Duration::from_secs(1)).await;
        let got: Vec<u32> = numbers(&mut subscription).into_iter().map(|(_, n, _)| n).collect();
        assert_eq!(got, [1, 2], "{pattern}");
    }
}

#[tokio::test(start_paused = true)]
async fn filters_and_full_queues_hold_for_retained_values_too() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    for n in 1..=5 {
        retain(&anna, &format!("t.{n}"), n).await;
    }
    let options = SubscribeOptions::default().filter("header.n >= 3").unwrap();
    let mut some = subscribe(&bert, "t.*", options).await;
    assert_eq!(numbers(&mut some), [kept("t.3", 3), kept("t.4", 4), kept("t.5", 5)]);
    let options = SubscribeOptions { queue_messages: NonZeroUsize::new(2).unwrap(), ..Default::default() };
    let few = subscribe(&bert, "t.*", options).await;
    assert_eq!(few.retained(), RetainedReport { queued: 2, lost: 3, failed: 0 });
    assert_eq!(few.lagged(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_value_outlives_its_publisher() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    retain(&anna, "t", 1).await;
    mesh.stop(1);
    drop(anna);
    let mut late = subscribe(&bert, "t", SubscribeOptions::default()).await;
    assert_eq!(numbers(&mut late), [kept("t", 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_or_for_a_group_is_refused() {
    let mut mesh = Mesh::new();
    let [anna] = mesh.nodes();
    for bytes in [RETAINED_BYTES_MAX - 4, RETAINED_BYTES_MAX + 1] {
        let payload = Payload::new(vec![0; bytes]);
        let refused = anna.publish_retained(&realm(), &name("t"), payload, PublishOptions::default()).await;
        assert!(
            matches!(refused, Err(RetainError::TooLarge(len)) if len > RETAINED_BYTES_MAX),
            "{refused:?}"
        );
    }
    assert_eq!(anna.metrics().published.get(), 0);
    let options = SubscribeOptions::default().group("workers").unwrap();
    let refused = anna.subscribe_with_retained(&realm(), "t".parse().unwrap(), options).await;
    assert_eq!(refused.err(), Some(SubscribeError::RetainedInGroup));
}

/// Nobody but node 1 may publish.
struct OnlyFirst(macula_proto::NodeId);

impl Gate for OnlyFirst {
    fn check(&self, access: Access<'_>) -> Result<(), Forbidden> {
        match access.action {
            Action::Publish(_) if access.peer != self.0 => Err(access.forbidden()),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn values_of_those_who_may_not_publish_are_left_out() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    mesh.gate = Arc::new(OnlyFirst(mesh.id(1)));
    let cleo = mesh.node(3);
    retain(&anna, "t.a", 1).await;
    retain(&bert, "t.b", 2).await;
    retain(&bert, "t.a", 3).await;
    for pattern in ["t.a", "t.*"] {
        let mut subscription = subscribe(&cleo, pattern, SubscribeOptions::default()).await;
        assert_eq!(numbers(&mut subscription), [kept("t.a", 1)], "{pattern}");
    }
    assert!(cleo.metrics().retained_failures.get() == 0);
}
