//! How many bytes a message takes on the wire, told without encoding it: whoever only counts traffic needs no copy.

use macula_proto::FrameKind;
use prost::{Message as _, length_delimiter_len};

use crate::codec::ENTRY_BYTES;
use crate::{BucketDigest, Doubt, Packet, SyncMessage, Update};

/// Bytes of an id on the wire.
const ID_BYTES: usize = 32;

impl Packet {
    /// Size of [`to_frame`](Self::to_frame)'s frame, in bytes.
    pub fn wire_len(&self) -> usize {
        let target = if self.target.is_some() { delimited(ID_BYTES) } else { 0 };
        frame(self.kind.to_frame_kind(), number(self.sequence) + target + updates(&self.updates))
    }
}

impl SyncMessage {
    /// Size of [`to_frame`](Self::to_frame)'s frame, in bytes.
    pub fn wire_len(&self) -> usize {
        let content = match self {
            Self::Buckets(hashes) => delimited(hashes.len() * 8),
            Self::Digest { buckets, last } => buckets.iter().map(bucket).sum::<usize>() + flag(*last),
            Self::Exchange { updates: news, wants, last } => {
                let wants = if wants.is_empty() { 0 } else { delimited(wants.len() * ID_BYTES) };
                updates(news) + wants + flag(*last)
            }
            Self::Supply { updates: news, last } => updates(news) + flag(*last),
        };
        frame(FrameKind::SWIM_SYNC, content + number(self.step().into()))
    }
}

impl Update {
    /// Size of its message, in bytes.
    fn encoded_len(&self) -> usize {
        match self {
            Self::Statement(statement) => delimited(statement.signed().encoded_len()),
            Self::Suspect(accusation) | Self::Dead(accusation) => {
                delimited(accusation.signed().encoded_len())
            }
            Self::Doubt(doubt) => delimited(doubt.encoded_len()),
        }
    }
}

impl Doubt {
    fn encoded_len(self) -> usize {
        delimited(ID_BYTES) + number(self.incarnation.0)
    }
}

fn updates(updates: &[Update]) -> usize {
    updates.iter().map(|update| delimited(update.encoded_len())).sum()
}

fn bucket(bucket: &BucketDigest) -> usize {
    let entries = bucket.entries.len() * ENTRY_BYTES;
    let entries = if entries == 0 { 0 } else { delimited(entries) };
    delimited(number(bucket.index.into()) + flag(bucket.complete) + entries)
}

/// A field of so many bytes, with its tag and its length. All tags here take one byte.
fn delimited(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

/// A number with its tag; protobuf leaves zero out.
const fn number(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + varint(number) }
}

const fn flag(flag: bool) -> usize {
    if flag { 2 } else { 0 }
}

/// The frame around a header of so many bytes and no payload: length, kind, length of the header, in QUIC's variable-length
/// integers.
const fn frame(kind: FrameKind, header: usize) -> usize {
    let body = quic_varint(kind.0 as usize) + quic_varint(header) + header;
    quic_varint(body) + body
}

/// RFC 9000 §16; no frame is longer than the third length says.
const fn quic_varint(number: usize) -> usize {
    match number {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 4,
    }
}

/// Protobuf's: seven bits a byte.
const fn varint(number: u64) -> usize {
    (u64::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}
