//! Signed records: what an announcer vouches for, checked over the exact bytes received.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{
    Contact, ContactError, Domain, Key, SignedError, Signer, UnixMillis, Verifier, decode, open, seal, wire,
};
use prost::Message;

use crate::{Record, VALUE_BYTES_MAX};

/// Longest time to live of a record.
pub const TTL_MAX: Duration = Duration::from_hours(48);

/// An envelope larger than this holds no valid record: value, contact and signature, with room to spare.
const ENVELOPE_BYTES_MAX: usize = VALUE_BYTES_MAX + 512;

/// What an announcer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBody {
    /// Where it is announced.
    pub key: Key,
    /// Who announces it.
    pub announcer: Contact,
    /// What; empty in a withdrawal.
    pub value: Bytes,
    /// The higher is the newer.
    pub sequence: u64,
    /// When, by the announcer's wall clock.
    pub issued: UnixMillis,
    /// How long it is good after that.
    pub ttl: Duration,
    /// Takes back what was announced before. It is kept as long as any older record could still be about.
    pub withdrawn: bool,
    /// It is shown until it expires, also when its announcer is gone.
    pub lasting: bool,
    /// Which run of the announcer's process says so; 0 if that is not known.
    pub life: u64,
}

/// A record whose signature was checked, with the bytes that were signed.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedRecord {
    envelope: wire::Signed,
    body: RecordBody,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The envelope is larger than any record needs.
    #[error("a signed record of {0} bytes: at most {ENVELOPE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// The envelope is not what its signer signed.
    #[error("record: {0}")]
    Signed(#[from] SignedError),
    /// The body is not the message it should be.
    #[error("the record is malformed: {0}")]
    Malformed(#[from] macula_proto::MessageError),
    /// The key has another length than 32 bytes.
    #[error("a record's key has 32 bytes, not {0}")]
    Key(usize),
    /// The announcer is no contact.
    #[error("the record's announcer: {0}")]
    Announcer(#[from] ContactError),
    /// Somebody else signed it.
    #[error("the record is not signed by its announcer")]
    NotTheAnnouncer,
    /// The value is too large.
    #[error("a record's value has at most {VALUE_BYTES_MAX} bytes, not {0}")]
    Value(usize),
    /// The time to live is zero or too long.
    #[error("a record lives for 1 ms to {TTL_MAX:?}, not {0:?}")]
    Ttl(Duration),
}

impl SignedRecord {
    /// Signs `body`.
    pub fn sign(signer: &dyn Signer, body: RecordBody) -> Self {
        let bytes = body.to_wire().encode_to_vec().into();
        Self { envelope: seal(signer, Domain::RECORD, bytes), body }
    }

    /// Checks an envelope and reads the record in it.
    ///
    /// # Errors
    /// The first rule that it breaks; the signature is checked last, because it costs most.
    pub fn open(verifier: &dyn Verifier, envelope: wire::Signed) -> Result<Self, RecordError> {
        let body = Self::peek(&envelope)?;
        let (signer, _) = open(verifier, Domain::RECORD, Some(&envelope))?;
        if signer != body.announcer.id {
            return Err(RecordError::NotTheAnnouncer);
        }
        Ok(Self { envelope, body })
    }

    /// Reads what an envelope claims, without checking who signed it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn peek(envelope: &wire::Signed) -> Result<RecordBody, RecordError> {
        let bytes = envelope.encoded_len();
        if bytes > ENVELOPE_BYTES_MAX {
            return Err(RecordError::TooLarge(bytes));
        }
        RecordBody::from_wire(decode::<wire::DhtRecord>(envelope.body.clone())?)
    }

    /// What was signed.
    pub fn body(&self) -> &RecordBody {
        &self.body
    }

    /// The exact bytes, for whoever is to be told.
    pub fn envelope(&self) -> &wire::Signed {
        &self.envelope
    }

    /// Size on the wire, in bytes.
    pub fn wire_len(&self) -> usize {
        self.envelope.encoded_len()
    }

    /// How much longer it is good. A record from the future (its announcer's clock runs ahead) counts as issued now.
    pub fn remaining(&self, now: UnixMillis) -> Duration {
        let age = Duration::from_millis(now.0.saturating_sub(self.body.issued.0));
        self.body.ttl.saturating_sub(age)
    }

    /// What users see; `None` for a withdrawal.
    pub fn to_record(&self) -> Option<Record> {
        let body = &self.body;
        let record = || Record {
            key: body.key,
            announcer: body.announcer.clone(),
            value: body.value.clone(),
            sequence: body.sequence,
        };
        (!body.withdrawn).then(record)
    }

    /// Whether users would see a difference to `other`.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.body, &other.body);
        (a.withdrawn, a.lasting) == (b.withdrawn, b.lasting)
            && a.value == b.value
            && a.announcer == b.announcer
    }
}

