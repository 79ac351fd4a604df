//! A look at a group's objects, and what was seen.

use std::time::Duration;

use macula_proto::{UnixMillis, wire};

use super::message::{MessageError, node_in};
use crate::objects::codec::{id_out, millis};
use crate::objects::recovery;
use crate::objects::{
    CandidateInfo, ElectionInfo, ElectionName, FencingToken, Leader, LockInfo, LockMode, LockName, LogId,
    LogInfo, LogName, LogOffset, RequestId, RequestInfo, Retention, SessionId, SessionInfo,
};
use crate::raft::LogEntry;

/// Elements on one page, at most.
pub(super) const PAGE_MAX: usize = 256;

/// What to look at: one object by its name, or the page of those that come after a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Election(ElectionName),
    Elections(Option<ElectionName>),
    Candidates(ElectionName),
    Lock(LockName),
    Locks(Option<LockName>),
    LockRequests(LockName),
    Log(LogName),
    Logs(Option<LogName>),
    LogEntries { log: LogName, from: LogOffset },
    Sessions(Option<SessionId>),
}

/// What was seen: of what was asked for, the rest is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) elections: Vec<ElectionInfo>,
    pub(crate) locks: Vec<LockInfo>,
    pub(crate) logs: Vec<LogInfo>,
    pub(crate) sessions: Vec<SessionInfo>,
    pub(crate) candidates: Vec<CandidateInfo>,
    pub(crate) requests: Vec<RequestInfo>,
    pub(crate) entries: Vec<LogEntry>,
}

impl Look {
    pub(super) fn to_wire(&self) -> wire::GroupLook {
        use wire::GroupObjects as Objects;
        let named = |name: &dyn ToString| Some(name.to_string());
        let (objects, name, list, from) = match self {
            Self::Election(name) => (Objects::Elections, named(name), false, 0),
            Self::Elections(after) => (Objects::Elections, after.as_ref().map(ToString::to_string), true, 0),
            Self::Candidates(name) => (Objects::Candidates, named(name), false, 0),
            Self::Lock(name) => (Objects::Locks, named(name), false, 0),
            Self::Locks(after) => (Objects::Locks, after.as_ref().map(ToString::to_string), true, 0),
            Self::LockRequests(name) => (Objects::LockRequests, named(name), false, 0),
            Self::Log(name) => (Objects::Logs, named(name), false, 0),
            Self::Logs(after) => (Objects::Logs, after.as_ref().map(ToString::to_string), true, 0),
            Self::LogEntries { log, from } => (Objects::LogEntries, named(log), false, from.0),
            Self::Sessions(after) => (Objects::Sessions, after.as_ref().map(ToString::to_string), true, 0),
        };
        wire::GroupLook { objects: objects.into(), name: name.unwrap_or_default(), list, from }
    }

    pub(super) fn from_wire(look: wire::GroupLook) -> Result<Self, MessageError> {
        use wire::GroupObjects as Objects;
        let objects = look.objects();
        let wire::GroupLook { name, list, from, .. } = look;
        let after = !name.is_empty();
        Ok(match (objects, list) {
            (Objects::Elections, false) => Self::Election(parsed(&name)?),
            (Objects::Elections, true) => Self::Elections(after.then(|| parsed(&name)).transpose()?),
            (Objects::Candidates, _) => Self::Candidates(parsed(&name)?),
            (Objects::Locks, false) => Self::Lock(parsed(&name)?),
            (Objects::Locks, true) => Self::Locks(after.then(|| parsed(&name)).transpose()?),
            (Objects::LockRequests, _) => Self::LockRequests(parsed(&name)?),
            (Objects::Logs, false) => Self::Log(parsed(&name)?),
            (Objects::Logs, true) => Self::Logs(after.then(|| parsed(&name)).transpose()?),
            (Objects::LogEntries, _) => Self::LogEntries { log: parsed(&name)?, from: LogOffset(from) },
            (Objects::Sessions, _) => Self::Sessions(after.then(|| parsed(&name)).transpose()?),
            (Objects::Unspecified, _) => {
                return Err(MessageError::Wrong("a look at objects of an unknown kind"));
            }
        })
    }
}

/// A name or a place from a message.
pub(super) fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, MessageError> {
    text.parse().map_err(|_| MessageError::Wrong("a name or place that breaks the rule of its kind"))
}

pub(super) fn leader_out(leader: &Leader) -> wire::SeenLeader {
    wire::SeenLeader {
        session: Some(leader.session.to_wire()),
        owner: id_out(&leader.owner),
        value: leader.value.clone(),
        token: Some(leader.token.to_wire()),
    }
}

pub(super) fn leader_in(leader: wire::SeenLeader) -> Result<Leader, MessageError> {
    Ok(Leader {
        session: SessionId::from_wire(leader.session),
        owner: node_in(&leader.owner)?,
        value: leader.value,
        token: FencingToken::from_wire(leader.token),
    })
}

const fn mode_in(shared: bool) -> LockMode {
    if shared { LockMode::Shared } else { LockMode::Exclusive }
}

impl Seen {
    pub(super) fn to_wire(&self) -> wire::GroupSeen {
        wire::GroupSeen {
            elections: self.elections.iter().map(election_out).collect(),
            locks: self.locks.iter().map(lock_out).collect(),
            logs: self.logs.iter().map(log_out).collect(),
            sessions: self.sessions.iter().map(session_out).collect(),
            candidates: self.candidates.iter().map(candidate_out).collect(),
            requests: self.requests.iter().map(request_out).collect(),
            entries: self.entries.iter().map(entry_out).collect(),
        }
    }

