//! Procedures: nodes offer them by name, others call them.
//!
//! ```text
//!   caller                                             provider
//!   Rpc::call ── strategy ◄── Providers                Rpc::register ──► Registry ──► Directory::announce
//!      │         (pure)       one Directory::watch                          │
//!      │                      a procedure, cached                           │
//!      ▼                                                                    ▼
//!   CALL ───── small calls share a stream, others have ──► on_stream ──► gate, limits ──► handler (own task)
//!   reply, results ◄─── one each: RESULT … / ERROR ──────────────────────┘
//!      └── dropped, cancelled, out of time: the provider is told, and the handler stopped
//! ```
//!
//! **A handler is never run twice for one call unless the call says that it is idempotent.** Another provider is tried
//! only while it is certain that nothing ran: no connection, or a provider that says so (it does not offer the
//! procedure, has no room, is shutting down, does not allow it). Once the request may have been delivered, a failure
//! is reported, and [`CallError::may_have_run`] tells the two apart.
//!
//! # Answers that are kept
//! A provider may say that its answers are good for a while ([`RegisterOptions::cache_for`]). The caller's node then keeps
//! them and gives them again to the same request – realm, procedure, payload, content type and headers – without asking
//! anybody, for that long after the call began; [`Reply::age`] says so. Only whole answers are kept: no errors, nothing
//! streamed, nothing from a node that was asked by name. That bounds staleness: nobody is told when an answer changes, or when
//! the caller is no longer allowed to ask. [`Caching`] is the caller's say.
//!
//! # Order of calls
//! 1. [`Rpc::new`] over a transport and a directory; [`RpcMetrics::register`] its counters.
//! 2. Pass [`on_peer`](Rpc::on_peer) and the streams of [`Service::Rpc`](macula_proto::Service::Rpc)
//!    ([`on_stream`](Rpc::on_stream)) to it from the transport's `Inbound`, and run its maintenance ([`run`](Rpc::run)).
//! 3. [`register`](Procedures::register), [`call`](Procedures::call), [`call_stream`](Procedures::call_stream),
//!    [`call_duplex`](Procedures::call_duplex).
//! 4. [`drain`](Rpc::drain) before the transport stops.
//!
//! After a restart of the directory: [`replay`](Rpc::replay).
//!
//! # Example
//! ```
//! use std::sync::Arc;
//!
//! use macula_dht::MemoryDirectoryNetwork;
//! use macula_proto::{AllowAll, Frame, NodeId, Realm, Unwatched};
//! use macula_rpc::{Call, CallRequest, HandlerError, Procedures, RegisterOptions, Reply, Rpc, RpcConfig};
//! use macula_transport::memory::{MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
//! use macula_transport::{Inbound, LaneId, PeerEvent, TokioClock, Transport};
//! use tokio_util::sync::CancellationToken;
//!
//! type Node = Rpc<MemoryTransport, macula_dht::MemoryDirectory>;
//!
//! /// Passes on what arrives.
//! struct Wired(Node);
//!
//! impl Inbound<MemoryTransport> for Wired {
//!     fn on_peer(&self, event: PeerEvent) {
//!         self.0.on_peer(&event);
//!     }
//!     fn on_datagram(&self, _: NodeId, _: Frame) {}
//!     async fn on_lane(&self, _: NodeId, _: LaneId, _: Frame) {}
//!     async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
//!         self.0.on_stream(from, first, tx, rx).await;
//!     }
//! }
//!
//! fn start(transport: MemoryTransport, directories: &MemoryDirectoryNetwork) -> Node {
//!     let directory = directories.directory_of(transport.local());
//!     let clock = Arc::new(TokioClock::default());
//!     let rpc = Rpc::new(transport.clone(), directory, Arc::new(AllowAll), Arc::new(Unwatched), clock, RpcConfig::default());
//!     let (wired, maintained) = (Wired(rpc.clone()), rpc.clone());
//!     tokio::spawn(async move { transport.serve(wired, CancellationToken::new()).await });
//!     tokio::spawn(async move { maintained.run(CancellationToken::new()).await });
//!     rpc
//! }
//!
//! async fn shout(call: Call) -> Result<Reply, HandlerError> {
//!     Ok(std::str::from_utf8(&call.payload)?.to_uppercase().into())
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
//! # runtime.block_on(async {
//! let (network, directories) = (MemoryNetwork::new(1), MemoryDirectoryNetwork::default());
//! let anna = start(network.node(1), &directories);
//! let bert = start(network.node(2), &directories);
//!
//! let options = RegisterOptions { description: "shouts".into(), ..RegisterOptions::default() };
//! let _offer = anna.register(Realm::default(), "text.shout".parse()?, options, shout).await?;
//! let reply = bert.call(CallRequest::new("text.shout".parse()?).payload("hello")).await?;
//! assert_eq!(reply.payload, "HELLO");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without a network, `MemoryRpcNetwork` (feature `testing`) does the same within one process; both pass the same
//! conformance suite (`macula_rpc::conformance`).
//!
//! This crate must not know about SWIM, Kademlia's internals, topics, sockets or QUIC.

mod announcer;
mod answers;
mod cache;
mod call;
mod client;
mod config;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(test)]
mod delivery_test;
mod error;
#[cfg(test)]
mod fault_points_test;
mod handler;
mod kept;
mod limits;
#[cfg(any(test, feature = "testing"))]
mod memory;
#[cfg(test)]
mod mesh_test;
mod message;
mod metrics;
mod mux;
#[cfg(test)]
mod observed_test;
mod procedures;
mod providers;
mod quick;
mod registry;
mod roster;
mod rpc;
mod running;
mod server;
mod strategy;
mod stream;
mod tracked;

pub use call::{
    CONTENT_TYPE_BYTES_MAX, Caching, CallRequest, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX,
    HEADERS_BYTES_MAX, HEADERS_MAX, Headers, HeadersError, Reply,
};
pub use config::RpcConfig;
pub use error::{Attempt, CallError, Cause, HandlerError, RegisterError};
pub use handler::{Call, CallerGone, Handler, HandlerFuture, RequestParts};
#[cfg(any(test, feature = "testing"))]
pub use memory::{MemoryRpc, MemoryRpcNetwork};
pub use metrics::{Outcome, RpcMetrics};
pub use procedures::{Procedures, ProviderInfo};
pub use registry::{DESCRIPTION_BYTES_MAX, RegisterOptions, Registration, RegistrationInfo};
pub use rpc::Rpc;
pub use strategy::{Candidate, Strategy};
pub use stream::{PartError, PartSender, ResultStream};
