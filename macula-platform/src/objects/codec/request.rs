//! Requests to messages and back, and the limits that can be told from a request alone.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use macula_proto::wire;
use macula_proto::wire::object_request::Kind;

use super::super::answer::Refusal;
use super::super::command::{LockMode, Request, Retention};
use super::super::limits::{
    APPEND_BYTES_MAX, APPEND_ENTRIES_MAX, Bounded, TTL_MAX, TTL_MIN, VALUE_BYTES_MAX,
};
use super::super::place::{Nonce, RequestId, SessionId, WriterId, WriterSequence};
use super::{CodecError, millis};

impl Request {
    /// Whether the request is within the limits that can be told from it alone.
    ///
    /// # Errors
    /// The [`Refusal`] that [`Objects`](crate::Objects) would answer with.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::OpenSession { ttl, .. } => check_ttl(*ttl),
            Self::Campaign { value, .. } => check_size(Bounded::ValueBytes, value.len(), VALUE_BYTES_MAX),
            Self::Append { entries, .. } => check_entries(entries),
            Self::Retain { retention, .. } => retention.check(),
            Self::CloseSession { .. }
            | Self::Resign { .. }
            | Self::Acquire { .. }
            | Self::Release { .. }
            | Self::Withdraw { .. }
            | Self::OpenWriter { .. }
            | Self::DropLog { .. } => Ok(()),
        }
    }

    pub(super) fn to_wire(&self) -> wire::ObjectRequest {
        let kind = match self.clone() {
            Self::OpenSession { nonce, ttl } => {
                Kind::SessionOpen(wire::SessionOpen { nonce: nonce.0, ttl_ms: millis(ttl) })
            }
            Self::CloseSession { session } => {
                Kind::SessionClose(wire::SessionClose { session: Some(session.to_wire()) })
            }
            Self::Campaign { session, election, request, value } => {
                let (session, election) = (Some(session.to_wire()), election.as_str().into());
                Kind::ElectionCampaign(wire::ElectionCampaign {
                    session,
                    election,
                    request: request.0,
                    value,
                })
            }
            Self::Resign { session, election, campaign } => Kind::ElectionResign(wire::ElectionResign {
                session: Some(session.to_wire()),
                election: election.as_str().into(),
                request: campaign.0,
            }),
            Self::Acquire { session, lock, request, mode, wait } => Kind::LockAcquire(wire::LockAcquire {
                session: Some(session.to_wire()),
                lock: lock.as_str().into(),
                request: request.0,
                shared: mode == LockMode::Shared,
                wait,
            }),
            Self::Release { session, lock, acquired } => release(session, lock.as_str(), acquired, false),
            Self::Withdraw { session, lock, acquired } => release(session, lock.as_str(), acquired, true),
            Self::OpenWriter { log, nonce } => {
                Kind::LogOpenWriter(wire::LogOpenWriter { log: log.as_str().into(), nonce: nonce.0 })
            }
            Self::Append { log, writer, sequence, entries } => Kind::LogAppend(wire::LogAppend {
                log: log.as_str().into(),
                writer: Some(writer.to_wire()),
                sequence: sequence.0,
                entries: pack(&entries),
            }),
            Self::Retain { log, retention } => Kind::LogRetain(wire::LogRetain {
                log: log.as_str().into(),
                entries: retention.entries,
                bytes: retention.bytes,
                age_ms: retention.age.map(millis),
            }),
            Self::DropLog { log } => Kind::LogDrop(wire::LogDrop { log: log.as_str().into() }),
        };
        wire::ObjectRequest { kind: Some(kind) }
    }

    pub(super) fn from_wire(request: wire::ObjectRequest) -> Result<Self, CodecError> {
        Ok(match request.kind.ok_or(CodecError::Kind("a request"))? {
            Kind::SessionOpen(open) => {
                Self::OpenSession { nonce: Nonce(open.nonce), ttl: Duration::from_millis(open.ttl_ms) }
            }
            Kind::SessionClose(close) => Self::CloseSession { session: SessionId::from_wire(close.session) },
            Kind::ElectionCampaign(campaign) => Self::Campaign {
                session: SessionId::from_wire(campaign.session),
                election: campaign.election.parse()?,
                request: RequestId(campaign.request),
                value: campaign.value,
            },
            Kind::ElectionResign(resign) => Self::Resign {
                session: SessionId::from_wire(resign.session),
                election: resign.election.parse()?,
                campaign: RequestId(resign.request),
            },
            Kind::LockAcquire(acquire) => Self::Acquire {
                session: SessionId::from_wire(acquire.session),
                lock: acquire.lock.parse()?,
                request: RequestId(acquire.request),
                mode: if acquire.shared { LockMode::Shared } else { LockMode::Exclusive },
                wait: acquire.wait,
            },
            Kind::LockRelease(release) => Self::from_release(&release)?,
            Kind::LogOpenWriter(open) => {
                Self::OpenWriter { log: open.log.parse()?, nonce: Nonce(open.nonce) }
            }
            Kind::LogAppend(append) => Self::Append {
                log: append.log.parse()?,
                writer: WriterId::from_wire(append.writer),
                sequence: WriterSequence(append.sequence),
                entries: unpack(append.entries)?,
            },
            Kind::LogRetain(retain) => Self::Retain {
                log: retain.log.parse()?,
                retention: Retention {
                    entries: retain.entries,
                    bytes: retain.bytes,
                    age: retain.age_ms.map(Duration::from_millis),
                },
            },
            Kind::LogDrop(log) => Self::DropLog { log: log.log.parse()? },
        })
    }

    fn from_release(release: &wire::LockRelease) -> Result<Self, CodecError> {
        let (session, lock) = (SessionId::from_wire(release.session), release.lock.parse()?);
        let acquired = RequestId(release.request);
        Ok(match release.waiting_only {
            true => Self::Withdraw { session, lock, acquired },
            false => Self::Release { session, lock, acquired },
        })
    }
}