    pub(super) fn from_wire(seen: wire::GroupSeen) -> Result<Self, MessageError> {
        Ok(Self {
            elections: seen.elections.into_iter().map(election_in).collect::<Result<_, _>>()?,
            locks: seen.locks.into_iter().map(lock_in).collect::<Result<_, _>>()?,
            logs: seen.logs.into_iter().map(log_in).collect::<Result<_, _>>()?,
            sessions: seen.sessions.into_iter().map(session_in).collect::<Result<_, _>>()?,
            candidates: seen.candidates.into_iter().map(candidate_in).collect::<Result<_, _>>()?,
            requests: seen.requests.into_iter().map(request_in).collect::<Result<_, _>>()?,
            entries: seen.entries.into_iter().map(entry_in).collect(),
        })
    }
}

fn election_out(info: &ElectionInfo) -> wire::SeenElection {
    wire::SeenElection {
        election: info.election.to_string(),
        leader: Some(leader_out(&info.leader)),
        waiting: info.waiting as u64,
    }
}

fn election_in(seen: wire::SeenElection) -> Result<ElectionInfo, MessageError> {
    let leader = seen.leader.ok_or(MessageError::Wrong("an election without a leader"))?;
    Ok(ElectionInfo {
        election: parsed(&seen.election)?,
        leader: leader_in(leader)?,
        waiting: seen.waiting as usize,
    })
}

fn lock_out(info: &LockInfo) -> wire::SeenLock {
    wire::SeenLock {
        lock: info.lock.to_string(),
        shared: info.mode == LockMode::Shared,
        holders: info.holders as u64,
        waiting: info.waiting as u64,
    }
}

fn lock_in(seen: wire::SeenLock) -> Result<LockInfo, MessageError> {
    let (mode, lock) = (mode_in(seen.shared), parsed(&seen.lock)?);
    Ok(LockInfo { lock, mode, holders: seen.holders as usize, waiting: seen.waiting as usize })
}

fn log_out(info: &LogInfo) -> wire::SeenLog {
    wire::SeenLog {
        log: info.log.to_string(),
        id: Some(info.id.to_wire()),
        first: info.first.0,
        next: info.next.0,
        bytes: info.bytes,
        keep_entries: info.retention.entries,
        keep_bytes: info.retention.bytes,
        keep_age_ms: info.retention.age.map(millis),
        writers: info.writers as u64,
        recovered: recovery::pack(&info.recovered),
    }
}

fn log_in(seen: wire::SeenLog) -> Result<LogInfo, MessageError> {
    let age = seen.keep_age_ms.map(Duration::from_millis);
    Ok(LogInfo {
        log: parsed(&seen.log)?,
        id: LogId::from_wire(seen.id),
        first: LogOffset(seen.first),
        next: LogOffset(seen.next),
        bytes: seen.bytes,
        retention: Retention { entries: seen.keep_entries, bytes: seen.keep_bytes, age },
        writers: seen.writers as usize,
        recovered: recovery::unpack(&seen.recovered)?,
    })
}

fn session_out(info: &SessionInfo) -> wire::SeenSession {
    wire::SeenSession {
        session: Some(info.session.to_wire()),
        owner: id_out(&info.owner),
        ttl_ms: millis(info.ttl),
        elections: info.elections as u64,
        locks: info.locks as u64,
    }
}

fn session_in(seen: wire::SeenSession) -> Result<SessionInfo, MessageError> {
    Ok(SessionInfo {
        session: SessionId::from_wire(seen.session),
        owner: node_in(&seen.owner)?,
        ttl: Duration::from_millis(seen.ttl_ms),
        elections: seen.elections as usize,
        locks: seen.locks as usize,
    })
}

fn candidate_out(info: &CandidateInfo) -> wire::SeenCandidate {
    let (session, owner) = (Some(info.session.to_wire()), id_out(&info.owner));
    wire::SeenCandidate { session, owner, value: info.value.clone() }
}

fn candidate_in(seen: wire::SeenCandidate) -> Result<CandidateInfo, MessageError> {
    let (session, owner) = (SessionId::from_wire(seen.session), node_in(&seen.owner)?);
    Ok(CandidateInfo { session, owner, value: seen.value })
}

fn request_out(info: &RequestInfo) -> wire::SeenRequest {
    wire::SeenRequest {
        session: Some(info.session.to_wire()),
        owner: id_out(&info.owner),
        request: info.request.0,
        shared: info.mode == LockMode::Shared,
        token: info.token.map(FencingToken::to_wire),
    }
}

fn request_in(seen: wire::SeenRequest) -> Result<RequestInfo, MessageError> {
    Ok(RequestInfo {
        session: SessionId::from_wire(seen.session),
        owner: node_in(&seen.owner)?,
        request: RequestId(seen.request),
        mode: mode_in(seen.shared),
        token: seen.token.map(|token| FencingToken::from_wire(Some(token))),
    })
}

fn entry_out(entry: &LogEntry) -> wire::SeenEntry {
    wire::SeenEntry { offset: entry.offset.0, stamp_ms: entry.stamp.0, entry: entry.entry.clone() }
}

fn entry_in(seen: wire::SeenEntry) -> LogEntry {
    let (offset, stamp) = (LogOffset(seen.offset), UnixMillis(seen.stamp_ms));
    LogEntry { offset, stamp, entry: seen.entry }
}
