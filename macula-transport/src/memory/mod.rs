//! The in-memory twin of the QUIC transport: whole meshes in one process, with faults, under paused time.
//!
//! ```text
//!   MemoryTransport ── connect ──► handshake ──► Connection ─┬─ pipes (lanes, streams): reliable, ordered, bounded
//!                                                            └─ datagrams: lost, doubled, reordered
//!   MemoryNetwork: who listens where · Faults · partitions · pauses · crashes · one seeded generator
//! ```
//!
//! What it promises is what [`Transport`](crate::Transport) promises, checked by the same
//! [conformance suite](crate::conformance) as QUIC. What happens on the way is up to the network's [`Faults`]:
//!
//! - Datagrams are lost, doubled and reordered.
//! - Lanes and streams are reliable: a loss shows as the delay of a retransmission. A partition or a pause stalls
//!   them; when it lasts longer than the peer timeout, the connection ends as
//!   [`TimedOut`](crate::CloseReason::TimedOut) on both sides.
//!
//! Run it on a current-thread runtime with tokio's time paused: then the same seed and the same calls give the same
//! faults at the same virtual times. No map with a randomly seeded hash is iterated over.
//!
//! It leaves out: certificates (an identity is believed), dial back-off, congestion, and the trip that a
//! flow-control credit takes back to the sender.

mod config;
mod connection;
mod datagrams;
mod dial;
mod endpoint;
mod faults;
mod network;
mod pipe;
mod pool;
mod serve;
mod stream;
mod transport;

pub use config::MemoryConfig;
pub use faults::Faults;
pub use network::MemoryNetwork;
pub use stream::{MemoryRx, MemoryTx};
pub use transport::MemoryTransport;
