//! What holds while the network misbehaves. Needs a [`Faulty`] harness.

use super::Faulty;
use super::node::{connected_pair, frame, start, within};
use crate::{LaneId, Target, Transport, TransportError};

/// Loss costs a lane time and nothing else; of datagrams, some are missing.
pub async fn loss_delays_lanes_and_loses_datagrams<H: Faulty>(harness: &H) {
    const FRAMES: u32 = 500;
    let (a, b) = connected_pair(harness).await;
    harness.lose(0.2);
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    for n in 0..FRAMES {
        a.transport.datagram(b.id(), frame(n, 10)).expect("connected");
        within("send", lane.send(frame(n, 10))).await.expect("the lane is open");
    }
    b.until("every frame of the lane", |log| log.lanes.len() as u32 >= FRAMES).await;
    assert_eq!(b.log(|log| log.numbers(LaneId::DATA)), (0..FRAMES).collect::<Vec<_>>());
    let datagrams = b.log(|log| log.datagrams.len()) as u32;
    assert!(datagrams > FRAMES / 2 && datagrams < FRAMES, "{datagrams} of {FRAMES} datagrams arrived");
}

/// Shorter than the peer timeout: lanes stall, and go on where they were.
pub async fn a_short_partition_loses_nothing_on_lanes<H: Faulty>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    harness.partition(a.id(), b.id());
    for n in 0..10 {
        within("send", lane.send(frame(n, 10))).await.expect("the lane is open");
    }
    tokio::time::sleep(harness.peer_timeout() / 2).await;
    assert!(b.log(|log| log.lanes.is_empty()));
    harness.heal();
    b.until("all frames", |log| log.numbers(LaneId::DATA) == (0..10).collect::<Vec<_>>()).await;
    assert!(a.log(|log| log.downs(b.id()).is_empty()));
}

/// Longer than the peer timeout: both sides give up.
pub async fn a_long_partition_times_out_on_both_sides<H: Faulty>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    harness.partition(a.id(), b.id());
    a.until("a gives up", |log| log.downs(b.id()) == [harness.silent_reason()]).await;
    b.until("b gives up", |log| log.downs(a.id()) == [harness.silent_reason()]).await;
    assert!(a.transport.peers().is_empty() && b.transport.peers().is_empty());
    harness.heal();
    let again = within("connect", a.transport.connect(Target::Id(b.id()))).await.expect("connected");
    assert_eq!(again.id, b.id());
}

/// One direction is enough to end a connection.
pub async fn a_one_way_partition_times_out_as_well<H: Faulty>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    harness.partition_one_way(a.id(), b.id());
    a.until("a gives up", |log| log.downs(b.id()) == [harness.silent_reason()]).await;
    b.until("b gives up", |log| log.downs(a.id()) == [harness.silent_reason()]).await;
}

/// A dial to where nothing passes says so.
pub async fn a_dial_into_a_partition_fails_in_time<H: Faulty>(harness: &H) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    harness.partition(a.id(), b.id());
    let outcome =
        within("connect", a.transport.connect(Target::Contact(b.contact()))).await.map(|info| info.id);
    assert!(matches!(outcome, Err(TransportError::Unreachable { .. })), "{outcome:?}");
    assert!(b.log(|log| log.peers.is_empty()));
}

/// A paused node sees nothing; resumed in time, it sees everything that its lanes carried.
pub async fn a_paused_node_catches_up<H: Faulty>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    harness.pause(b.id());
    for n in 0..10 {
        within("send", lane.send(frame(n, 10))).await.expect("the lane is open");
    }
    tokio::time::sleep(harness.peer_timeout() / 2).await;
    assert!(b.log(|log| log.lanes.is_empty()));
    harness.resume(b.id());
    b.until("all frames", |log| log.numbers(LaneId::DATA) == (0..10).collect::<Vec<_>>()).await;

    harness.pause(b.id());
    a.until("a gives up", |log| log.downs(b.id()) == [harness.silent_reason()]).await;
    assert!(b.log(|log| log.downs(a.id()).is_empty()), "whoever is paused notices nothing");
    harness.resume(b.id());
    b.until("b finds out", |log| log.downs(a.id()).len() == 1).await;
}
