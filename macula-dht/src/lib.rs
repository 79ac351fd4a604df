//! Who has what: nodes announce small signed records under 256-bit keys, others find and watch them.
//!
//! ```text
//!     announce · withdraw · find · watch              (the Directory trait)
//!        ┌───────────┴────────────┐
//!   MemoryDirectory            Kademlia ──────► streams of a Transport
//!   one hub, for tests         ├ kademlia::Node     the thinking: a pure machine
//!   and single processes       └ KademliaDriver     the doing: one task
//! ```
//!
//! Code that needs a directory takes any `D: Directory`. Tests make one from a [`MemoryDirectoryNetwork`]; a real node
//! makes a `Kademlia` (feature `kademlia`, on by default; see its [module](kademlia)). A third implementation
//! proves itself with the suite in [`conformance`] (feature `testing`).
//!
//! ```
//! use macula_dht::{Directory, MemoryDirectoryNetwork};
//! use macula_proto::{Key, NodeId, Realm};
//!
//! async fn tell<D: Directory>(directory: &D, key: Key) -> Result<(), macula_dht::DirectoryError> {
//!     let announced = directory.announce(key, "in the kitchen".into()).await?;
//!     println!("held by {} nodes, {} watchers know", announced.holders, announced.watchers_told);
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), macula_dht::DirectoryError> {
//! let network = MemoryDirectoryNetwork::default();
//! let lamp = network.directory(NodeId::from_bytes([1; 32]));
//! let switch = network.directory(NodeId::from_bytes([2; 32]));
//! let key = Key::derive("example", &Realm::default(), "lamps");
//!
//! let watch = switch.watch(key);
//! watch.ready().await?;
//! tell(&lamp, key).await?;
//! assert_eq!(watch.current().records[0].value, "in the kitchen");
//! # Ok(())
//! # }
//! ```
//!
//! This crate must not know what keys and values mean, nor who is a member: whoever uses it derives the keys, and tells
//! it who came and who died.

#[cfg(feature = "testing")]
pub mod conformance;
mod directory;
#[cfg(feature = "kademlia")]
pub mod kademlia;
mod memory;

pub use directory::{
    Announced, Directory, DirectoryError, Found, Record, VALUE_BYTES_MAX, Watch, WatchSource,
};
#[cfg(feature = "kademlia")]
pub use kademlia::{Kademlia, KademliaConfig, KademliaDriver};
pub use memory::{MemoryDirectory, MemoryDirectoryNetwork};
