//! Who has what: nodes announce small signed records under 256-bit keys, others find and watch them.
//!
//! This crate must not know what keys and values mean.

mod directory;
mod memory;

pub use directory::{
    Announced, Directory, DirectoryError, Found, Record, VALUE_BYTES_MAX, Watch, WatchSource,
};
pub use memory::{MemoryDirectory, MemoryDirectoryNetwork};
