//! What every [`Bus`] must do, as a suite that any implementation can run.
//!
//! Give [`run`] a function that makes a mesh of so many nodes that know each other. Run it under tokio's paused time
//! (`#[tokio::test(start_paused = true)]`), or in real time.

#![allow(clippy::unwrap_used, reason = "a test suite")]

use std::num::NonZeroUsize;
use std::time::Duration;

use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_proto::{Name, NodeId, Realm};

use crate::{
    Bus, LagPolicy, Message, Payload, PayloadError, PublishError, PublishOptions, SubscribeOptions,
    Subscription,
};

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every check, each on a fresh mesh.
///
/// # Panics
/// On the first promise that is broken.
pub async fn run<B: Bus>(make: impl AsyncFn(usize) -> Vec<(NodeId, B)>) {
    delivers_what_was_published(&make(2).await).await;
    delivers_by_pattern_and_to_nobody_else(&make(3).await).await;
    delivers_locally(&make(1).await).await;
    keeps_each_publishers_order(&make(3).await).await;
    reaches_a_subscription_as_soon_as_it_is_made(&make(2).await).await;
    ends_a_subscription(&make(2).await).await;
    delivers_what_a_filter_lets_through(&make(2).await).await;
    gives_a_group_each_message_once(&make(4).await).await;
    says_who_took_a_message(&make(3).await).await;
    keeps_realms_apart(&make(2).await).await;
    drops_the_oldest_for_one_that_lags(&make(2).await).await;
    waits_for_one_that_asks_for_it(&make(2).await).await;
    refuses_a_payload_past_the_limit(&make(1).await).await;
}

/// Content, content type, headers, publisher, topic and pattern arrive as sent.
///
/// # Panics
/// If they do not.
pub async fn delivers_what_was_published<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(anna, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    let mut subscription = subscribe(subscriber, "a.*").await;
    let payload = Payload::new("21.5").content_type("text/plain").header("unit", "celsius");
    let published = publisher.publish(&Realm::default(), &name("a.b"), payload.clone()).await.unwrap();
    assert_eq!((published.peers, published.local, published.dropped, published.failed), (1, 0, 0, 0));
    let message = next(&mut subscription).await;
    assert_eq!(message.payload, payload.bytes);
    let envelope = &message.envelope;
    assert_eq!((&envelope.content_type, &envelope.headers), (&payload.content_type, &payload.headers));
    assert_eq!((message.publisher, &message.topic), (*anna, &name("a.b")));
    assert_eq!((&message.realm, message.subscription), (&Realm::default(), subscription.id()));
    assert_eq!(message.pattern.as_str(), "a.*");
}

/// Each matching subscription gets one copy; others get none.
///
/// # Panics
/// If they do not.
pub async fn delivers_by_pattern_and_to_nobody_else<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, near), (_, far)] = mesh else { panic!("a mesh of three") };
    let mut matching = Vec::new();
    for pattern in ["a.b.c.d.e", "a.b.c.d.*", "a.#", "#", "*.b.#.e", "a.b.c.d.#.e", "#.#"] {
        matching.push(subscribe(near, pattern).await);
    }
    let mut others = Vec::new();
    for pattern in ["a.b.c.d", "a.b.c.d.*.*", "b.#", "a.*"] {
        others.push(subscribe(far, pattern).await);
    }
    let published = publish(publisher, "a.b.c.d.e", 1).await;
    assert_eq!(published.peers, 1, "one copy a node, and only where it is wanted");
    for subscription in &mut matching {
        assert_eq!(number(&next(subscription).await), 1);
    }
    // One that they all want shows that nothing came before it.
    for (subscription, topic) in others.iter_mut().zip(["a.b.c.d", "a.b.c.d.x.y", "b", "a.z"]) {
        publish(publisher, topic, 2).await;
        assert_eq!(number(&next(subscription).await), 2);
    }
    for subscription in &mut matching {
        while let Some(message) = subscription.try_recv() {
            assert_ne!(number(&message), 1, "{subscription:?} got the first message twice");
        }
    }
}

