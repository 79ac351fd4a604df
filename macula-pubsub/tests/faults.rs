//! Peers that are slow, gone or restarted; a directory that is; shutting down.

mod mesh;

use std::time::Duration;

use macula_pubsub::{
    DropLabels, DropReason, Payload, PublishError, PublishOptions, Published, SubscribeError,
};
use macula_transport::memory::Faults;
use tokio::time::Instant;

use mesh::{Mesh, let_pass, name, next, number, publish, realm, subscribe};

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_reached_holds_up_nobody_else() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let mut near = subscribe(&bert, "t").await;
    let mut far = subscribe(&cleo, "t").await;
    mesh.network.partition(mesh.id(1), mesh.id(3));
    let started = Instant::now();
    let first = tokio::spawn({
        let anna = anna.clone();
        async move { publish(&anna, "t", 1).await }
    });
    assert_eq!(number(&mut near).await, 1);
    assert!(started.elapsed() < Duration::from_millis(100));
    let first = first.await.unwrap();
    assert_eq!((first.peers, first.failed), (1, 1));
    assert!(started.elapsed() <= Duration::from_secs(6));
    let failed = anna.metrics().dropped.get_or_create(&DropLabels { reason: DropReason::PeerFailed }).get();
    assert_eq!(failed, 1);

    mesh.network.heal_all();
    assert_eq!(publish(&anna, "t", 2).await.peers, 2);
    assert_eq!(number(&mut far).await, 2);
}

#[tokio::test(start_paused = true)]
async fn messages_wait_in_order_while_a_slow_peer_is_dialled() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t").await;
    let slow = Faults { latency: Duration::from_millis(400), ..Faults::default() };
    mesh.network.set_faults(slow);
    let tasks: Vec<_> = (1..=20)
        .map(|n| {
            let anna = anna.clone();
            tokio::spawn(async move { publish(&anna, "t", n).await })
        })
        .collect();
    for n in 1..=20 {
        assert_eq!(next(&mut subscription).await.sequence, n);
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().peers, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_may_drop_or_wait_when_a_peer_does_not_read() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t").await;
    publish(&anna, "t", 0).await;
    next(&mut subscription).await;
    mesh.network.pause(mesh.id(2));
    let large = Payload::new(vec![b'1'; 100_000]);
    let mut sent = 0;
    let dropped = loop {
        let published = anna.publish(&realm(), &name("t"), large.clone()).await.unwrap();
        if published.dropped > 0 {
            break published;
        }
        sent += published.peers;
        assert!(sent < 100, "a bounded queue must fill up");
        // Let the connection's writer take what it can.
        let_pass(Duration::from_millis(1)).await;
    };
    assert_eq!(dropped, Published { dropped: 1, ..Published::default() });

    let impatient = PublishOptions { wait: Duration::from_secs(1), ..PublishOptions::default() };
    let started = Instant::now();
    let late = anna.publish_with(&realm(), &name("t"), large.clone(), impatient).await.unwrap();
    assert_eq!((late.dropped, started.elapsed()), (1, Duration::from_secs(1)));

    let patient = PublishOptions { wait: Duration::from_secs(5), ..PublishOptions::default() };
    let waiting = tokio::spawn({
        let (anna, large) = (anna.clone(), large.clone());
        async move { anna.publish_with(&realm(), &name("t"), large, patient).await.unwrap() }
    });
    let_pass(Duration::from_secs(1)).await;
    mesh.network.resume(mesh.id(2));
    assert_eq!(waiting.await.unwrap().peers, 1);
    let mut last = 1;
    for _ in 0..=sent {
        let sequence = next(&mut subscription).await.sequence;
        assert!(sequence > last);
        last = sequence;
    }
    assert!(subscription.try_recv().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_dies_between_messages_is_reported_and_the_others_go_on() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let mut alive = subscribe(&bert, "t").await;
    let _doomed = subscribe(&cleo, "t").await;
    let mut reports = Vec::new();
    for n in 0..100 {
        if n == 10 {
            mesh.network.crash(mesh.id(3));
        }
        let sending = tokio::spawn({
            let anna = anna.clone();
            async move { publish(&anna, "t", n).await }
        });
        let started = Instant::now();
        assert_eq!(number(&mut alive).await, n);
        assert!(started.elapsed() < Duration::from_millis(50), "message {n} took {:?}", started.elapsed());
        reports.push(sending);
        let_pass(Duration::from_millis(500)).await;
    }
    let mut failed = 0;
    for report in reports {
        let report = report.await.unwrap();
        assert_eq!(report.peers + report.failed, 2);
        failed += report.failed;
    }
    assert!(failed > 50, "only {failed} were reported as failed");

    mesh.directory.remove(&mesh.id(3));
    assert_eq!(publish(&anna, "t", 100).await, Published { peers: 1, ..Published::default() });
}

#[tokio::test(start_paused = true)]
async fn a_restarted_publisher_and_a_restarted_subscriber_go_on() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t").await;
    for n in 0..5 {
        publish(&anna, "t", n).await;
        assert_eq!(number(&mut subscription).await, n);
    }
    mesh.network.crash(mesh.id(1));
    let anna = mesh.node(1);
    assert_eq!(publish(&anna, "t", 7).await.peers, 1);
    let message = next(&mut subscription).await;
    assert_eq!((message.sequence, message.payload.as_ref()), (1, b"7".as_slice()));

    mesh.network.crash(mesh.id(2));
    let bert = mesh.node(2);
    let mut subscription = subscribe(&bert, "t").await;
    // The old connection is found dead in time, and the next message takes a new one.
    let_pass(Duration::from_secs(30)).await;
    assert_eq!(publish(&anna, "t", 8).await.peers, 1);
    assert_eq!(number(&mut subscription).await, 8);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_was_closed_is_dialled_again() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t").await;
    for n in 0..3 {
        assert_eq!(publish(&anna, "t", n).await.peers, 1);
        assert_eq!(number(&mut subscription).await, n);
        let_pass(Duration::from_secs(120)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_forgot_is_told_again() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscriptions = Vec::new();
    for n in 0..100 {
        subscriptions.push(subscribe(&bert, &format!("t.{n}")).await);
    }
    mesh.directory.remove(&mesh.id(2));
    assert_eq!(publish(&anna, "t.42", 1).await.peers, 0);
    bert.replay().await.unwrap();
    assert_eq!(publish(&anna, "t.42", 2).await.peers, 1);
    assert_eq!(number(&mut subscriptions[42]).await, 2);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_subscriptions_and_takes_the_records_back() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut subscription = subscribe(&bert, "t.*").await;
    let other = subscribe(&bert, "u").await;
    publish(&anna, "t.a", 1).await;
    while bert.subscriptions()[0].queued == 0 {
        tokio::task::yield_now().await;
    }
    mesh.stop(2);
    assert_eq!(number(&mut subscription).await, 1, "what was queued is still received");
    assert!(subscription.recv().await.is_none());
    let_pass(Duration::from_secs(1)).await;
    assert_eq!(publish(&anna, "t.a", 2).await.peers, 0);
    assert_eq!(publish(&anna, "u", 2).await.peers, 0);
    drop(other);
    let closed = bert.publish(&realm(), &name("t"), Payload::new("")).await;
    assert_eq!(closed, Err(PublishError::Closed));
    let closed = bert.subscribe(&realm(), "t".parse().unwrap(), Default::default()).await;
    assert_eq!(closed.unwrap_err(), SubscribeError::Closed);
}
