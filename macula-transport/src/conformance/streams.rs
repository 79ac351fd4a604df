//! Streams: a request and its answer, much data both ways, and giving up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use super::node::{Node, connected_pair, frame, number, within};
use super::{Harness, QUIET};
use crate::{ResetCode, StreamError, StreamRx, StreamTx, Transport};

/// A code of the application's own.
const CODE: ResetCode = ResetCode(4711);

/// One frame there, one back, and both ends see the end.
pub async fn a_stream_carries_a_request_and_its_answer<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let (mut tx, mut rx) =
        within("a stream", a.transport.stream(b.id(), frame(1, 100))).await.expect("connected");
    tx.finish().expect("the stream is open");
    let mut opened = b.next_stream().await;
    assert_eq!((opened.from, opened.first), (a.id(), frame(1, 100)));
    assert_eq!(within("the end of the request", opened.rx.recv()).await, Ok(None));
    within("answer", opened.tx.send(frame(2, 200))).await.expect("the stream is open");
    opened.tx.finish().expect("the stream is open");
    assert_eq!(within("the answer", rx.recv()).await, Ok(Some(frame(2, 200))));
    assert_eq!(within("the end of the answer", rx.recv()).await, Ok(None));
    assert_eq!(opened.tx.finish(), Err(StreamError::Finished), "an end is an end");
}

/// Many frames both ways at once, more than any window holds, in order.
pub async fn a_stream_carries_much_both_ways<H: Harness>(harness: &H) {
    const FRAMES: u32 = 200;
    let (a, mut b) = connected_pair(harness).await;
    let (tx, rx) = within("a stream", a.transport.stream(b.id(), frame(0, 0))).await.expect("connected");
    let opened = b.next_stream().await;
    let all = async {
        tokio::join!(
            send_all::<H::Transport>(tx, FRAMES),
            receive_all::<H::Transport>(opened.rx, FRAMES),
            send_all::<H::Transport>(opened.tx, FRAMES),
            receive_all::<H::Transport>(rx, FRAMES),
        )
    };
    within("everything passes", all).await;
}

async fn send_all<T: Transport>(mut tx: T::Tx, frames: u32) {
    for n in 0..frames {
        tx.send(frame(n, 20_000)).await.expect("the stream is open");
    }
    tx.finish().expect("the stream is open");
}

async fn receive_all<T: Transport>(mut rx: T::Rx, frames: u32) {
    for n in 0..frames {
        let received = rx.recv().await.expect("the stream is open").expect("not the end yet");
        assert_eq!((number(&received), received.payload().len()), (n, 20_000));
    }
    assert_eq!(rx.recv().await, Ok(None));
}

/// A receiver that does not read makes the sender wait, within a bound; then everything arrives.
pub async fn a_slow_reader_holds_the_sender_back<H: Harness>(harness: &H) {
    // 64 MiB: more than any window.
    const FRAMES: u32 = 1024;
    const FRAME_BYTES: usize = 64 * 1024;
    let (a, mut b) = connected_pair(harness).await;
    let (mut tx, _rx) = within("a stream", a.transport.stream(b.id(), frame(0, 0))).await.expect("connected");
    let mut opened = b.next_stream().await;
    let (sent, progress) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let sender = tokio::spawn({
        let (sent, progress) = (sent.clone(), progress.clone());
        async move {
            for n in 0..FRAMES {
                tx.send(frame(n, FRAME_BYTES)).await.expect("the stream is open");
                sent.fetch_add(1, Ordering::Relaxed);
                progress.notify_one();
            }
            tx.finish().expect("the stream is open");
            tx
        }
    });
    while tokio::time::timeout(QUIET, progress.notified()).await.is_ok() {}
    assert!(sent.load(Ordering::Relaxed) < FRAMES, "64 MiB were sent to somebody who does not read");
    for n in 0..FRAMES {
        let received = within("the next frame", opened.rx.recv()).await.expect("the stream is open");
        assert_eq!(received.as_ref().map(number), Some(n));
    }
    assert_eq!(within("the end", opened.rx.recv()).await, Ok(None));
    within("the sender ends", sender).await.expect("no panic");
}

