//! The frame: what travels on lanes, streams and in datagrams.
//!
//! ```text
//!   length (varint) │ kind (varint) │ header length (varint) │ header │ payload
//!                   └──────────────── `length` bytes ────────────────────────┘
//! ```
//!
//! Integers are RFC 9000 §16 varints; the header is one protobuf message; the payload is whatever the
//! application gave, untouched.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::message::{MessageError, decode};
use crate::varint;

/// Why bytes are not a frame, or a frame not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtoError {
    /// The frame says that it is longer than any may be.
    #[error("a frame of {0} bytes: at most {FRAME_BYTES_MAX} are allowed")]
    FrameTooLong(u64),
    /// The header is longer than any may be.
    #[error("a frame header of {0} bytes: at most {HEADER_BYTES_MAX} are allowed")]
    HeaderTooLong(u64),
    /// The payload is longer than any may be.
    #[error("a payload of {0} bytes: at most {PAYLOAD_BYTES_MAX} are allowed")]
    PayloadTooLong(usize),
    /// The parts of the frame do not fit into its length.
    #[error("a frame whose parts do not fit its length")]
    Malformed,
    /// The header is not the protobuf message that the frame's kind asks for.
    #[error("kind {kind}: {cause}")]
    Header {
        /// The frame's kind.
        kind: FrameKind,
        /// What is wrong with the message.
        cause: MessageError,
    },
}

/// Which layer a frame is for. Eight kinds each: `kind >> 3`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Service {
    /// Kinds 0–7.
    Transport,
    /// Kinds 8–15.
    Membership,
    /// Kinds 16–23.
    Directory,
    /// Kinds 24–31.
    PubSub,
    /// Kinds 32–39.
    Rpc,
    /// Kinds 40–55.
    Platform,
    /// Everything else: skipped and counted.
    Unknown,
}

/// What a frame's header is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKind(pub u32);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl FrameKind {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The kind's name, or `None` where this version knows none.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// [`wire::Hello`](crate::wire::Hello).
    HELLO = 0;
    /// [`wire::Welcome`](crate::wire::Welcome).
    WELCOME = 1;
    /// [`wire::LaneOpen`](crate::wire::LaneOpen).
    LANE_OPEN = 2;
    /// [`wire::GoAway`](crate::wire::GoAway).
    GO_AWAY = 3;
    /// SWIM direct probe.
    SWIM_PING = 8;
    /// SWIM answer to a probe.
    SWIM_ACK = 9;
    /// SWIM request to probe someone else.
    SWIM_PING_REQ = 10;
    /// SWIM gossip without a probe.
    SWIM_GOSSIP = 11;
    /// SWIM anti-entropy: request and answer, on a stream.
    SWIM_SYNC = 12;
    /// SWIM answer of a helper that could not reach the target.
    SWIM_NACK = 13;
    /// Directory request: closest nodes, and records if held.
    DHT_FIND = 16;
    /// Directory answer to a find.
    DHT_FOUND = 17;
    /// Directory request: store records.
    DHT_STORE = 18;
    /// Directory answer to a store.
    DHT_STORED = 19;
    /// Directory push: records at a watched key changed.
    DHT_NOTIFY = 20;
    /// Directory acknowledgement of a push.
    DHT_NOTIFIED = 21;
    /// A published message.
    PUBLISH = 24;
    /// What became of published messages that are to be acknowledged.
    PUBLISHED = 25;
    /// A published message on its way through a tree of subscribers.
    TREE_MESSAGE = 26;
    /// Messages of a tree that can be asked for.
    TREE_HAVE = 27;
    /// Asks for messages of a tree.
    TREE_WANT = 28;
    /// Makes and ends links between the nodes of a tree.
    TREE_LINK = 29;
    /// A call.
    CALL = 32;
    /// A call's result, or one part of it.
    RESULT = 33;
    /// A call's failure.
    ERROR = 34;
    /// One part of a streamed request.
    CALL_PART = 35;
    /// Opens a stream that many small calls share.
    CALLS = 36;
    /// One of these calls, or its cancellation.
    NUMBERED_CALL = 37;
    /// The answer to one of them.
    NUMBERED_ANSWER = 38;
    /// Raft: entries of the log, or a heartbeat.
    RAFT_APPEND = 40;
    /// Raft: what became of them, or of an image or a transfer.
    RAFT_APPENDED = 41;
    /// Raft: a candidate asks for a vote.
    RAFT_VOTE = 42;
    /// Raft: the answer to it.
    RAFT_VOTED = 43;
    /// Raft: an image of the objects follows.
    RAFT_SNAPSHOT = 44;
    /// Raft: a part of an image.
    RAFT_SNAPSHOT_PART = 45;
    /// Raft: the leader asks a follower to take over.
    RAFT_TRANSFER = 46;
    /// A question about the group of a realm.
    GROUP_ASK = 47;
    /// The answer to it.
    GROUP_TOLD = 48;
    /// Says what to watch of a group's objects.
    GROUP_WATCH = 49;
    /// Something that is watched has changed.
    GROUP_CHANGE = 50;
}

