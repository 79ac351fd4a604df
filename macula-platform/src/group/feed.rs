//! Changes on their way to those who watch.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, ProtoError, Realm, wire};

use super::message::{MessageError, node_in};
use super::seen::{leader_in, leader_out, parsed};
use crate::GroupId;
use crate::objects::codec::{id_out, millis};
use crate::objects::{
    Change, ElectionName, FencingToken, LockChange, LockMode, LogId, LogIndex, LogName, LogOffset, Objects,
    RequestId, SessionChange, SessionId,
};
use crate::raft::codec::{group_of, group_parts};

/// Names in one watch, at most; a watcher of more opens it for all.
pub(super) const NAMES_MAX: usize = 100_000;

/// Names in one frame.
const NAMES_A_FRAME: usize = 200;

/// What somebody watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(super) session: Option<SessionId>,
    pub(super) elections: BTreeSet<ElectionName>,
    pub(super) logs: BTreeSet<LogName>,
}

impl Interest {
    pub(super) fn wants(&self, change: &Change) -> bool {
        match change {
            Change::Election { election, .. } => self.elections.contains(election),
            Change::Lock { session, .. } | Change::Session { session, .. } => self.session == Some(*session),
            Change::Log { log, .. } => self.logs.contains(log),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.session.is_none() && self.elections.is_empty() && self.logs.is_empty()
    }

    /// What this one has and `other` has not.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self {
            session: self.session.filter(|session| other.session != Some(*session)),
            elections: self.elections.difference(&other.elections).cloned().collect(),
            logs: self.logs.difference(&other.logs).cloned().collect(),
        }
    }

    /// Takes in more; whether there is room.
    pub(super) fn add(&mut self, more: Self) -> bool {
        self.session = more.session.or(self.session);
        self.elections.extend(more.elections);
        self.logs.extend(more.logs);
        self.elections.len() + self.logs.len() <= NAMES_MAX
    }

    /// How things stand now, as if they had just changed.
    pub(super) fn present(&self, objects: &Objects) -> Vec<Change> {
        let at = objects.last_index();
        let elections = self.elections.iter().map(|election| {
            let leader = objects.leader(election);
            Change::Election { at, election: election.clone(), leader }
        });
        let logs = self.logs.iter().filter_map(|name| {
            let log = objects.log(name)?;
            Some(Change::Log { at, log: name.clone(), id: log.id, bounds: Some((log.first, log.next)) })
        });
        elections.chain(logs).collect()
    }

    /// As frames that ask for it.
    pub(super) fn to_frames(&self, realm: &Realm, group: GroupId) -> Result<Vec<Frame>, ProtoError> {
        let (group_high, group_low) = group_parts(group);
        let mut elections = self.elections.iter().map(ToString::to_string);
        let mut logs = self.logs.iter().map(ToString::to_string);
        let mut session = self.session.map(SessionId::to_wire);
        let mut frames = Vec::new();
        loop {
            let header = wire::GroupWatch {
                realm: realm.to_wire(),
                group_high,
                group_low,
                session: session.take(),
                elections: elections.by_ref().take(NAMES_A_FRAME / 2).collect(),
                logs: logs.by_ref().take(NAMES_A_FRAME / 2).collect(),
            };
            let is_last = header.elections.len() + header.logs.len() < NAMES_A_FRAME / 2;
            frames.push(Frame::new(FrameKind::GROUP_WATCH, &header, Bytes::new())?);
            if is_last {
                return Ok(frames);
            }
        }
    }

    pub(crate) fn from_frame(frame: &Frame) -> Result<(Realm, GroupId, Self), MessageError> {
        if frame.kind() != FrameKind::GROUP_WATCH {
            return Err(MessageError::Wrong("not what to watch"));
        }
        let header: wire::GroupWatch = frame.header()?;
        let interest = Self {
            session: header.session.map(|session| SessionId::from_wire(Some(session))),
            elections: header.elections.iter().map(|name| parsed(name)).collect::<Result<_, _>>()?,
            logs: header.logs.iter().map(|name| parsed(name)).collect::<Result<_, _>>()?,
        };
        let group = group_of(header.group_high, header.group_low);
        Ok((Realm::from_wire(&header.realm)?, group, interest))
    }
}

