//! Calls and answers as frames, and back. What comes from a peer is checked here.

use std::time::Duration;

use bytes::Bytes;
use macula_proto::wire::{self, CallFailureCode as Code};
use macula_proto::{Frame, FrameKind, Name, NodeId, ProtoError, Realm};

use crate::call::check_headers;
use crate::registry::{self, Procedure};
use crate::running::{Failed, Incoming, Refused, Shape};
use crate::{CallRequest, HandlerError, Headers, Reply};

/// Longest text of a failure, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// Something that a provider says about a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Accepted,
    Progress(Reply),
    Last { reply: Reply, load: u32, cache_for: Option<Duration> },
    Failure { failure: Failure, load: u32 },
}

/// An ERROR frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The handler was not started.
    Refused(Refused),
    /// The handler was started.
    Failed(Failed),
    /// The provider found the request malformed.
    BadRequest(String),
    /// A code that this version has no name for, or one that contradicts `ran`.
    Unknown { code: u32, text: String, ran: bool },
}

pub(crate) fn call_frame(
    request: &CallRequest,
    remaining: Duration,
    shape: Shape,
) -> Result<Frame, ProtoError> {
    let header = wire::Call { timeout_ms: timeout_ms(remaining), ..call_header(request, shape) };
    Frame::new(FrameKind::CALL, &header, request.payload.clone())
}

/// What a call says of itself, without the time that is left.
pub(crate) fn call_header(request: &CallRequest, shape: Shape) -> wire::Call {
    wire::Call {
        realm: request.realm.to_wire(),
        procedure: request.procedure.to_string(),
        timeout_ms: 0,
        content_type: request.content_type.clone(),
        headers: headers_to_wire(&request.headers),
        idempotent: request.idempotent,
        streamed: shape.streamed,
        parts: shape.parts,
    }
}

pub(crate) fn timeout_ms(remaining: Duration) -> u32 {
    u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX)
}

/// Reads a CALL; the error says which rule it breaks.
pub(crate) fn read_call(caller: NodeId, frame: Frame) -> Result<Incoming, String> {
    if frame.kind() != FrameKind::CALL {
        return Err(format!("a call begins with CALL, not {}", frame.kind()));
    }
    let call: wire::Call = frame.header().map_err(|error| error.to_string())?;
    read_call_header(caller, call, frame.into_payload())
}

/// The same of a call's header and payload.
pub(crate) fn read_call_header(caller: NodeId, call: wire::Call, payload: Bytes) -> Result<Incoming, String> {
    let realm = Realm::from_wire(&call.realm).map_err(|error| error.to_string())?;
    let name: Name = call.procedure.parse().map_err(|error: macula_proto::NameError| error.to_string())?;
    let headers = headers_from_wire(call.headers);
    check_headers(&call.content_type, &headers).map_err(|error| error.to_string())?;
    Ok(Incoming {
        procedure: Procedure { realm, name },
        caller,
        payload,
        content_type: call.content_type,
        headers,
        timeout: Duration::from_millis(call.timeout_ms.into()),
        shape: Shape { streamed: call.streamed, parts: call.parts },
    })
}

pub(crate) fn part_frame(payload: Bytes) -> Result<Frame, ProtoError> {
    Frame::new(FrameKind::CALL_PART, &wire::CallPart {}, payload)
}

pub(crate) fn accepted_frame() -> Result<Frame, ProtoError> {
    let header = wire::CallResult { accepted: true, ..wire::CallResult::default() };
    Frame::new(FrameKind::RESULT, &header, Bytes::new())
}

pub(crate) fn progress_frame(part: Reply) -> Result<Frame, ProtoError> {
    let header = result_header(&part, wire::CallResult::default());
    Frame::new(FrameKind::RESULT, &header, part.payload)
}

pub(crate) fn last_frame(reply: Reply, load: u32, cache_for: Option<Duration>) -> Result<Frame, ProtoError> {
    let header = last_header(&reply, load, cache_for);
    Frame::new(FrameKind::RESULT, &header, reply.payload)
}

/// What a last result says besides its payload.
pub(crate) fn last_header(reply: &Reply, load: u32, cache_for: Option<Duration>) -> wire::CallResult {
    let cache_ms = registry::millis(cache_for);
    result_header(reply, wire::CallResult { load, last: true, cache_ms, ..wire::CallResult::default() })
}

