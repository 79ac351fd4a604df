//! Snapshots: the whole state as bytes, the same bytes for the same state.

mod read;
mod write;

use bytes::Bytes;
use macula_proto::wire::object_record::Kind;
use macula_proto::{decode, wire};
use prost::Message;
use sha2::{Digest, Sha256};

use super::codec::CodecError;
use super::limits::Limits;
use super::machine::Objects;

/// How snapshots are written here.
const VERSION: u32 = 1;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A record that cannot be read.
    #[error("record {record}: {cause}")]
    Record {
        /// Which record: 0 is the first.
        record: usize,
        /// Why.
        cause: CodecError,
    },
    /// A record that contradicts others, or comes where it has no place.
    #[error("record {record} breaks a rule: {rule}")]
    Rule {
        /// Which record: 0 is the first.
        record: usize,
        /// The rule.
        rule: &'static str,
    },
    /// Written by a version that is not known here.
    #[error("a snapshot of version {0}: version {VERSION} is known here")]
    Version(u32),
    /// It ends too early.
    #[error("a snapshot that is cut short")]
    CutShort,
    /// The same state has another encoding here.
    #[error("a snapshot that is not written as this version writes it")]
    NotCanonical,
}

impl Objects {
    /// The whole state. Equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        write::Writer::default().write(self)
    }

    /// Restores a state from [`encode`](Self::encode)'s bytes.
    ///
    /// # Errors
    /// [`SnapshotError`] for all other bytes, whatever they are: what is restored obeys all rules that the state obeys
    /// anyway.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Self::decode_with_limits(bytes, Limits::ALL)
    }

    /// As [`decode`](Self::decode), with other limits for what comes later. For tests.
    ///
    /// # Errors
    /// As there.
    pub fn decode_with_limits(bytes: &[u8], limits: Limits) -> Result<Self, SnapshotError> {
        let mut reader = read::Reader::new(limits);
        let mut rest = Bytes::copy_from_slice(bytes);
        while let Some(kind) = next_record(&mut rest, reader.records())? {
            reader.read(kind)?;
        }
        let objects = reader.finish()?;
        if objects.encode() == bytes { Ok(objects) } else { Err(SnapshotError::NotCanonical) }
    }

    /// SHA-256 of [`encode`](Self::encode)'s bytes: equal for equal states.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }
}

fn next_record(rest: &mut Bytes, record: usize) -> Result<Option<Kind>, SnapshotError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let length = prost::decode_length_delimiter(&mut *rest).map_err(|_| SnapshotError::CutShort)?;
    if length > rest.len() {
        return Err(SnapshotError::CutShort);
    }
    let wrong = |cause| SnapshotError::Record { record, cause };
    let read: wire::ObjectRecord = decode(rest.split_to(length)).map_err(|cause| wrong(cause.into()))?;
    read.kind.map(Some).ok_or_else(|| wrong(CodecError::Kind("a record")))
}

/// Appends a record behind its length.
fn put_record(out: &mut Vec<u8>, kind: Kind) {
    let record = wire::ObjectRecord { kind: Some(kind) };
    out.extend_from_slice(&record.encode_length_delimited_to_vec());
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
