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
//! This crate must not know about directory keys, topics or procedures.

mod codec;
mod config;
mod driver;
mod effect;
mod event;
mod exchange;
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
mod roster;
mod statement;
mod suspicion;
mod swim;
mod sync;

pub use codec::{CodecError, Decoded};
pub use config::{ConfigError, SwimConfig};
pub use driver::SwimDriver;
pub use effect::{Effect, Effects};
pub use event::{Event, EventError, EventReceiver};
pub use machine::{Machine, MachineParts};
pub use member::{Incarnation, Member, MemberState, TAGS_BYTES_MAX, TAGS_MAX, Tags, TagsError};
pub use membership::{Joined, Membership, MembershipError, SeedFailure, SyncError};
pub use message::{
    BucketDigest, DigestEntry, PACKET_BYTES_MAX, Packet, PacketKind, Rumour, SyncMessage, Update, suspector,
};
pub use metrics::{KindLabel, Refused, RefusedLabel, SwimMetrics};
pub use statement::{Statement, StatementError};
pub use swim::{Swim, SwimOptions};
