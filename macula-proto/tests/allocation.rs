//! What a peer can make us allocate: measured against the bounds that `limits` states.

mod schema;

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use macula_proto::limits::{
    DECODED_BYTES_FREE, DECODED_BYTES_PER_BYTE, FRAME_BYTES_MAX, FRAME_PENDING_FACTOR, HEADER_BYTES_MAX,
    MESSAGE_BYTES_PER_ELEMENT, MESSAGE_ELEMENTS_FREE, PAYLOAD_BYTES_MAX,
};
use macula_proto::{Frame, FrameDecoder, FrameKind, MessageError, wire};
use schema::{Field, MESSAGES, Shape};

const SIZES: [usize; 5] = [0, 600, 4 * 1024, 33 * 1024, HEADER_BYTES_MAX];

/// As many of the smallest possible elements as a message of `size` bytes may hold, and an unknown field as filling.
fn most_elements(field: &Field, size: usize) -> Vec<u8> {
    let mut message = Vec::new();
    // The filling is an element as well, and may end up some bytes short of `size`.
    let elements = MESSAGE_ELEMENTS_FREE + size.saturating_sub(8) / MESSAGE_BYTES_PER_ELEMENT - 1;
    (0..elements).for_each(|_| schema::put_bytes(&mut message, field.number, b""));
    let room = size.saturating_sub(message.len() + 6);
    schema::put_bytes(&mut message, 1000, &vec![0; room]);
    message
}

/// As many numbers as fit into `size` bytes, packed.
fn most_numbers(field: &Field, size: usize) -> Vec<u8> {
    let mut message = Vec::new();
    schema::put_bytes(&mut message, field.number, &vec![1; size.saturating_sub(6) / 8 * 8]);
    message
}

fn worst_case(field: &Field, size: usize) -> Vec<u8> {
    match field.kind {
        "TYPE_FIXED64" | "TYPE_FIXED32" => most_numbers(field, size),
        _ => most_elements(field, size),
    }
}

/// Heap held at once while `message` is decoded, in bytes.
fn peak_bytes(shape: &Shape, message: &[u8]) -> usize {
    let message = Bytes::copy_from_slice(message);
    let reencode = shape.reencode;
    let mut outcome = Ok(Vec::new());
    // Encoding again is measured as well: it only makes the check stricter.
    let peak = measure(|| outcome = reencode(message)).bytes_max;
    outcome.unwrap_or_else(|cause| panic!("{}: {cause}", shape.name));
    peak as usize
}

#[test]
fn decoding_stays_within_the_stated_multiple_for_every_message() {
    let mut worst = (0.0, "none".to_owned());
    for shape in MESSAGES {
        for field in shape.fields.iter().filter(|field| field.repeated) {
            for size in SIZES {
                let message = worst_case(field, size);
                let peak = peak_bytes(shape, &message);
                let bound = DECODED_BYTES_PER_BYTE * message.len() + DECODED_BYTES_FREE;
                let name = format!("{}.{}: {peak} of {bound} bytes", shape.name, field.name);
                assert!(peak <= bound, "{name}, from {} bytes", message.len());
                if peak as f64 / bound as f64 > worst.0 {
                    worst = (peak as f64 / bound as f64, name);
                }
            }
        }
    }
    println!("closest to the bound: {}", worst.1);
    assert!(worst.0 > 0.2, "the bound is far from what can happen: state a lower one ({})", worst.1);
}

#[test]
fn one_element_more_is_refused_without_allocating() {
    let shape = schema::shape("HelloBody");
    let realms = shape.fields.iter().find(|field| field.name == "realms").expect("a field of that name");
    let mut message = most_elements(realms, 2048);
    (0..2).for_each(|_| schema::put_bytes(&mut message, realms.number, b""));
    let message = Bytes::from(message);
    let reencode = shape.reencode;
    let mut outcome = Ok(Vec::new());
    let info = measure(|| outcome = reencode(message));
    assert!(matches!(outcome, Err(MessageError::TooManyElements { .. })), "{outcome:?}");
    assert_eq!(info.count_total, 0);
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let claim = (FRAME_BYTES_MAX as u32 - 4) | 0x8000_0000;
    let mut decoder = FrameDecoder::default();
    let chunk = Bytes::copy_from_slice(&claim.to_be_bytes());
    let info = measure(|| {
        decoder.feed(chunk);
        assert_eq!(decoder.next_frame(), Ok(None));
    });
    assert!(info.bytes_max < 256, "{} bytes for a frame of which four bytes came", info.bytes_max);
}

#[test]
fn an_incomplete_frame_holds_a_small_multiple_of_what_came() {
    let frame =
        Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: 1 }, vec![7; PAYLOAD_BYTES_MAX].into());
    let bytes = frame.expect("within the limits").to_bytes();
    for chunk_bytes in [1200, 16 * 1024, 100_000] {
        let mut decoder = FrameDecoder::default();
        let mut fed = 0;
        let info = measure(|| {
            let mut rest = bytes.clone();
            while !rest.is_empty() {
                let chunk = rest.split_to(chunk_bytes.min(rest.len()));
                fed += chunk.len();
                decoder.feed(chunk);
                while let Ok(Some(_)) = decoder.next_frame() {}
            }
        });
        assert_eq!((fed, decoder.pending_bytes()), (bytes.len(), 0));
        let bound = FRAME_PENDING_FACTOR * bytes.len() + 1024;
        assert!(info.bytes_max as usize <= bound, "{} of {bound} bytes", info.bytes_max);
    }
}

#[test]
fn a_frame_within_one_chunk_is_not_copied() {
    let frame = Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: 1 }, vec![7; 100_000].into());
    let mut stream = BytesMut::new();
    frame.expect("within the limits").write_to(&mut stream);
    let stream = stream.freeze();
    let mut decoder = FrameDecoder::default();
    let info = measure(|| {
        decoder.feed(stream);
        let frame = decoder.next_frame().expect("good").expect("whole");
        assert_eq!(frame.payload().len(), 100_000);
    });
    assert!(info.bytes_max < 256, "{} bytes", info.bytes_max);
}