fn result_header(reply: &Reply, result: wire::CallResult) -> wire::CallResult {
    wire::CallResult {
        content_type: reply.content_type.clone(),
        headers: headers_to_wire(&reply.headers),
        ..result
    }
}

pub(crate) fn failure_frame(failure: Failure, load: u32) -> Result<Frame, ProtoError> {
    Frame::new(FrameKind::ERROR, &failure_header(failure, load), Bytes::new())
}

pub(crate) fn failure_header(failure: Failure, load: u32) -> wire::CallFailure {
    let ran = matches!(failure, Failure::Failed(_) | Failure::Unknown { ran: true, .. });
    let mut handler_code = None;
    let (code, text) = match failure {
        Failure::Refused(Refused::UnknownProcedure) => (Code::CallFailureUnknownProcedure, String::new()),
        Failure::Refused(Refused::Forbidden(text)) => (Code::CallFailureForbidden, text),
        Failure::Refused(Refused::Overloaded { .. }) => (Code::CallFailureOverloaded, String::new()),
        Failure::Refused(Refused::Closing) => (Code::CallFailureClosing, String::new()),
        Failure::Refused(Refused::Deadline) | Failure::Failed(Failed::Deadline) => {
            (Code::CallFailureDeadline, String::new())
        }
        Failure::Failed(Failed::Handler(error)) => {
            handler_code = error.code;
            (Code::CallFailureHandler, error.text)
        }
        Failure::Failed(Failed::Panic(text)) => (Code::CallFailurePanic, text),
        Failure::Failed(Failed::ReplyTooLarge(text)) => (Code::CallFailureReplyTooLarge, text),
        Failure::Failed(Failed::Cancelled) => (Code::CallFailureCancelled, String::new()),
        Failure::BadRequest(text) => (Code::CallFailureBadRequest, text),
        Failure::Unknown { text, .. } => (Code::CallFailureUnspecified, text),
    };
    wire::CallFailure { code: code as u32, text: cut(text), ran, handler_code, load }
}

/// Reads a provider's frame; `None` for one that is no answer, to be skipped.
pub(crate) fn read_answer(frame: Frame) -> Result<Option<Answer>, String> {
    match frame.kind() {
        FrameKind::RESULT => {
            let result = frame.header().map_err(|error| error.to_string())?;
            read_result(result, frame.into_payload()).map(Some)
        }
        FrameKind::ERROR => {
            let failure: wire::CallFailure = frame.header().map_err(|error| error.to_string())?;
            Ok(Some(read_failure(failure)))
        }
        _ => Ok(None),
    }
}

pub(crate) fn read_result(result: wire::CallResult, payload: Bytes) -> Result<Answer, String> {
    if result.accepted {
        return Ok(Answer::Accepted);
    }
    let headers = headers_from_wire(result.headers);
    check_headers(&result.content_type, &headers).map_err(|error| error.to_string())?;
    let reply = Reply { payload, content_type: result.content_type, headers, age: None };
    let wire::CallResult { last, load, cache_ms, .. } = result;
    Ok(if last {
        Answer::Last { reply, load, cache_for: registry::cache_for(cache_ms) }
    } else {
        Answer::Progress(reply)
    })
}

pub(crate) fn read_failure(failure: wire::CallFailure) -> Answer {
    let load = failure.load;
    Answer::Failure { failure: failure_of(failure), load }
}

fn failure_of(failure: wire::CallFailure) -> Failure {
    let wire::CallFailure { code, text, ran, handler_code, load } = failure;
    let text = cut(text);
    let known = i32::try_from(code).ok().and_then(|code| Code::try_from(code).ok());
    match (known, ran) {
        (Some(Code::CallFailureUnknownProcedure), false) => Failure::Refused(Refused::UnknownProcedure),
        (Some(Code::CallFailureForbidden), false) => Failure::Refused(Refused::Forbidden(text)),
        (Some(Code::CallFailureOverloaded), false) => Failure::Refused(Refused::Overloaded { load }),
        (Some(Code::CallFailureClosing), false) => Failure::Refused(Refused::Closing),
        (Some(Code::CallFailureDeadline), false) => Failure::Refused(Refused::Deadline),
        (Some(Code::CallFailureBadRequest), false) => Failure::BadRequest(text),
        (Some(Code::CallFailureDeadline), true) => Failure::Failed(Failed::Deadline),
        (Some(Code::CallFailureHandler), true) => {
            Failure::Failed(Failed::Handler(HandlerError { text, code: handler_code }))
        }
        (Some(Code::CallFailurePanic), true) => Failure::Failed(Failed::Panic(text)),
        (Some(Code::CallFailureReplyTooLarge), true) => Failure::Failed(Failed::ReplyTooLarge(text)),
        (Some(Code::CallFailureCancelled), true) => Failure::Failed(Failed::Cancelled),
        _ => Failure::Unknown { code, text, ran },
    }
}

