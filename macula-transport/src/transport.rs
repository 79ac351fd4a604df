//! The [`Transport`] trait and what it talks in.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use macula_proto::{Capabilities, Contact, Frame, NodeId, Realm, Version};
use tokio_util::sync::CancellationToken;

use crate::{FrameBatch, LaneError, LaneId, LaneSender, StreamError, TransportError};

/// Whom to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A known node, at whatever addresses the address book has for it.
    Id(NodeId),
    /// Whoever listens at an address: its id is learned (and from then on checked) in the handshake.
    Addr(SocketAddr),
    /// This node at these addresses, and no other: a different id at the address is an error.
    Contact(Contact),
}

/// A live connection, as seen from this side.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Who, proven by certificate.
    pub id: NodeId,
    /// Where its packets come from now.
    pub remote: SocketAddr,
    /// Where it says that it can be reached.
    pub contact: Contact,
    /// The realms it is in.
    pub realms: Vec<Realm>,
    /// Its optional features.
    pub capabilities: Capabilities,
    /// The protocol version agreed on.
    pub version: Version,
    /// Software name and version, for people.
    pub agent: String,
    /// Drawn anew at each start of the peer's process.
    pub instance: u64,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Whether this side dialled.
    pub dialled: bool,
    /// Frames sent to and received from this peer over this connection.
    pub frames_sent: u64,
    /// See `frames_sent`.
    pub frames_received: u64,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// Nothing but pings for the idle time.
    Idle,
    /// Evicted from the full pool, or superseded by the other of two simultaneous dials.
    Evicted,
    /// One side shut down in order.
    Shutdown,
    /// The peer stopped answering.
    TimedOut,
    /// The peer broke the protocol.
    Protocol,
    /// The peer's certificate was revoked.
    Revoked,
    /// One side holds the other for dead ([`HangUp`]).
    GivenUp,
    /// The network said so (reset, unreachable).
    Lost,
}

/// Connections coming and going.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A connection is up, hello done.
    Up(PeerInfo),
    /// The last connection to the peer is gone.
    Down {
        /// Who.
        id: NodeId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why one side of a stream was abandoned. The number goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResetCode(pub u32);

impl ResetCode {
    /// Nobody waits for this any more.
    pub const CANCELLED: Self = Self(0);
    /// The bytes on the stream were not what they should be.
    pub const PROTOCOL: Self = Self(1);
    /// No capacity to serve the stream.
    pub const OVERLOADED: Self = Self(2);
    /// Nobody here serves such a stream.
    pub const UNKNOWN: Self = Self(3);
}

/// A node's link to others. Cheap to clone; all clones are the same endpoint.
///
/// # Guarantees
/// - A peer is who its certificate says: its id is the hash of the key with which it proved the handshake.
/// - At most one live connection a peer; simultaneous dials converge.
/// - `connect`, `lane` and `stream` return after the peer's hello was accepted on both sides, so a refusal is
///   an error here.
/// - Nothing is retried: what a lost connection had not delivered is reported, not sent again.
pub trait Transport: Clone + Send + Sync + 'static {
    /// The sending half of a stream.
    type Tx: StreamTx;
    /// The receiving half of a stream.
    type Rx: StreamRx;

    /// This node, and where it advertises that it can be reached.
    fn local(&self) -> Contact;

    /// Receives until `stop` is cancelled, then drains and closes every connection.
    ///
    /// Nothing is accepted before. Call it once; [`QuicTransport`](crate::QuicTransport) may be served again after the
    /// future was dropped, as when its task panicked.
    fn serve<H: Inbound<Self>>(&self, handler: H, stop: CancellationToken)
    -> impl Future<Output = ()> + Send;

    /// Makes sure that a connection is up, dialling if need be, and says with whom.
    ///
    /// # Errors
    /// Why there is no connection: see [`TransportError`].
    fn connect(&self, target: Target) -> impl Future<Output = Result<PeerInfo, TransportError>> + Send;

    /// Sends a small frame that may be lost, over the live connection to `to`. Never waits, never dials.
    ///
    /// # Errors
    /// [`TransportError::NotConnected`], or [`TransportError::TooLarge`] if it does not fit one packet. A full
    /// send buffer drops the oldest datagrams and counts them.
    fn datagram(&self, to: NodeId, frame: Frame) -> Result<(), TransportError>;

    /// The lane `lane` to `to`, dialling if need be. Keep the sender: getting it again costs a look-up.
    ///
    /// # Errors
    /// Why there is no connection. A lane ends with its connection; then ask for it again.
    fn lane(
        &self,
        to: NodeId,
        lane: LaneId,
    ) -> impl Future<Output = Result<LaneSender, TransportError>> + Send;

    /// Opens a stream to `to` with its first frame, dialling if need be.
    ///
    /// # Errors
    /// Why there is no connection, or no stream. The first frame was not delivered then.
    fn stream(
        &self,
        to: NodeId,
        first: Frame,
    ) -> impl Future<Output = Result<(Self::Tx, Self::Rx), TransportError>> + Send;

    /// The live connections.
    fn peers(&self) -> Vec<PeerInfo>;

    /// Whether there is a live connection to `id`, so that nobody has to dial.
    fn is_connected(&self, id: &NodeId) -> bool {
        self.peers().iter().any(|peer| peer.id == *id)
    }
}

