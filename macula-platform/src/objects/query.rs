//! What can be asked of the objects without changing them. Lists come in pages: each takes the last name (or id) of the page
//! before, and gives at most `count` that follow it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, UnixMillis};

use super::change::Leader;
use super::command::{LockMode, Retention};
use super::election::{Candidate, Election};
use super::lock::{Lock, Wait};
use super::log::Log;
use super::machine::Objects;
use super::names::{ElectionName, LockName, LogName};
use super::place::{Epoch, FencingToken, LogId, LogIndex, LogOffset, RequestId, SessionId};
use super::recovery::LogRecovery;
use super::session::Session;

/// A session, as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Which one.
    pub session: SessionId,
    /// Whose.
    pub owner: NodeId,
    /// How long it lives without a keep-alive.
    pub ttl: Duration,
    /// In how many elections it is a candidate.
    pub elections: usize,
    /// How many locks it holds or waits for.
    pub locks: usize,
}

/// An election, as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ElectionInfo {
    /// Its name.
    pub election: ElectionName,
    /// Who leads.
    pub leader: Leader,
    /// How many wait.
    pub waiting: usize,
}

/// Someone who campaigns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CandidateInfo {
    /// Its session.
    pub session: SessionId,
    /// The session's node.
    pub owner: NodeId,
    /// What it says of itself.
    pub value: Bytes,
}

/// A lock, as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockInfo {
    /// Its name.
    pub lock: LockName,
    /// How it is held.
    pub mode: LockMode,
    /// How many hold it.
    pub holders: usize,
    /// How many wait.
    pub waiting: usize,
}

/// A request for a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestInfo {
    /// Its session.
    pub session: SessionId,
    /// The session's node.
    pub owner: NodeId,
    /// Its number.
    pub request: RequestId,
    /// How it wants to hold the lock.
    pub mode: LockMode,
    /// Where it was granted; `None` while it waits.
    pub token: Option<FencingToken>,
}

/// A log, as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogInfo {
    /// Its name.
    pub log: LogName,
    /// Which of its name: the key to its entries in the store.
    pub id: LogId,
    /// The oldest offset that is kept.
    pub first: LogOffset,
    /// The offset that the next entry gets.
    pub next: LogOffset,
    /// Bytes of all entries that are kept.
    pub bytes: u64,
    /// How much is kept.
    pub retention: Retention,
    /// How many writers it remembers.
    pub writers: usize,
    /// The recoveries that it has been through, the oldest first: where entries may be others than before.
    pub recovered: Vec<LogRecovery>,
}

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Open sessions.
    pub sessions: usize,
    /// Elections that somebody leads.
    pub elections: usize,
    /// Locks that somebody holds.
    pub locks: usize,
    /// Candidates, and requests for locks, granted or waiting.
    pub places: usize,
    /// Logs.
    pub logs: usize,
    /// Bytes of all entries of all logs.
    pub log_bytes: u64,
}

impl Objects {
    /// The present epoch.
    pub const fn epoch(&self) -> Epoch {
        self.last.epoch
    }

    /// The index of the last command.
    pub const fn last_index(&self) -> LogIndex {
        self.last.index
    }

