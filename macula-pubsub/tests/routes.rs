//! The route cache, and what the directory may answer.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use macula_dht::{
    Announced, Directory, DirectoryError, Found, MemoryDirectory, MemoryDirectoryNetwork, Watch, WatchSource,
};
use macula_proto::{
    Access, Action, AllowAll, Forbidden, Gate, Key, Liveness, NodeId, SystemClock, Unwatched,
};
use macula_pubsub::{
    Payload, PubSub, PubSubConfig, PublishError, PublishOptions, Published, SubscribeError, SubscribeOptions,
};
use macula_transport::memory::{MemoryNetwork, MemoryTransport};
use macula_transport::{TokioClock, Transport};
use parking_lot::Mutex;
use tokio::time::Instant;

use mesh::{Mesh, let_pass, name, next, number, publish, realm, subscribe};

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded_and_numbers_go_on_after_eviction() {
    let mut mesh = Mesh::new();
    mesh.config.max_cache_size = NonZeroUsize::new(20).unwrap();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t.#").await;
    let kept = anna.publisher(&realm(), &name("t.now-and-then"));
    let mut last = 0;
    for n in 0..200 {
        let_pass(Duration::from_millis(1)).await;
        publish(&anna, &format!("t.{n}"), n).await;
        next(&mut subscription).await;
        assert!(anna.routes().len() <= 20);
        if n % 40 == 0 {
            publish(&anna, "t.now-and-then", n).await;
            kept.publish(Payload::new("kept"), PublishOptions::default()).await.unwrap();
            for _ in 0..2 {
                let message = next(&mut subscription).await;
                assert!(message.sequence > last, "{} after {last}", message.sequence);
                last = message.sequence;
            }
        }
    }
    assert!(anna.metrics().route_evictions.get() > 150);
    assert_eq!(anna.metrics().route_cache.get(), anna.routes().len() as i64);
    assert_eq!(bert.metrics().duplicates.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn idle_routes_go_and_used_ones_stay() {
    let mut mesh = Mesh::new();
    mesh.config.cache_ttl = Duration::from_secs(60);
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "used").await;
    publish(&anna, "idle", 1).await;
    for n in 0..10 {
        publish(&anna, "used", n).await;
        assert_eq!(number(&mut subscription).await, n);
        let_pass(Duration::from_secs(20)).await;
    }
    let routes = anna.routes();
    assert_eq!(routes.len(), 1);
    assert_eq!((routes[0].topic.as_str(), routes[0].last_sequence), ("used", 10));
    assert_eq!(routes[0].peers, [mesh.id(2)]);
}

/// How the directory under test behaves.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    /// Look-ups never end.
    Silent,
    /// It has met nobody.
    Alone,
    /// Nobody takes a record.
    Refusing,
    /// It answers with a sample.
    Sampling,
}

#[derive(Clone)]
struct Moody {
    inner: MemoryDirectory,
    mood: Arc<Mutex<Mood>>,
    announced: Arc<AtomicUsize>,
    sources: Arc<Mutex<Vec<WatchSource>>>,
}

impl Directory for Moody {
    async fn announce(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        self.announced.fetch_add(1, Ordering::Relaxed);
        let_pass(Duration::from_millis(100)).await; // a network's time
        if *self.mood.lock() == Mood::Refusing {
            return Err(DirectoryError::Refused("full".into()));
        }
        self.inner.announce(key, value).await
    }

    async fn announce_lasting(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        self.inner.announce_lasting(key, value).await
    }

    async fn withdraw(&self, key: Key) -> Result<(), DirectoryError> {
        if *self.mood.lock() == Mood::Refusing {
            return Err(DirectoryError::Refused("busy".into()));
        }
        self.inner.withdraw(key).await
    }

    async fn find(&self, key: Key) -> Result<Found, DirectoryError> {
        self.inner.find(key).await
    }

    fn watch(&self, key: Key) -> Watch {
        let (source, watch) = Watch::new();
        match *self.mood.lock() {
            Mood::Fine | Mood::Refusing => return self.inner.watch(key),
            Mood::Silent => {}
            Mood::Alone => source.failed(DirectoryError::NoPeers),
            Mood::Sampling => source.update(Found { records: Vec::new(), estimate: 5 }),
        }
        self.sources.lock().push(source);
        watch
    }
}