/// A change as a frame.
pub(crate) fn change_out(change: &Change) -> Result<Frame, ProtoError> {
    use wire::group_change::Change as Kind;
    let (at, kind) = match change {
        Change::Election { at, election, leader } => {
            let leader = leader.as_ref().map(leader_out);
            (at, Kind::Election(wire::ChangedElection { election: election.to_string(), leader }))
        }
        Change::Lock { at, lock, session, request, change } => {
            let (kind, token) = lock_change_out(*change);
            let (session, token) = (Some(session.to_wire()), token.map(FencingToken::to_wire));
            let lock = lock.to_string();
            (at, Kind::Lock(wire::ChangedLock { lock, session, request: request.0, kind, token }))
        }
        Change::Session { at, session, owner, change } => {
            let (kind, ttl) = session_change_out(*change);
            let (session, owner) = (Some(session.to_wire()), id_out(owner));
            (at, Kind::Session(wire::ChangedSession { session, owner, kind, ttl_ms: millis(ttl) }))
        }
        Change::Log { at, log, id, bounds } => {
            let (first, next) = bounds.unwrap_or_default();
            let (log, id) = (log.to_string(), Some(id.to_wire()));
            let log = wire::ChangedLog { log, id, gone: bounds.is_none(), first: first.0, next: next.0 };
            (at, Kind::Log(log))
        }
    };
    Frame::new(FrameKind::GROUP_CHANGE, &wire::GroupChange { index: at.0, change: Some(kind) }, Bytes::new())
}

pub(crate) fn change_in(frame: &Frame) -> Result<Change, MessageError> {
    use wire::group_change::Change as Kind;
    if frame.kind() != FrameKind::GROUP_CHANGE {
        return Err(MessageError::Wrong("not a change"));
    }
    let wire::GroupChange { index, change } = frame.header()?;
    let at = LogIndex(index);
    Ok(match change.ok_or(MessageError::Wrong("a change of an unknown kind"))? {
        Kind::Election(wire::ChangedElection { election, leader }) => {
            Change::Election { at, election: parsed(&election)?, leader: leader.map(leader_in).transpose()? }
        }
        Kind::Lock(wire::ChangedLock { lock, session, request, kind, token }) => Change::Lock {
            at,
            lock: parsed(&lock)?,
            session: SessionId::from_wire(session),
            request: RequestId(request),
            change: lock_change_in(kind, token)?,
        },
        Kind::Session(wire::ChangedSession { session, owner, kind, ttl_ms }) => Change::Session {
            at,
            session: SessionId::from_wire(session),
            owner: node_in(&owner)?,
            change: session_change_in(kind, ttl_ms)?,
        },
        Kind::Log(wire::ChangedLog { log, id, gone, first, next }) => Change::Log {
            at,
            log: parsed(&log)?,
            id: LogId::from_wire(id),
            bounds: (!gone).then_some((LogOffset(first), LogOffset(next))),
        },
    })
}

const fn lock_change_out(change: LockChange) -> (u32, Option<FencingToken>) {
    match change {
        LockChange::Granted { mode: LockMode::Exclusive, token } => (1, Some(token)),
        LockChange::Granted { mode: LockMode::Shared, token } => (2, Some(token)),
        LockChange::Released => (3, None),
        LockChange::Withdrawn => (4, None),
    }
}

fn lock_change_in(kind: u32, token: Option<wire::LogPlace>) -> Result<LockChange, MessageError> {
    let token = FencingToken::from_wire(token);
    match kind {
        1 => Ok(LockChange::Granted { mode: LockMode::Exclusive, token }),
        2 => Ok(LockChange::Granted { mode: LockMode::Shared, token }),
        3 => Ok(LockChange::Released),
        4 => Ok(LockChange::Withdrawn),
        _ => Err(MessageError::Wrong("a change of a lock of an unknown kind")),
    }
}

const fn session_change_out(change: SessionChange) -> (u32, Duration) {
    match change {
        SessionChange::Opened { ttl } => (1, ttl),
        SessionChange::Closed => (2, Duration::ZERO),
        SessionChange::Expired => (3, Duration::ZERO),
        SessionChange::Lost => (4, Duration::ZERO),
    }
}

const fn session_change_in(kind: u32, ttl_ms: u64) -> Result<SessionChange, MessageError> {
    match kind {
        1 => Ok(SessionChange::Opened { ttl: Duration::from_millis(ttl_ms) }),
        2 => Ok(SessionChange::Closed),
        3 => Ok(SessionChange::Expired),
        4 => Ok(SessionChange::Lost),
        _ => Err(MessageError::Wrong("a change of a session of an unknown kind")),
    }
}
