//! What nodes say to each other, as values; `codec.rs` has the bytes.

use std::sync::Arc;

use macula_proto::NodeId;
use prost::Message as _;

use crate::{Accusation, Incarnation, MemberState, Statement};

/// Most bytes of one datagram, frame included.
pub const PACKET_BYTES_MAX: usize = 1_150;

/// What a packet takes besides its updates: frame (5), sequence (11), target (34).
const PACKET_OVERHEAD_BYTES: usize = 50;

/// Room for updates in one packet, in bytes.
pub(crate) const UPDATES_BYTES_MAX: usize = PACKET_BYTES_MAX - PACKET_OVERHEAD_BYTES;

/// An accusation is never longer than this on the wire, and a statement never shorter.
pub(crate) const ACCUSATION_BYTES_MAX: usize = 153;

/// A doubt is never longer than this on the wire.
const DOUBT_BYTES_MAX: usize = 49;

/// How many buckets anti-entropy sorts members into: by the first byte of the id.
pub(crate) const BUCKETS: usize = 256;

/// What a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PacketKind {
    /// Are you there?
    Ping,
    /// Yes; or, from a helper: the target is.
    Ack,
    /// Ask the target for me.
    PingReq,
    /// From a helper: the target has not answered me either.
    Nack,
    /// News without a question.
    Gossip,
}

impl PacketKind {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = 5;
}

/// One datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// What it is for.
    pub kind: PacketKind,
    /// Of the probe; an answer repeats it.
    pub sequence: u64,
    /// Whom to probe, in a ping-req.
    pub target: Option<NodeId>,
    /// News, piggybacked.
    pub updates: Vec<Update>,
}

/// One piece of news.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Update {
    /// A member's own word.
    Statement(Arc<Statement>),
    /// Hearsay: somebody got no answer.
    Suspect(Arc<Accusation>),
    /// Hearsay: somebody's suspicion ran out.
    Dead(Arc<Accusation>),
    /// The sender itself holds a member for suspect or dead. Said to that member, and in an exchange of lists.
    Doubt(Doubt),
}

/// What the sender of a message believes about a member. Nobody passes it on, so it needs no signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Doubt {
    /// About whom.
    pub id: NodeId,
    /// The subject's incarnation, as known to the sender.
    pub incarnation: Incarnation,
}

impl Update {
    /// About whom.
    pub fn subject(&self) -> NodeId {
        match self {
            Self::Statement(statement) => statement.id(),
            Self::Suspect(accusation) | Self::Dead(accusation) => accusation.subject(),
            Self::Doubt(doubt) => doubt.id,
        }
    }

    /// Size in a packet, in bytes; for all but statements an upper bound.
    pub(crate) fn wire_len(&self) -> usize {
        match self {
            // Two tags and two lengths of at most two bytes.
            Self::Statement(statement) => statement.signed().encoded_len() + 6,
            Self::Suspect(_) | Self::Dead(_) => ACCUSATION_BYTES_MAX,
            Self::Doubt(_) => DOUBT_BYTES_MAX,
        }
    }
}

/// One frame of anti-entropy, on a stream. The order of the steps is in `membership.proto`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncMessage {
    /// Step 1: hashes of who is present, by bucket.
    Buckets(Box<[u64; BUCKETS]>),
    /// Step 2: who is in the buckets that differ.
    Digest {
        /// Bucket by bucket.
        buckets: Vec<BucketDigest>,
        /// No more frames of this step.
        last: bool,
    },
    /// Step 3: what the answerer lacks, and what the asker lacks.
    Exchange {
        /// What the answerer lacks.
        updates: Vec<Update>,
        /// Whose word the asker lacks.
        wants: Vec<NodeId>,
        /// No more frames of this step.
        last: bool,
    },
    /// Step 4: what was wanted.
    Supply {
        /// What the asker lacked.
        updates: Vec<Update>,
        /// No more frames at all.
        last: bool,
    },
}

/// The members of one bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BucketDigest {
    /// First byte of the ids.
    pub index: u8,
    /// Whether all of the bucket is listed.
    pub complete: bool,
    /// Who, how new, and what is believed.
    pub entries: Vec<DigestEntry>,
}

/// One member in a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestEntry {
    /// Who.
    pub id: NodeId,
    /// How new.
    pub incarnation: Incarnation,
    /// What is believed.
    pub state: MemberState,
}
