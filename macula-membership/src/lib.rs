//! Who is alive: SWIM with Lifeguard, as a pure state machine and a thin driver.
//!
//! ```text
//!   transport ── on_datagram / on_stream / on_peer ──▶ Swim ──▶ inbox ──▶ SwimDriver
//!       ▲                                                                    │ on_packet, on_timeout, …
//!       │ datagram, connect, stream                                       Machine   (pure)
//!       └────────────────────────────── Effect ◀──────────────────────────────┘
//!                                         └──▶ Event ──▶ subscribers, snapshot
//! ```
//!
//! Call order: [`Swim::new`], run the [`SwimDriver`], route the transport's frames of this layer to the [`Swim`], then
//! [`join`](Membership::join). A simulation takes the [`Machine`] alone.
//!
//! ```
//! use std::sync::Arc;
//! use macula_membership::{Membership, Swim, SwimConfig};
//! use macula_proto::{Ed25519Verifier, Frame, NodeId};
//! use macula_transport::memory::{MemoryConfig, MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
//! use macula_transport::{Inbound, LaneId, PeerEvent, Target, TokioClock, Transport};
//! use tokio_util::sync::CancellationToken;
//!
//! /// The wiring: what arrives goes to the membership.
//! struct Route(Swim<MemoryTransport>);
//!
//! impl Inbound<MemoryTransport> for Route {
//!     fn on_peer(&self, event: PeerEvent) {
//!         self.0.on_peer(&event);
//!     }
//!     fn on_datagram(&self, from: NodeId, frame: Frame) {
//!         self.0.on_datagram(from, frame);
//!     }
//!     async fn on_lane(&self, _: NodeId, _: LaneId, _: Frame) {}
//!     async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
//!         self.0.on_stream(from, first, tx, rx).await;
//!     }
//! }
//!
//! fn start(network: &MemoryNetwork, n: u8, stop: &CancellationToken) -> Swim<MemoryTransport> {
//!     let config = MemoryConfig::from(n);
//!     let key = Arc::new(config.key.clone());
//!     let transport = network.node(config);
//!     let clock = Arc::new(TokioClock::default());
//!     let (swim, driver) =
//!         Swim::new(transport.clone(), SwimConfig::default(), key, Arc::new(Ed25519Verifier), clock, n.into());
//!     let (route, serving) = (Route(swim.clone()), stop.clone());
//!     tokio::spawn(async move { transport.serve(route, serving).await });
//!     tokio::spawn(driver.run(stop.clone()));
//!     swim
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
//! let (network, stop) = (MemoryNetwork::new(7), CancellationToken::new());
//! let first = start(&network, 1, &stop);
//! let second = start(&network, 2, &stop);
//! let joined = second.join(vec![Target::Contact((*first.local().contact).clone())]).await?;
//! assert_eq!(joined.members, 2);
//! # stop.cancel();
//! # Ok::<(), macula_membership::MembershipError>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The budget of connections
//! Over QUIC, the first packet to a stranger costs a handshake. So a node probes its successors on a few rings, gossips
//! over links that are open anyway, and dials only for this, however many members there are:
//!
//! | what | links | dials a second, by default |
//! |---|---|---|
//! | neighbours on the [`rings`](SwimConfig::rings), to both sides | 2 a ring: 6 | none, until they change |
//! | a random member every [`random_probe_every`](SwimConfig::random_probe_every) periods | until idle | 1/16 |
//! | lists exchanged with a neighbour every [`sync_interval`](SwimConfig::sync_interval) | those | none |
//! | one of the dead every [`recontact_interval`](SwimConfig::recontact_interval), while some are remembered | none | 1/30 |
//!
//! In steady state that is at most 0.07 dials a node and second (0.1 while dead members are remembered), and as many that
//! are accepted; links that the transport closes after being idle for `t` seconds add `0.2 t` to the six: 18 with the
//! usual 60 s. A newcomer dials its successors at once, is dialled by its predecessors, and exchanges lists some five times more
//! within its first half minute; whoever dies or leaves costs his neighbours one dial a ring and side. Requests to
//! [`indirect_count`](SwimConfig::indirect_count) helpers go over any open link and keep it open, so where packets are
//! lost there are more. A pool smaller than all of this closes the links that were used longest ago, which are not the
//! neighbours'.
//!
//! # Another implementation
//! Whoever implements [`Membership`] otherwise proves it with the suite in `conformance` (feature `testing`): a core, and
//! capabilities that not every protocol has. This crate's own tests run the core on the crate `foca` as well.
//!
//! This crate must not know about directory keys, topics or procedures.

mod accusation;
#[cfg(test)]
mod attack_test;
mod codec;
mod config;
#[cfg(feature = "testing")]
pub mod conformance;
mod driver;
mod effect;
mod event;
mod exchange;
#[cfg(feature = "testing")]
mod fixed;
mod health;
mod inbox;
mod judge;
mod machine;
mod member;
mod membership;
mod message;
mod metrics;
mod news;
mod overlay;
mod probe;
mod queues;
mod roster;
mod size;
mod statement;
mod suspicion;
mod swim;
mod sync;

pub use accusation::Accusation;
pub use codec::{CodecError, Decoded};
pub use config::{ConfigError, SwimConfig};
pub use driver::SwimDriver;
pub use effect::{Effect, Effects};
pub use event::{Event, EventError, EventReceiver};
#[cfg(feature = "testing")]
pub use fixed::{StaticHub, StaticMembership};
pub use machine::{Machine, MachineParts};
pub use member::{Incarnation, Member, MemberState, TAGS_BYTES_MAX, TAGS_MAX, Tags, TagsError};
pub use membership::{Joined, Membership, MembershipError, SeedFailure, SyncError};
pub use message::{
    BucketDigest, DigestEntry, Doubt, PACKET_BYTES_MAX, Packet, PacketKind, SyncMessage, Update,
};
pub use metrics::{KindLabel, Refused, RefusedLabel, SwimMetrics};
pub use queues::Queue;
pub use statement::{Statement, StatementError};
pub use swim::{Swim, SwimOptions};
