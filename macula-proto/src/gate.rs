//! Where authorization hooks in: one question, asked on receipt by every layer.

use std::fmt;

use crate::{Key, Name, NodeId, Realm};

/// What a peer wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Publish to a topic.
    Publish(&'a Name),
    /// Subscribe to a pattern (given as text, because only pub/sub knows patterns).
    Subscribe(&'a str),
    /// Call a procedure.
    Call(&'a Name),
    /// Offer a procedure.
    Register(&'a Name),
    /// Store a record at a directory key. A key does not tell its realm, and whoever holds its records need not be in that
    /// realm: [`Access::realm`] is the default one and means nothing here. Who may use what is announced is asked again
    /// by pub/sub and calls, with the realm.
    Announce(Key),
    /// Use the realm's elections, locks, logs and sessions.
    Coordinate,
    /// Be a member of the realm's group, or have its members changed.
    Govern,
}

impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(topic) => write!(f, "publish to `{topic}`"),
            Self::Subscribe(pattern) => write!(f, "subscribe to `{pattern}`"),
            Self::Call(procedure) => write!(f, "call `{procedure}`"),
            Self::Register(procedure) => write!(f, "register `{procedure}`"),
            Self::Announce(key) => write!(f, "announce at key {}", key.short()),
            Self::Coordinate => f.write_str("use elections, locks and logs"),
            Self::Govern => f.write_str("be a member of the group, or change its members"),
        }
    }
}

/// A question to a [`Gate`].
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Who asks: the authenticated peer, or this node itself.
    pub peer: NodeId,
    /// In which realm.
    pub realm: &'a Realm,
    /// What for.
    pub action: Action<'a>,
}

/// The answer "no", with what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {} may not {action} in realm `{realm}`", peer.short())]
pub struct Forbidden {
    /// Who asked.
    pub peer: NodeId,
    /// In which realm.
    pub realm: Realm,
    /// What was asked, in words.
    pub action: String,
}

/// Decides whether a peer may do something. Called on receipt, on the hot path: it must not block.
pub trait Gate: Send + Sync + 'static {
    /// Lets the access through, or says no.
    ///
    /// # Errors
    /// [`Forbidden`] when policy does not allow it.
    fn check(&self, access: Access<'_>) -> Result<(), Forbidden>;
}

/// The gate of a mesh without a policy: everything is allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Gate for AllowAll {
    fn check(&self, _access: Access<'_>) -> Result<(), Forbidden> {
        Ok(())
    }
}

impl Access<'_> {
    /// The refusal of this access.
    pub fn forbidden(&self) -> Forbidden {
        Forbidden { peer: self.peer, realm: self.realm.clone(), action: self.action.to_string() }
    }
}