/// A transport that can be told that a peer is dead, by whoever watches over the peers: it notices that much sooner.
pub trait HangUp: Transport {
    /// Closes what connects this node with `id`, at once and without waiting for anything under way, which then fails as
    /// with a connection that is lost. A peer that lives after all sees [`CloseReason::GivenUp`], and either side may
    /// connect again.
    fn hang_up(&self, id: &NodeId);
}

/// What a transport delivers to. All methods may be called for many peers at once.
pub trait Inbound<T: Transport>: Send + Sync + 'static {
    /// A connection came or went. Must not block.
    fn on_peer(&self, event: PeerEvent);

    /// A datagram arrived. Must not block.
    fn on_datagram(&self, from: NodeId, frame: Frame);

    /// A frame arrived on a lane. The next one of that lane is read once this returns: waiting here is
    /// back-pressure on that lane of that peer, and on nothing else.
    fn on_lane(&self, from: NodeId, lane: LaneId, frame: Frame) -> impl Future<Output = ()> + Send;

    /// Frames of a lane that arrived together, in order; some may be left in `frames` if the future is dropped. The same as
    /// [`on_lane`](Self::on_lane) for each, for those who have less to do for many at once. No more than are at hand anyway are
    /// handed over, and the next ones are read once this returns.
    fn on_lane_frames(
        &self,
        from: NodeId,
        lane: LaneId,
        frames: &mut Vec<Frame>,
    ) -> impl Future<Output = ()> + Send {
        async move {
            for frame in frames.drain(..) {
                self.on_lane(from, lane, frame).await;
            }
        }
    }

    /// Nothing more of a lane is at hand: what was held back to be handed over in one go, should go now. Called after
    /// one or more frames, before the lane waits for its peer, and when it ends. Must not block.
    fn on_lane_pause(&self, _from: NodeId, _lane: LaneId) {}

    /// A peer opened a stream. Runs in a task of its own; it is dropped when the connection ends.
    fn on_stream(&self, from: NodeId, first: Frame, tx: T::Tx, rx: T::Rx) -> impl Future<Output = ()> + Send;
}

/// The sending half of a stream. Dropping it unfinished resets the stream with [`ResetCode::CANCELLED`].
pub trait StreamTx: Send + 'static {
    /// Sends a frame; waits while the peer's receive window is full.
    ///
    /// # Errors
    /// [`StreamError::Stopped`] if the peer reads no more, [`StreamError::Lost`] with the connection.
    fn send(&mut self, frame: Frame) -> impl Future<Output = Result<(), StreamError>> + Send;

    /// Sends frames that are at hand together, in order. Dropped half way, it may have sent some of them.
    ///
    /// # Errors
    /// As [`send`](Self::send); some of them may have been sent then.
    fn send_batch(&mut self, batch: FrameBatch) -> impl Future<Output = Result<(), StreamError>> + Send {
        async {
            for frame in batch.into_frames() {
                self.send(frame).await?;
            }
            Ok(())
        }
    }

    /// Cancelled once nothing new should begin on this stream, because its connection waits only for what is under way: a
    /// new stream goes over a new connection then.
    fn draining(&self) -> CancellationToken;

    /// No more frames will come. What was sent is still delivered.
    ///
    /// # Errors
    /// [`StreamError`] if the stream is already over.
    fn finish(&mut self) -> Result<(), StreamError>;

    /// Gives up: the peer sees the code as soon as possible, and what is under way may be dropped.
    fn reset(&mut self, code: ResetCode);

    /// Waits until the peer stops reading or has acknowledged everything after `finish`.
    ///
    /// # Errors
    /// [`StreamError::Stopped`] with the peer's code, [`StreamError::Lost`] with the connection.
    fn closed(&mut self) -> impl Future<Output = Result<(), StreamError>> + Send;
}

/// The receiving half of a stream. Dropping it before the end tells the peer to stop sending.
pub trait StreamRx: Send + 'static {
    /// The next frame; `None` after the peer finished.
    ///
    /// # Errors
    /// [`StreamError::Reset`] if the peer gave up, [`StreamError::Lost`] with the connection,
    /// [`StreamError::Proto`] if the bytes are no frames.
    fn recv(&mut self) -> impl Future<Output = Result<Option<Frame>, StreamError>> + Send;

    /// Says that many small frames will come, so that much is read at once. What is received is the same.
    fn expect_many(&mut self) {}

    /// Tells the peer that nobody reads any more.
    fn stop(&mut self, code: ResetCode);
}

impl LaneSender {
    /// Sends without waiting.
    ///
    /// # Errors
    /// [`LaneError::Full`] gives the frame back; [`LaneError::Closed`] when the connection is gone.
    pub fn try_send(&self, frame: Frame) -> Result<(), LaneError> {
        self.push(frame)
    }
}
