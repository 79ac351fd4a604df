//! Macula: a mesh for applications at the edge. Nodes find each other, know who is alive, publish and subscribe, and
//! call each other – over one encrypted UDP port, with no broker.
//!
//! ```text
//!            your application
//!                  │ Node: join, publish, subscribe, register, call
//!   ┌──────────────▼───────────────────────────────────────────────┐
//!   │ config · bootstrap · supervision · shutdown · typed payloads   │  this crate
//!   ├───────────────────┬──────────────────────────────────────────┤
//!   │ pubsub · rpc      │ who wants what, who offers what            │
//!   │ membership · dht  │ who is alive, who has what                 │
//!   │ transport         │ QUIC, mutual TLS 1.3, one UDP port         │
//!   └───────────────────┴──────────────────────────────────────────┘
//! ```
//!
//! # Publish and subscribe
//! ```
//! use macula::Decode;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = macula::Node::builder().listen("127.0.0.1:0").start().await?;
//!     let mut rooms = node.subscribe("home.*").await?;
//!     node.publish("home.kitchen", "21.5").await?;
//!     let message = rooms.recv().await.expect("the node is running");
//!     assert_eq!((message.topic.as_str(), message.text()?), ("home.kitchen", "21.5".to_owned()));
//!     node.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # Calls
//! ```
//! use macula::{Call, Decode, Json, Node};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = Node::builder().listen("127.0.0.1:0").start().await?;
//!     let add = |call: Call| async move {
//!         let Json((a, b)) = call.decode::<Json<(i64, i64)>>()?;
//!         macula::reply(Json(a + b))
//!     };
//!     let _offer = node.register("math.add", add).await?;
//!     let Json(sum) = node.call("math.add", Json((1, 2))).await?.decode::<Json<i64>>()?;
//!     assert_eq!(sum, 3);
//!     Ok(())
//! }
//! ```
//!
//! # Two nodes
//! ```
//! use macula::{Decode, Node};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let a = Node::builder().listen("127.0.0.1:0").start().await?;
//!     let b = Node::builder().listen("127.0.0.1:0").start().await?;
//!     b.join(&a.listen_addrs()[0].to_string()).await?;
//!     let mut rooms = b.subscribe("home.#").await?;
//!     let published = a.publish("home.kitchen.light", "on").await?;
//!     assert_eq!(published.peers, 1);
//!     assert_eq!(rooms.recv().await.expect("the node is running").text()?, "on");
//!     Ok(())
//! }
//! ```
//!
//! This crate must not know about HTML, HTTP or terminals.

mod boot_clock;
pub mod bootstrap;
mod builder;
mod calls;
pub mod config;
mod coordination;
mod core;
pub mod data_dir;
mod error;
mod join;
mod leader_calls;
mod message;
mod node;
mod payload;
mod router;
mod shutdown;
pub mod supervisor;
mod tags;
#[cfg(feature = "testing")]
pub mod testing;
mod thread;
mod topics;

pub use builder::NodeBuilder;
pub use config::{Config, ConfigError, ConfigErrors};
pub use coordination::{
    CallbackId, CoordinationError, Election, ElectionChanges, ElectionView, Lock, LockGuard, Log, LogPage,
    LogTail,
};
pub use error::{Error, JoinError, StartError};
pub use join::Joined;
pub use macula_dht::kademlia::{BucketSnapshot, Known, LookupTrace, StepOutcome, TableSnapshot};
pub use macula_dht::{DirectoryError, Found, Record};
pub use macula_membership::{Event, EventError, EventReceiver, Incarnation, Member, MemberState, Tags};
pub use macula_platform::{
    CandidateInfo, ElectionInfo, ElectionName, Epoch, FenceError, FencedStore, Fences, FencingToken,
    FileFences, Foreign, GroupId, GroupStatus, Kinship, Leader, LockInfo, LockMode, LockName, LogEntry,
    LogInfo, LogName, LogOffset, LogRecovery, Manage, MemoryFences, RealmStatus, Recovered, RequestInfo,
    Retention, SessionId, SessionInfo, Standing, VoterId,
};
pub use macula_proto::limits::PAYLOAD_BYTES_MAX;
pub use macula_proto::{
    Access, Action, AllowAll, Contact, Forbidden, Gate, Key, Name, NameError, NodeId, Realm, RealmError,
};
pub use macula_pubsub::tree::LinkInfo;
pub use macula_pubsub::{
    Acknowledged, Filter, FilterError, Group, GroupError, Headers, LagPolicy, Message, MissReason, Missed,
    Pattern, PatternError, PublishError, PublishOptions, Published, RetainError, Retained, RetainedFound,
    RetainedMessage, RetainedReport, RouteInfo, SubscribeError, SubscribeOptions, Subscription,
    SubscriptionInfo, TreeInfo,
};
pub use macula_rpc::{
    Attempt, Caching, Call, CallError, CallRequest, CallerGone, Cause, Handler, HandlerError, PartError,
    PartSender, ProviderInfo, RegisterError, RegisterOptions, Registration, RegistrationInfo, Reply,
    RequestParts, ResultStream, Strategy,
};
pub use macula_transport::{BindError, PeerInfo, TransportError};
pub use message::{Decode, Publish, Publisher, reply};
pub use node::{Health, Node};
pub use payload::{CodecError, FromPayload, IntoPayload, Json, MsgPack, Protobuf};

/// The README's programs, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
