//! Why coordination did not do what it was asked for.

use std::time::Duration;

use macula_proto::Realm;

use crate::StoreError;
use crate::objects::{ElectionName, Epoch, LogName, LogOffset, Refusal};
use crate::raft::GroupError;

/// Why an election, a lock or a log did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinationError {
    /// No node within reach knows a group of the realm.
    #[error(
        "no group of realm `{realm}` was found within {waited:?}: nobody founded one, or none of its members is within reach"
    )]
    NoGroup {
        /// The realm.
        realm: Realm,
        /// How long it was looked for.
        waited: Duration,
    },
    /// The group has no leader with a majority, or it is out of reach. Whether a change was made is not known; to ask
    /// again is safe.
    #[error("the group of realm `{realm}` did not answer within {waited:?}: {why}")]
    Unavailable {
        /// The realm.
        realm: Realm,
        /// How long it was asked.
        waited: Duration,
        /// What the last one asked said.
        why: String,
    },
    /// The objects do not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session of this node ended, and with it everything that it held.
    #[error("the session of this node ended, and with it everything that it held")]
    SessionLost,
    /// It was not granted in time, and is not wanted any more.
    #[error("not granted within {0:?}")]
    Timeout(Duration),
    /// The group was recovered from a lost quorum, and entries of the log that were read before are gone.
    #[error(
        "log `{log}` was recovered from a lost quorum: entries from offset {from} on are gone, and there may be others in their \
         place (epoch {epoch})"
    )]
    LogRewound {
        /// The log.
        log: LogName,
        /// The epoch that the recovery began.
        epoch: Epoch,
        /// Entries below this offset are what they were.
        from: LogOffset,
    },
    /// Nobody leads the election.
    #[error("nobody leads election `{election}`")]
    NoLeader {
        /// The election.
        election: ElectionName,
    },
    /// Somebody else has it.
    #[error("it is held by somebody else")]
    Busy,
    /// The policy does not allow it.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// A member that was asked for a change of members does not want to.
    #[error("{0}")]
    Unwilling(String),
    /// This node is not in the realm.
    #[error("this node is not in realm `{0}`")]
    NotInRealm(Realm),
    /// This node is no member of the group.
    #[error("this node is no member of a group of realm `{0}`")]
    NoMember(Realm),
    /// Coordination does not run: the node is shutting down, or its store failed.
    #[error("coordination does not run on this node: {0}")]
    Stopped(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An answer that breaks the protocol.
    #[error("an answer that is none: {0}")]
    Protocol(String),
}

impl From<GroupError> for CoordinationError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Store(cause) => Self::Store(cause),
            other => Self::Stopped(other.to_string()),
        }
    }
}
