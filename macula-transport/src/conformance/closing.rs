//! How connections end, and what is left of what they carried.

use std::time::Duration;

use super::node::{connected_pair, frame, start, start_holding, start_with, within};
use super::{Harness, NodeSpec};
use crate::{
    CloseReason, HangUp, LaneError, LaneId, StreamError, StreamRx, StreamTx, Target, Transport,
    TransportError,
};

/// A node that stops still delivers what its lanes and streams had accepted, then says goodbye.
pub async fn a_graceful_stop_delivers_what_was_accepted<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    let mut accepted = 0;
    while accepted < 2000 && lane.try_send(frame(accepted, 1000)).is_ok() {
        accepted += 1;
    }
    assert!(accepted > 10);
    let (mut tx, _rx) = within("a stream", a.transport.stream(b.id(), frame(0, 0))).await.expect("connected");
    let mut opened = b.next_stream().await;
    for n in 0..10 {
        within("send", tx.send(frame(n, 1000))).await.expect("the stream is open");
    }
    tx.finish().expect("the stream is open");
    a.stop();
    let read = async {
        for n in 0..10 {
            assert_eq!(opened.rx.recv().await, Ok(Some(frame(n, 1000))));
        }
        assert_eq!(opened.rx.recv().await, Ok(None));
        drop((opened, _rx));
    };
    within("the stream's frames", read).await;
    b.until("all that was accepted", |log| log.lanes.len() as u32 >= accepted).await;
    assert_eq!(b.log(|log| log.numbers(LaneId::DATA)), (0..accepted).collect::<Vec<_>>());
    let id = a.id();
    a.stopped().await;
    b.until("goodbye", |log| log.downs(id) == [CloseReason::Shutdown]).await;
}

/// A node that stops still takes what its peers' lanes had accepted by then; afterwards they are closed.
pub async fn a_graceful_stop_takes_what_was_under_way<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    a.block(LaneId::DATA);
    let lane = within("a lane", b.transport.lane(a.id(), LaneId::DATA)).await.expect("connected");
    let mut accepted = 0;
    while accepted < 1000 && lane.try_send(frame(accepted, 1000)).is_ok() {
        accepted += 1;
    }
    assert!(accepted > 10);
    a.stop();
    let closes = async {
        while lane.send(frame(accepted, 1000)).await.is_ok() {
            accepted += 1;
        }
    };
    a.unblock(LaneId::DATA);
    within("the lane closes", closes).await;
    let seen = a.seen.clone();
    a.stopped().await;
    seen.until("all that was accepted", |log| log.lanes.len() as u32 >= accepted).await;
    assert_eq!(seen.look(|log| log.numbers(LaneId::DATA)), (0..accepted).collect::<Vec<_>>());
}

/// A node that has stopped neither dials nor answers.
pub async fn a_stopped_node_is_closed<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let (id, contact) = (a.id(), a.contact());
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    let stopped = a.stopped().await;
    let connect = within("connect", stopped.connect(Target::Contact(b.contact()))).await.map(|info| info.id);
    assert!(matches!(connect, Err(TransportError::Closed)), "{connect:?}");
    assert!(stopped.peers().is_empty());
    assert_eq!(within("send", lane.send(frame(1, 10))).await, Err(LaneError::Closed(frame(1, 10))));
    b.until("it is down", |log| log.downs(id) == [CloseReason::Shutdown]).await;
    let connect = within("connect", b.transport.connect(Target::Contact(contact))).await.map(|info| info.id);
    assert!(connect.is_err(), "{connect:?}");
}

