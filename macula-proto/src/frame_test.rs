use proptest::prelude::*;

use super::*;
use crate::wire::{Contact, HelloBody, LaneOpen};

fn frame(lane: u32, payload: &[u8]) -> Frame {
    Frame::new(FrameKind::LANE_OPEN, &LaneOpen { lane }, Bytes::copy_from_slice(payload)).unwrap()
}

fn drain(decoder: &mut FrameDecoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

#[test]
fn coalesced_frames_decode_at_every_split_point() {
    let frames = [frame(1, b""), frame(70_000, &[7; 300]), frame(3, b"tail")];
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.write_to(&mut bytes));
    let bytes = bytes.freeze();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            for part in [bytes.slice(..first), bytes.slice(first..second), bytes.slice(second..)] {
                decoder.feed(part);
                seen.extend(drain(&mut decoder));
            }
            assert_eq!(seen, frames, "split at {first} and {second}");
            assert_eq!(decoder.pending_bytes(), 0);
        }
    }
}

#[test]
fn byte_by_byte_is_fine_too() {
    let sent = frame(5, &[1; 100]);
    let mut decoder = FrameDecoder::default();
    let mut seen = Vec::new();
    for byte in sent.to_bytes() {
        decoder.feed(Bytes::copy_from_slice(&[byte]));
        seen.extend(drain(&mut decoder));
    }
    assert_eq!(seen, [sent]);
}

#[test]
fn a_frame_within_one_chunk_shares_its_memory() {
    let bytes = frame(1, &[9; 1000]).to_bytes();
    let range = bytes.as_ptr_range();
    let mut decoder = FrameDecoder::default();
    decoder.feed(bytes);
    let seen = decoder.next_frame().unwrap().unwrap();
    assert!(range.contains(&seen.payload().as_ptr()));
}

#[test]
fn lengths_are_refused_before_anything_is_allocated() {
    let mut claim = BytesMut::new();
    varint::put(&mut claim, FRAME_BYTES_MAX as u64 + 1);
    let mut decoder = FrameDecoder::default();
    decoder.feed(claim.freeze());
    assert_eq!(decoder.next_frame(), Err(ProtoError::FrameTooLong(FRAME_BYTES_MAX as u64 + 1)));

    let too_long = Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]);
    let refused = Frame::new(FrameKind::PUBLISH, &LaneOpen { lane: 0 }, too_long);
    assert_eq!(refused, Err(ProtoError::PayloadTooLong(PAYLOAD_BYTES_MAX + 1)));
}

#[test]
fn a_header_longer_than_its_frame_is_malformed() {
    let mut decoder = FrameDecoder::default();
    decoder.feed(Bytes::from_static(&[3, 24, 9, 0]));
    assert_eq!(decoder.next_frame(), Err(ProtoError::Malformed));
    let mut decoder = FrameDecoder::default();
    decoder.feed(Bytes::from_static(&[0]));
    assert_eq!(decoder.next_frame(), Err(ProtoError::Malformed));
}

#[test]
fn a_swarm_of_empty_elements_is_refused() {
    let hello = HelloBody { realms: vec![String::new(); 1000], ..HelloBody::default() };
    let frame = Frame::new(FrameKind::HELLO, &hello, Bytes::new()).unwrap();
    let refused = frame.header::<HelloBody>();
    let cause = MessageError::TooManyElements { elements: 1000, message_bytes: 2000 };
    assert_eq!(refused, Err(ProtoError::Header { kind: FrameKind::HELLO, cause }));
}

#[test]
fn unknown_kinds_decode_so_that_they_can_be_skipped() {
    let sent = Frame::new(FrameKind(4242), &LaneOpen { lane: 1 }, Bytes::new()).unwrap();
    let mut decoder = FrameDecoder::default();
    decoder.feed(sent.to_bytes());
    let seen = decoder.next_frame().unwrap().unwrap();
    assert_eq!(seen.kind().service(), Service::Unknown);
    assert_eq!(seen.kind().to_string(), "4242");
}

#[test]
fn kinds_of_a_service_share_their_upper_bits() {
    for (kind, service) in [
        (FrameKind::HELLO, Service::Transport),
        (FrameKind::SWIM_NACK, Service::Membership),
        (FrameKind::DHT_NOTIFY, Service::Directory),
        (FrameKind::PUBLISH, Service::PubSub),
        (FrameKind::CALL_PART, Service::Rpc),
    ] {
        assert_eq!(kind.service(), service, "{kind}");
    }
}

proptest! {
    #[test]
    fn frames_round_trip(kind in 0u32..100_000, lane: u32, payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let sent = Frame::new(FrameKind(kind), &LaneOpen { lane }, Bytes::from(payload.clone())).unwrap();
        let mut decoder = FrameDecoder::default();
        decoder.feed(sent.to_bytes());
        let seen = decoder.next_frame().unwrap().unwrap();
        prop_assert_eq!(seen.header::<LaneOpen>().unwrap().lane, lane);
        prop_assert_eq!(seen.payload().as_ref(), payload.as_slice());
        prop_assert_eq!(seen, sent);
    }

    #[test]
    fn garbage_never_panics(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..16)) {
        let mut decoder = FrameDecoder::default();
        'stream: for chunk in chunks {
            decoder.feed(Bytes::from(chunk));
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => { let _ = frame.header::<Contact>(); }
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
        }
    }
}

#[test]
fn a_header_in_parts_makes_the_same_frame() {
    let header = LaneOpen { lane: 300 };
    let (encoded, payload) = (header.encode_to_vec(), Bytes::from_static(b"payload"));
    let (front, back) = encoded.split_at(1);
    let whole = Frame::new(FrameKind::PUBLISH, &header, payload.clone()).unwrap();
    assert_eq!(Frame::with_header(FrameKind::PUBLISH, &[front, back], payload).unwrap(), whole);
    let long = vec![0; HEADER_BYTES_MAX];
    let refused = Frame::with_header(FrameKind::PUBLISH, &[&long, &[0]], Bytes::new());
    assert_eq!(refused.unwrap_err(), ProtoError::HeaderTooLong(HEADER_BYTES_MAX as u64 + 1));
}
