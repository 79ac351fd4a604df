//! The vocabulary of the Macula mesh: ids, keys, names, wire messages and the frame codec.
//!
//! ```text
//!   NodeId  = SHA-256(public key)          Name   = "be.cortexiq.home.kitchen"
//!   Key     = SHA-256(domain, realm, name) Realm  = "default"
//!
//!   Frame   = length · kind · header length · header (protobuf) · payload (raw bytes)
//! ```
//!
//! Everything here is synchronous and pure: bytes in, values or a named error out. Decoding allocates at most
//! a small multiple of the frame it was given (see [`limits`]).
//!
//! ```
//! use bytes::Bytes;
//! use macula_proto::{Frame, FrameDecoder, FrameKind, wire};
//!
//! let frame = Frame::new(FrameKind::LANE_OPEN, &wire::LaneOpen { lane: 1 }, Bytes::from_static(b"tail"))?;
//!
//! let mut decoder = FrameDecoder::default();
//! decoder.feed(frame.to_bytes());
//! let back = decoder.next_frame()?.expect("one whole frame was fed");
//! assert_eq!(back.header::<wire::LaneOpen>()?.lane, 1);
//! assert_eq!(back.payload().as_ref(), b"tail");
//! # Ok::<(), macula_proto::ProtoError>(())
//! ```
//!
//! This crate must not know about sockets, tasks or policy.

mod clock;
mod contact;
mod frame;
mod gate;
mod id;
mod keys;
pub mod limits;
mod liveness;
mod message;
mod name;
mod realm;
mod timers;
mod varint;
mod version;

/// The wire messages, generated from `proto/*.proto`. What each field means is written down there and in
/// `docs/PROTOCOL.md`.
#[allow(missing_docs, clippy::all, clippy::use_self, unused_qualifications, unreachable_pub)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/macula.v1.rs"));
}

pub use clock::{Clock, SystemClock, Timestamp, UnixMillis};
pub use contact::{Contact, ContactError};
pub use frame::{Frame, FrameDecoder, FrameKind, ProtoError, Service};
pub use gate::{Access, Action, AllowAll, Forbidden, Gate};
pub use id::{Distance, IdError, Key, NodeId};
pub use keys::{
    Domain, Ed25519Verifier, KeyError, PublicKey, SecretKey, Signature, SignedError, Signer, Verifier, open,
    seal,
};
pub use liveness::{Liveness, Unwatched};
pub use message::{MessageError, decode};
pub use name::{Name, NameError};
pub use realm::{Realm, RealmError};
pub use timers::Timers;
pub use version::{ALPN, Capabilities, Version, VersionRange};
