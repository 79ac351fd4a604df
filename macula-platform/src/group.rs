//! A node's part in the coordination of its realms.

mod ask;
mod client;
mod config;
mod duty;
mod election;
mod error;
mod feed;
mod lock;
mod log;
mod message;
mod part;
mod peers;
mod plant;
mod recover;
mod seat;
mod seen;
mod service;
mod settle;
mod steward;
mod watching;

pub use config::{CoordinationConfig, Founding};
pub use election::{CallbackId, Election, ElectionChanges, ElectionView};
pub use error::CoordinationError;
pub use lock::{Lock, LockGuard};
pub use log::{Log, LogPage, LogTail};
pub use message::Manage;
pub use peers::Peers;
#[cfg(feature = "testing")]
pub use plant::Plant;
pub use recover::{Foreign, Kinship, Recovered};
pub use service::{Coordination, CoordinationEnvironment, RealmStatus};

/// What goes over the wire, for those who feed its decoders.
#[cfg(feature = "testing")]
pub(crate) mod wire_forms {
    pub(crate) use super::feed::{Interest, change_in, change_out};
    pub(crate) use super::message::{Ask, Question, Told};
    pub(crate) use super::seen::Look;
}

#[cfg(test)]
#[path = "group/service_test.rs"]
mod tests;