/// `reset` reaches the reader with its code; the other direction goes on.
pub async fn a_reset_is_seen_with_its_code<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let (mut tx, mut rx) =
        within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let mut opened = b.next_stream().await;
    tx.reset(CODE);
    assert_eq!(within("the reset", opened.rx.recv()).await, Err(StreamError::Reset(CODE)));
    assert_eq!(within("send after reset", tx.send(frame(2, 10))).await, Err(StreamError::Finished));
    within("answer", opened.tx.send(frame(3, 10))).await.expect("this direction is open");
    assert_eq!(within("the answer", rx.recv()).await, Ok(Some(frame(3, 10))));
}

/// `stop` reaches the sender with its code; the other direction goes on.
pub async fn a_stop_is_seen_with_its_code<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let (mut tx, mut rx) =
        within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let mut opened = b.next_stream().await;
    opened.rx.stop(CODE);
    assert_eq!(within("the stop", tx.closed()).await, Err(StreamError::Stopped(CODE)));
    assert_eq!(within("send", tx.send(frame(2, 10))).await, Err(StreamError::Stopped(CODE)));
    within("answer", opened.tx.send(frame(3, 10))).await.expect("this direction is open");
    assert_eq!(within("the answer", rx.recv()).await, Ok(Some(frame(3, 10))));
}

/// A half that is dropped before its end cancels: the reader sees a reset, the sender a stop.
pub async fn dropping_a_half_cancels<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let (tx, mut rx) = within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let mut opened = b.next_stream().await;
    drop(tx);
    let cancelled = Err(StreamError::Reset(ResetCode::CANCELLED));
    assert_eq!(within("the reset", opened.rx.recv()).await, cancelled);
    drop(opened.tx);
    assert_eq!(within("the reset back", rx.recv()).await, cancelled);

    let (mut tx, rx) = within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let mut opened = b.next_stream().await;
    drop(rx);
    let cancelled = Err(StreamError::Stopped(ResetCode::CANCELLED));
    assert_eq!(within("the stop", opened.tx.closed()).await, cancelled);
    drop(opened.rx);
    assert_eq!(within("the stop back", tx.closed()).await, cancelled);
}

/// After `finish`, `closed` returns once everything has arrived.
pub async fn a_finished_stream_is_acknowledged<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let (mut tx, _rx) =
        within("a stream", a.transport.stream(b.id(), frame(1, 10))).await.expect("connected");
    let mut opened = b.next_stream().await;
    tx.finish().expect("the stream is open");
    assert_eq!(within("the end", opened.rx.recv()).await, Ok(None));
    assert_eq!(within("the acknowledgement", tx.closed()).await, Ok(()));
}

/// More streams than most transports allow at a time: the later ones wait for the earlier ones to end.
pub async fn many_streams_at_once<H: Harness>(harness: &H) {
    const STREAMS: u32 = 400;
    let (a, mut b) = connected_pair(harness).await;
    let callers: Vec<_> = (0..STREAMS)
        .map(|n| {
            let (transport, to) = (a.transport.clone(), b.id());
            tokio::spawn(async move { call(&transport, to, n).await })
        })
        .collect();
    for _ in 0..STREAMS {
        answer(&mut b).await;
    }
    for caller in callers {
        within("the answer", caller).await.expect("each gets its own answer");
    }
}

async fn call<T: Transport>(transport: &T, to: macula_proto::NodeId, n: u32) {
    let (mut tx, mut rx) = transport.stream(to, frame(n, 10)).await.expect("connected");
    tx.finish().expect("the stream is open");
    assert_eq!(rx.recv().await, Ok(Some(frame(n + 1, 10))));
    assert_eq!(rx.recv().await, Ok(None));
}

async fn answer<T: Transport>(node: &mut Node<T>) {
    let mut opened = node.next_stream().await;
    assert_eq!(within("the end of the request", opened.rx.recv()).await, Ok(None));
    let answer = frame(number(&opened.first) + 1, 10);
    within("answer", opened.tx.send(answer)).await.expect("the stream is open");
    opened.tx.finish().expect("the stream is open");
}
