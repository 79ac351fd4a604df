//! Macula: a mesh for applications at the edge.

pub mod bootstrap;
pub mod config;
pub mod data_dir;
pub mod supervisor;
