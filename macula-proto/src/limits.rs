//! Sizes that every node enforces. A length is compared with its limit *before* anything is allocated.

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

/// Length-delimited fields that any header may hold, whatever its size.
pub const HEADER_ELEMENTS_FREE: usize = 64;

/// Beyond [`HEADER_ELEMENTS_FREE`], one further length-delimited field is allowed for each so many header
/// bytes. A repeated field of empty messages would otherwise decode to far more memory than it took on the wire.
pub const HEADER_BYTES_PER_ELEMENT: usize = 16;