    /// Whether leases of before a recovery may still be valid, so that no session is opened before
    /// [`Command::Resume`](super::Command::Resume).
    pub const fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.open.len(),
            elections: self.elections.by_name.len(),
            locks: self.locks.by_name.len(),
            places: self.sessions.usage.places(),
            logs: self.logs.by_name.len(),
            log_bytes: self.logs.by_name.values().map(|log| log.bytes).sum(),
        }
    }

    /// When the leader should propose [`Command::Trim`](super::Command::Trim), by its wall clock: some entries are too old
    /// then. `None`: nothing gets too old.
    pub fn trim_due(&self) -> Option<UnixMillis> {
        self.logs.trim_due()
    }

    /// All open sessions and their times to live: what a new leader keeps alive.
    pub fn times_to_live(&self) -> impl Iterator<Item = (SessionId, Duration)> {
        self.sessions.open.iter().map(|(id, session)| (*id, session.ttl()))
    }

    /// One session.
    pub fn session(&self, session: SessionId) -> Option<SessionInfo> {
        Some(session_info((&session, self.sessions.open.get(&session)?)))
    }

    /// Sessions after `after`, by age.
    pub fn sessions(&self, after: Option<SessionId>, count: usize) -> Vec<SessionInfo> {
        page(&self.sessions.open, after.as_ref(), count).map(session_info).collect()
    }

    /// Who leads an election.
    pub fn leader(&self, election: &ElectionName) -> Option<Leader> {
        self.elections.by_name.get(election)?.leader(&self.sessions)
    }

    /// One election; `None` if nobody leads it.
    pub fn election(&self, election: &ElectionName) -> Option<ElectionInfo> {
        let (leader, waiting) =
            (self.leader(election)?, self.elections.by_name.get(election)?.waiting_count());
        Some(ElectionInfo { election: election.clone(), leader, waiting })
    }

    /// Elections after `after`, by name.
    pub fn elections(&self, after: Option<&ElectionName>, count: usize) -> Vec<ElectionInfo> {
        let page = page(&self.elections.by_name, after, count);
        let info = |(name, election): (&ElectionName, &Election)| {
            let (leader, waiting) = (election.leader(&self.sessions)?, election.waiting_count());
            Some(ElectionInfo { election: name.clone(), leader, waiting })
        };
        page.map(|(name, election)| (name, &**election)).filter_map(info).collect()
    }

    /// The candidates of an election from place `from` on: 0 leads, 1 is the next, and so on.
    pub fn candidates(&self, election: &ElectionName, from: usize, count: usize) -> Vec<CandidateInfo> {
        let election = self.elections.by_name.get(election);
        let all =
            election.into_iter().flat_map(|found| std::iter::once(&found.leader).chain(found.waiting()));
        let info = |candidate: &Candidate| {
            let (session, value) = (candidate.session, Bytes::copy_from_slice(&candidate.value));
            Some(CandidateInfo { session, owner: self.sessions.owner(session)?, value })
        };
        all.skip(from).take(count).filter_map(info).collect()
    }

    /// One lock; `None` if nobody holds it.
    pub fn lock(&self, lock: &LockName) -> Option<LockInfo> {
        lock_info((lock, self.locks.by_name.get(lock)?))
    }

    /// Locks that somebody holds after `after`, by name.
    pub fn locks(&self, after: Option<&LockName>, count: usize) -> Vec<LockInfo> {
        page(&self.locks.by_name, after, count).filter_map(lock_info).collect()
    }

    /// The requests for a lock from place `from` on: first who holds it, then who waits, in order.
    pub fn lock_requests(&self, lock: &LockName, from: usize, count: usize) -> Vec<RequestInfo> {
        let Some(lock) = self.locks.by_name.get(lock) else { return Vec::new() };
        let holders = lock.holders.iter().map(|hold| (&hold.wait, Some(hold.token)));
        let all = holders.chain(lock.waiting.iter().map(|wait| (wait, None)));
        let info = |(wait, token): (&Wait, Option<FencingToken>)| {
            let Wait { session, request, mode } = *wait;
            Some(RequestInfo { session, owner: self.sessions.owner(session)?, request, mode, token })
        };
        all.skip(from).take(count).filter_map(info).collect()
    }

    /// One log.
    pub fn log(&self, log: &LogName) -> Option<LogInfo> {
        Some(log_info((log, self.logs.by_name.get(log)?)))
    }

    /// Logs after `after`, by name.
    pub fn logs(&self, after: Option<&LogName>, count: usize) -> Vec<LogInfo> {
        page(&self.logs.by_name, after, count).map(log_info).collect()
    }
}

fn page<'a, K: Ord, V>(
    of: &'a BTreeMap<K, V>,
    after: Option<&K>,
    count: usize,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    of.range((from, Bound::Unbounded)).take(count)
}

fn session_info((id, session): (&SessionId, &Session)) -> SessionInfo {
    SessionInfo {
        session: *id,
        owner: session.owner,
        ttl: session.ttl(),
        elections: session.elections.len(),
        locks: session.locks.len(),
    }
}

fn lock_info((name, lock): (&LockName, &Lock)) -> Option<LockInfo> {
    let mode = lock.holders.first()?.wait.mode;
    Some(LockInfo { lock: name.clone(), mode, holders: lock.holders.len(), waiting: lock.waiting.len() })
}

fn log_info((name, log): (&LogName, &Log)) -> LogInfo {
    LogInfo {
        log: name.clone(),
        id: log.id,
        first: log.first,
        next: log.next,
        bytes: log.bytes,
        retention: log.retention,
        writers: log.writers.len(),
        recovered: log.recovered.clone(),
    }
}
