//! What a member says about another, signed, and passed on exactly as it was received: so that nobody speaks in many names.

use std::fmt;
use std::sync::atomic::{self, AtomicBool};

use macula_proto::{Domain, NodeId, PublicKey, Signer, Verifier, decode, open, seal, wire};
use prost::Message as _;

use crate::Incarnation;
use crate::codec::CodecError;
use crate::statement::{StatementError, compact};

/// Largest body that an accusation may have: an id and a number.
const BODY_BYTES_MAX: usize = 64;

/// One member's word that another does not answer.
///
/// It is not the subject's word, so all it does is start a suspicion that the subject can refute; but it is its accuser's
/// word, who is believed only so often. Shared behind an `Arc`, as statements are.
pub struct Accusation {
    subject: NodeId,
    incarnation: Incarnation,
    accuser: NodeId,
    signed: wire::Signed,
    verified: AtomicBool,
}

impl Accusation {
    /// Signs that `subject`, as known under `incarnation`, does not answer the signer.
    pub fn new(signer: &dyn Signer, subject: NodeId, incarnation: Incarnation) -> Self {
        let id = subject.as_bytes().to_vec().into();
        let body = wire::SuspectBody { id, incarnation: incarnation.0 }.encode_to_vec();
        let signed = compact(seal(signer, Domain::SUSPECT, body.into()));
        let accuser = signer.public_key().node_id();
        Self { subject, incarnation, accuser, signed, verified: AtomicBool::new(true) }
    }

    /// Reads an accusation. Its signature is not checked yet.
    ///
    /// # Errors
    /// [`CodecError`] if the body or the key is none.
    pub fn parse(signed: wire::Signed) -> Result<Self, CodecError> {
        if signed.body.len() > BODY_BYTES_MAX {
            return Err(StatementError::TooLong(signed.body.len()).into());
        }
        let accuser = PublicKey::from_bytes(&signed.public_key).map_err(StatementError::from)?.node_id();
        let body = decode::<wire::SuspectBody>(signed.body.clone()).map_err(StatementError::from)?;
        let (subject, incarnation) = (NodeId::try_from(body.id.as_ref())?, Incarnation(body.incarnation));
        Ok(Self { subject, incarnation, accuser, signed: compact(signed), verified: AtomicBool::new(false) })
    }

    /// Whether the signature over the bytes received is the accuser's. That it is, is remembered.
    pub(crate) fn is_signed(&self, verifier: &dyn Verifier) -> bool {
        if !self.verified.load(atomic::Ordering::Relaxed) {
            let good = open(verifier, Domain::SUSPECT, Some(&self.signed)).is_ok();
            self.verified.store(good, atomic::Ordering::Relaxed);
        }
        self.verified.load(atomic::Ordering::Relaxed)
    }

    /// Who does not answer.
    pub fn subject(&self) -> NodeId {
        self.subject
    }

    /// The subject's incarnation, as known to the accuser.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Who says so.
    pub fn accuser(&self) -> NodeId {
        self.accuser
    }

    /// The signed bytes, as received.
    pub fn signed(&self) -> &wire::Signed {
        &self.signed
    }
}

impl fmt::Debug for Accusation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, incarnation, accuser, .. } = self;
        write!(f, "Accusation(of {} {incarnation} by {})", subject.short(), accuser.short())
    }
}

impl PartialEq for Accusation {
    fn eq(&self, other: &Self) -> bool {
        self.signed == other.signed
    }
}

impl Eq for Accusation {}