impl FrameKind {
    /// Which layer this kind belongs to.
    pub const fn service(self) -> Service {
        match self.0 >> 3 {
            0 => Service::Transport,
            1 => Service::Membership,
            2 => Service::Directory,
            3 => Service::PubSub,
            4 => Service::Rpc,
            5 | 6 => Service::Platform,
            _ => Service::Unknown,
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One frame, encoded. Cloning it shares its bytes: it is encoded once and sent to any number of peers.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    kind: FrameKind,
    /// Everything before the payload.
    head: Bytes,
    /// Where the protobuf header begins in `head`.
    header_at: usize,
    payload: Bytes,
}

impl Frame {
    /// Encodes `header` in front of `payload`.
    ///
    /// # Errors
    /// [`ProtoError::HeaderTooLong`] or [`ProtoError::PayloadTooLong`] past the limits.
    pub fn new(kind: FrameKind, header: &impl Message, payload: Bytes) -> Result<Self, ProtoError> {
        Self::encode(kind, header.encoded_len(), payload, |head| header.encode_raw(head))
    }

    /// The same, of a header that is encoded already and given in parts.
    ///
    /// # Errors
    /// The same.
    pub fn with_header(kind: FrameKind, parts: &[&[u8]], payload: Bytes) -> Result<Self, ProtoError> {
        let header_len = parts.iter().map(|part| part.len()).sum();
        Self::encode(kind, header_len, payload, |head| parts.iter().for_each(|part| head.put_slice(part)))
    }

    fn encode(
        kind: FrameKind,
        header_len: usize,
        payload: Bytes,
        put_header: impl FnOnce(&mut BytesMut),
    ) -> Result<Self, ProtoError> {
        if header_len > HEADER_BYTES_MAX {
            return Err(ProtoError::HeaderTooLong(header_len as u64));
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProtoError::PayloadTooLong(payload.len()));
        }
        let prefix = varint::len(u64::from(kind.0)) + varint::len(header_len as u64);
        let body = (prefix + header_len + payload.len()) as u64;
        let header_at = varint::len(body) + prefix;
        let mut head = BytesMut::with_capacity(header_at + header_len);
        varint::put(&mut head, body);
        varint::put(&mut head, u64::from(kind.0));
        varint::put(&mut head, header_len as u64);
        put_header(&mut head);
        Ok(Self { kind, head: head.freeze(), header_at, payload })
    }

    /// What the header is.
    pub const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The payload tail.
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Takes the payload tail.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The header's bytes, exactly as sent.
    pub fn header_bytes(&self) -> Bytes {
        self.head.slice(self.header_at..)
    }

    /// The same, borrowed.
    pub fn header_slice(&self) -> &[u8] {
        &self.head[self.header_at..]
    }

    /// Everything that goes before the payload on the wire.
    pub const fn head(&self) -> &Bytes {
        &self.head
    }

    /// The size on the wire, in bytes, of a frame that is not made: its header would have `header_len` bytes, its payload
    /// `payload_len`.
    pub fn wire_len_with(kind: FrameKind, header_len: usize, payload_len: usize) -> usize {
        let prefix = varint::len(u64::from(kind.0)) + varint::len(header_len as u64);
        let body = prefix + header_len + payload_len;
        varint::len(body as u64) + body
    }

    /// Size on the wire, in bytes.
    pub fn wire_len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Decodes the header as `M`. Unknown fields are skipped, as in any protobuf.
    ///
    /// # Errors
    /// [`ProtoError::Header`] if the bytes are no `M`, or if decoding them would allocate out of proportion.
    pub fn header<M: Message + Default>(&self) -> Result<M, ProtoError> {
        decode(self.header_bytes()).map_err(|cause| ProtoError::Header { kind: self.kind, cause })
    }

    /// Appends the whole frame to `out`.
    pub fn write_to(&self, out: &mut impl BufMut) {
        out.put_slice(&self.head);
        out.put_slice(&self.payload);
    }

    /// The whole frame as one buffer.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.wire_len());
        self.write_to(&mut out);
        out.freeze()
    }

