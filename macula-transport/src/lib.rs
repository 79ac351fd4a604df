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
//! This crate must not know about topics, SWIM or procedures: to it, a frame is a kind and some bytes.

mod book;
mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod error;
mod lane;
#[cfg(feature = "testing")]
pub mod memory;
mod transport;

pub use book::AddressBook;
pub use clock::TokioClock;
pub use error::{LaneError, Refusal, StreamError, TransportError};
pub use lane::{LaneId, LaneQueue, LaneSender, lane_queue};
pub use transport::{
    CloseReason, Inbound, PeerEvent, PeerInfo, ResetCode, StreamRx, StreamTx, Target, Transport,
};
