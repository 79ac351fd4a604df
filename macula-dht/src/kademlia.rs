//! The real thing: Kademlia (Maymounkov & Mazières 2002) over a transport.
//!
//! ```text
//!   Kademlia (handle) ──commands──► KademliaDriver ──time, messages──► Node
//!        ▲                             │    ▲                           ├ Table     whom it knows
//!        │ Watch                       │    └───────── effects ─────────┤ Lookup    finding the closest
//!        └────── Board ◄───────────────┘                                ├ Store     records held for others
//!                                      └──► one stream a request        └ Watchers  who is told of changes
//! ```
//!
//! A node's machine, [`Node`], is pure: it is given the time and messages and says what to do. The simulator runs
//! thousands of the very same machines.
//!
//! Call order: [`Kademlia::new`]; run the driver; hand incoming directory streams to [`Kademlia::on_stream`] and new
//! connections to [`Kademlia::peer_up`]; [`Kademlia::bootstrap`]; then use it as a [`Directory`](crate::Directory). When
//! membership reports a death, call [`Kademlia::peer_lost`].
//!
//! ```
//! use std::sync::Arc;
//! use macula_dht::{Directory, Kademlia, KademliaConfig};
//! use macula_proto::{AllowAll, Ed25519Verifier, Frame, Key, NodeId, Realm};
//! use macula_transport::memory::{MemoryConfig, MemoryNetwork, MemoryTransport};
//! use macula_transport::{Inbound, LaneId, PeerEvent, Target, TokioClock, Transport};
//! use tokio_util::sync::CancellationToken;
//!
//! struct Wiring(Kademlia<MemoryTransport>);
//!
//! impl Inbound<MemoryTransport> for Wiring {
//!     fn on_peer(&self, event: PeerEvent) {
//!         if let PeerEvent::Up(peer) = event {
//!             self.0.peer_up(&peer);
//!         }
//!     }
//!     fn on_datagram(&self, _: NodeId, _: Frame) {}
//!     async fn on_lane(&self, _: NodeId, _: LaneId, _: Frame) {}
//!     async fn on_stream(
//!         &self,
//!         from: NodeId,
//!         first: Frame,
//!         tx: <MemoryTransport as Transport>::Tx,
//!         rx: <MemoryTransport as Transport>::Rx,
//!     ) {
//!         self.0.on_stream(from, first, tx, rx).await; // where `first.kind().service()` is `Service::Directory`
//!     }
//! }
//!
//! fn start(network: &MemoryNetwork, n: u8) -> (MemoryTransport, Kademlia<MemoryTransport>) {
//!     let config = MemoryConfig::from(n);
//!     let key = Arc::new(config.key.clone());
//!     let transport = network.node(config);
//!     let (kademlia, driver) = Kademlia::new(
//!         transport.clone(),
//!         KademliaConfig::default(),
//!         key,
//!         Arc::new(Ed25519Verifier),
//!         Arc::new(TokioClock::default()),
//!         Arc::new(AllowAll),
//!         n.into(),
//!     );
//!     let stop = CancellationToken::new();
//!     tokio::spawn(driver.run(stop.clone()));
//!     let (serving, wiring) = (transport.clone(), Wiring(kademlia.clone()));
//!     tokio::spawn(async move { serving.serve(wiring, stop).await });
//!     (transport, kademlia)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), macula_dht::DirectoryError> {
//! let network = MemoryNetwork::new(1);
//! let (seed, lamp) = start(&network, 1);
//! let (_, switch) = start(&network, 2);
//! switch.bootstrap(vec![Target::Addr(seed.local().addrs[0])]).await?;
//!
//! let key = Key::derive("example", &Realm::default(), "lamps");
//! lamp.announce(key, "in the kitchen".into()).await?;
//! assert_eq!(switch.find(key).await?.records[0].value, "in the kitchen");
//! # Ok(())
//! # }
//! ```
//!
//! # Hostile nodes
//! Records are signed, so nobody can forge an answer; but nodes can keep records to themselves, name nobody but each other,
//! or make up contacts. Against that:
//! - One half of a full bucket is for those known longest, the other is drawn by lot from all that were ever heard from:
//!   neither coming first nor coming in floods fills a table.
//! - The own neighbourhood is looked up again soon after a bootstrap and then ever less often, over a second path that
//!   starts at those known for longest.
//! - A lookup asks last whom only nodes name whose other referrals were silent, and follows only so long chains.
//! - With [`KademliaConfig::paths`] above 1, lookups, announcements and watches take ways without a common node.
//! - One subnet has few places in a table, in a lookup and in a store ([`SubnetLimits`], [`Quotas`]).
//!
//! Assumed is that not all of a node's seeds are hostile. In the simulator, where a fifth of 1,000 nodes lies and was
//! there before all others but the seed, at least 99 of 100 lookups over four paths find what honest nodes announced
//! (scenario `dht-liars`).
//!
//! # Limits
//! One request is one stream: a request frame, a response frame. An answer holds at most k contacts and 52 KiB of records;
//! more records come in further pages, up to [`Quotas::answer_records`] at a key; beyond that, a random sample of one page
//! and an estimate. Everything that is fed by peers is bounded by [`Quotas`], the table's geometry, or a constant
//! beside it.

mod board;
mod bucket;
mod config;
mod credit;
mod driver;
mod lives;
mod lookup;
mod message;
mod metrics;
mod node;
mod record;
mod service;
mod skew;
mod store;
mod subnet;
mod table;
mod watchers;

pub use config::{KademliaConfig, Quotas, SubnetLimits};
pub use driver::KademliaDriver;
pub use lookup::{LookupStep, LookupTrace, StepOutcome};
pub use message::{Find, Findings, MessageError, Request, Response, StoreOutcome, Stored};
pub use metrics::{DhtMetrics, RefusalLabel};
pub use node::{Done, Effect, Failure, Node, Now, Op, ReplyTo, RequestId};
pub use record::{RecordBody, RecordError, SignedRecord, TTL_MAX};
pub use service::Kademlia;
pub use store::{Page, Put, Refusal, Store};
pub use table::{BucketSnapshot, Heard, Known, Table, TableSnapshot};

#[cfg(test)]
mod attack_test;
#[cfg(test)]
mod mesh_test;
#[cfg(test)]
mod node_test;