fn headers_to_wire(headers: &Headers) -> Vec<wire::CallHeader> {
    let header =
        |(name, value): (&String, &String)| wire::CallHeader { name: name.clone(), value: value.clone() };
    headers.iter().map(header).collect()
}

fn headers_from_wire(headers: Vec<wire::CallHeader>) -> Headers {
    headers.into_iter().map(|header| (header.name, header.value)).collect()
}

/// Cuts a text to its limit, between characters.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(failure: Failure) -> Failure {
        match read_answer(failure_frame(failure, 3).unwrap()).unwrap().unwrap() {
            Answer::Failure { failure, load: 3 } => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_failure_arrives_as_itself() {
        let refused = [
            Refused::UnknownProcedure,
            Refused::Forbidden("no".into()),
            Refused::Overloaded { load: 3 },
            Refused::Closing,
            Refused::Deadline,
        ];
        for refused in refused {
            assert_eq!(there_and_back(Failure::Refused(refused.clone())), Failure::Refused(refused));
        }
        let failed = [
            Failed::Handler(HandlerError::new("ä").code(7)),
            Failed::Panic("oh".into()),
            Failed::ReplyTooLarge("big".into()),
            Failed::Deadline,
            Failed::Cancelled,
        ];
        for failed in failed {
            assert_eq!(there_and_back(Failure::Failed(failed.clone())), Failure::Failed(failed));
        }
        assert_eq!(there_and_back(Failure::BadRequest("x".into())), Failure::BadRequest("x".into()));
    }

    #[test]
    fn a_refusal_that_claims_to_have_run_is_none() {
        let code = Code::CallFailureOverloaded as u32;
        let lie = wire::CallFailure { code, ran: true, ..wire::CallFailure::default() };
        assert_eq!(failure_of(lie), Failure::Unknown { code, text: String::new(), ran: true });
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("ä".repeat(3000)).len(), 4096);
        assert_eq!(cut(format!("x{}", "ä".repeat(3000))).len(), 4095);
    }

    proptest! {
        #[test]
        fn a_call_round_trips(
            payload: Vec<u8>,
            headers in prop::collection::btree_map("[a-z]{1,20}", ".{0,40}", 0..10),
            millis: u32,
        ) {
            let mut request = CallRequest::new("a.b".parse().unwrap()).payload(payload).content_type("text/plain");
            request.headers = headers;
            let shape = Shape { streamed: true, parts: false };
            let frame = call_frame(&request, Duration::from_millis(millis.into()), shape).unwrap();
            let back = read_call(NodeId::from_bytes([1; 32]), frame).unwrap();
            prop_assert_eq!(back.payload, request.payload);
            prop_assert_eq!(back.headers, request.headers);
            prop_assert_eq!(back.timeout, Duration::from_millis(millis.into()));
            prop_assert_eq!(back.shape, shape);
        }

        #[test]
        fn garbage_is_an_error_or_nothing_never_a_panic(kind in 30u32..38, header: Vec<u8>) {
            let raw = RawHeader(header);
            let frame = raw.frame(kind);
            let _ = read_call(NodeId::from_bytes([1; 32]), frame.clone());
            let _ = read_answer(frame);
        }
    }

    /// A frame with any bytes for a header.
    struct RawHeader(Vec<u8>);

    impl RawHeader {
        fn frame(&self, kind: u32) -> Frame {
            let mut body = vec![kind as u8];
            body.extend(((self.0.len() as u16) | 0x4000).to_be_bytes());
            body.extend(&self.0);
            let mut bytes = ((body.len() as u16) | 0x4000).to_be_bytes().to_vec();
            bytes.extend(body);
            let mut decoder = macula_proto::FrameDecoder::default();
            decoder.feed(bytes.into());
            decoder.next_frame().unwrap().unwrap()
        }
    }
}
