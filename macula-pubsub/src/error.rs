//! What can go wrong, grouped by whose fault it is.

use std::time::Duration;

use macula_dht::DirectoryError;
use macula_proto::limits::PAYLOAD_BYTES_MAX;
use macula_proto::{Forbidden, ProtoError, Realm};

use crate::group::GROUPS_MAX;
use crate::message::{CONTENT_TYPE_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX};
use crate::{Pattern, Published, RETAINED_BYTES_MAX, RETAINED_TOPICS_MAX};

/// Which limit a payload breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The content is too large.
    #[error("a message has at most {PAYLOAD_BYTES_MAX} bytes, not {0}")]
    Bytes(usize),
    /// The content type is too long.
    #[error("a content type has at most {CONTENT_TYPE_BYTES_MAX} bytes, not {0}")]
    ContentType(usize),
    /// Too many headers.
    #[error("a message has at most {HEADERS_MAX} headers, not {0}")]
    Headers(usize),
    /// A header's name is empty or too long.
    #[error("a header's name has 1 to {HEADER_NAME_BYTES_MAX} bytes, not {0}")]
    HeaderName(usize),
    /// The headers are too large together.
    #[error("headers have at most {HEADERS_BYTES_MAX} bytes together, not {0}")]
    HeadersBytes(usize),
    /// It does not fit a frame.
    #[error("{0}")]
    Frame(ProtoError),
}

/// Why nothing, or not everything, was published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    // The caller's doing.
    /// This node is not in the realm.
    #[error("this node is not in realm `{0}`")]
    NotInRealm(Realm),
    /// Policy says no.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The payload breaks a limit.
    #[error(transparent)]
    Payload(#[from] PayloadError),

    // The environment.
    /// It could not be found out in time who subscribes. The message went to those who are known, as `published`
    /// says; others may have missed it. Publishing it again reaches the known ones twice.
    #[error("who subscribes is not fully known: {unresolved} look-ups failed or took longer than {waited:?}")]
    Unresolved {
        /// How many look-ups did not succeed.
        unresolved: usize,
        /// The longest that they were waited for.
        waited: Duration,
        /// Whom the message did reach.
        published: Published,
    },
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Closed,
}

/// Why a value is not retained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetainError {
    // The caller's doing.
    /// It is too large for a record. Nothing was published.
    #[error("a retained message has at most {RETAINED_BYTES_MAX} bytes with its topic and headers, not {0}")]
    TooLarge(usize),
    /// It could not be published, or not to all. It is retained all the same if others may have missed it
    /// ([`Unresolved`](PublishError::Unresolved)).
    #[error(transparent)]
    Publish(#[from] PublishError),

    // The environment.
    /// It was published, but the directory could not be told. That is tried again in the background.
    #[error("it was published but is not retained yet: {error}")]
    Directory {
        /// Why not.
        error: DirectoryError,
        /// Whom the message reached.
        published: Published,
    },

    // Overload.
    /// This node has retained values for as many topics as it may. Nothing was published.
    #[error("this node has retained values for {RETAINED_TOPICS_MAX} topics already")]
    Full,
}

/// Why there is no subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    // The caller's doing.
    /// This node is not in the realm.
    #[error("this node is not in realm `{0}`")]
    NotInRealm(Realm),
    /// Policy says no.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),

    // The environment.
    /// The interest could not be announced. The subscription was undone.
    #[error("the subscription could not be announced: {0}")]
    Directory(#[from] DirectoryError),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Closed,

    // Overload.
    /// This node is in as many queue groups as it may.
    #[error("this node is in {GROUPS_MAX} queue groups already")]
    Groups,
    /// A queue group shares what is published; a retained value belongs to each subscriber.
    #[error("retained values do not go to queue groups: leave out the group, or the retained values")]
    RetainedInGroup,
    /// The queue groups that have patterns with one prefix do not fit into one announcement.
    #[error("the queue groups of this node on patterns like `{0}` do not fit into one announcement")]
    GroupsAnnounced(Pattern),
    /// This node has as many subscriptions as it may.
    #[error("all {0} subscriptions of this node are in use")]
    Full(usize),
}
