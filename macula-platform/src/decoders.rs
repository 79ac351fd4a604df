//! Every decoder of this crate under one name, for tests that feed them garbage.

use std::fmt::Debug;

use bytes::Bytes;
use macula_proto::{Frame, FrameDecoder, NodeId, Realm, UnixMillis, decode};
use prost::Message as _;

use crate::group::wire_forms::{Ask, Interest, Look, Question, Told, change_in, change_out};
use crate::lease::{KeepAlive, KeptAlive};
use crate::objects::{
    Answer, Command, Effects, LockMode, LogIndex, Nonce, Objects, Request, RequestId, SessionId,
    WriterSequence,
};
use crate::raft::codec;
use crate::{GroupId, VoterId};

/// Feeds bytes to every decoder of what comes from the disk and from other nodes. Returns how many took them.
///
/// # Panics
/// If what was decoded is not the same after it was encoded and decoded again.
pub fn decode_all(input: &[u8]) -> usize {
    let bytes = Bytes::copy_from_slice(input);
    let taken = [
        settles(&bytes, |bytes| Command::decode(bytes).ok(), |it| Some(it.encode())),
        settles(&bytes, |bytes| Request::decode(bytes).ok(), |it| Some(it.encode())),
        settles(&bytes, |bytes| Answer::decode(bytes).ok(), |it| Some(it.encode())),
        settles(&bytes, |bytes| KeepAlive::decode(bytes).ok(), |it| Some(it.encode())),
        settles(&bytes, |bytes| KeptAlive::decode(bytes).ok(), |it| Some(it.encode())),
        settles(&bytes, |bytes| Objects::decode(&bytes).ok(), |it| Some(it.encode())),
        settles(&bytes, |bytes| codec::entry_in(bytes).ok(), |it| Some(codec::entry_out(it).encode_to_vec())),
        settles(&bytes, |bytes| codec::entries_in(bytes).ok(), |it| Some(codec::entries_out(it).to_vec())),
        settles(
            &bytes,
            |bytes| codec::membership_in(bytes).ok(),
            |it| Some(codec::membership_out(it).encode_to_vec()),
        ),
        settles(
            &bytes,
            |bytes| codec::image_in(decode(bytes).ok()?).ok(),
            |(meta, objects)| Some(codec::image_out(meta, objects.clone()).encode_to_vec()),
        ),
    ];
    taken.into_iter().filter(|taken| *taken).count() + frames(bytes).iter().map(decode_frame).sum::<usize>()
}

/// Whether it is one; then it is the same after another turn.
fn settles<D: PartialEq + Debug>(
    bytes: &Bytes,
    decode: impl Fn(Bytes) -> Option<D>,
    encode: impl Fn(&D) -> Option<Vec<u8>>,
) -> bool {
    let Some(first) = decode(bytes.clone()) else { return false };
    let again = encode(&first).and_then(|bytes| decode(bytes.into()));
    assert_eq!(again.as_ref(), Some(&first), "after another turn");
    true
}

fn frames(bytes: Bytes) -> Vec<Frame> {
    let mut decoder = FrameDecoder::default();
    decoder.feed(bytes);
    std::iter::from_fn(|| decoder.next_frame().ok().flatten()).collect()
}

/// A frame goes to each decoder of frames, whatever its kind says.
fn decode_frame(frame: &Frame) -> usize {
    let bytes = frame.to_bytes();
    let frame_of = |bytes: Bytes| frames(bytes).pop();
    let taken = [
        settles(
            &bytes,
            |bytes| Ask::from_frame(&frame_of(bytes)?).ok(),
            |it| Some(it.to_frame().ok()?.to_bytes().to_vec()),
        ),
        settles(
            &bytes,
            |bytes| Told::from_frame(&frame_of(bytes)?).ok(),
            |it| Some(it.to_frame().ok()?.to_bytes().to_vec()),
        ),
        settles(
            &bytes,
            |bytes| change_in(&frame_of(bytes)?).ok(),
            |it| Some(change_out(it).ok()?.to_bytes().to_vec()),
        ),
        Interest::from_frame(frame).is_ok(),
        Told::from_frame(frame).is_ok_and(|told| told.seen().is_ok()),
    ];
    taken.into_iter().filter(|taken| *taken).count()
}

/// Something valid for each decoder, to begin with.
pub fn samples() -> Vec<Bytes> {
    let (objects, commands, answers, changes) = history();
    let mut samples: Vec<Vec<u8>> = commands.iter().map(Command::encode).collect();
    samples.extend(answers.iter().map(Answer::encode));
    samples.push(objects.encode());
    let (session, number) = (SessionId::default(), 7);
    let keep_alive = KeepAlive { session, number };
    samples.push(keep_alive.encode());
    samples.push(KeptAlive { to: keep_alive, outcome: crate::lease::Kept::Alive }.encode());
    let voter = VoterId { node: NodeId::from_bytes([3; 32]), storage: 5 };
    let questions = [
        Question::Where,
        Question::KeepAlive(keep_alive),
        Question::Look(Look::Elections(None)),
        Question::Offer(voter),
        Question::Manage(crate::Manage::Transfer(Some(voter.node))),
    ];
    let asks = questions.into_iter().filter_map(|question| {
        let ask = Ask { realm: Realm::default(), group: Some(GroupId(9)), question };
        ask.to_frame().ok()
    });
    let changes = changes.iter().filter_map(|change| change_out(change).ok());
    samples.extend(asks.chain(changes).map(|frame| frame.to_bytes().to_vec()));
    samples.into_iter().map(Bytes::from).collect()
}

type History = (Objects, Vec<Command>, Vec<Answer>, Vec<crate::Change>);

/// A little of everything.
fn history() -> History {
    let mut objects = Objects::default();
    let (mut commands, mut answers, mut effects) = (Vec::new(), Vec::new(), Effects::default());
    let mut asked = |request: Request| {
        let by = NodeId::from_bytes([1; 32]);
        let command = Command::Asked { by, stamp: UnixMillis(commands.len() as u64 + 1), request };
        let answer = objects.apply(LogIndex(commands.len() as u64 + 1), command.clone(), &mut effects);
        commands.push(command);
        answers.push(answer.clone());
        answer
    };
    let ttl = std::time::Duration::from_secs(1);
    let Answer::SessionOpened { session, .. } = asked(Request::OpenSession { nonce: Nonce(1), ttl }) else {
        return Default::default();
    };
    let (Ok(election), Ok(lock), Ok(log)) = ("a.b".parse(), "c".parse(), "d".parse::<crate::LogName>())
    else {
        return Default::default();
    };
    asked(Request::Campaign { session, election, request: RequestId(1), value: "here".into() });
    asked(Request::Acquire { session, lock, request: RequestId(2), mode: LockMode::Shared, wait: true });
    if let Answer::WriterOpened { writer, .. } =
        asked(Request::OpenWriter { log: log.clone(), nonce: Nonce(2) })
    {
        let (sequence, entries) = (WriterSequence(1), vec!["one".into(), "two".into()]);
        asked(Request::Append { log, writer, sequence, entries });
    }
    (objects, commands, answers, effects.changes)
}
