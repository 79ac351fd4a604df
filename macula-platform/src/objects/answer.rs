//! What comes of a command.

use std::time::Duration;

use super::limits::{Bounded, TTL_MAX, TTL_MIN};
use super::place::{Epoch, FencingToken, LogId, LogOffset, RequestId, SessionId, WriterId, WriterSequence};

/// What came of a [`Command`](super::Command).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The session is open.
    SessionOpened {
        /// Which one it is.
        session: SessionId,
        /// How long it lives without a keep-alive.
        ttl: Duration,
    },
    /// It is over, and this is what it was.
    Ended(Ended),
    /// How the candidate or the request for a lock stands.
    Standing(Standing),
    /// The writer is open.
    WriterOpened {
        /// The log.
        log: LogId,
        /// Which writer it is.
        writer: WriterId,
    },
    /// The entries are in the log.
    Appended {
        /// The offset of the first one.
        first: LogOffset,
        /// The offset behind the last one.
        next: LogOffset,
        /// Whether they had been appended before, by the same request.
        repeated: bool,
    },
    /// Done; there is nothing to say about it.
    Done,
    /// Nothing has changed.
    Refused(Refusal),
}

impl Answer {
    /// Refusals as errors.
    ///
    /// # Errors
    /// The [`Refusal`], where the answer is one.
    pub fn granted(self) -> Result<Self, Refusal> {
        match self {
            Self::Refused(refusal) => Err(refusal),
            Self::SessionOpened { .. }
            | Self::Ended(_)
            | Self::Standing(_)
            | Self::WriterOpened { .. }
            | Self::Appended { .. }
            | Self::Done => Ok(self),
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// How a candidate, or a request for a lock, stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has what it wants.
    Granted(FencingToken),
    /// It waits in line.
    Waiting {
        /// How many will be served before it: waiters, not holders.
        ahead: u64,
    },
    /// Somebody else has it, and the request did not want to wait.
    Busy,
}

/// What something was before it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Not there, or already over.
    Nothing,
    /// It waited in line.
    Waited,
    /// It was there, or was held.
    Held,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The session was closed or has expired, or never was.
    #[error("session {0} is not open: it was closed, or no keep-alive came in time")]
    SessionUnknown(SessionId),
    /// The session is another node's.
    #[error("session {0} belongs to another node")]
    SessionForeign(SessionId),
    /// A time to live outside of what is allowed.
    #[error("a session lives for {TTL_MIN:?} to {TTL_MAX:?} without a keep-alive, not for {0:?}")]
    Ttl(Duration),
    /// The request was made before, and what it began is over.
    #[error("request {0} of this session was made before, and what it began is over")]
    RequestOver(RequestId),
    /// A number so far below others of the session that it is not known whether it was made. If it was, what it began is
    /// over; if not, it will never be: ask again with a new number.
    #[error("request {0} of this session comes too long after later ones")]
    RequestLate(RequestId),
    /// One more than there may be.
    #[error("there are {bound} {of} already, and no more are allowed")]
    Full {
        /// Of what.
        of: Bounded,
        /// How many, or how much, is allowed.
        bound: u64,
    },
    /// Larger than allowed.
    #[error("{given} {of}: at most {bound} are allowed")]
    TooLarge {
        /// Of what.
        of: Bounded,
        /// How much it is.
        given: u64,
        /// How much is allowed.
        bound: u64,
    },
    /// An append without entries.
    #[error("an append without entries")]
    Empty,
    /// A retention that keeps nothing.
    #[error("a retention that keeps nothing: entries, bytes and age are each at least 1")]
    KeepsNothing,
    /// No log of that name.
    #[error("there is no such log")]
    LogUnknown,
    /// The log had to forget this writer, or has been dropped since. Whether its last append was made is not known.
    #[error(
        "the log does not know writer {0} any more, and cannot tell whether its last append was made: \
         read the log's end, and open a new writer"
    )]
    WriterUnknown(WriterId),
    /// The writer is another node's.
    #[error("writer {0} belongs to another node")]
    WriterForeign(WriterId),
    /// An append before the one in front of it.
    #[error("the writer's next append is number {}, not a later one", .expected.0)]
    SequenceGap {
        /// The number that comes next.
        expected: WriterSequence,
    },
    /// An append that was made, and followed by others; where its entries are is not remembered.
    #[error("the append was made before; since then the writer has made others, the last is number {}", .last.0)]
    SequenceOver {
        /// The writer's last number.
        last: WriterSequence,
    },
    /// The epoch does not grow.
    #[error("the epoch is {0} already, and only grows")]
    EpochPast(Epoch),
    /// The command comes at an index that is not larger than the last one's, in the same epoch.
    #[error("a command at index {given}, after the one at index {last}: raise the epoch first")]
    IndexPast {
        /// The index it came at.
        given: super::LogIndex,
        /// The index of the last one.
        last: super::LogIndex,
    },
    /// Leases of before a recovery may still be valid somewhere.
    #[error(
        "the group was recovered from a lost quorum, and opens no session before all leases of before are over, \
         {TTL_MAX:?} later: until then no election and no lock is granted"
    )]
    Recovering,
}
