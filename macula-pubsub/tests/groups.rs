//! Queue groups: who gets a message, and what happens when a member cannot.

#![allow(clippy::unwrap_used, reason = "tests")]

mod mesh;

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, NodeId, wire};
use macula_pubsub::{
    GROUPS_MAX, LagPolicy, Payload, PublishOptions, Published, SubscribeError, SubscribeOptions, Subscription,
};

use mesh::{Mesh, Node, let_pass, name, number, publish, realm, subscribe};

fn workers() -> SubscribeOptions {
    SubscribeOptions::default().group("workers").unwrap()
}

async fn join(node: &Node, pattern: &str, options: SubscribeOptions) -> Subscription {
    node.subscribe(&realm(), pattern.parse().unwrap(), options).await.unwrap()
}

fn numbers(subscription: &mut Subscription) -> Vec<u32> {
    let mine = std::iter::from_fn(|| subscription.try_recv());
    mine.map(|message| std::str::from_utf8(&message.payload).unwrap().parse().unwrap()).collect()
}

/// Publishes `0..count` and returns the reports.
async fn publish_all(node: &Node, count: u32) -> Vec<Published> {
    let mut reports = Vec::new();
    for n in 0..count {
        reports.push(publish(node, "t", n).await);
    }
    reports
}

#[tokio::test(start_paused = true)]
async fn only_the_picked_node_gets_a_copy() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let mut here = join(&bert, "t", workers()).await;
    let mut there = join(&cleo, "#", workers()).await;
    for report in publish_all(&anna, 20).await {
        assert_eq!(report, Published { peers: 1, groups: 1, ..Published::default() });
    }
    let_pass(Duration::from_secs(1)).await;
    let (here, there) = (numbers(&mut here), numbers(&mut there));
    assert_eq!((here.len(), there.len()), (10, 10));
    assert_eq!(bert.metrics().received.get() + cleo.metrics().received.get(), 20);
    assert_eq!(anna.routes()[0].peers, [mesh.id(2), mesh.id(3)]);
    assert_eq!(bert.subscriptions()[0].group.as_ref().unwrap().as_str(), "workers");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_cannot_be_reached_is_replaced_by_another() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let _lost = join(&bert, "t", workers()).await;
    let mut found = join(&cleo, "t", workers()).await;
    // On the same node, somebody outside of the group: what is handed over is not for them a second time.
    let mut plain = subscribe(&cleo, "t").await;
    mesh.network.partition(mesh.id(1), mesh.id(2));
    let reports = publish_all(&anna, 10).await;
    let failed: usize = reports.iter().map(|report| report.failed).sum();
    assert_eq!(failed, 1, "after that, bert is passed over");
    assert!(reports.iter().all(|report| (report.groups, report.unserved) == (1, 0)), "{reports:?}");
    let_pass(Duration::from_secs(1)).await;
    let mut served = numbers(&mut found);
    served.sort_unstable();
    assert_eq!(served, (0..10).collect::<Vec<u32>>());
    assert_eq!(numbers(&mut plain), (0..10).collect::<Vec<u32>>(), "each once, in order");
    assert_eq!(anna.metrics().group_handovers.get(), 1);

    mesh.network.partition(mesh.id(1), mesh.id(3));
    // The old connection is found dead in time.
    let_pass(Duration::from_secs(120)).await;
    let report = anna.publish(&realm(), &name("t"), Payload::new("10")).await.unwrap();
    assert_eq!((report.groups, report.unserved), (0, 1), "nobody can be reached: {report:?}");
    assert_eq!(anna.metrics().group_unserved.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_without_room_is_passed_over() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let _slow = join(&bert, "t", workers()).await;
    let mut quick = join(&cleo, "t", workers()).await;
    publish_all(&anna, 4).await;
    mesh.network.pause(mesh.id(2));
    let count = |quick: &mut Subscription| std::iter::from_fn(|| quick.try_recv()).count();
    let mut taken = count(&mut quick);
    for _ in 0..100 {
        let report = anna.publish(&realm(), &name("t"), Payload::new(vec![b'1'; 100_000])).await.unwrap();
        assert_eq!((report.groups, report.unserved), (1, 0));
        let_pass(Duration::from_millis(1)).await;
        taken += count(&mut quick);
    }
    assert!(taken > 60, "the lane to the paused one fills up, and the other takes the rest: {taken}");
}

#[tokio::test(start_paused = true)]
async fn within_a_node_the_member_with_room_and_the_shortest_queue_gets_it() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let tiny =
        SubscribeOptions { queue_messages: NonZeroUsize::new(2).unwrap(), lag: LagPolicy::Wait, ..workers() };
    let mut tiny = join(&bert, "t", tiny).await;
    let mut large = join(&bert, "#", workers()).await;
    publish_all(&anna, 10).await;
    while bert.metrics().received.get() < 10 {
        tokio::task::yield_now().await;
    }
    let (tiny, large) = (numbers(&mut tiny), numbers(&mut large));
    assert_eq!((tiny.len(), large.len()), (2, 8));
    assert!(tiny.is_sorted() && large.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_group_of_this_node_alone_and_one_with_members_elsewhere() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut own = join(&anna, "t", SubscribeOptions::default().group("own").unwrap()).await;
    let mut here = join(&anna, "t", workers()).await;
    let mut there = join(&bert, "t", workers().filter("header.never").unwrap()).await;
    for report in publish_all(&anna, 4).await {
        assert_eq!(report, Published { local: 2, groups: 2, ..Published::default() });
    }
    assert_eq!(
        (numbers(&mut own).len(), numbers(&mut here).len()),
        (4, 4),
        "nobody else's filter lets it through"
    );
    let wanted = Payload::new("9").header("never", "");
    let mut local = 0;
    for _ in 0..2 {
        let report = anna.publish(&realm(), &name("t"), wanted.clone()).await.unwrap();
        assert_eq!((report.groups, report.local + report.peers), (2, 2));
        local += report.local;
    }
    assert_eq!(local, 3, "the two members of `workers` took turns");
    assert_eq!(number(&mut there).await, 9);
}

