//! The events on the agenda.

use macula_dht::kademlia::{Op, Request, RequestId, Response};
use macula_membership::{Packet, SyncMessage};
use macula_proto::{Contact, Timestamp};

use super::exchange::{ExchangeId, Join};
use crate::NodeIndex;
use crate::faults::Partition;
use crate::node::Layer;
use crate::trace::Digested;

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel<M> {
    pub(crate) message: M,
    /// Of its bytes, or of what it says.
    pub(crate) digest: u64,
    /// Its size as a frame.
    pub(crate) bytes: u64,
}

impl<M> Parcel<M> {
    /// A message that is counted without being encoded.
    pub(crate) fn unencoded(message: M, bytes: usize) -> Self
    where
        M: Digested,
    {
        Self { digest: message.digest(), bytes: bytes as u64, message }
    }
}

/// Something that is going to happen. `lives` says to which life of its node it belongs.
#[derive(Debug)]
pub(crate) enum Event {
    Timer {
        node: NodeIndex,
        lives: u32,
        layer: Layer,
        due: Timestamp,
    },
    Packet {
        from: NodeIndex,
        to: NodeIndex,
        parcel: Parcel<Packet>,
    },
    /// A dial's handshake should be through by now.
    Dialled {
        from: NodeIndex,
        lives: u32,
        to: NodeIndex,
        errand: Errand,
    },
    DialFailed {
        from: NodeIndex,
        lives: u32,
        to: NodeIndex,
        errand: Errand,
    },
    /// A node's transport notices that a link is gone.
    LinkGone {
        node: NodeIndex,
        lives: u32,
        peer: NodeIndex,
    },
    /// A partition has begun so long ago that links across it count as dead.
    Silence {
        partition: Partition,
    },
    /// One step of an exchange of member lists.
    Step {
        exchange: ExchangeId,
        to: NodeIndex,
        parcels: Vec<Parcel<SyncMessage>>,
    },
    ExchangeRefused {
        exchange: ExchangeId,
        to: NodeIndex,
    },
    /// The time of an exchange is over.
    ExchangeOver {
        exchange: ExchangeId,
    },
    JoinAgain {
        from: NodeIndex,
        lives: u32,
        join: Join,
    },
    Request {
        from: NodeIndex,
        lives: u32,
        to: NodeIndex,
        id: RequestId,
        parcel: Parcel<(Contact, Request)>,
    },
    Response {
        to: NodeIndex,
        lives: u32,
        id: RequestId,
        parcel: Parcel<Response>,
    },
    /// The time of a request is over.
    RequestOver {
        node: NodeIndex,
        lives: u32,
        id: RequestId,
    },
    /// A liar says something.
    Lie {
        node: NodeIndex,
        lives: u32,
    },
    /// Links are looked through for idle ones.
    Sweep,
}

/// What a connection is wanted for.
#[derive(Debug)]
pub(crate) enum Errand {
    /// To probe: the membership asked for the link itself.
    Probe,
    /// To exchange member lists.
    Sync,
    /// To exchange member lists with a seed.
    Join(Join),
    /// To fill an empty routing table.
    Bootstrap(Op),
    /// To ask the other's directory.
    Ask(RequestId, Box<Parcel<(Contact, Request)>>),
}

impl Event {
    /// Whose process it reaches; `None` if it is none's.
    pub(crate) const fn recipient(&self) -> Option<NodeIndex> {
        match self {
            Self::Timer { node, .. }
            | Self::LinkGone { node, .. }
            | Self::RequestOver { node, .. }
            | Self::Lie { node, .. } => Some(*node),
            Self::Packet { to, .. }
            | Self::Step { to, .. }
            | Self::ExchangeRefused { to, .. }
            | Self::Request { to, .. }
            | Self::Response { to, .. } => Some(*to),
            Self::Dialled { from, .. } | Self::DialFailed { from, .. } | Self::JoinAgain { from, .. } => {
                Some(*from)
            }
            Self::Silence { .. } | Self::ExchangeOver { .. } | Self::Sweep => None,
        }
    }
}