/// Lanes, streams and stream handlers end with their connection, on both sides.
pub async fn everything_ends_with_the_connection<H: Harness>(harness: &H) {
    let (a, b) = (start_holding(harness, 1).await, start_holding(harness, 2).await);
    a.connect(&b).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    let (mut tx, mut rx) =
        within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let _back = within("a stream", b.transport.stream(a.id(), frame(1, 10))).await.expect("connected");
    a.until("the handler runs", |log| log.handlers_begun == 1).await;
    b.until("the handler runs", |log| log.handlers_begun == 1).await;
    let id = b.id();
    b.crash(harness).await;
    a.until("b is down", |log| log.downs(id).len() == 1).await;
    a.until("its handler is dropped", |log| log.handlers_dropped == 1).await;
    assert_eq!(within("recv", rx.recv()).await, Err(StreamError::Lost));
    assert_eq!(within("send", tx.send(frame(2, 10))).await, Err(StreamError::Lost));
    assert_eq!(within("closed", tx.closed()).await, Err(StreamError::Lost));
    assert_eq!(within("send", lane.send(frame(1, 10))).await, Err(LaneError::Closed(frame(1, 10))));
    assert!(a.transport.peers().is_empty());
}

/// What connects two nodes ends at once when one of them gives the other up; and they can meet again.
pub async fn a_peer_that_was_given_up_is_down<H: Harness<Transport: HangUp>>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    let (_tx, mut rx) =
        within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    a.transport.hang_up(&b.id());
    a.until("b is down", |log| log.downs(b.id()) == [CloseReason::GivenUp]).await;
    b.until("a is down", |log| log.downs(a.id()) == [CloseReason::GivenUp]).await;
    assert_eq!(within("recv", rx.recv()).await, Err(StreamError::Lost));
    assert_eq!(within("send", lane.send(frame(1, 10))).await, Err(LaneError::Closed(frame(1, 10))));
    within("connect", b.transport.connect(Target::Contact(a.contact()))).await.expect("connected again");
    a.until("b is up again", |log| log.ups(b.id()) == 2).await;
    // Nobody is there to hang up on: nothing happens.
    a.transport.hang_up(&macula_proto::NodeId::from_bytes([7; 32]));
    assert_eq!(a.transport.peers().len(), 1);
}

/// A peer that is gone without a word is reported down, within the time that the transport allows for it.
pub async fn a_crash_is_noticed<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let id = b.id();
    b.crash(harness).await;
    a.until("b is down", |log| log.downs(id).len() == 1).await;
    assert!(a.transport.peers().is_empty());
    let sent = a.transport.datagram(id, frame(1, 10));
    assert!(matches!(sent, Err(TransportError::NotConnected(_))), "{sent:?}");
}

/// The same id comes back after a crash, at the address it has then.
pub async fn a_restarted_node_is_met_again<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let id = b.id();
    b.crash(harness).await;
    a.until("b is down", |log| log.downs(id).len() == 1).await;
    let b = start(harness, 2).await;
    assert_eq!(b.id(), id);
    let info = within("connect", b.transport.connect(Target::Contact(a.contact()))).await.expect("connected");
    assert_eq!(info.id, a.id());
    a.until("b is up again", |log| log.ups(id) == 2).await;
    let lane = within("a lane", a.transport.lane(id, LaneId::DATA)).await.expect("connected");
    within("send", lane.send(frame(1, 10))).await.expect("the lane is open");
    b.until("the frame", |log| log.numbers(LaneId::DATA) == [1]).await;
}

/// A connection without application frames closes after the idle time, on both sides.
pub async fn an_idle_connection_closes<H: Harness>(harness: &H) {
    let idle = |n| NodeSpec { idle_timeout: Duration::from_millis(500), ..NodeSpec::numbered(n) };
    let (a, b) = (start_with(harness, idle(1)).await, start_with(harness, idle(2)).await);
    a.connect(&b).await;
    a.until("it is down at the dialler", |log| log.downs(b.id()).len() == 1).await;
    b.until("it is down at the acceptor", |log| log.downs(a.id()).len() == 1).await;
    assert_eq!(a.log(|log| log.downs(b.id())), [CloseReason::Idle]);
    // And comes up again when it is needed.
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    within("send", lane.send(frame(1, 10))).await.expect("the lane is open");
    b.until("the frame", |log| log.numbers(LaneId::DATA) == [1]).await;
}
