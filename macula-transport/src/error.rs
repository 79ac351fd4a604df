//! What can go wrong, grouped by whose fault it is.

use std::net::SocketAddr;
use std::time::Duration;

use macula_proto::{Frame, NodeId, ProtoError};

use crate::{LaneId, ResetCode};

/// Why there is no connection, or nothing could be sent over it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    // The caller's doing.
    /// No address is known for the node.
    #[error("no address is known for node {}", .0.short())]
    NoAddress(NodeId),
    /// No connection is up, and this verb does not dial.
    #[error("not connected to node {}", .0.short())]
    NotConnected(NodeId),
    /// A lane number past the last one.
    #[error("there is no lane {}: a peer has {}", .0.0, LaneId::COUNT)]
    NoSuchLane(LaneId),
    /// A node does not connect to itself.
    #[error("a node does not connect to itself")]
    Myself,
    /// A frame that does not fit what should carry it.
    #[error("{bytes} bytes do not fit: at most {bytes_max} go into one datagram on this path")]
    TooLarge {
        /// The frame's size.
        bytes: usize,
        /// What fits.
        bytes_max: usize,
    },
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Closed,

    // The peer's doing.
    /// Someone else answers at the address.
    #[error("expected node {}, but node {} answers at {addr}", expected.short(), found.short())]
    WrongPeer {
        /// Who should be there.
        expected: NodeId,
        /// Who is there.
        found: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// The peer, or this node about the peer, said no.
    #[error("{addr}: {refusal}")]
    Refused {
        /// Where.
        addr: SocketAddr,
        /// What was said.
        refusal: Refusal,
    },
    /// The peer broke the protocol in its hello.
    #[error("{addr} sent a hello that is none: {cause}")]
    Hello {
        /// Where.
        addr: SocketAddr,
        /// What is wrong with it.
        cause: String,
    },

    // The environment.
    /// Nobody answered at any address in time.
    #[error("no answer from {} within {waited:?}", list(addrs))]
    Unreachable {
        /// Where it was tried.
        addrs: Vec<SocketAddr>,
        /// How long.
        waited: Duration,
    },
    /// The handshake failed below TLS authentication.
    #[error("{addr}: the connection failed: {cause}")]
    Connection {
        /// Where.
        addr: SocketAddr,
        /// What the network or QUIC said.
        cause: String,
    },
    /// A recent dial failed; the next try is allowed after a pause.
    #[error("backing off from {}: next try in {retry_in:?} (last failure: {cause})", id.short())]
    BackingOff {
        /// Whom.
        id: NodeId,
        /// When the next dial will be made.
        retry_in: Duration,
        /// Why the last one failed.
        cause: String,
    },

    // Overload.
    /// Every pooled connection is in use.
    #[error("all {0} connections of the pool are in use")]
    PoolFull(usize),
}

/// Why one side refuses the other. Over the wire it is a number, in a TLS alert, a close code or a welcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The certificate's subject does not name the hash of its key.
    #[error("the certificate's subject does not name the node id of its key")]
    SubjectMismatch,
    /// The handshake was not signed with the certificate's key.
    #[error("the certificate's key was not proven")]
    KeyNotProven,
    /// The certificate is no usable one.
    #[error("the certificate is not usable: {0}")]
    BadCertificate(String),
    /// CA mode: no chain to a configured authority.
    #[error("the certificate does not lead to a configured authority")]
    UnknownAuthority,
    /// Not valid yet, or no more.
    #[error("the certificate has expired or is not valid yet")]
    Expired,
    /// On a revocation list.
    #[error("the certificate is revoked")]
    Revoked,
    /// The hello's signature, connection binding or contact does not fit the certificate.
    #[error("the hello is not this connection's or not this peer's")]
    TamperedHello,
    /// No common protocol version, or another application protocol in the TLS handshake.
    #[error("no common protocol version")]
    Version,
    /// No realm in common.
    #[error("no realm in common")]
    Realm,
    /// Policy says no.
    #[error("refused by policy: {0}")]
    Policy(String),
    /// Too many connections, in all or from one source.
    #[error("the peer has no room for another connection")]
    Full,
    /// Both dial each other at once, and the other dial goes on. Seen only if that one fails, too.
    #[error("the peer was dialling as well")]
    Crossed,
    /// A code that this version has no name for.
    #[error("refused with code {code}: {reason}")]
    Unknown {
        /// The code on the wire.
        code: u32,
        /// The peer's words.
        reason: String,
    },
}

/// Why a frame was not taken by a lane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The queue is full. Here is the frame.
    #[error("the lane's queue is full")]
    Full(Frame),
    /// The connection is gone. Here is the frame.
    #[error("the lane's connection is gone")]
    Closed(Frame),
}

/// Why a stream ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer gave up sending.
    #[error("the peer reset the stream (code {})", .0.0)]
    Reset(ResetCode),
    /// The peer stopped reading.
    #[error("the peer stopped reading (code {})", .0.0)]
    Stopped(ResetCode),
    /// The connection is gone.
    #[error("the connection is gone")]
    Lost,
    /// This half was finished or reset on this side.
    #[error("this half of the stream is already closed")]
    Finished,
    /// The bytes are no frames.
    #[error("bad frame: {0}")]
    Proto(#[from] ProtoError),
}

fn list(addrs: &[SocketAddr]) -> String {
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
