//! The [`Membership`] trait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use macula_transport::{Target, TransportError};

use crate::{EventReceiver, Member, Tags, TagsError};

/// Who is there. Cheap to clone; all clones are the same node's view.
///
/// # Guarantees
/// - A snapshot shows this node (until it leaves) and every member that is alive or suspect, in order of id.
/// - By the time a subscriber receives an event, snapshots show it.
/// - What a member says about itself (its contact, its tags, that it leaves) is its own word: others cannot forge it.
/// - A member that is wrongly held for dead comes back; so does one that restarts with the same id.
pub trait Membership: Clone + Send + Sync + 'static {
    /// This node, as a member.
    fn local(&self) -> Member;

    /// Everybody who is there.
    fn members(&self) -> Arc<[Member]>;

    /// The changes from now on.
    fn subscribe(&self) -> EventReceiver;

    /// Joins the mesh through any of `seeds`; returns once the list of the first that answers is merged. The others are
    /// still tried in the background. The seeds are remembered and tried again whenever this node is alone. It is no error
    /// if there are no seeds, or only this node itself: somebody has to be first.
    ///
    /// # Errors
    /// [`MembershipError::Unreachable`] if no seed answered.
    fn join(&self, seeds: Vec<Target>) -> impl Future<Output = Result<Joined, MembershipError>> + Send;

    /// Says goodbye, and waits until the neighbours have heard it.
    ///
    /// # Errors
    /// [`MembershipError::GoodbyeUnheard`] if some have not acknowledged it within `patience`. This node has left in any
    /// case.
    fn leave(&self, patience: Duration) -> impl Future<Output = Result<(), MembershipError>> + Send;

    /// Replaces this node's tags and tells the others.
    ///
    /// # Errors
    /// [`MembershipError::Tags`], or [`MembershipError::Unsupported`] where members have no tags; nothing has changed
    /// then.
    fn set_tags(&self, tags: Tags) -> Result<(), MembershipError>;
}

/// How joining went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Joined {
    /// Seeds whose list is merged: 1, or 0 for whoever is first.
    pub seeds: usize,
    /// Members known now, this node included.
    pub members: usize,
}

/// What can go wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    // The caller's doing.
    /// The tags break a rule.
    #[error(transparent)]
    Tags(#[from] TagsError),
    /// This implementation has no such thing.
    #[error("this kind of membership has no {0}")]
    Unsupported(&'static str),

    // The environment.
    /// No seed could be joined.
    #[error("none of the {} seeds could be joined: {}", .0.len(), list(.0))]
    Unreachable(Vec<SeedFailure>),
    /// Some neighbours have not acknowledged the goodbye in time.
    #[error("the goodbye was not acknowledged by every neighbour within {0:?}")]
    GoodbyeUnheard(Duration),
}

/// Why one seed could not be joined.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{target:?}: {cause}")]
pub struct SeedFailure {
    /// Which seed.
    pub target: Target,
    /// What happened.
    #[source]
    pub cause: SyncError,
}

/// Why two nodes did not exchange their member lists.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// No connection, or no stream.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The stream ended before its time.
    #[error(transparent)]
    Stream(#[from] macula_transport::StreamError),
    /// The peer finished before the exchange was complete.
    #[error("the peer ended the exchange before it was complete")]
    Incomplete,
    /// The peer sent something that has no place in an exchange.
    #[error("the exchange does not follow the protocol: {0}")]
    Protocol(#[from] crate::CodecError),
    /// A frame of this node's own does not fit the limits.
    #[error(transparent)]
    Frame(#[from] macula_proto::ProtoError),
    /// It took too long.
    #[error("the exchange was not complete within {0:?}")]
    TimedOut(Duration),
}

fn list(failures: &[SeedFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