    /// Splits a complete frame, whose length has been checked, into its parts.
    fn parse(mut frame: Bytes, length_bytes: usize) -> Result<Self, ProtoError> {
        let (kind, kind_bytes) = varint::get(&frame[length_bytes..]).ok_or(ProtoError::Malformed)?;
        let header_len_at = length_bytes + kind_bytes;
        let (header_len, len_bytes) = varint::get(&frame[header_len_at..]).ok_or(ProtoError::Malformed)?;
        if header_len > HEADER_BYTES_MAX as u64 {
            return Err(ProtoError::HeaderTooLong(header_len));
        }
        let header_at = header_len_at + len_bytes;
        let payload_at = header_at + header_len as usize;
        if payload_at > frame.len() {
            return Err(ProtoError::Malformed);
        }
        if frame.len() - payload_at > PAYLOAD_BYTES_MAX {
            return Err(ProtoError::PayloadTooLong(frame.len() - payload_at));
        }
        Ok(Self {
            // Kinds past 32 bits are as unknown as any other that this version has no name for.
            kind: FrameKind(u32::try_from(kind).unwrap_or(u32::MAX)),
            head: frame.split_to(payload_at),
            header_at,
            payload: frame,
        })
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header_bytes = self.head.len() - self.header_at;
        write!(f, "Frame({}, header {header_bytes} B, payload {} B)", self.kind, self.payload.len())
    }
}

/// Cuts a byte stream into frames.
///
/// Feed it chunks as they arrive and take frames until there are none. A frame that lies within one chunk
/// shares that chunk's memory; only a frame that spans chunks is copied, once. Holds at most one incomplete frame,
/// so at most [`FRAME_BYTES_MAX`] bytes besides the chunk being read.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// The beginning of a frame that spans chunks.
    partial: BytesMut,
    /// What has not been looked at yet.
    chunk: Bytes,
}

/// Longest varint.
const VARINT_BYTES_MAX: usize = 8;

impl FrameDecoder {
    /// Adds the next chunk. Take all frames before feeding again: what is left of the previous chunk is copied
    /// otherwise.
    pub fn feed(&mut self, chunk: Bytes) {
        if !self.chunk.is_empty() {
            self.partial.extend_from_slice(&self.chunk);
        }
        self.chunk = chunk;
    }

    /// The next whole frame, or `None` until more is fed.
    ///
    /// # Errors
    /// What is wrong with the frame. The stream cannot be resynchronised after that: close it.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtoError> {
        if self.partial.is_empty() {
            return self.next_in_chunk();
        }
        self.fill_partial(VARINT_BYTES_MAX);
        let Some((total, length_bytes)) = frame_len(&self.partial)? else { return Ok(None) };
        self.fill_partial(total);
        if self.partial.len() < total {
            return Ok(None);
        }
        let frame = self.partial.split_to(total).freeze();
        self.return_rest();
        Frame::parse(frame, length_bytes).map(Some)
    }

    /// Bytes held that do not make a whole frame yet.
    pub fn pending_bytes(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    fn next_in_chunk(&mut self) -> Result<Option<Frame>, ProtoError> {
        if let Some((total, length_bytes)) = frame_len(&self.chunk)?
            && self.chunk.len() >= total
        {
            let frame = self.chunk.split_to(total);
            return Frame::parse(frame, length_bytes).map(Some);
        }
        self.partial.extend_from_slice(&self.chunk);
        self.chunk.clear();
        Ok(None)
    }

    /// Moves bytes from the chunk until `partial` holds `total`.
    fn fill_partial(&mut self, total: usize) {
        let missing = total.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(missing));
    }

    /// After a short frame, `partial` may hold the beginning of the next one.
    fn return_rest(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        if self.chunk.is_empty() {
            self.chunk = self.partial.split().freeze();
        } else {
            // Rare: at most VARINT_BYTES_MAX bytes were taken ahead. They stay at the front.
            let rest = self.partial.split();
            let mut joined = BytesMut::with_capacity(rest.len() + self.chunk.len());
            joined.extend_from_slice(&rest);
            joined.extend_from_slice(&self.chunk);
            self.chunk = joined.freeze();
        }
    }
}

/// Length of the whole frame at the front of `bytes`, and of its length field; `None` while that is incomplete.
fn frame_len(bytes: &[u8]) -> Result<Option<(usize, usize)>, ProtoError> {
    let Some((body, length_bytes)) = varint::get(bytes) else { return Ok(None) };
    if body > FRAME_BYTES_MAX as u64 {
        return Err(ProtoError::FrameTooLong(body));
    }
    Ok(Some((length_bytes + body as usize, length_bytes)))
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
