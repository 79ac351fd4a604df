//! Numbered calls and answers as frames, and back.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Frame, FrameKind, NodeId, ProtoError, decode, wire};
use prost::Message as _;

use crate::message::{self, Answer, Failure};
use crate::running::{Incoming, Shape};
use crate::{CallRequest, Reply};

/// Kinds of calls that a peer made last, and whose headers need not be read again.
const KNOWN_MAX: usize = 8;

const UNARY: Shape = Shape { streamed: false, parts: false };

pub(super) fn calls() -> Frame {
    Frame::new(FrameKind::CALLS, &wire::Calls {}, Bytes::new()).expect("an empty header is within the limit")
}

/// What calls of one kind have in common.
pub(crate) fn call_body(request: &CallRequest) -> Bytes {
    message::call_header(request, UNARY).encode_to_vec().into()
}

pub(super) fn call(
    number: u64,
    body: Bytes,
    remaining: Duration,
    payload: Bytes,
) -> Result<Frame, ProtoError> {
    let timeout_ms = message::timeout_ms(remaining);
    let header = wire::NumberedCall { number, timeout_ms, call: body, cancelled: false };
    Frame::new(FrameKind::NUMBERED_CALL, &header, payload)
}

pub(super) fn cancelled(number: u64) -> Frame {
    let header = wire::NumberedCall { number, cancelled: true, ..wire::NumberedCall::default() };
    Frame::new(FrameKind::NUMBERED_CALL, &header, Bytes::new()).expect("a short header is within the limit")
}

pub(super) fn answer(
    number: u64,
    reply: Reply,
    load: u32,
    cache_for: Option<Duration>,
) -> Result<Frame, ProtoError> {
    let result = message::last_header(&reply, load, cache_for).encode_to_vec().into();
    let header = wire::NumberedAnswer { number, result, failure: Bytes::new() };
    Frame::new(FrameKind::NUMBERED_ANSWER, &header, reply.payload)
}

pub(super) fn failure(number: u64, failure: Failure, load: u32) -> Result<Frame, ProtoError> {
    let failure = message::failure_header(failure, load).encode_to_vec().into();
    let header = wire::NumberedAnswer { number, result: Bytes::new(), failure };
    Frame::new(FrameKind::NUMBERED_ANSWER, &header, Bytes::new())
}

/// Says that the answer follows on this stream: first frames must come soon, and a large one may take its time.
pub(super) fn announced(number: u64) -> Frame {
    let header = wire::NumberedAnswer { number, ..wire::NumberedAnswer::default() };
    Frame::new(FrameKind::NUMBERED_ANSWER, &header, Bytes::new()).expect("a short header is within the limit")
}

/// The number of an answer that follows; `None` if this is none.
pub(super) fn read_announced(frame: &Frame) -> Option<u64> {
    let answer: wire::NumberedAnswer = frame.header().ok()?;
    (answer.result.is_empty() && answer.failure.is_empty()).then_some(answer.number)
}

/// An answer, or what is wrong with it, for the call of a number.
pub(super) fn read_answer(frame: Frame) -> Result<(u64, Result<Answer, String>), ProtoError> {
    let wire::NumberedAnswer { number, result, failure } = frame.header()?;
    let text = |error: macula_proto::MessageError| error.to_string();
    let answer = if failure.is_empty() {
        let result = decode(result).map_err(text);
        result.and_then(|result| message::read_result(result, frame.into_payload()))
    } else {
        decode(failure).map_err(text).map(message::read_failure)
    };
    Ok((number, answer))
}

/// What a caller says about the call of a number.
pub(super) enum Said {
    Call(u64, Result<Incoming, String>),
    Cancelled(u64),
}

/// Reads the calls of one peer.
pub(super) struct CallReader {
    caller: NodeId,
    /// The latest last.
    known: Vec<(Bytes, Incoming)>,
}

