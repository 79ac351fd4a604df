//! Authenticated connections between Macula nodes, with three verbs: a datagram, a lane, a stream.
//!
//! ```text
//!   services (membership, directory, pub/sub, rpc)
//!        │ datagram / lane / stream            ▲ Inbound
//!   ┌────▼───────────────────────────────────────────┐
//!   │ Transport:  QuicTransport  |  MemoryTransport   │
//!   └─────────────────────────────────────────────────┘
//! ```
//!
//! Call order: make a transport; [`serve`](Transport::serve) it in a task, with an [`Inbound`] handler and a token that
//! stops it; then [`connect`](Transport::connect), and send by [`datagram`](Transport::datagram),
//! [`lane`](Transport::lane) or [`stream`](Transport::stream).
//!
//! Two nodes in one process, and a frame from one to the other:
//!
//! ```
//! use bytes::Bytes;
//! use macula_proto::{Frame, FrameKind, NodeId, wire};
//! use macula_transport::memory::{MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
//! use macula_transport::{Inbound, LaneId, PeerEvent, Target, Transport};
//! use tokio::sync::mpsc;
//! use tokio_util::sync::CancellationToken;
//!
//! /// Hands on what comes on lanes. Waiting for room in the channel is back-pressure on the sender.
//! struct Handler(mpsc::Sender<(NodeId, Frame)>);
//!
//! impl Inbound<MemoryTransport> for Handler {
//!     fn on_peer(&self, _event: PeerEvent) {}
//!     fn on_datagram(&self, _from: NodeId, _frame: Frame) {}
//!     async fn on_lane(&self, from: NodeId, _lane: LaneId, frame: Frame) {
//!         let _ = self.0.send((from, frame)).await;
//!     }
//!     async fn on_stream(&self, _from: NodeId, _first: Frame, _tx: MemoryTx, _rx: MemoryRx) {}
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
//! let network = MemoryNetwork::new(1);
//! let (alice, bob) = (network.node(1), network.node(2));
//! let stop = CancellationToken::new();
//! let (to_alice, _) = mpsc::channel(16);
//! let (to_bob, mut bobs) = mpsc::channel(16);
//! let serving = [(alice.clone(), to_alice), (bob.clone(), to_bob)].map(|(node, inbox)| {
//!     let stop = stop.clone();
//!     tokio::spawn(async move { node.serve(Handler(inbox), stop).await })
//! });
//!
//! let peer = alice.connect(Target::Contact(bob.local())).await?;
//! let lane = alice.lane(peer.id, LaneId::DATA).await?;
//! lane.send(Frame::new(FrameKind::PUBLISH, &wire::LaneOpen::default(), Bytes::from_static(b"hello"))?).await?;
//!
//! let (from, frame) = bobs.recv().await.expect("bob is served");
//! assert_eq!((from, frame.payload().as_ref()), (alice.local().id, b"hello".as_slice()));
//!
//! stop.cancel(); // what was accepted is still delivered
//! for node in serving {
//!     node.await?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate must not know about topics, SWIM or procedures: to it, a frame is a kind and some bytes.

mod batch;
mod book;
mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod error;
mod identity;
mod lane;
#[cfg(feature = "testing")]
pub mod memory;
mod metrics;
mod quic;
mod transport;

pub use batch::FrameBatch;
pub use book::AddressBook;
pub use clock::TokioClock;
pub use error::{LaneError, Refusal, StreamError, TransportError};
pub use identity::{Identity, IdentityError};
pub use lane::{LaneId, LaneQueue, LaneSender, lane_queue};
pub use metrics::{Dropped, TransportMetrics};
#[cfg(feature = "testing")]
pub use quic::{BareQuic, LineFaults};
pub use quic::{BindError, QuicConfig, QuicRx, QuicTransport, QuicTx, Trust, TrustError};
pub use transport::{
    CloseReason, HangUp, Inbound, PeerEvent, PeerInfo, ResetCode, StreamRx, StreamTx, Target, Transport,
};
