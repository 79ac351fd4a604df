//! What a member says about itself, signed, and passed on exactly as it was received.

use std::cmp::Ordering;
use std::fmt;
use std::sync::atomic::{self, AtomicBool};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use macula_proto::{
    Contact, ContactError, Domain, KeyError, MessageError, NodeId, PublicKey, SignedError, Signer,
    UnixMillis, Verifier, decode, open, seal, wire,
};
use prost::Message as _;

use crate::member::{TagsError, check_tags};
use crate::overlay::{self, RINGS_MAX};
use crate::{Incarnation, Tags};

/// Largest body that a statement may have: eight addresses, full tags and the numbers.
const BODY_BYTES_MAX: usize = 1_000;

/// A member's own word: alive, or leaving.
///
/// Shared behind an `Arc` by the member list, the news and the messages, so that it is in memory once.
pub struct Statement {
    id: NodeId,
    incarnation: Incarnation,
    says: Says,
    signed: wire::Signed,
    verified: AtomicBool,
    positions: OnceLock<[u64; RINGS_MAX]>,
}

/// What a statement says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    Alive(Presence),
    Leave,
}

/// The content of an alive statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Presence {
    pub(crate) contact: Arc<Contact>,
    pub(crate) tags: Arc<Tags>,
    pub(crate) instance: u64,
}

/// Why a statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The body is larger than any may be.
    #[error("a statement of {0} bytes: at most {BODY_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The body is not the message it should be.
    #[error("the statement is not the message it should be: {0}")]
    Malformed(#[from] MessageError),
    /// The key in the envelope is no key.
    #[error("statement: {0}")]
    Key(#[from] KeyError),
    /// The contact breaks a rule.
    #[error("statement: {0}")]
    Contact(#[from] ContactError),
    /// The contact names somebody else than the signer.
    #[error("the statement's contact names somebody else than its signer")]
    NotTheSigner,
    /// The tags break a rule.
    #[error("statement: {0}")]
    Tags(#[from] TagsError),
    /// The signature is not good.
    #[error("statement: {0}")]
    Signature(#[from] SignedError),
}

impl Statement {
    /// Signs that the signer is alive. `contact` and `tags` have been checked.
    pub(crate) fn alive(
        signer: &dyn Signer,
        incarnation: Incarnation,
        presence: Presence,
        unix: UnixMillis,
    ) -> Self {
        let tag = |(key, value): (&String, &String)| wire::SwimTag { key: key.clone(), value: value.clone() };
        let body = wire::AliveBody {
            incarnation: incarnation.0,
            contact: Some(presence.contact.to_wire()),
            tags: presence.tags.iter().map(tag).collect(),
            instance: presence.instance,
            unix_ms: unix.0,
        };
        let signed = seal(signer, Domain::ALIVE, body.encode_to_vec().into());
        Self::own(presence.contact.id, incarnation, Says::Alive(presence), signed)
    }

    /// Signs that the signer leaves.
    pub(crate) fn leave(signer: &dyn Signer, id: NodeId, incarnation: Incarnation, unix: UnixMillis) -> Self {
        let body = wire::LeaveBody { incarnation: incarnation.0, unix_ms: unix.0 };
        let signed = seal(signer, Domain::LEAVE, body.encode_to_vec().into());
        Self::own(id, incarnation, Says::Leave, signed)
    }

    /// Reads an alive statement. Its signature is not checked yet: see [`Statement::verify`].
    pub(crate) fn parse_alive(signed: wire::Signed) -> Result<Self, StatementError> {
        let id = claimed_id(&signed)?;
        let body = decode::<wire::AliveBody>(signed.body.clone())?;
        let contact = Contact::from_wire(body.contact.as_ref())?;
        if contact.id != id {
            return Err(StatementError::NotTheSigner);
        }
        let tags: Tags = body.tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
        check_tags(&tags)?;
        let presence = Presence { contact: Arc::new(contact), tags: Arc::new(tags), instance: body.instance };
        Ok(Self::claimed(id, Incarnation(body.incarnation), Says::Alive(presence), signed))
    }

    /// Reads a leave statement. Its signature is not checked yet.
    pub(crate) fn parse_leave(signed: wire::Signed) -> Result<Self, StatementError> {
        let id = claimed_id(&signed)?;
        let body = decode::<wire::LeaveBody>(signed.body.clone())?;
        Ok(Self::claimed(id, Incarnation(body.incarnation), Says::Leave, signed))
    }

    /// Checks the signature over the bytes received, once: the answer "good" is remembered.
    pub(crate) fn verify(&self, verifier: &dyn Verifier) -> Result<(), StatementError> {
        if self.verified.load(atomic::Ordering::Relaxed) {
            return Ok(());
        }
        open(verifier, self.domain(), Some(&self.signed))?;
        self.verified.store(true, atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Whose word it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// How new it is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The signed bytes, as received.
    pub fn signed(&self) -> &wire::Signed {
        &self.signed
    }

    /// The content of an alive statement; `None` for a leave.
    pub(crate) fn presence(&self) -> Option<&Presence> {
        match &self.says {
            Says::Alive(presence) => Some(presence),
            Says::Leave => None,
        }
    }

    /// Where the member stands on each ring.
    pub(crate) fn positions(&self) -> &[u64; RINGS_MAX] {
        self.positions.get_or_init(|| overlay::positions(&self.id))
    }

    /// Which of two statements of one member counts. Higher incarnation first; at the same one a leave ends what
    /// an alive began; a member that signed two different words at one incarnation is held to the larger bytes, so
    /// that all who saw both agree.
    pub(crate) fn precedence(&self, other: &Self) -> Ordering {
        if std::ptr::eq(self, other) {
            return Ordering::Equal;
        }
        let rank = |statement: &Self| (statement.incarnation, statement.presence().is_none());
        rank(self).cmp(&rank(other)).then_with(|| self.signed.body.cmp(&other.signed.body))
    }

    const fn domain(&self) -> Domain {
        match self.says {
            Says::Alive(_) => Domain::ALIVE,
            Says::Leave => Domain::LEAVE,
        }
    }

    fn own(id: NodeId, incarnation: Incarnation, says: Says, signed: wire::Signed) -> Self {
        let statement = Self::claimed(id, incarnation, says, signed);
        statement.verified.store(true, atomic::Ordering::Relaxed);
        statement
    }

    fn claimed(id: NodeId, incarnation: Incarnation, says: Says, signed: wire::Signed) -> Self {
        let (verified, positions) = (AtomicBool::new(false), OnceLock::new());
        Self { id, incarnation, says, signed: compact(signed), verified, positions }
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = if self.presence().is_some() { "alive" } else { "leave" };
        write!(f, "Statement({} {says} {})", self.id.short(), self.incarnation)
    }
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        self.signed == other.signed
    }
}

impl Eq for Statement {}

/// Whose statement it claims to be.
fn claimed_id(signed: &wire::Signed) -> Result<NodeId, StatementError> {
    if signed.body.len() > BODY_BYTES_MAX {
        return Err(StatementError::TooLong(signed.body.len()));
    }
    Ok(PublicKey::from_bytes(&signed.public_key)?.node_id())
}

/// Copies the envelope out of the packet or page that it came in: what is kept lives for long and must not keep
/// 64 KiB alive.
pub(crate) fn compact(signed: wire::Signed) -> wire::Signed {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    wire::Signed {
        body: copy(&signed.body),
        public_key: copy(&signed.public_key),
        signature: copy(&signed.signature),
    }
}
