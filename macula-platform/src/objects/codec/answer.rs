//! Answers to messages and back.

use std::time::Duration;

use macula_proto::wire;
use macula_proto::wire::object_answer::Kind;

use super::super::answer::{Answer, Ended, Refusal, Standing};
use super::super::limits::Bounded;
use super::super::place::{
    Epoch, FencingToken, LogId, LogIndex, LogOffset, RequestId, SessionId, WriterId, WriterSequence,
};
use super::{CodecError, millis};

impl Answer {
    pub(super) fn to_wire(&self) -> wire::ObjectAnswer {
        let kind = match self {
            Self::SessionOpened { session, ttl } => Kind::SessionOpened(wire::SessionOpened {
                session: Some(session.to_wire()),
                ttl_ms: millis(*ttl),
            }),
            Self::Ended(was) => Kind::Ended(wire::ObjectEnded { was: was.to_wire() }),
            Self::Standing(standing) => Kind::Standing(standing.to_wire()),
            Self::WriterOpened { log, writer } => Kind::LogWriterOpened(wire::LogWriterOpened {
                log: Some(log.to_wire()),
                writer: Some(writer.to_wire()),
            }),
            Self::Appended { first, next, repeated } => {
                Kind::LogAppended(wire::LogAppended { first: first.0, next: next.0, repeated: *repeated })
            }
            Self::Done => Kind::Done(wire::ObjectDone {}),
            Self::Refused(refusal) => Kind::Refused(refusal.to_wire()),
        };
        wire::ObjectAnswer { kind: Some(kind) }
    }

    pub(super) fn from_wire(answer: wire::ObjectAnswer) -> Result<Self, CodecError> {
        Ok(match answer.kind.ok_or(CodecError::Kind("an answer"))? {
            Kind::SessionOpened(opened) => Self::SessionOpened {
                session: SessionId::from_wire(opened.session),
                ttl: Duration::from_millis(opened.ttl_ms),
            },
            Kind::Ended(ended) => Self::Ended(Ended::from_wire(ended.was)?),
            Kind::Standing(standing) => Self::Standing(Standing::from_wire(&standing)?),
            Kind::LogWriterOpened(opened) => Self::WriterOpened {
                log: LogId::from_wire(opened.log),
                writer: WriterId::from_wire(opened.writer),
            },
            Kind::LogAppended(appended) => Self::Appended {
                first: LogOffset(appended.first),
                next: LogOffset(appended.next),
                repeated: appended.repeated,
            },
            Kind::Done(wire::ObjectDone {}) => Self::Done,
            Kind::Refused(refusal) => Self::Refused(Refusal::from_wire(&refusal)?),
        })
    }
}

impl Ended {
    const fn to_wire(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Waited => 1,
            Self::Held => 2,
        }
    }

    fn from_wire(was: u32) -> Result<Self, CodecError> {
        let all = [Self::Nothing, Self::Waited, Self::Held];
        all.into_iter().find(|ended| ended.to_wire() == was).ok_or(CodecError::Kind("an end"))
    }
}

impl Standing {
    fn to_wire(self) -> wire::ObjectStanding {
        match self {
            Self::Granted(token) => {
                wire::ObjectStanding { kind: 1, token: Some(token.to_wire()), ..Default::default() }
            }
            Self::Waiting { ahead } => wire::ObjectStanding { kind: 2, ahead, ..Default::default() },
            Self::Busy => wire::ObjectStanding { kind: 3, ..Default::default() },
        }
    }

    fn from_wire(standing: &wire::ObjectStanding) -> Result<Self, CodecError> {
        match standing.kind {
            1 => Ok(Self::Granted(FencingToken::from_wire(standing.token))),
            2 => Ok(Self::Waiting { ahead: standing.ahead }),
            3 => Ok(Self::Busy),
            _ => Err(CodecError::Kind("a standing")),
        }
    }
}

impl Refusal {
    fn to_wire(&self) -> wire::ObjectRefusal {
        let blank = wire::ObjectRefusal::default();
        let of_place = |code, place| wire::ObjectRefusal { code, place: Some(place), ..blank };
        let of_number = |code, number| wire::ObjectRefusal { code, number, ..blank };
        match self {
            Self::SessionUnknown(session) => of_place(1, session.to_wire()),
            Self::SessionForeign(session) => of_place(2, session.to_wire()),
            Self::Ttl(ttl) => of_number(3, millis(*ttl)),
            Self::RequestOver(request) => of_number(4, request.0),
            Self::RequestLate(request) => of_number(5, request.0),
            Self::Full { of, bound } => {
                wire::ObjectRefusal { code: 6, of: of.to_wire(), bound: *bound, ..blank }
            }
            Self::TooLarge { of, given, bound } => {
                wire::ObjectRefusal { code: 7, of: of.to_wire(), number: *given, bound: *bound, place: None }
            }
            Self::Empty => of_number(8, 0),
            Self::KeepsNothing => of_number(9, 0),
            Self::LogUnknown => of_number(10, 0),
            Self::WriterUnknown(writer) => of_place(11, writer.to_wire()),
            Self::WriterForeign(writer) => of_place(12, writer.to_wire()),
            Self::SequenceGap { expected } => of_number(13, expected.0),
            Self::SequenceOver { last } => of_number(14, last.0),
            Self::EpochPast(epoch) => of_number(15, epoch.0),
            Self::IndexPast { given, last } => {
                wire::ObjectRefusal { code: 16, number: given.0, bound: last.0, ..blank }
            }
            Self::Recovering => of_number(17, 0),
        }
    }

    fn from_wire(refusal: &wire::ObjectRefusal) -> Result<Self, CodecError> {
        let unknown = CodecError::Kind("a refusal");
        let (number, bound) = (refusal.number, refusal.bound);
        let of = Bounded::from_wire(refusal.of);
        Ok(match refusal.code {
            1 => Self::SessionUnknown(SessionId::from_wire(refusal.place)),
            2 => Self::SessionForeign(SessionId::from_wire(refusal.place)),
            3 => Self::Ttl(Duration::from_millis(number)),
            4 => Self::RequestOver(RequestId(number)),
            5 => Self::RequestLate(RequestId(number)),
            6 => Self::Full { of: of.ok_or(unknown)?, bound },
            7 => Self::TooLarge { of: of.ok_or(unknown)?, given: number, bound },
            8 => Self::Empty,
            9 => Self::KeepsNothing,
            10 => Self::LogUnknown,
            11 => Self::WriterUnknown(WriterId::from_wire(refusal.place)),
            12 => Self::WriterForeign(WriterId::from_wire(refusal.place)),
            13 => Self::SequenceGap { expected: WriterSequence(number) },
            14 => Self::SequenceOver { last: WriterSequence(number) },
            15 => Self::EpochPast(Epoch(number)),
            16 => Self::IndexPast { given: LogIndex(number), last: LogIndex(bound) },
            17 => Self::Recovering,
            _ => return Err(unknown),
        })
    }
}
