//! All wire messages as data, straight from the `.proto` files, and random messages of any of them. A new message is
//! covered by these tests as soon as it is in a `.proto` file.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fmt::Debug;

use bytes::Bytes;
use macula_proto::{Frame, FrameDecoder, FrameKind, MessageError, decode, wire};
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

/// A field, as the `.proto` file declares it.
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) repeated: bool,
    /// protobuf's own name for the type, such as `TYPE_BYTES`.
    pub(crate) kind: &'static str,
    /// The message's name where `kind` is `TYPE_MESSAGE`.
    pub(crate) message: &'static str,
}

/// A message type.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
    /// Decodes under our limits and encodes again.
    pub(crate) reencode: fn(Bytes) -> Result<Vec<u8>, MessageError>,
    /// Decodes without our limits and encodes again.
    pub(crate) reencode_unlimited: fn(&[u8]) -> Vec<u8>,
    /// Sends it as the header of a frame, in front of a payload, and compares what arrives.
    pub(crate) through_frame: fn(Bytes, Bytes),
}

macro_rules! shapes {
    ($($name:ident { $(($number:literal, $field:literal, $repeated:literal, $kind:literal, $message:literal)),* })*) => {
        /// All message types.
        pub(crate) const MESSAGES: &[Shape] = &[$(Shape {
            name: stringify!($name),
            fields: &[$(Field {
                number: $number, name: $field, repeated: $repeated, kind: $kind, message: $message,
            }),*],
            reencode: reencode::<wire::$name>,
            reencode_unlimited: reencode_unlimited::<wire::$name>,
            through_frame: through_frame::<wire::$name>,
        }),*];
    };
}

with_all_messages!(shapes);

/// The shape of message `name`.
pub(crate) fn shape(name: &str) -> &'static Shape {
    MESSAGES.iter().find(|shape| shape.name == name).expect("a message of that name")
}

fn reencode<M: Message + Default>(message: Bytes) -> Result<Vec<u8>, MessageError> {
    Ok(decode::<M>(message)?.encode_to_vec())
}

fn reencode_unlimited<M: Message + Default>(message: &[u8]) -> Vec<u8> {
    M::decode(message).expect("it was decoded before").encode_to_vec()
}

fn through_frame<M: Message + Default + PartialEq + Debug>(message: Bytes, payload: Bytes) {
    let sent: M = decode(message).expect("a message of this type");
    let frame = Frame::new(FrameKind::HELLO, &sent, payload.clone()).expect("within the limits");
    let mut decoder = FrameDecoder::default();
    decoder.feed(frame.to_bytes());
    let arrived = decoder.next_frame().expect("a good frame").expect("a whole frame");
    assert_eq!(arrived.header::<M>(), Ok(sent));
    assert_eq!(arrived.payload(), &payload);
    assert_eq!(decoder.pending_bytes(), 0);
}

/// A random message of type `shape`, encoded: each field may be absent, extreme or ordinary.
pub(crate) fn random_message(shape: &Shape, rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    for field in shape.fields {
        let times = if field.repeated { rng.random_range(0..6) } else { rng.random_range(0..2) };
        (0..times).for_each(|_| put_field(&mut out, field, rng));
    }
    out
}

/// As [`random_message`], from a seed.
pub(crate) fn seeded_message(shape: &Shape, seed: u64) -> Vec<u8> {
    random_message(shape, &mut StdRng::seed_from_u64(seed))
}

fn put_field(out: &mut Vec<u8>, field: &Field, rng: &mut StdRng) {
    match field.kind {
        "TYPE_MESSAGE" => put_bytes(out, field.number, &random_message(shape(field.message), rng)),
        "TYPE_BYTES" => {
            let mut value =
                vec![0; *[0, 1, 32, 64, rng.random_range(0..200)].choose(rng).expect("not empty")];
            rng.fill_bytes(&mut value);
            put_bytes(out, field.number, &value);
        }
        "TYPE_STRING" => {
            let value: String = (0..rng.random_range(0..40)).map(|_| random_char(rng)).collect();
            put_bytes(out, field.number, value.as_bytes());
        }
        "TYPE_BOOL" => put_varint_field(out, field.number, rng.random_range(0..2)),
        "TYPE_UINT32" | "TYPE_ENUM" => put_varint_field(out, field.number, random_integer(rng) >> 32),
        "TYPE_UINT64" => put_varint_field(out, field.number, random_integer(rng)),
        "TYPE_FIXED64" => {
            put_varint(out, u64::from(field.number) << 3 | 1);
            out.extend_from_slice(&random_integer(rng).to_le_bytes());
        }
        other => panic!("field `{}`: teach this generator about {other}", field.name),
    }
}

fn random_char(rng: &mut StdRng) -> char {
    if rng.random_range(0..10) == 0 { '\u{2713}' } else { char::from(rng.random_range(b'-'..=b'z')) }
}

fn random_integer(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..4) {
        0 => u64::MAX,
        1 => 1 << rng.random_range(0..64),
        _ => rng.random(),
    }
}

fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

/// Appends a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a protobuf varint (not one of the frame's).
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}
