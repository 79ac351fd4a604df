//! What the replicated log says: what nodes asked for, and what its leader decided.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, UnixMillis};

use super::names::{ElectionName, LockName, LogName};
use super::place::{Epoch, Nonce, RequestId, SessionId, WriterId, WriterSequence};

/// A command in the replicated log. All that depends on time or on chance has been decided by the leader that proposed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// What a node asked for. Answered as the [`Request`] says.
    Asked {
        /// The node, as the transport proved it.
        by: NodeId,
        /// The leader's wall clock. It tells the age of log entries and nothing else; one that goes back counts as
        /// standing still.
        stamp: UnixMillis,
        /// What it asked for.
        request: Request,
    },
    /// The time of these sessions is over ([`Keeper`](crate::lease::Keeper) says when). Unknown ones are passed over. Answered with
    /// [`Done`](super::Answer::Done).
    Expire {
        /// The sessions; at most [`EXPIRE_MAX`](super::limits::EXPIRE_MAX).
        sessions: Vec<SessionId>,
    },
    /// Log entries that are too old now may go ([`Objects::trim_due`](super::Objects::trim_due) says when). Answered with
    /// [`Done`](super::Answer::Done).
    Trim {
        /// The leader's wall clock.
        stamp: UnixMillis,
    },
    /// The group was recovered from a lost quorum, and may have lost commands that were acknowledged. All sessions end
    /// with what they hold, for nobody can know any more who else was granted something, and none is opened before
    /// [`Resume`](Self::Resume). Logs stay, and remember from which offset on entries may have been lost. All places of the
    /// new epoch are larger than all before.
    ///
    /// It is the only command that may come at a lower index than one before. Answered with [`Done`](super::Answer::Done).
    RaiseEpoch {
        /// The new epoch; larger than the present one.
        epoch: Epoch,
    },
    /// The leases of before a recovery are over, and sessions may be opened again. Propose it no sooner than
    /// [`TTL_MAX`](super::limits::TTL_MAX) after the last member of the old quorum may have answered a keep-alive: only
    /// then are the leases over that nobody knows any more. Answered with [`Done`](super::Answer::Done).
    Resume {
        /// The epoch that the recovery began; in another one the command changes nothing.
        epoch: Epoch,
    },
}

/// What a node asks of the objects.
///
/// Requests of a session carry numbers that the session counts upwards. One that comes twice, because its answer was lost,
/// has no second effect, even long after what it did is over; the answer then says how things stand now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Opens a session. The same node and nonce again give the same session. Answered with
    /// [`SessionOpened`](super::Answer::SessionOpened).
    OpenSession {
        /// Drawn by the node for this session.
        nonce: Nonce,
        /// How long the session lives without a keep-alive: [`TTL_MIN`](super::limits::TTL_MIN) to
        /// [`TTL_MAX`](super::limits::TTL_MAX), in whole milliseconds.
        ttl: Duration,
    },
    /// Ends a session, and all that it holds or waits for. Answered with [`Ended`](super::Answer::Ended): a session that is
    /// not there is no error.
    CloseSession {
        /// The session.
        session: SessionId,
    },
    /// Becomes a candidate; the first one is granted the election, later ones wait in order. From who is a candidate
    /// already, it only changes the value. Answered with [`Standing`](super::Answer::Standing).
    Campaign {
        /// The session that the candidacy lives with.
        session: SessionId,
        /// The election.
        election: ElectionName,
        /// The number of this request.
        request: RequestId,
        /// What observers get to see, such as an address: at most [`VALUE_BYTES_MAX`](super::limits::VALUE_BYTES_MAX).
        value: Bytes,
    },
    /// Ends a candidacy; if it was granted, the next candidate is. Answered with [`Ended`](super::Answer::Ended).
    Resign {
        /// The candidate's session.
        session: SessionId,
        /// The election.
        election: ElectionName,
        /// The number of the last campaign. A candidacy that was begun or changed by a later one stays.
        campaign: RequestId,
    },
    /// Acquires a lock, or gets in line for it. Each request is a hold of its own: a session that asks for what it holds
    /// already waits for itself, unless both are shared. Answered with [`Standing`](super::Answer::Standing).
    Acquire {
        /// The session that the hold lives with.
        session: SessionId,
        /// The lock.
        lock: LockName,
        /// The number of this request.
        request: RequestId,
        /// Alone, or with others.
        mode: LockMode,
        /// Whether to get in line where it is not free.
        wait: bool,
    },
    /// Gives a lock back, or leaves the line. Answered with [`Ended`](super::Answer::Ended).
    Release {
        /// The holder's session.
        session: SessionId,
        /// The lock.
        lock: LockName,
        /// The number of the request that acquired it.
        acquired: RequestId,
    },
    /// Leaves the line for a lock. Who has been granted it meanwhile keeps it and is told so: answered with
    /// [`Standing`](super::Answer::Standing) then, else with [`Ended`](super::Answer::Ended).
    Withdraw {
        /// The waiter's session.
        session: SessionId,
        /// The lock.
        lock: LockName,
        /// The number of the request that waits.
        acquired: RequestId,
    },
    /// Becomes a writer of a log, which is created if it is not there. The same node and nonce again give the same
    /// writer. Answered with [`WriterOpened`](super::Answer::WriterOpened).
    OpenWriter {
        /// The log.
        log: LogName,
        /// Drawn by the node for this writer.
        nonce: Nonce,
    },
    /// Appends entries, each sequence number once. A log remembers a bounded number of writers; one that it had to forget
    /// is refused, never appended twice. Answered with [`Appended`](super::Answer::Appended).
    Append {
        /// The log.
        log: LogName,
        /// The writer; it belongs to the node that opened it.
        writer: WriterId,
        /// The number of this append. An append is only made once the one before has been answered.
        sequence: WriterSequence,
        /// The entries: 1 to [`APPEND_ENTRIES_MAX`](super::limits::APPEND_ENTRIES_MAX), and
        /// [`APPEND_BYTES_MAX`](super::limits::APPEND_BYTES_MAX) in all.
        entries: Vec<Bytes>,
    },
    /// Says how much of a log is kept. Answered with [`Done`](super::Answer::Done).
    Retain {
        /// The log.
        log: LogName,
        /// What is kept.
        retention: Retention,
    },
    /// Deletes a log and all its entries. Answered with [`Ended`](super::Answer::Ended).
    DropLog {
        /// The log.
        log: LogName,
    },
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockMode {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// How much of a log is kept: what one bound does not keep goes, whatever the others say.
///
/// Entries go in chunks of a sixteenth of each bound, so that up to that much, and one append, is kept beyond a bound.
/// Nothing that all bounds keep goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Retention {
    /// So many of the newest entries.
    pub entries: u64,
    /// So many bytes of the newest entries.
    pub bytes: u64,
    /// Entries that are younger, by the wall clocks of the group's leaders; `None`: however old. In whole milliseconds.
    pub age: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 64 * 1024 * 1024, age: None }
    }
}
