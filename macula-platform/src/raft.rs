//! One Raft group: openraft on a [`LogStore`](crate::LogStore) and the mesh's streams.

pub(crate) mod codec;
mod group;
mod log;
mod network;
pub(crate) mod recovery;
mod server;
mod state;
mod types;

pub use group::{Group, GroupError, GroupStatus, Roles, Timing};
pub use state::LogEntry;
pub use types::VoterId;

#[cfg(test)]
#[path = "raft/store_test.rs"]
mod store_tests;

#[cfg(test)]
#[path = "raft/group_test.rs"]
mod group_tests;
