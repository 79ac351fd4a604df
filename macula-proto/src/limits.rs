//! Sizes that every node enforces. A length is compared with its limit *before* anything is allocated.
//!
//! What a peer can make a node hold for one frame follows from them: the frame itself, at most [`FRAME_BYTES_MAX`], of
//! which the payload is shared and never copied, and its decoded header, at most
//! [`DECODED_BYTES_PER_BYTE`] · header + [`DECODED_BYTES_FREE`].

/// Largest frame header (the protobuf part), in bytes.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Largest payload tail of a frame, in bytes. Larger data goes as several frames on a stream.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Largest frame, in bytes, all parts included.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX + 32;

/// Most addresses in a [`Contact`](crate::Contact).
pub const CONTACT_ADDRS_MAX: usize = 8;

/// Longest topic or procedure name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Most segments in a topic or procedure name.
pub const NAME_SEGMENTS_MAX: usize = 16;

/// Longest realm name, in bytes.
pub const REALM_BYTES_MAX: usize = 63;

/// Most realms that one node is in.
pub const REALMS_MAX: usize = 64;

/// Length-delimited fields that any message may hold, whatever its size.
pub const MESSAGE_ELEMENTS_FREE: usize = 256;

/// Beyond [`MESSAGE_ELEMENTS_FREE`], one further length-delimited field is allowed for each so many bytes of the
/// message. A repeated field of empty messages would otherwise decode to far more memory than it took on the wire.
pub const MESSAGE_BYTES_PER_ELEMENT: usize = 32;

/// Decoding a message of `n` bytes holds at most `n` times this plus [`DECODED_BYTES_FREE`] bytes of heap at any
/// moment, whatever the bytes are; the payload of a frame is not copied and costs nothing.
///
/// It follows from the two limits on elements: the largest element of a repeated field takes about 300 bytes in memory,
/// and a vector that grows holds its old and its new room, at most three times what it needs. The bound is measured for
/// all messages in `tests/allocation.rs`.
pub const DECODED_BYTES_PER_BYTE: usize = 32;

/// The constant part of [`DECODED_BYTES_PER_BYTE`]'s bound, in bytes.
pub const DECODED_BYTES_FREE: usize = 256 * 1024;

/// A frame that has come in part takes at most this many times the bytes that have come, and never more than this many
/// times [`FRAME_BYTES_MAX`]: room grows as bytes come, never by a claimed length.
pub const FRAME_PENDING_FACTOR: usize = 3;