/// A node's own subscriptions get its messages.
///
/// # Panics
/// If they do not.
pub async fn delivers_locally<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(me, bus)] = mesh else { panic!("a mesh of one") };
    let mut subscription = subscribe(bus, "a").await;
    let published = publish(bus, "a", 1).await;
    assert_eq!((published.peers, published.local), (0, 1));
    assert_eq!(next(&mut subscription).await.publisher, *me);
}

/// Messages of a publisher on a topic arrive in the order of its calls, complete, with rising numbers.
///
/// # Panics
/// If they do not.
pub async fn keeps_each_publishers_order<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, subscriber), publishers @ ..] = mesh else { panic!("a mesh of three") };
    let options = SubscribeOptions { queue_messages: bound(10_000), ..SubscribeOptions::default() };
    let mut subscription =
        subscriber.subscribe(&Realm::default(), "#".parse().unwrap(), options).await.unwrap();
    let tasks: Vec<_> = publishers
        .iter()
        .flat_map(|(_, bus)| ["a", "b.c"].map(|topic| (bus.clone(), topic)))
        .map(|(bus, topic)| {
            tokio::spawn(async move {
                for n in 0..200 {
                    publish(&bus, topic, n).await;
                }
            })
        })
        .collect();
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..800 {
        let message = next(&mut subscription).await;
        let key = (message.publisher, message.topic.clone());
        let (expected, sequence) =
            last.insert(key, (number(&message) + 1, message.sequence)).unwrap_or((0, 0));
        assert_eq!(number(&message), expected, "in order, none missing");
        assert!(message.sequence > sequence);
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(subscription.try_recv().is_none());
}

/// A publisher that already knows a topic reaches a subscription made after that, at once.
///
/// # Panics
/// If it does not.
pub async fn reaches_a_subscription_as_soon_as_it_is_made<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    assert_eq!(publish(publisher, "a.b", 0).await.peers, 0);
    let mut subscriptions = Vec::new();
    for (n, pattern) in ["a.b", "a.*", "#"].iter().enumerate() {
        subscriptions.push(subscribe(subscriber, pattern).await);
        publish(publisher, "a.b", n as u32).await;
        for subscription in &mut subscriptions {
            assert_eq!(number(&next(subscription).await), n as u32);
        }
    }
}

/// An ended or dropped subscription gets nothing more, and its node no more copies.
///
/// # Panics
/// If it does.
pub async fn ends_a_subscription<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    let mut kept = subscribe(subscriber, "a").await;
    let ended = subscribe(subscriber, "a").await;
    ended.unsubscribe().await.unwrap();
    assert_eq!(publish(publisher, "a", 1).await.peers, 1, "another subscription keeps the interest alive");
    assert_eq!(number(&next(&mut kept).await), 1);
    kept.unsubscribe().await.unwrap();
    assert_eq!(publish(publisher, "a", 2).await.peers, 0);
}

/// A subscription with a filter gets what passes it, and a node no copy that none of its filters lets through.
///
/// # Panics
/// If it is otherwise.
pub async fn delivers_what_a_filter_lets_through<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    let mut subscriptions = Vec::new();
    for filter in ["json.n > 3", "header.big"] {
        let options = SubscribeOptions::default().filter(filter).unwrap();
        subscriptions
            .push(subscriber.subscribe(&Realm::default(), "a".parse().unwrap(), options).await.unwrap());
    }
    for (json, big, reached) in [("{\"n\": 1}", false, 0), ("{\"n\": 5}", false, 1), ("{}", true, 1)] {
        let payload = if big { Payload::new(json).header("big", "") } else { Payload::new(json) };
        let published = publisher.publish(&Realm::default(), &name("a"), payload).await.unwrap();
        assert_eq!(published.peers, reached, "{json}");
    }
    for (subscription, json) in subscriptions.iter_mut().zip(["{\"n\": 5}", "{}"]) {
        assert_eq!(next(subscription).await.payload, json);
        assert!(subscription.try_recv().is_none());
    }
}