#[tokio::test(start_paused = true)]
async fn a_publishers_own_member_steps_in_for_one_that_cannot_be_reached() {
    let mut mesh = Mesh::new();
    let [anna, bert] = mesh.nodes();
    let mut own = join(&anna, "t", workers()).await;
    let _lost = join(&bert, "t", workers()).await;
    mesh.network.partition(mesh.id(1), mesh.id(2));
    for report in publish_all(&anna, 10).await {
        assert_eq!((report.local, report.groups, report.unserved), (1, 1, 0), "{report:?}");
    }
    let mut served = numbers(&mut own);
    served.sort_unstable();
    assert_eq!(served, (0..10).collect::<Vec<u32>>());
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_knows_no_groups_reaches_one_member_of_each_node() {
    let mut mesh = Mesh::new();
    let [bert] = mesh.nodes();
    let (mut first, mut second) = (join(&bert, "t", workers()).await, join(&bert, "t", workers()).await);
    let anna = NodeId::from_bytes([9; 32]);
    let send = async |header: wire::Publish| {
        let header = wire::Publish { topic: "t".into(), epoch: 1, ..header };
        let frame = Frame::new(FrameKind::PUBLISH, &header, Bytes::from_static(b"1")).unwrap();
        bert.on_lane_frame(anna, frame).await;
    };
    for sequence in 1..=4 {
        send(wire::Publish { sequence, ..Default::default() }).await;
    }
    assert_eq!((numbers(&mut first).len(), numbers(&mut second).len()), (2, 2));

    // One that picked somebody else, and one that picked a group whose members are gone.
    send(wire::Publish { sequence: 5, grouped: true, ..Default::default() }).await;
    send(wire::Publish { sequence: 6, grouped: true, groups: vec!["gone".into()], ..Default::default() })
        .await;
    assert_eq!(bert.metrics().group_missed.get(), 1);
    assert_eq!(numbers(&mut first).len() + numbers(&mut second).len(), 0);

    // A copy that is handed over comes late, and is still taken.
    let late = wire::Publish {
        sequence: 3,
        grouped: true,
        handed_over: true,
        groups: vec!["workers".into()],
        ..Default::default()
    };
    send(late).await;
    assert_eq!(numbers(&mut first).len() + numbers(&mut second).len(), 1);
    send(wire::Publish { sequence: 7, groups: vec!["x".into(); GROUPS_MAX + 1], ..Default::default() }).await;
    send(wire::Publish { sequence: 7, groups: vec!["two words".into()], ..Default::default() }).await;
    assert_eq!(bert.metrics().received.get(), 7, "what is past a limit is refused");
}

#[tokio::test(start_paused = true)]
async fn groups_are_bounded_and_what_is_refused_leaves_nothing() {
    let mut mesh = Mesh::new();
    let [anna] = mesh.nodes();
    let mut kept = Vec::new();
    for n in 0..GROUPS_MAX {
        let options = SubscribeOptions::default().group(&format!("g{n}")).unwrap();
        kept.push(join(&anna, &format!("t.{n}"), options).await);
    }
    let refused = anna.subscribe(&realm(), "t".parse().unwrap(), workers()).await;
    assert_eq!(refused.unwrap_err(), SubscribeError::Groups);
    kept.truncate(1);
    let filter = format!("header.x == \"{}\"", "x".repeat(495));
    let _first = join(&anna, "a.*", workers().filter(&filter).unwrap()).await;
    let second = anna.subscribe(&realm(), "a.#".parse().unwrap(), workers().filter(&filter).unwrap()).await;
    assert_eq!(second.unwrap_err(), SubscribeError::GroupsAnnounced("a.#".parse().unwrap()));
    assert_eq!(anna.subscriptions().len(), 2);
    let metrics = anna.metrics();
    assert_eq!(metrics.subscriptions_added.get() - metrics.subscriptions_removed.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_node_is_gone_is_not_asked() {
    let mut mesh = Mesh::new();
    let [anna, bert, cleo] = mesh.nodes();
    let mut left = join(&bert, "t", workers()).await;
    let _doomed = join(&cleo, "t", workers()).await;
    publish_all(&anna, 4).await;
    mesh.network.crash(mesh.id(3));
    mesh.directory.remove(&mesh.id(3));
    let_pass(Duration::from_secs(1)).await;
    numbers(&mut left);
    let options = PublishOptions { wait: Duration::from_secs(1), ..PublishOptions::default() };
    for n in 0..10 {
        let report =
            anna.publish_with(&realm(), &name("t"), Payload::new(n.to_string()), options).await.unwrap();
        assert_eq!((report.groups, report.failed), (1, 0));
    }
    let_pass(Duration::from_secs(1)).await;
    assert_eq!(numbers(&mut left), (0..10).collect::<Vec<u32>>());
}
