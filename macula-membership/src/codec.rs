//! Messages to frames and back. Garbage is an error or a count, never a panic.

use std::sync::Arc;

use bytes::Bytes;
use macula_proto::wire::swim_update::Kind;
use macula_proto::{Frame, FrameKind, IdError, NodeId, ProtoError, wire};

use crate::message::{BUCKETS, BucketDigest, DigestEntry, Doubt, PACKET_BYTES_MAX, Packet, PacketKind};
use crate::statement::StatementError;
use crate::{Accusation, Incarnation, MemberState, Statement, SyncMessage, Update};

/// A digest entry on the wire: id, incarnation, state.
pub(crate) const ENTRY_BYTES: usize = 41;

/// Most ids wanted in one frame.
const WANTS_MAX: usize = 1_024;

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Larger than any packet may be.
    #[error("a packet of {0} bytes: at most {PACKET_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not a kind of this layer, or not here.
    #[error("frame kind {0} has no place here")]
    Kind(FrameKind),
    /// Not the message it should be.
    #[error(transparent)]
    Proto(#[from] ProtoError),
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A statement that is none.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// A sync message with a step, a bucket count or a digest that cannot be.
    #[error("a sync message that does not follow the steps")]
    Sync,
    /// An update without content.
    #[error("an update without content")]
    EmptyUpdate,
}

/// What was read, and how many pieces of news in it were garbage.
#[derive(Debug)]
pub struct Decoded<M> {
    /// The message, without the garbage.
    pub message: M,
    /// Updates that were left out.
    pub refused: usize,
}

impl Packet {
    /// The packet as a frame of at most [`PACKET_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`ProtoError`] past the frame limits, which no packet of the machine reaches.
    pub fn to_frame(&self) -> Result<Frame, ProtoError> {
        let header = wire::SwimPacket {
            sequence: self.sequence,
            target: self.target.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            updates: self.updates.iter().map(Update::to_wire).collect(),
        };
        Frame::new(self.kind.to_frame_kind(), &header, Bytes::new())
    }

    /// Reads a frame. Signatures are not checked here: the machine does, once it knows that a statement is news.
    ///
    /// # Errors
    /// [`CodecError`] if the frame is no packet.
    pub fn from_frame(frame: &Frame) -> Result<Decoded<Self>, CodecError> {
        if frame.wire_len() > PACKET_BYTES_MAX {
            return Err(CodecError::TooLong(frame.wire_len()));
        }
        let kind = PacketKind::from_frame_kind(frame.kind()).ok_or(CodecError::Kind(frame.kind()))?;
        let header: wire::SwimPacket = frame.header()?;
        let target = match kind {
            PacketKind::PingReq => Some(NodeId::try_from(header.target.as_ref())?),
            _ => None,
        };
        let (updates, refused) = read_updates(header.updates);
        let message = Self { kind, sequence: header.sequence, target, updates };
        Ok(Decoded { message, refused })
    }
}

impl PacketKind {
    pub(crate) const fn to_frame_kind(self) -> FrameKind {
        match self {
            Self::Ping => FrameKind::SWIM_PING,
            Self::Ack => FrameKind::SWIM_ACK,
            Self::PingReq => FrameKind::SWIM_PING_REQ,
            Self::Nack => FrameKind::SWIM_NACK,
            Self::Gossip => FrameKind::SWIM_GOSSIP,
        }
    }

    fn from_frame_kind(kind: FrameKind) -> Option<Self> {
        let all = [Self::Ping, Self::Ack, Self::PingReq, Self::Nack, Self::Gossip];
        all.into_iter().find(|packet| packet.to_frame_kind() == kind)
    }
}

impl Update {
    fn to_wire(&self) -> wire::SwimUpdate {
        let kind = match self {
            Self::Statement(statement) => match statement.presence() {
                Some(_) => Kind::Alive(statement.signed().clone()),
                None => Kind::Leave(statement.signed().clone()),
            },
            Self::Suspect(accusation) => Kind::Suspect(accusation.signed().clone()),
            Self::Dead(accusation) => Kind::Dead(accusation.signed().clone()),
            Self::Doubt(doubt) => Kind::Doubt(doubt.to_wire()),
        };
        wire::SwimUpdate { kind: Some(kind) }
    }

    fn from_wire(update: wire::SwimUpdate) -> Result<Self, CodecError> {
        let statement = |statement| Self::Statement(Arc::new(statement));
        match update.kind.ok_or(CodecError::EmptyUpdate)? {
            Kind::Alive(signed) => Ok(statement(Statement::parse_alive(signed)?)),
            Kind::Leave(signed) => Ok(statement(Statement::parse_leave(signed)?)),
            Kind::Suspect(signed) => Ok(Self::Suspect(Arc::new(Accusation::parse(signed)?))),
            Kind::Dead(signed) => Ok(Self::Dead(Arc::new(Accusation::parse(signed)?))),
            Kind::Doubt(doubt) => Ok(Self::Doubt(Doubt::from_wire(&doubt)?)),
        }
    }
}