/// Of all members of a queue group, wherever they are and whatever their patterns, one gets each message, and each its
/// share; who is in no group, or in another, gets all.
///
/// # Panics
/// If it is otherwise.
pub async fn gives_a_group_each_message_once<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, bert), (_, cleo), (_, dora)] = mesh else { panic!("a mesh of four") };
    let mut members = Vec::new();
    for (bus, pattern) in [(publisher, "a"), (bert, "a"), (bert, "#"), (cleo, "*"), (dora, "a.#")] {
        members.push(subscribe_in(bus, pattern, "workers").await);
    }
    let mut alone = subscribe_in(cleo, "a", "others").await;
    let mut plain = subscribe(bert, "a").await;
    for n in 0..40 {
        let published = publish(publisher, "a", n).await;
        assert_eq!((published.groups, published.unserved), (2, 0), "message {n}");
        assert_eq!(number(&next(&mut alone).await), n);
        assert_eq!(number(&next(&mut plain).await), n);
    }
    let mut got: Vec<Vec<u32>> = Vec::new();
    for member in &mut members {
        let mine = std::iter::from_fn(|| member.try_recv()).map(|message| number(&message));
        got.push(mine.collect());
    }
    assert!(
        got.iter().all(|mine| mine.len() >= 5 && mine.is_sorted()),
        "each has its share, in order: {got:?}"
    );
    let mut all = got.concat();
    all.sort_unstable();
    assert_eq!(all, (0..40).collect::<Vec<u32>>(), "each message once");
}

async fn subscribe_in<B: Bus>(bus: &B, pattern: &str, group: &str) -> Subscription {
    let options = SubscribeOptions::default().group(group).unwrap();
    bus.subscribe(&Realm::default(), pattern.parse().unwrap(), options).await.unwrap()
}

/// An acknowledged message was taken by all subscriptions of a node, or the node is among those that missed it; of a
/// group, one member suffices, and one that does not take it is followed by another.
///
/// # Panics
/// If it is otherwise.
pub async fn says_who_took_a_message<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(anna, publisher), (bert_id, bert), (cleo_id, cleo)] = mesh else { panic!("a mesh of three") };
    let mut all = [subscribe(publisher, "a").await, subscribe(bert, "a").await, subscribe(cleo, "#").await];
    let asleep = subscribe_in(bert, "a", "workers").await;
    let mut awake = subscribe_in(cleo, "a", "workers").await;
    let mut unserved = subscribe_in(bert, "b", "unserved").await;
    let publish = |topic: &'static str| {
        let publisher = publisher.clone();
        let (within, options) = (Duration::from_secs(4), PublishOptions::default());
        tokio::spawn(async move {
            let payload = Payload::new("1");
            publisher
                .publish_acknowledged(&Realm::default(), &name(topic), payload, options, within)
                .await
                .unwrap()
        })
    };
    for _ in 0..4 {
        let publishing = publish("a");
        for subscription in &mut all {
            next(subscription).await;
        }
        next(&mut awake).await;
        let acknowledged = publishing.await.unwrap();
        let mut ids = vec![*anna, *bert_id, *cleo_id];
        ids.sort_unstable();
        assert!(acknowledged.is_complete(), "{acknowledged:?}");
        assert_eq!((acknowledged.taken, acknowledged.groups.len()), (ids, 1));
        assert_eq!(acknowledged.groups[0].1, *cleo_id, "the other member sleeps");
    }
    drop(asleep);
    let publishing = publish("b");
    next(&mut all[2]).await;
    let missing = next(&mut unserved).await;
    let acknowledged = publishing.await.unwrap();
    assert_eq!((acknowledged.taken.as_slice(), acknowledged.unserved.len()), ([*cleo_id].as_slice(), 1));
    drop(missing);
}

