//! The verbs, over real sockets.

use std::time::Duration;

use super::*;
use crate::quic::testing::*;
use crate::{ResetCode, StreamRx as _};
use macula_proto::FrameKind;

#[tokio::test]
async fn a_dial_returns_after_the_hello_and_both_sides_know_each_other() {
    let (a, b) = (start(config()), start(config()));
    let info = a.transport.connect(Target::Addr(b.addr())).await.unwrap();
    assert_eq!((info.id, info.remote, info.dialled), (b.id(), b.addr(), true));
    b.until_up(&a).await;
    let back = &b.transport.peers()[0];
    assert_eq!((back.id, back.remote, back.dialled), (a.id(), a.addr(), false));
    assert_eq!(back.contact, a.contact());
    assert_eq!(a.book.addrs(&b.id()), [b.addr()], "the hello's contact was learned");
    // Again, by id: the same connection.
    assert_eq!(a.transport.connect(Target::Id(b.id())).await.unwrap().instance, info.instance);
    assert_eq!(a.transport.metrics().connections(), 1);
}

#[tokio::test]
async fn lanes_keep_order_and_do_not_wait_for_each_other() {
    let (a, b) = (start(config()), start(config()));
    a.knows(&b);
    let data = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    for n in 0..2_000 {
        // Small ones are batched, large ones go uncopied.
        data.send(numbered(n, if n % 100 == 0 { 20_000 } else { 16 })).await.unwrap();
    }
    for n in 0..2_000 {
        assert_eq!(b.until_lane_number().await, n);
    }
    let control = a.transport.lane(b.id(), LaneId::CONTROL).await.unwrap();
    control.try_send(numbered(7, 0)).unwrap();
    let lane = b.until(|seen| match seen {
        Seen::Lane(lane, frame) => Some((lane, number_of(&frame))),
        _ => None,
    });
    assert_eq!(lane.await, (LaneId::CONTROL, 7));
    assert_eq!(a.transport.peers()[0].frames_sent, 2_001);
}

#[tokio::test]
async fn a_stream_goes_both_ways_and_ends_in_order() {
    let (a, b) = (start(config()), start(config()));
    a.knows(&b);
    let (mut tx, mut rx) = a.transport.stream(b.id(), numbered(0, 10)).await.unwrap();
    for n in 1..50 {
        tx.send(numbered(n, 10_000)).await.unwrap();
    }
    tx.finish().unwrap();
    for n in 0..50 {
        assert_eq!(number_of(&rx.recv().await.unwrap().unwrap()), n);
    }
    assert_eq!(rx.recv().await, Ok(None));
    assert_eq!(tx.closed().await, Ok(()));
    assert_eq!(tx.closed().await, Ok(()), "asking again is fine");
    assert_eq!(tx.send(numbered(1, 0)).await, Err(StreamError::Finished));
}