impl RecordBody {
    fn to_wire(&self) -> wire::DhtRecord {
        wire::DhtRecord {
            key: Bytes::copy_from_slice(self.key.as_bytes()),
            announcer: Some(self.announcer.to_wire()),
            value: self.value.clone(),
            sequence: self.sequence,
            issued_unix_ms: self.issued.0,
            ttl_ms: u32::try_from(self.ttl.as_millis()).unwrap_or(u32::MAX),
            withdrawn: self.withdrawn,
            lasting: self.lasting,
            life: self.life,
        }
    }

    fn from_wire(message: wire::DhtRecord) -> Result<Self, RecordError> {
        if message.value.len() > VALUE_BYTES_MAX {
            return Err(RecordError::Value(message.value.len()));
        }
        let ttl = Duration::from_millis(message.ttl_ms.into());
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(RecordError::Ttl(ttl));
        }
        Ok(Self {
            key: Key::try_from(message.key.as_ref()).map_err(|_| RecordError::Key(message.key.len()))?,
            announcer: Contact::from_wire(message.announcer.as_ref())?,
            value: message.value,
            sequence: message.sequence,
            issued: UnixMillis(message.issued_unix_ms),
            ttl,
            withdrawn: message.withdrawn,
            lasting: message.lasting,
            life: message.life,
        })
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::{Ed25519Verifier, NodeId, SecretKey};

    use super::*;

    fn body(secret: &SecretKey) -> RecordBody {
        RecordBody {
            key: Key::from_bytes([9; 32]),
            announcer: Contact::new(secret.node_id(), "127.0.0.1:4000".parse().unwrap()),
            value: Bytes::from_static(b"value"),
            sequence: 7,
            issued: UnixMillis(1_000_000),
            ttl: Duration::from_mins(1),
            withdrawn: false,
            lasting: true,
            life: 5,
        }
    }

    fn open_one(envelope: wire::Signed) -> Result<SignedRecord, RecordError> {
        SignedRecord::open(&Ed25519Verifier, envelope)
    }

    #[test]
    fn a_record_round_trips_and_no_byte_of_it_can_be_changed() {
        let secret = SecretKey::from_seed([1; 32]);
        let signed = SignedRecord::sign(&secret, body(&secret));
        assert_eq!(open_one(signed.envelope().clone()), Ok(signed.clone()));
        for at in 0..signed.envelope().body.len() {
            let mut forged = signed.envelope().clone();
            let mut bytes = forged.body.to_vec();
            bytes[at] ^= 1;
            forged.body = bytes.into();
            assert!(open_one(forged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        let secret = SecretKey::from_seed([1; 32]);
        let broken = |change: &dyn Fn(&mut RecordBody)| {
            let mut body = body(&secret);
            change(&mut body);
            open_one(SignedRecord::sign(&secret, body).envelope().clone()).unwrap_err()
        };
        let someone = NodeId::from_bytes([3; 32]);
        assert_eq!(broken(&|body| body.announcer.id = someone), RecordError::NotTheAnnouncer);
        assert_eq!(broken(&|body| body.value = vec![0; 1025].into()), RecordError::Value(1025));
        assert_eq!(broken(&|body| body.ttl = Duration::ZERO), RecordError::Ttl(Duration::ZERO));
        assert!(matches!(broken(&|body| body.ttl = 2 * TTL_MAX), RecordError::Ttl(_)));
        assert!(matches!(broken(&|body| body.value = vec![0; 5000].into()), RecordError::TooLarge(_)));
    }

    #[test]
    fn what_is_left_of_its_time_follows_the_wall_clock_but_never_exceeds_the_ttl() {
        let secret = SecretKey::from_seed([1; 32]);
        let signed = SignedRecord::sign(&secret, body(&secret));
        assert_eq!(signed.remaining(UnixMillis(1_010_000)), Duration::from_secs(50));
        assert_eq!(signed.remaining(UnixMillis(9_000_000)), Duration::ZERO);
        assert_eq!(signed.remaining(UnixMillis(0)), Duration::from_mins(1));
    }
}
