//! Who has what: nodes announce small signed records under 256-bit keys, others find and watch them.
//!
//! This crate must not know what keys and values mean.

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