#[tokio::test]
async fn dropping_a_stream_cancels_it_at_the_other_end() {
    let (a, b) = (start(config()), start(config()));
    a.knows(&b);
    let (tx, mut rx) = a.transport.stream(b.id(), numbered(0, 10)).await.unwrap();
    assert!(rx.recv().await.unwrap().is_some(), "the handler runs");
    drop(tx);
    let end = b.until(|seen| match seen {
        Seen::StreamEnd(end) => Some(end),
        _ => None,
    });
    assert_eq!(end.await, Err(CANCELLED));
    drop(rx);
    let (mut tx, mut rx) = a.transport.stream(b.id(), numbered(0, 10)).await.unwrap();
    assert!(rx.recv().await.unwrap().is_some(), "the handler runs");
    rx.stop(ResetCode::OVERLOADED);
    let end = b.until(|seen| match seen {
        Seen::StreamEnd(end) => Some(end),
        _ => None,
    });
    while tx.send(numbered(1, 10)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(end.await, Err(StreamError::Stopped(ResetCode::OVERLOADED)));
}

#[tokio::test]
async fn datagrams_arrive_and_those_that_do_not_fit_are_refused() {
    let (a, b) = (start(config()), start(config()));
    assert!(matches!(a.transport.datagram(b.id(), numbered(1, 10)), Err(TransportError::NotConnected(_))));
    a.transport.connect(Target::Contact(b.contact())).await.unwrap();
    a.transport.datagram(b.id(), numbered(1, 100)).unwrap();
    let number = b.until(|seen| match seen {
        Seen::Datagram(frame) => Some(number_of(&frame)),
        _ => None,
    });
    assert_eq!(number.await, 1);
    let error = a.transport.datagram(b.id(), numbered(1, 100_000)).unwrap_err();
    assert!(matches!(error, TransportError::TooLarge { bytes_max: 1_000.., .. }), "{error}");
}

#[tokio::test]
async fn a_graceful_close_loses_nothing_in_either_direction() {
    let (a, b) = (start(config()), start_slow(config(), Duration::from_micros(10)));
    a.knows(&b);
    let there = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    b.until_up(&a).await;
    let back = b.transport.lane(a.id(), LaneId::DATA).await.unwrap();
    for n in 0..300 {
        there.send(numbered(n, 5_000)).await.unwrap();
        back.send(numbered(n, 5_000)).await.unwrap();
    }
    let at_a = a.stop().await;
    let numbers = at_a.iter().filter_map(|seen| match seen {
        Seen::Lane(_, frame) => Some(number_of(frame)),
        _ => None,
    });
    assert!(numbers.eq(0..300), "what the peer had accepted arrived before the close");
    assert!(matches!(at_a.last(), Some(Seen::Down(_, CloseReason::Shutdown))), "{:?}", at_a.last());
    for n in 0..300 {
        assert_eq!(b.until_lane_number().await, n);
    }
    assert!(matches!(b.next().await, Seen::Down(_, CloseReason::Shutdown)));
    assert!(matches!(there.try_send(numbered(0, 0)), Err(crate::LaneError::Closed(_))));
}

#[tokio::test]
async fn a_node_keeps_to_its_own_runtime_wherever_it_is_called_from() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let stop = CancellationToken::new();
    let until = stop.clone();
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let a = start(config());
            assert!(tell.send(a.transport.clone()).is_ok());
            until.cancelled().await;
            a.stop().await;
        });
    });
    let b = start(config());
    let a = told.await.unwrap();
    assert_eq!(a.connect(Target::Contact(b.contact())).await.unwrap().id, b.id());
    let lane = a.lane(b.id(), LaneId::DATA).await.unwrap();
    lane.send(numbered(3, 3)).await.unwrap();
    assert_eq!(b.until_lane_number().await, 3);
    let (mut tx, mut rx) = a.stream(b.id(), numbered(0, 10)).await.unwrap();
    tx.finish().unwrap();
    assert!(rx.recv().await.unwrap().is_some());
    drop((tx, rx));
    stop.cancel();
    tokio::task::spawn_blocking(|| elsewhere.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let a = start(config());
    let mut taken = config();
    taken.listen = a.addr();
    let error = QuicTransport::bind(taken, Arc::new(AddressBook::new(1))).unwrap_err();
    assert!(error.to_string().contains("taken by another process"), "{error}");
}

#[tokio::test]
async fn unknown_kinds_are_skipped_and_counted() {
    let (a, b) = (start(config()), start(config()));
    a.knows(&b);
    let unknown =
        |n| Frame::new(FrameKind(n), &macula_proto::wire::LaneOpen { lane: 1 }, bytes::Bytes::new()).unwrap();
    let lane = a.transport.lane(b.id(), LaneId::DATA).await.unwrap();
    lane.try_send(unknown(900)).unwrap();
    lane.try_send(numbered(5, 1)).unwrap();
    assert_eq!(b.until_lane_number().await, 5);
    a.transport.datagram(b.id(), unknown(901)).unwrap();
    let (_tx, mut rx) = a.transport.stream(b.id(), unknown(902)).await.unwrap();
    assert_eq!(rx.recv().await, Err(StreamError::Reset(ResetCode::UNKNOWN)));
    eventually("three are counted", || b.transport.metrics().drops(Dropped::UnknownKind) == 3).await;
    assert_eq!(b.transport.peers().len(), 1);
}