impl Retention {
    fn check(self) -> Result<(), Refusal> {
        let nothing = self.entries == 0 || self.bytes == 0 || self.age.is_some_and(|age| millis(age) == 0);
        if nothing { Err(Refusal::KeepsNothing) } else { Ok(()) }
    }
}

fn release(session: SessionId, lock: &str, acquired: RequestId, waiting_only: bool) -> Kind {
    let (session, lock) = (Some(session.to_wire()), lock.into());
    Kind::LockRelease(wire::LockRelease { session, lock, request: acquired.0, waiting_only })
}

fn check_ttl(ttl: Duration) -> Result<(), Refusal> {
    let ttl = Duration::from_millis(millis(ttl));
    if (TTL_MIN..=TTL_MAX).contains(&ttl) { Ok(()) } else { Err(Refusal::Ttl(ttl)) }
}

fn check_size(of: Bounded, given: usize, bound: usize) -> Result<(), Refusal> {
    match given <= bound {
        true => Ok(()),
        false => Err(Refusal::TooLarge { of, given: given as u64, bound: bound as u64 }),
    }
}

fn check_entries(entries: &[Bytes]) -> Result<(), Refusal> {
    if entries.is_empty() {
        return Err(Refusal::Empty);
    }
    check_size(Bounded::AppendEntries, entries.len(), APPEND_ENTRIES_MAX)?;
    check_size(Bounded::AppendBytes, entries.iter().map(Bytes::len).sum(), APPEND_BYTES_MAX)
}

/// Entries one after the other, each behind its length.
fn pack(entries: &[Bytes]) -> Bytes {
    let mut packed = BytesMut::with_capacity(entries.iter().map(|entry| entry.len() + 4).sum());
    for entry in entries {
        prost::encoding::encode_varint(entry.len() as u64, &mut packed);
        packed.extend_from_slice(entry);
    }
    packed.freeze()
}

/// The entries share the memory of what they came in.
fn unpack(packed: Bytes) -> Result<Vec<Bytes>, CodecError> {
    let mut rest = packed.clone();
    let mut count = 0;
    while !rest.is_empty() {
        unpack_one(&mut rest)?;
        count += 1;
    }
    let mut entries = Vec::with_capacity(count);
    rest = packed;
    while !rest.is_empty() {
        entries.push(unpack_one(&mut rest)?);
    }
    Ok(entries)
}

fn unpack_one(packed: &mut Bytes) -> Result<Bytes, CodecError> {
    let cut_short = || CodecError::CutShort("entries");
    let length = prost::encoding::decode_varint(packed).map_err(|_| cut_short())?;
    let length = usize::try_from(length).ok().filter(|length| *length <= packed.len());
    Ok(packed.split_to(length.ok_or_else(cut_short)?))
}
