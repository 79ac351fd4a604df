use macula_proto::{Name, NodeId, UnixMillis};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::*;
use crate::objects::limits::{APPEND_BYTES_MAX, APPEND_ENTRIES_MAX, Bounded, VALUE_BYTES_MAX};

fn session() -> impl Strategy<Value = SessionId> {
    (0..3u64, any::<u64>()).prop_map(|(epoch, index)| SessionId::new(Epoch(epoch), LogIndex(index)))
}

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn name<N: From<Name> + std::fmt::Debug>() -> impl Strategy<Value = N> {
    "[a-z]{1,8}(\\.[a-z0-9_-]{1,8}){0,3}".prop_map(|name| N::from(name.parse().unwrap()))
}

fn request() -> impl Strategy<Value = Request> {
    let id = any::<u64>().prop_map(RequestId);
    let nonce = any::<u64>().prop_map(Nonce);
    let mode = prop_oneof![Just(LockMode::Shared), Just(LockMode::Exclusive)];
    let age = proptest::option::of(1..u64::MAX).prop_map(|age| age.map(Duration::from_millis));
    prop_oneof![
        (nonce.clone(), 100..60_000u64)
            .prop_map(|(nonce, ttl)| Request::OpenSession { nonce, ttl: Duration::from_millis(ttl) }),
        session().prop_map(|session| Request::CloseSession { session }),
        (session(), name(), id.clone(), payload()).prop_map(|(session, election, request, value)| {
            Request::Campaign { session, election, request, value }
        }),
        (session(), name(), id.clone()).prop_map(|(session, election, campaign)| Request::Resign {
            session,
            election,
            campaign
        }),
        (session(), name(), id.clone(), mode, any::<bool>()).prop_map(
            |(session, lock, request, mode, wait)| Request::Acquire { session, lock, request, mode, wait }
        ),
        (session(), name(), id.clone()).prop_map(|(session, lock, acquired)| Request::Release {
            session,
            lock,
            acquired
        }),
        (session(), name(), id).prop_map(|(session, lock, acquired)| Request::Withdraw {
            session,
            lock,
            acquired
        }),
        (name(), nonce).prop_map(|(log, nonce)| Request::OpenWriter { log, nonce }),
        (name(), any::<u64>(), any::<u64>(), vec(payload(), 1..5)).prop_map(
            |(log, index, sequence, entries)| Request::Append {
                log,
                writer: WriterId::new(Epoch(1), LogIndex(index)),
                sequence: WriterSequence(sequence),
                entries,
            }
        ),
        (name(), 1..u64::MAX, 1..u64::MAX, age).prop_map(|(log, entries, bytes, age)| Request::Retain {
            log,
            retention: Retention { entries, bytes, age },
        }),
        name().prop_map(|log| Request::DropLog { log }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => (any::<[u8; 32]>(), any::<u64>(), request()).prop_map(|(by, stamp, request)| Command::Asked {
            by: NodeId::from_bytes(by),
            stamp: UnixMillis(stamp),
            request,
        }),
        1 => vec(session(), 0..9).prop_map(|sessions| Command::Expire { sessions }),
        1 => any::<u64>().prop_map(|stamp| Command::Trim { stamp: UnixMillis(stamp) }),
        1 => any::<u64>().prop_map(|epoch| Command::RaiseEpoch { epoch: Epoch(epoch) }),
        1 => any::<u64>().prop_map(|epoch| Command::Resume { epoch: Epoch(epoch) }),
    ]
}

fn all_answers() -> Vec<Answer> {
    let session: SessionId = "1.7".parse().unwrap();
    let writer = WriterId::new(Epoch(2), LogIndex(9));
    let ttl = Duration::from_millis(1500);
    let of = Bounded::Candidates;
    let refusals = [
        Refusal::SessionUnknown(session),
        Refusal::SessionForeign(session),
        Refusal::Ttl(ttl),
        Refusal::RequestOver(RequestId(5)),
        Refusal::RequestLate(RequestId(6)),
        Refusal::Full { of, bound: 7 },
        Refusal::TooLarge { of: Bounded::Expired, given: 9, bound: 8 },
        Refusal::Empty,
        Refusal::KeepsNothing,
        Refusal::LogUnknown,
        Refusal::WriterUnknown(writer),
        Refusal::WriterForeign(writer),
        Refusal::SequenceGap { expected: WriterSequence(3) },
        Refusal::SequenceOver { last: WriterSequence(4) },
        Refusal::Recovering,
        Refusal::EpochPast(Epoch(5)),
        Refusal::IndexPast { given: LogIndex(1), last: LogIndex(2) },
    ];
    let (first, next) = (LogOffset(4), LogOffset(6));
    let mut answers = vec![
        Answer::SessionOpened { session, ttl },
        Answer::WriterOpened { log: LogId::new(Epoch(1), LogIndex(3)), writer },
        Answer::Appended { first, next, repeated: false },
        Answer::Appended { first, next, repeated: true },
        Answer::Done,
    ];
    answers.extend([Ended::Nothing, Ended::Waited, Ended::Held].map(Answer::Ended));
    let token = FencingToken::new(Epoch(1), LogIndex(8));
    let standings = [Standing::Granted(token), Standing::Waiting { ahead: 3 }, Standing::Busy];
    answers.extend(standings.map(Answer::Standing));
    answers.extend(refusals.map(Answer::Refused));
    answers
}

#[test]
fn answers_round_trip() {
    for answer in all_answers() {
        assert_eq!(Answer::decode(answer.encode().into()), Ok(answer));
    }
}

fn campaign(value: usize) -> Request {
    let (session, election) = (SessionId::default(), "e".parse().unwrap());
    Request::Campaign { session, election, request: RequestId(1), value: vec![0; value].into() }
}

fn append(entries: Vec<Bytes>) -> Request {
    let (log, writer) = ("l".parse().unwrap(), WriterId::default());
    Request::Append { log, writer, sequence: WriterSequence(1), entries }
}

#[test]
fn requests_from_elsewhere_are_held_to_the_limits() {
    let read = |request: Request| Request::decode(request.encode().into()).map(|_| ());
    let too_large = |of, given: usize, bound: usize| {
        Err(CodecError::Limit(Refusal::TooLarge { of, given: given as u64, bound: bound as u64 }))
    };
    assert_eq!(read(campaign(VALUE_BYTES_MAX)), Ok(()));
    assert_eq!(read(campaign(1025)), too_large(Bounded::ValueBytes, 1025, VALUE_BYTES_MAX));
    let most = vec![Bytes::from_static(b"x"); APPEND_ENTRIES_MAX];
    assert_eq!(read(append(most.clone())), Ok(()));
    let more = [most, vec![Bytes::new()]].concat();
    assert_eq!(read(append(more)), too_large(Bounded::AppendEntries, 1025, APPEND_ENTRIES_MAX));
    let large = append(vec![vec![0; APPEND_BYTES_MAX].into(), Bytes::from_static(b"y")]);
    assert_eq!(read(large), too_large(Bounded::AppendBytes, APPEND_BYTES_MAX + 1, APPEND_BYTES_MAX));
    assert_eq!(read(append(Vec::new())), Err(CodecError::Limit(Refusal::Empty)));
    for ttl in [Duration::from_millis(99), Duration::from_millis(60_001), Duration::MAX] {
        let refused = read(Request::OpenSession { nonce: Nonce(1), ttl });
        assert!(matches!(refused, Err(CodecError::Limit(Refusal::Ttl(_)))), "{ttl:?}: {refused:?}");
    }
    let retention = Retention { age: Some(Duration::from_micros(999)), ..Retention::default() };
    let nothing = Request::Retain { log: "l".parse().unwrap(), retention };
    assert_eq!(read(nothing), Err(CodecError::Limit(Refusal::KeepsNothing)));
}

#[test]
fn commands_are_readable_whatever_they_ask_for() {
    let by = NodeId::from_bytes([1; 32]);
    for request in [
        campaign(5000),
        append(Vec::new()),
        append(vec![Bytes::new(); 3000]),
        append(vec![vec![0; APPEND_BYTES_MAX + 1].into()]),
    ] {
        let command = Command::Asked { by, stamp: UnixMillis(1), request };
        assert_eq!(Command::decode(command.encode().into()), Ok(command));
    }
}

#[test]
fn what_is_no_command_says_why() {
    assert_eq!(Command::decode(Bytes::new()), Err(CodecError::Kind("a command")));
    assert_eq!(Request::decode(Bytes::new()), Err(CodecError::Kind("a request")));
    assert_eq!(Answer::decode(Bytes::new()), Err(CodecError::Kind("an answer")));
    let mut cut = append(vec![Bytes::from_static(b"abc")]).encode();
    let length = cut.len();
    // The length before `abc`.
    cut[length - 4] = 9;
    assert_eq!(Request::decode(cut.into()), Err(CodecError::CutShort("entries")));
}

proptest! {
    #[test]
    fn requests_and_commands_round_trip(request in request(), command in command()) {
        prop_assert_eq!(Request::decode(request.encode().into()), Ok(request));
        prop_assert_eq!(Command::decode(command.encode().into()), Ok(command));
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = (Command::decode(bytes.clone()), Request::decode(bytes.clone()), Answer::decode(bytes));
    }

    #[test]
    fn damaged_commands_are_refused_or_are_other_commands(
        command in command(), at: prop::sample::Index, to: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = command.encode();
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] = to;
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(read) = Command::decode(bytes.into()) {
            prop_assert_eq!(Command::decode(read.encode().into()), Ok(read));
        }
    }
}
