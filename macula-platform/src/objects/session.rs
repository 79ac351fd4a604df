//! Sessions: what everything else lives with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use macula_proto::NodeId;

use super::answer::Refusal;
use super::limits::{Bounded, Limits};
use super::names::{ElectionName, LockName};
use super::place::{Nonce, RequestId, SessionId};
use super::usage::{Usage, within};
use super::window::RequestWindow;

/// One session, and where it has a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Session {
    pub(super) owner: NodeId,
    pub(super) nonce: Nonce,
    pub(super) ttl_ms: u64,
    pub(super) window: RequestWindow,
    pub(super) elections: BTreeSet<ElectionName>,
    pub(super) locks: BTreeSet<(LockName, RequestId)>,
}

impl Session {
    pub(super) const fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// All sessions, and what their nodes use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sessions {
    pub(super) open: BTreeMap<SessionId, Session>,
    nonces: BTreeMap<(NodeId, Nonce), SessionId>,
    pub(super) usage: Usage,
}

impl Sessions {
    /// The session that `owner` opened with `nonce`.
    pub(super) fn opened(&self, owner: NodeId, nonce: Nonce) -> Option<(SessionId, Duration)> {
        let id = *self.nonces.get(&(owner, nonce))?;
        Some((id, self.open.get(&id)?.ttl()))
    }

    pub(super) fn open(&mut self, id: SessionId, session: Session, limits: &Limits) -> Result<(), Refusal> {
        within(Bounded::Sessions, self.open.len() + 1, limits.sessions)?;
        self.usage.take_session(session.owner, limits)?;
        self.nonces.insert((session.owner, session.nonce), id);
        self.open.insert(id, session);
        Ok(())
    }

    /// Takes the session away. Its places are to be given back before.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.open.remove(&id)?;
        self.nonces.remove(&(session.owner, session.nonce));
        self.usage.free_session(session.owner);
        Some(session)
    }

    /// The session, for its owner.
    pub(super) fn of(&mut self, id: SessionId, by: NodeId) -> Result<&mut Session, Refusal> {
        let session = self.open.get_mut(&id).ok_or(Refusal::SessionUnknown(id))?;
        if session.owner == by { Ok(session) } else { Err(Refusal::SessionForeign(id)) }
    }

    /// Whose an open session is.
    pub(super) fn owner(&self, id: SessionId) -> Option<NodeId> {
        self.open.get(&id).map(|session| session.owner)
    }

    /// Gives back a place of an open session.
    pub(super) fn free_place(&mut self, id: SessionId, value_bytes: usize) {
        if let Some(owner) = self.owner(id) {
            self.usage.free_place(owner, value_bytes);
        }
    }
}