impl Doubt {
    fn to_wire(self) -> wire::SwimDoubt {
        wire::SwimDoubt { id: Bytes::copy_from_slice(self.id.as_bytes()), incarnation: self.incarnation.0 }
    }

    fn from_wire(doubt: &wire::SwimDoubt) -> Result<Self, IdError> {
        let id = NodeId::try_from(doubt.id.as_ref())?;
        Ok(Self { id, incarnation: Incarnation(doubt.incarnation) })
    }
}

impl SyncMessage {
    /// The message as a frame for a stream.
    ///
    /// # Errors
    /// [`ProtoError`] past the frame limits, which no page of the machine reaches.
    pub fn to_frame(&self) -> Result<Frame, ProtoError> {
        let mut header = wire::SwimSync { step: self.step(), ..wire::SwimSync::default() };
        match self {
            Self::Buckets(hashes) => header.buckets = hashes.to_vec(),
            Self::Digest { buckets, last } => {
                header.digest = buckets.iter().map(BucketDigest::to_wire).collect();
                header.last = *last;
            }
            Self::Exchange { updates, wants, last } => {
                header.updates = updates.iter().map(Update::to_wire).collect();
                header.wants = wants.iter().flat_map(NodeId::as_bytes).copied().collect::<Vec<u8>>().into();
                header.last = *last;
            }
            Self::Supply { updates, last } => {
                header.updates = updates.iter().map(Update::to_wire).collect();
                header.last = *last;
            }
        }
        Frame::new(FrameKind::SWIM_SYNC, &header, Bytes::new())
    }

    /// Reads a frame from a stream.
    ///
    /// # Errors
    /// [`CodecError`] if the frame is no sync message.
    pub fn from_frame(frame: &Frame) -> Result<Decoded<Self>, CodecError> {
        if frame.kind() != FrameKind::SWIM_SYNC {
            return Err(CodecError::Kind(frame.kind()));
        }
        let header: wire::SwimSync = frame.header()?;
        let last = header.last;
        let (updates, refused) = read_updates(header.updates);
        let message = match header.step {
            1 => {
                let hashes: [u64; BUCKETS] = header.buckets.try_into().map_err(|_| CodecError::Sync)?;
                Self::Buckets(Box::new(hashes))
            }
            2 => {
                let buckets = header.digest.iter().map(BucketDigest::from_wire);
                Self::Digest { buckets: buckets.collect::<Result<_, _>>()?, last }
            }
            3 => Self::Exchange { updates, wants: read_wants(&header.wants)?, last },
            4 => Self::Supply { updates, last },
            _ => return Err(CodecError::Sync),
        };
        Ok(Decoded { message, refused })
    }

    /// Whether more frames of this step follow.
    pub const fn is_last(&self) -> bool {
        match self {
            Self::Buckets(_) => true,
            Self::Digest { last, .. } | Self::Exchange { last, .. } | Self::Supply { last, .. } => *last,
        }
    }

    pub(crate) const fn step(&self) -> u32 {
        match self {
            Self::Buckets(_) => 1,
            Self::Digest { .. } => 2,
            Self::Exchange { .. } => 3,
            Self::Supply { .. } => 4,
        }
    }
}

impl BucketDigest {
    fn to_wire(&self) -> wire::SwimBucket {
        let mut entries = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for entry in &self.entries {
            entries.extend_from_slice(entry.id.as_bytes());
            entries.extend_from_slice(&entry.incarnation.0.to_be_bytes());
            entries.push(entry.state as u8);
        }
        wire::SwimBucket { index: self.index.into(), complete: self.complete, entries: entries.into() }
    }

    fn from_wire(bucket: &wire::SwimBucket) -> Result<Self, CodecError> {
        let index = u8::try_from(bucket.index).map_err(|_| CodecError::Sync)?;
        let (records, rest) = bucket.entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(CodecError::Sync);
        }
        let entries = records.iter().map(DigestEntry::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { index, complete: bucket.complete, entries })
    }
}

impl DigestEntry {
    fn from_wire(record: &[u8; ENTRY_BYTES]) -> Result<Self, CodecError> {
        let (id, rest) = record.split_at(32);
        let (incarnation, state) = rest.split_at(8);
        let incarnation = incarnation.try_into().map_err(|_| CodecError::Sync)?;
        Ok(Self {
            id: NodeId::try_from(id)?,
            incarnation: Incarnation(u64::from_be_bytes(incarnation)),
            state: MemberState::from_wire(state[0]).ok_or(CodecError::Sync)?,
        })
    }
}

fn read_updates(updates: Vec<wire::SwimUpdate>) -> (Vec<Update>, usize) {
    let all = updates.len();
    let good: Vec<Update> = updates.into_iter().filter_map(|update| Update::from_wire(update).ok()).collect();
    let refused = all - good.len();
    (good, refused)
}

fn read_wants(bytes: &Bytes) -> Result<Vec<NodeId>, CodecError> {
    let (ids, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || ids.len() > WANTS_MAX {
        return Err(CodecError::Sync);
    }
    Ok(ids.iter().map(|id| NodeId::from_bytes(*id)).collect())
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
