//! Commands to messages and back.

use bytes::Bytes;
use macula_proto::wire::object_command::Kind;
use macula_proto::{NodeId, UnixMillis, decode, wire};
use prost::Message;

use super::super::command::{Command, Request};
use super::super::place::{Epoch, LogIndex, SessionId};
use super::{CodecError, id_out};

/// A session in a list: epoch and index.
const SESSION_BYTES: usize = 16;

impl Command {
    pub(super) fn to_wire(&self) -> wire::ObjectCommand {
        let kind = match self {
            Self::Asked { by, stamp, request } => Kind::Asked(wire::ObjectAsked {
                by: id_out(by),
                stamp_ms: stamp.0,
                request: request.to_wire().encode_to_vec().into(),
            }),
            Self::Expire { sessions } => {
                Kind::SessionsExpire(wire::SessionsExpire { sessions: pack(sessions) })
            }
            Self::Trim { stamp } => Kind::LogsTrim(wire::LogsTrim { stamp_ms: stamp.0 }),
            Self::RaiseEpoch { epoch } => Kind::EpochRaise(wire::EpochRaise { epoch: epoch.0 }),
            Self::Resume { epoch } => Kind::GroupResume(wire::GroupResume { epoch: epoch.0 }),
        };
        wire::ObjectCommand { kind: Some(kind) }
    }

    pub(super) fn from_wire(command: wire::ObjectCommand) -> Result<Self, CodecError> {
        Ok(match command.kind.ok_or(CodecError::Kind("a command"))? {
            Kind::Asked(asked) => Self::Asked {
                by: NodeId::try_from(asked.by.as_ref())?,
                stamp: UnixMillis(asked.stamp_ms),
                request: Request::from_wire(decode(asked.request)?)?,
            },
            Kind::SessionsExpire(expire) => Self::Expire { sessions: unpack(&expire.sessions)? },
            Kind::LogsTrim(trim) => Self::Trim { stamp: UnixMillis(trim.stamp_ms) },
            Kind::EpochRaise(raise) => Self::RaiseEpoch { epoch: Epoch(raise.epoch) },
            Kind::GroupResume(resume) => Self::Resume { epoch: Epoch(resume.epoch) },
        })
    }
}

fn pack(sessions: &[SessionId]) -> Bytes {
    let mut packed = Vec::with_capacity(sessions.len() * SESSION_BYTES);
    for session in sessions {
        packed.extend_from_slice(&session.epoch.0.to_be_bytes());
        packed.extend_from_slice(&session.index.0.to_be_bytes());
    }
    packed.into()
}

fn unpack(packed: &Bytes) -> Result<Vec<SessionId>, CodecError> {
    let (sessions, rest) = packed.as_chunks::<SESSION_BYTES>();
    if !rest.is_empty() {
        return Err(CodecError::CutShort("sessions"));
    }
    let read = |packed: &[u8; SESSION_BYTES]| {
        let both = u128::from_be_bytes(*packed);
        SessionId::new(Epoch((both >> 64) as u64), LogIndex(both as u64))
    };
    Ok(sessions.iter().map(read).collect())
}