fn moody(mood: Mood) -> (PubSub<MemoryTransport, Moody>, Moody, MemoryDirectoryNetwork) {
    let transport = MemoryNetwork::new(1).node(1);
    let network = MemoryDirectoryNetwork::default();
    let directory = Moody {
        inner: network.directory_of(transport.local()),
        mood: Arc::new(Mutex::new(mood)),
        announced: Arc::default(),
        sources: Arc::default(),
    };
    let clock = Arc::new(TokioClock::default());
    let config = PubSubConfig { lookup_timeout: Duration::from_secs(3), ..PubSubConfig::default() };
    (
        PubSub::new(transport, directory.clone(), Arc::new(AllowAll), Arc::new(Unwatched), clock, 1, config),
        directory,
        network,
    )
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_takes_too_long_is_an_error_that_says_whom_the_message_reached() {
    let (node, directory, _) = moody(Mood::Silent);
    let mut subscription =
        node.subscribe(&realm(), "a.b".parse().unwrap(), SubscribeOptions::default()).await.unwrap();
    let started = Instant::now();
    let outcome = node.publish(&realm(), &name("a.b"), Payload::new("1")).await;
    let Err(PublishError::Unresolved { unresolved, waited, published }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((unresolved, waited, published.local), (4, Duration::from_secs(3), 1));
    assert_eq!(started.elapsed(), waited);
    assert_eq!(next(&mut subscription).await.sequence, 1);
    for source in directory.sources.lock().iter() {
        source.update(Found::default());
    }
    assert_eq!(node.publish(&realm(), &name("a.b"), Payload::new("2")).await.unwrap().local, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lone_node_publishes_to_itself() {
    let (node, _, _) = moody(Mood::Alone);
    let mut subscription =
        node.subscribe(&realm(), "a".parse().unwrap(), SubscribeOptions::default()).await.unwrap();
    let published = node.publish(&realm(), &name("a"), Payload::new("1")).await.unwrap();
    assert_eq!((published.peers, published.local), (0, 1));
    assert_eq!(number(&mut subscription).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sample_is_called_one() {
    let (node, _, _) = moody(Mood::Sampling);
    let published = node.publish(&realm(), &name("a"), Payload::new("1")).await.unwrap();
    assert_eq!((published.peers, published.unnamed), (0, 15));
}

#[tokio::test(start_paused = true)]
async fn a_refused_announcement_undoes_the_subscription_and_is_withdrawn_later() {
    let (node, directory, network) = moody(Mood::Refusing);
    let running = node.clone();
    tokio::spawn(async move { running.run(Default::default()).await });
    let refused = node.subscribe(&realm(), "a".parse().unwrap(), SubscribeOptions::default()).await;
    assert!(matches!(refused, Err(SubscribeError::Directory(DirectoryError::Refused(_)))));
    assert!(node.subscriptions().is_empty());
    let_pass(Duration::from_secs(10)).await;
    assert!(node.metrics().announce_failures.get() > 1, "it is tried again");
    *directory.mood.lock() = Mood::Fine;
    let _subscription =
        node.subscribe(&realm(), "a".parse().unwrap(), SubscribeOptions::default()).await.unwrap();
    let_pass(Duration::from_secs(100)).await;
    let key = macula_pubsub::announced_at(&realm(), &"a".parse().unwrap());
    let other = network.directory(NodeId::from_bytes([7; 32]));
    assert_eq!(other.find(key).await.unwrap().records.len(), 1, "the late withdrawal spares the new record");
}

#[tokio::test(start_paused = true)]
async fn many_subscriptions_at_once_cost_few_announcements() {
    let (node, directory, network) = moody(Mood::Fine);
    let started = Instant::now();
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let node = node.clone();
            let pattern = format!("a.*.{}", n % 20).parse().unwrap();
            tokio::spawn(async move { node.subscribe(&realm(), pattern, SubscribeOptions::default()).await })
        })
        .collect();
    let mut subscriptions = Vec::new();
    for task in tasks {
        subscriptions.push(task.await.unwrap().unwrap());
    }
    assert!(directory.announced.load(Ordering::Relaxed) <= 2);
    assert!(started.elapsed() <= Duration::from_millis(200));
    let other = network.directory(NodeId::from_bytes([7; 32]));
    let key = macula_pubsub::announced_at(&realm(), &"a.*".parse().unwrap());
    let found = other.find(key).await.unwrap();
    assert_eq!(macula_pubsub::decode(&found.records[0].value).wants.len(), 20);

    for subscription in subscriptions {
        subscription.unsubscribe().await.unwrap();
    }
    assert!(other.find(key).await.unwrap().records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_subscribe_leaves_nothing() {
    let (node, _, network) = moody(Mood::Fine);
    let running = node.clone();
    tokio::spawn(async move { running.run(Default::default()).await });
    let realm = realm();
    let subscribing = node.subscribe(&realm, "a".parse().unwrap(), SubscribeOptions::default());
    assert!(tokio::time::timeout(Duration::from_millis(50), subscribing).await.is_err());
    let_pass(Duration::from_secs(5)).await;
    assert!(node.subscriptions().is_empty());
    let key = macula_pubsub::announced_at(&realm, &"a".parse().unwrap());
    let other = network.directory(NodeId::from_bytes([7; 32]));
    assert!(other.find(key).await.unwrap().records.is_empty());
}

/// Says no to every subscriber once it is told to.
#[derive(Default)]
struct Shut(AtomicBool);

impl Gate for Shut {
    fn check(&self, access: Access<'_>) -> Result<(), Forbidden> {
        let is_subscriber = matches!(access.action, Action::Subscribe(_));
        if is_subscriber && self.0.load(Ordering::Relaxed) { Err(access.forbidden()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_reaches_cached_routes() {
    let mut mesh = Mesh::new();
    let gate = Arc::new(Shut::default());
    mesh.gate = gate.clone();
    let [anna, bert] = mesh.nodes();
    let _subscription = subscribe(&bert, "t").await;
    assert_eq!(publish(&anna, "t", 1).await.peers, 1);
    gate.0.store(true, Ordering::Relaxed);
    anna.policy_changed();
    assert_eq!(publish(&anna, "t", 2).await.peers, 0);
}

/// Holds everybody for gone once it is told to.
#[derive(Default)]
struct Doomsday(AtomicBool);

impl Liveness for Doomsday {
    fn is_gone(&self, _id: &NodeId) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_to_those_who_are_gone_until_they_are_back() {
    let mut mesh = Mesh::new();
    let liveness = Arc::new(Doomsday::default());
    mesh.liveness = liveness.clone();
    let [anna, bert] = mesh.nodes();
    let _subscription = subscribe(&bert, "t").await;
    assert_eq!(publish(&anna, "t", 1).await.peers, 1);
    for (gone, peers) in [(true, 0), (false, 1)] {
        liveness.0.store(gone, Ordering::Relaxed);
        anna.liveness_changed();
        assert_eq!(publish(&anna, "t", 2).await, Published { peers, ..Published::default() });
    }
}

#[test]
fn numbers_rise_though_routes_are_evicted_under_publishers_on_many_threads() {
    const TOPICS: usize = 50;
    let transport = MemoryNetwork::new(1).node(1);
    let directory = MemoryDirectoryNetwork::default().directory_of(transport.local());
    let cache = NonZeroUsize::new(8).unwrap();
    let config = PubSubConfig { max_cache_size: cache, ..PubSubConfig::default() };
    let clock = Arc::new(SystemClock::default());
    let node = PubSub::new(transport, directory, Arc::new(AllowAll), Arc::new(Unwatched), clock, 1, config);
    let options = SubscribeOptions {
        queue_messages: NonZeroUsize::new(100_000).unwrap(),
        ..SubscribeOptions::default()
    };
    let subscribed = runtime().block_on(node.subscribe(&realm(), "#".parse().unwrap(), options));
    let publish_many = |node: PubSub<MemoryTransport, MemoryDirectory>, thread: usize| async move {
        for n in 0..500 {
            let topic = name(&format!("t{}", (n * 7 + thread) % TOPICS));
            node.publish(&realm(), &topic, Payload::new("")).await.unwrap();
        }
    };
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let node = node.clone();
            threads.spawn(move || runtime().block_on(publish_many(node, thread)));
        }
    });
    let (mut subscription, mut last) = (subscribed.unwrap(), BTreeMap::new());
    for _ in 0..8 * 500 {
        let message = subscription.try_recv().unwrap();
        let before = last.insert(message.topic.clone(), message.sequence).unwrap_or(0);
        assert!(message.sequence > before, "{}: {} after {before}", message.topic, message.sequence);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn every_metric_is_registered() {
    let mut registry = prometheus_client::registry::Registry::default();
    macula_pubsub::PubSubMetrics::default().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for metric in ["pubsub_published_total", "pubsub_unwanted_total", "pubsub_message_bytes_count"] {
        assert!(text.contains(metric), "{metric} in {text}");
    }
}