impl CallReader {
    pub(super) const fn new(caller: NodeId) -> Self {
        Self { caller, known: Vec::new() }
    }

    pub(super) fn read(&mut self, frame: Frame) -> Result<Said, ProtoError> {
        let wire::NumberedCall { number, timeout_ms, call, cancelled } = frame.header()?;
        if cancelled {
            return Ok(Said::Cancelled(number));
        }
        let timeout = Duration::from_millis(timeout_ms.into());
        let incoming = self.incoming(&call).map(|incoming| Incoming {
            payload: frame.into_payload(),
            timeout,
            ..incoming
        });
        Ok(Said::Call(number, incoming))
    }

    fn incoming(&mut self, call: &Bytes) -> Result<Incoming, String> {
        if let Some((_, incoming)) = self.known.iter().rev().find(|(known, _)| known == call) {
            return Ok(incoming.clone());
        }
        let header: wire::Call = decode(call.clone()).map_err(|error| error.to_string())?;
        if header.streamed || header.parts {
            return Err("a numbered call has one request and one answer".into());
        }
        let incoming = message::read_call_header(self.caller, header, Bytes::new())?;
        if self.known.len() == KNOWN_MAX {
            self.known.remove(0);
        }
        // Copied, so that a few bytes do not keep a whole packet.
        self.known.push((Bytes::copy_from_slice(call), incoming.clone()));
        Ok(incoming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn a_call_and_its_kind_are_read_as_they_were_written() {
        let mut reader = CallReader::new(CALLER);
        for n in 0..KNOWN_MAX as u64 + 3 {
            let request = CallRequest::new(format!("p.{n}").parse().unwrap()).header("h", "v");
            for payload in ["x", "y"] {
                let timeout = Duration::from_millis(70);
                let frame = call(n, call_body(&request), timeout, payload.into()).unwrap();
                let Said::Call(number, Ok(incoming)) = reader.read(frame).unwrap() else { panic!() };
                assert_eq!((number, incoming.timeout, incoming.caller), (n, timeout, CALLER));
                assert_eq!(
                    (incoming.procedure.name, incoming.payload),
                    (request.procedure.clone(), payload.into())
                );
                assert_eq!(incoming.headers, request.headers);
            }
        }
        assert_eq!(reader.known.len(), KNOWN_MAX);
    }

    #[test]
    fn a_call_that_is_none_is_refused_by_number() {
        let mut reader = CallReader::new(CALLER);
        let streamed = wire::Call { procedure: "p".into(), streamed: true, ..Default::default() };
        for body in [Bytes::new(), Bytes::from_static(b"\xff"), streamed.encode_to_vec().into()] {
            let frame = call(7, body, Duration::ZERO, Bytes::new()).unwrap();
            assert!(matches!(reader.read(frame), Ok(Said::Call(7, Err(_)))));
        }
        assert!(matches!(reader.read(cancelled(8)), Ok(Said::Cancelled(8))));
        assert!(reader.read(calls()).is_ok_and(|said| matches!(said, Said::Call(0, Err(_)))));
    }

    #[test]
    fn answers_and_failures_arrive_as_they_are() {
        let frame = answer(3, Reply::new("five").content_type("t"), 2, None).unwrap();
        assert_eq!(read_announced(&frame), None);
        let Ok((3, Ok(Answer::Last { reply, load: 2, cache_for: None }))) = read_answer(frame) else {
            panic!()
        };
        assert_eq!((reply.payload, reply.content_type), ("five".into(), "t".to_owned()));
        assert_eq!((read_announced(&announced(9)), read_announced(&calls())), (Some(9), Some(0)));
        let frame = failure(4, Failure::BadRequest("why".into()), 0).unwrap();
        let Ok((4, Ok(Answer::Failure { failure, load: 0 }))) = read_answer(frame) else { panic!() };
        assert_eq!(failure, Failure::BadRequest("why".into()));
    }
}