/// A message stays in its realm.
///
/// # Panics
/// If it does not.
pub async fn keeps_realms_apart<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    let other: Realm = OTHER_REALM.parse().unwrap();
    let mut here = subscribe(subscriber, "#").await;
    let mut there =
        subscriber.subscribe(&other, "#".parse().unwrap(), SubscribeOptions::default()).await.unwrap();
    publish(publisher, "a", 1).await;
    publisher.publish(&other, &name("a"), Payload::new("2")).await.unwrap();
    assert_eq!(number(&next(&mut here).await), 1);
    assert_eq!(number(&next(&mut there).await), 2);
    assert!(here.try_recv().is_none());
}

/// [`LagPolicy::DropOldest`] keeps the newest messages and counts the others; nobody waits.
///
/// # Panics
/// If it does not.
pub async fn drops_the_oldest_for_one_that_lags<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    let options = SubscribeOptions { queue_messages: bound(3), ..SubscribeOptions::default() };
    let mut lagging = subscriber.subscribe(&Realm::default(), "a".parse().unwrap(), options).await.unwrap();
    let mut quick = subscribe(subscriber, "a").await;
    for n in 0..10 {
        publish(publisher, "a", n).await;
    }
    for n in 0..10 {
        assert_eq!(number(&next(&mut quick).await), n);
    }
    assert_eq!(lagging.lagged(), 7);
    for n in 7..10 {
        assert_eq!(number(&next(&mut lagging).await), n);
    }
}

/// [`LagPolicy::Wait`] loses nothing as long as the publisher waits long enough.
///
/// # Panics
/// If it does.
pub async fn waits_for_one_that_asks_for_it<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, publisher), (_, subscriber)] = mesh else { panic!("a mesh of two") };
    let options = SubscribeOptions { queue_messages: bound(1), lag: LagPolicy::Wait, ..Default::default() };
    let mut slow = subscriber.subscribe(&Realm::default(), "a".parse().unwrap(), options).await.unwrap();
    let sending = tokio::spawn({
        let publisher = publisher.clone();
        async move {
            for n in 0..10 {
                let options = PublishOptions { wait: Duration::from_secs(2), ..PublishOptions::default() };
                let payload = Payload::new(n.to_string());
                publisher.publish_with(&Realm::default(), &name("a"), payload, options).await.unwrap();
            }
        }
    });
    for n in 0..10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(number(&next(&mut slow).await), n);
    }
    sending.await.unwrap();
    assert_eq!(slow.lagged(), 0);
}

/// A payload past the limit is the caller's error.
///
/// # Panics
/// If it is not.
pub async fn refuses_a_payload_past_the_limit<B: Bus>(mesh: &[(NodeId, B)]) {
    let [(_, bus)] = mesh else { panic!("a mesh of one") };
    let payload = Payload::new(vec![0; PAYLOAD_BYTES_MAX + 1]);
    let refused = bus.publish(&Realm::default(), &name("a"), payload).await;
    assert_eq!(refused, Err(PublishError::Payload(PayloadError::Bytes(PAYLOAD_BYTES_MAX + 1))));
}

/// Besides the default realm, the nodes must be in this one.
pub const OTHER_REALM: &str = "other";

async fn subscribe<B: Bus>(bus: &B, pattern: &str) -> Subscription {
    bus.subscribe(&Realm::default(), pattern.parse().unwrap(), SubscribeOptions::default()).await.unwrap()
}

async fn publish<B: Bus>(bus: &B, topic: &str, number: u32) -> crate::Published {
    bus.publish(&Realm::default(), &name(topic), Payload::new(number.to_string())).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> Message {
    let next = tokio::time::timeout(PATIENCE, subscription.recv()).await;
    next.unwrap_or_else(|_| panic!("nothing came for {subscription:?}")).unwrap()
}

fn number(message: &Message) -> u32 {
    std::str::from_utf8(&message.payload).unwrap().parse().unwrap()
}

fn name(topic: &str) -> Name {
    topic.parse().unwrap()
}

fn bound(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}
