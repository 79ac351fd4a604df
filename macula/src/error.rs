//! What can go wrong at the facade: the layers' errors under one roof.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use macula_dht::DirectoryError;
use macula_platform::{CoordinationError, StoreError};
use macula_proto::{NameError, Realm, RealmError};
use macula_pubsub::{FilterError, GroupError, PatternError, PublishError, RetainError, SubscribeError};
use macula_rpc::{CallError, RegisterError};
use macula_transport::{BindError, IdentityError, TransportError};

use crate::config::{ConfigError, ConfigErrors};
use crate::data_dir::DataDirError;
use crate::payload::CodecError;

/// Why an operation of a [`Node`](crate::Node) failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The caller's doing.
    /// A topic or procedure name breaks a rule.
    #[error("{0}")]
    Name(#[from] NameError),
    /// A subscription pattern breaks a rule.
    #[error("{0}")]
    Pattern(#[from] PatternError),
    /// A subscription's filter breaks a rule.
    #[error("{0}")]
    Filter(#[from] FilterError),
    /// The name of a queue group breaks a rule.
    #[error("{0}")]
    Group(#[from] GroupError),
    /// A realm name breaks a rule.
    #[error("{0}")]
    Realm(#[from] RealmError),
    /// A payload does not fit its format.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// This node is not in the realm.
    #[error("this node is not in realm `{0}`")]
    NotInRealm(Realm),

    // The layers'.
    /// Joining failed.
    #[error("{0}")]
    Join(#[from] JoinError),
    /// Publishing failed.
    #[error("{0}")]
    Publish(#[from] PublishError),
    /// A value is not retained.
    #[error("{0}")]
    Retain(#[from] RetainError),
    /// Subscribing failed.
    #[error("{0}")]
    Subscribe(#[from] SubscribeError),
    /// Registering failed.
    #[error("{0}")]
    Register(#[from] RegisterError),
    /// A call failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// A directory lookup failed.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    /// An election, a lock or a log did not do what it was asked for.
    #[error("{0}")]
    Coordination(#[from] CoordinationError),

    /// The node is shut down, or shutting down.
    #[error("this node is shut down")]
    Closed,
}

/// Why a mesh could not be joined.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The address is none, or its name does not resolve.
    #[error("`{addr}` is not an address that can be joined: {cause}")]
    Address {
        /// As given.
        addr: String,
        /// Why not.
        cause: String,
    },
    /// Nobody could be connected to.
    #[error("no connection to {addr}: {}", without(addr, cause))]
    Connect {
        /// As given.
        addr: String,
        /// What the transport says.
        cause: TransportError,
    },
    /// Somebody answered, but the list of members could not be had.
    #[error("{addr} answers, but joining through it failed: {cause}")]
    Sync {
        /// As given.
        addr: String,
        /// What membership says.
        cause: String,
    },
    /// It took too long.
    #[error("joining through {addr} took longer than {waited:?}")]
    Timeout {
        /// As given.
        addr: String,
        /// How long it was waited.
        waited: Duration,
    },
}

/// What the transport says, without the address if that was said already.
fn without(addr: &str, cause: &TransportError) -> String {
    let cause = cause.to_string();
    cause.strip_prefix(addr).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&cause).to_owned()
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// The data directory cannot be used.
    #[error("{0}")]
    DataDir(#[from] DataDirError),
    /// The identity cannot be read or made.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A setting that only the node itself can judge: the id that the key should have.
    #[error("{0}")]
    Setting(#[from] ConfigError),
    /// A membership setting is out of range.
    #[error("{0}")]
    Membership(#[from] macula_membership::ConfigError),
    /// A configured file cannot be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// What the node keeps of groups cannot be opened.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The socket cannot be opened.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// No port of the default range is free.
    #[error("no UDP port from {} to {} is free", first.port(), last.port())]
    NoPort {
        /// Where the search began.
        first: SocketAddr,
        /// Where it ended.
        last: SocketAddr,
    },
    /// The system gave no thread or event loop.
    #[error("no thread for the node: {0}")]
    Thread(io::Error),
}

impl StartError {
    /// Whether something that the node needs is in use by another process: its directory, or its port.
    pub const fn is_in_use(&self) -> bool {
        matches!(
            self,
            Self::DataDir(DataDirError::InUse { .. }) | Self::Bind(BindError::InUse(_)) | Self::NoPort { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use macula_transport::Refusal;

    use super::*;

    #[test]
    fn an_address_is_said_once() {
        let cause = |at: &str| TransportError::Refused { addr: at.parse().unwrap(), refusal: Refusal::Realm };
        let shown = |addr: &str, at| JoinError::Connect { addr: addr.into(), cause: cause(at) }.to_string();
        assert_eq!(
            shown("127.0.0.1:47000", "127.0.0.1:47000"),
            "no connection to 127.0.0.1:47000: no realm in common"
        );
        let by_name = "no connection to seed.example:1: 192.0.2.1:1: no realm in common";
        assert_eq!(shown("seed.example:1", "192.0.2.1:1"), by_name);
    }
}
