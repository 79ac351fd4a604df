//! Lanes: ordered, bounded, independent.

use bytes::Bytes;
use macula_proto::limits::{HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use macula_proto::{Frame, FrameKind, wire};

use super::node::{connected_pair, frame, number, within};
use super::{Harness, QUIET};
use crate::{LaneError, LaneId, LaneSender, Transport, TransportError};

/// More than any transport may take without delivering.
const BOUND_BYTES: usize = 64 * 1024 * 1024;

/// Several senders share a lane: each one's frames stay in order, and nothing is lost or doubled.
pub async fn lane_frames_arrive_in_order<H: Harness>(harness: &H) {
    const SENDERS: u32 = 4;
    const FRAMES: u32 = 500;
    let (a, b) = connected_pair(harness).await;
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let lane = lane.clone();
            tokio::spawn(async move {
                for n in 0..FRAMES {
                    lane.send(frame(sender * FRAMES + n, 100)).await.expect("the lane is open");
                }
            })
        })
        .collect();
    for sender in senders {
        within("all sent", sender).await.expect("no panic");
    }
    b.until("all arrive", |log| log.lanes.len() >= (SENDERS * FRAMES) as usize).await;
    b.until("the handler is told that nothing more is at hand", |log| {
        log.told_of_pause_after == (SENDERS * FRAMES) as usize
    })
    .await;
    let numbers = b.log(|log| log.numbers(LaneId::DATA));
    for sender in 0..SENDERS {
        let of_one: Vec<_> = numbers.iter().copied().filter(|n| n / FRAMES == sender).collect();
        let expected: Vec<_> = (sender * FRAMES..(sender + 1) * FRAMES).collect();
        assert_eq!(of_one, expected);
    }
}

/// The side that was dialled has lanes as well, over the same connection.
pub async fn lanes_work_from_the_accepting_side<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    for lane in [LaneId::CONTROL, LaneId::DATA, LaneId(2)] {
        let sender = within("a lane", b.transport.lane(a.id(), lane)).await.expect("connected");
        within("send", sender.send(frame(u32::from(lane.0), 10))).await.expect("the lane is open");
        a.until("the frame", |log| log.numbers(lane) == [u32::from(lane.0)]).await;
        let from = a.log(|log| log.lanes.last().map(|(from, ..)| *from));
        assert_eq!(from, Some(b.id()));
    }
}

/// There are [`LaneId::COUNT`] lanes and no more.
pub async fn a_lane_past_the_last_is_an_error<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let last = LaneId(LaneId::COUNT as u8 - 1);
    let sender = within("the last lane", a.transport.lane(b.id(), last)).await.expect("connected");
    within("send", sender.send(frame(1, 10))).await.expect("the lane is open");
    b.until("the frame", |log| log.numbers(last) == [1]).await;
    let past = LaneId(LaneId::COUNT as u8);
    let none = within("a lane past it", a.transport.lane(b.id(), past)).await.map(drop);
    assert!(matches!(none, Err(TransportError::NoSuchLane(lane)) if lane == past), "{none:?}");
}

/// While the receiver's handler waits, the sender's queue fills and says so, within a bound; then all that was
/// accepted arrives.
pub async fn a_blocked_lane_fills_up_and_loses_nothing<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    b.block(LaneId::DATA);
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    let accepted = fill(&lane).await;
    assert!(b.log(|log| log.lanes.is_empty()));
    b.unblock(LaneId::DATA);
    b.until("all that was accepted", |log| log.lanes.len() as u32 >= accepted).await;
    assert_eq!(b.log(|log| log.numbers(LaneId::DATA)), (0..accepted).collect::<Vec<_>>());
    // And there is room again.
    within("send", lane.send(frame(accepted, 10))).await.expect("the lane is open");
    b.until("one more", |log| log.numbers(LaneId::DATA).last() == Some(&accepted)).await;
}

/// Sends until the lane stays full; returns how many frames it took.
async fn fill(lane: &LaneSender) -> u32 {
    const FRAME_BYTES: usize = 16 * 1024;
    let mut accepted = 0;
    loop {
        match lane.try_send(frame(accepted, FRAME_BYTES)) {
            Ok(()) => accepted += 1,
            Err(LaneError::Full(_)) => {
                // Perhaps the writer makes room yet: full is what stays full.
                let Ok(sent) = tokio::time::timeout(QUIET, lane.send(frame(accepted, FRAME_BYTES))).await
                else {
                    return accepted;
                };
                sent.expect("the lane is open");
                accepted += 1;
            }
            Err(LaneError::Closed(_)) => panic!("the lane is closed"),
        }
        assert!((accepted as usize) < BOUND_BYTES / FRAME_BYTES, "the lane takes more and more");
    }
}

/// A full lane stops neither the other lanes nor streams nor the other direction.
pub async fn a_blocked_lane_blocks_no_other<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    b.block(LaneId::DATA);
    let blocked = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    fill(&blocked).await;
    let other = within("a lane", a.transport.lane(b.id(), LaneId::CONTROL)).await.expect("connected");
    within("send", other.send(frame(7, 10))).await.expect("the lane is open");
    b.until("the other lane's frame", |log| log.numbers(LaneId::CONTROL) == [7]).await;
    let back = within("a lane", b.transport.lane(a.id(), LaneId::DATA)).await.expect("connected");
    within("send", back.send(frame(8, 10))).await.expect("the lane is open");
    a.until("the frame back", |log| log.numbers(LaneId::DATA) == [8]).await;
    let _stream = within("a stream", a.transport.stream(b.id(), frame(9, 10))).await.expect("connected");
    assert_eq!(number(&b.next_stream().await.first), 9);
    b.unblock(LaneId::DATA);
}

/// The largest payload and the largest header pass, on lanes and streams, byte for byte.
pub async fn the_largest_frames_pass<H: Harness>(harness: &H) {
    let (a, mut b) = connected_pair(harness).await;
    let payload = Bytes::from((0..PAYLOAD_BYTES_MAX).map(|n| n as u8).collect::<Vec<_>>());
    // The header's own framing takes a few bytes.
    let header = wire::Welcome { refusal: 1, reason: "h".repeat(HEADER_BYTES_MAX - 16) };
    let largest = Frame::new(FrameKind::PUBLISH, &header, payload).expect("within the limits");
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    within("send", lane.send(largest.clone())).await.expect("the lane is open");
    b.until("it arrives on the lane", |log| !log.lanes.is_empty()).await;
    assert!(b.log(|log| log.lanes[0].2 == largest));
    let _stream = within("a stream", a.transport.stream(b.id(), largest.clone())).await.expect("connected");
    assert!(b.next_stream().await.first == largest);
}

/// A frame of a kind that nobody knows is skipped or handed on, but what follows arrives and the connection stays.
pub async fn unknown_kinds_do_no_harm<H: Harness>(harness: &H) {
    let (a, b) = connected_pair(harness).await;
    let unknown = Frame::new(FrameKind(1_000_000), &wire::LaneOpen { lane: 1 }, Bytes::from_static(b"?"));
    let unknown = unknown.expect("within the limits");
    let lane = within("a lane", a.transport.lane(b.id(), LaneId::DATA)).await.expect("connected");
    within("send", lane.send(unknown.clone())).await.expect("the lane is open");
    a.transport.datagram(b.id(), unknown).expect("connected");
    within("send", lane.send(frame(2, 10))).await.expect("the lane is open");
    b.until("the known frame", |log| log.numbers(LaneId::DATA).contains(&2)).await;
    assert!(b.log(|log| log.downs(a.id()).is_empty()));
}
