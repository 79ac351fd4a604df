//! What a command changed, for those who watch and for the store of log entries.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, UnixMillis};

use super::command::LockMode;
use super::names::{ElectionName, LockName, LogName};
use super::place::{FencingToken, LogId, LogIndex, LogOffset, RequestId, SessionId};

/// What one command, or several in a row, brought about beside its answer. Whoever applies
/// commands takes them from here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// For those who watch; in order.
    pub changes: Vec<Change>,
    /// For the store of log entries; in order. They are to be durable together with the state.
    pub writes: Vec<LogWrite>,
}

/// Something that watchers see, with the index of the command that did it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An election has another leader, or none, or its leader another value.
    Election {
        /// By which command.
        at: LogIndex,
        /// The election.
        election: ElectionName,
        /// Who leads it now.
        leader: Option<Leader>,
    },
    /// A request for a lock was granted, or is over.
    Lock {
        /// By which command.
        at: LogIndex,
        /// The lock.
        lock: LockName,
        /// Whose request.
        session: SessionId,
        /// The request.
        request: RequestId,
        /// What became of it.
        change: LockChange,
    },
    /// A session began or ended. What it held is told by changes of its own.
    Session {
        /// By which command.
        at: LogIndex,
        /// The session.
        session: SessionId,
        /// Whose it is.
        owner: NodeId,
        /// What became of it.
        change: SessionChange,
    },
    /// A log was created or dropped, got entries, or lost old ones.
    Log {
        /// By which command.
        at: LogIndex,
        /// The log.
        log: LogName,
        /// Which of its name.
        id: LogId,
        /// The oldest and the next offset, or `None` if the log is no more.
        bounds: Option<(LogOffset, LogOffset)>,
    },
}

/// Who leads an election.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// Its session.
    pub session: SessionId,
    /// The session's node.
    pub owner: NodeId,
    /// What it says of itself.
    pub value: Bytes,
    /// Where it was granted.
    pub token: FencingToken,
}

/// What became of a request for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockChange {
    /// Its session holds the lock.
    Granted {
        /// How.
        mode: LockMode,
        /// Where it was granted.
        token: FencingToken,
    },
    /// It was given back, or lost with its session.
    Released,
    /// It left the line, or its session ended.
    Withdrawn,
}

/// What became of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionChange {
    /// It is open.
    Opened {
        /// How long it lives without a keep-alive.
        ttl: Duration,
    },
    /// Its node closed it.
    Closed,
    /// No keep-alive came in time.
    Expired,
    /// It was lost with the quorum of an earlier epoch.
    Lost,
}

/// What is to be done in the store of log entries. Doing it twice is the same as doing it once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogWrite {
    /// An entry.
    Put {
        /// The log.
        log: LogId,
        /// The entry's offset.
        offset: LogOffset,
        /// When it was appended, by the leader's wall clock, made never to go back.
        stamp: UnixMillis,
        /// The entry.
        entry: Bytes,
    },
    /// All entries before `up_to` go.
    Trim {
        /// The log.
        log: LogId,
        /// The oldest offset that stays.
        up_to: LogOffset,
    },
    /// The log goes, with all its entries.
    Drop {
        /// The log.
        log: LogId,
    },
}
