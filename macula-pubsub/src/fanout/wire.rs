//! How trees talk on the wire: words and messages to frames, and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{
    Contact, Domain, Frame, FrameKind, NodeId, ProtoError, Realm, Signer, Verifier, open, seal, wire,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::TreeKey;
use crate::group::Scope;
use crate::message::{BadFrame, Content, Incoming, Place};
use crate::tree::{Body, CONTACTS_MAX, Parcel, SPANS_MAX, Span, StreamId, Word};

/// The steps of [`wire::TreeLink`].
mod step {
    pub(super) const ASK: u32 = 1;
    pub(super) const ASK_URGENTLY: u32 = 2;
    pub(super) const ACCEPT: u32 = 3;
    pub(super) const REFUSE: u32 = 4;
    pub(super) const LEAVE: u32 = 5;
    pub(super) const PRUNE: u32 = 6;
    pub(super) const EXCHANGE: u32 = 7;
    pub(super) const OTHERS: u32 = 8;
    pub(super) const INVITE: u32 = 9;
}

/// A message in a tree. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Carried(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    content: Content,
    scope: Scope,
    /// What others can check; `None` for what came directly, and goes no further.
    signed: Option<wire::Signed>,
}

impl Carried {
    /// What came directly from its publisher.
    pub(crate) fn direct(content: Content, scope: Scope) -> Self {
        Self(Arc::new(Inside { content, scope, signed: None }))
    }

    /// A message of this node, signed.
    pub(crate) fn seal(content: Content, place: &Place, payload_hash: Bytes, signer: &dyn Signer) -> Self {
        let scope = Scope { grouped: true, ..Scope::default() };
        let publish = wire::Publish {
            publisher: Bytes::copy_from_slice(content.publisher.as_bytes()),
            ..content.to_wire(Duration::ZERO, &scope, None, Vec::new())
        };
        let body = wire::TreeBody {
            place: Some(place.to_wire()),
            publish: publish.encode_to_vec().into(),
            payload_sha256: payload_hash,
        };
        let signed = seal(signer, Domain::TREE, body.encode_to_vec().into());
        Self(Arc::new(Inside { content, scope, signed: Some(signed) }))
    }

    pub(crate) fn content(&self) -> &Content {
        &self.0.content
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.0.scope
    }
}

impl Body for Carried {
    fn bytes(&self) -> usize {
        let signed = self.0.signed.as_ref().map_or(0, |signed| signed.body.len());
        self.0.content.payload.bytes.len() + signed
    }
}

/// The hash of a payload, as it is signed.
pub(crate) fn hash(payload: &Bytes) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(payload))
}

/// The frame of a message; `None` for one that goes no further.
pub(crate) fn message(parcel: &Parcel<Carried>) -> Option<Result<Frame, ProtoError>> {
    let Inside { content, signed, .. } = &*parcel.body.0;
    let header =
        wire::TreeMessage { signed: Some(signed.clone()?), hops: parcel.hops, answer: parcel.answer };
    Some(Frame::new(FrameKind::TREE_MESSAGE, &header, content.payload.bytes.clone()))
}

/// Reads and checks a message that came by a tree.
pub(crate) fn read_message(
    frame: Frame,
    verifier: &dyn Verifier,
) -> Result<(TreeKey, Parcel<Carried>), BadFrame> {
    let header: wire::TreeMessage = frame.header().map_err(|_| BadFrame::Malformed)?;
    let payload = frame.into_payload();
    let (origin, body) =
        open(verifier, Domain::TREE, header.signed.as_ref()).map_err(|_| BadFrame::Publisher)?;
    let body: wire::TreeBody = macula_proto::decode(body).map_err(|_| BadFrame::Malformed)?;
    if body.payload_sha256 != hash(&payload) {
        return Err(BadFrame::Publisher);
    }
    let place = body.place.as_ref().and_then(Place::from_wire).ok_or(BadFrame::Malformed)?;
    let publish: wire::Publish = macula_proto::decode(body.publish).map_err(|_| BadFrame::Malformed)?;
    let Incoming { content, scope, .. } = Incoming::from_wire(origin, publish, payload)?;
    if !place.pattern.matches(&content.topic) {
        return Err(BadFrame::Malformed);
    }
    let key = TreeKey { realm: content.realm.clone(), pattern: place.pattern.clone() };
    let carried = Carried(Arc::new(Inside { content, scope, signed: header.signed }));
    let parcel = parcel(&place, carried);
    Ok((key, Parcel { hops: header.hops, answer: header.answer, ..parcel }))
}

/// A message at its place.
pub(crate) fn parcel(place: &Place, body: Carried) -> Parcel<Carried> {
    Parcel {
        stream: StreamId { origin: body.content().publisher, run: place.run },
        number: place.number,
        since: place.since,
        continued: place.continued,
        hops: 0,
        answer: false,
        body,
    }
}

/// What somebody says.
#[derive(Debug)]
pub(crate) enum Said {
    Word(Contact, Word),
    /// Please take part in the tree; these are, or are going to be.
    Invite(Vec<Contact>),
}

/// The frame of a word, as `me` says it.
pub(crate) fn word(key: &TreeKey, me: &Contact, word: &Word) -> Result<Frame, ProtoError> {
    let link = |step, others: &[Contact]| link(key, me, step, others);
    match word {
        Word::Ask { urgent: false } => link(step::ASK, &[]),
        Word::Ask { urgent: true } => link(step::ASK_URGENTLY, &[]),
        Word::Accept => link(step::ACCEPT, &[]),
        Word::Refuse { others } => link(step::REFUSE, others),
        Word::Leave => link(step::LEAVE, &[]),
        Word::Prune => link(step::PRUNE, &[]),
        Word::Others { others, reply: true } => link(step::EXCHANGE, others),
        Word::Others { others, reply: false } => link(step::OTHERS, others),
        Word::Have(spans) => {
            let (realm, pattern) = (key.realm.to_wire(), key.pattern.to_string());
            let have = wire::TreeHave { realm, pattern, spans: spans.iter().map(span_to_wire).collect() };
            Frame::new(FrameKind::TREE_HAVE, &have, Bytes::new())
        }
        Word::Want { spans, graft } => {
            let (realm, pattern) = (key.realm.to_wire(), key.pattern.to_string());
            let spans = spans.iter().map(span_to_wire).collect();
            let want = wire::TreeWant { realm, pattern, spans, graft: *graft };
            Frame::new(FrameKind::TREE_WANT, &want, Bytes::new())
        }
    }
}

/// The frame of an invitation.
pub(crate) fn invitation(key: &TreeKey, me: &Contact, others: &[Contact]) -> Result<Frame, ProtoError> {
    link(key, me, step::INVITE, others)
}

fn link(key: &TreeKey, me: &Contact, step: u32, others: &[Contact]) -> Result<Frame, ProtoError> {
    let asks = matches!(step, step::ASK | step::ASK_URGENTLY);
    let link = wire::TreeLink {
        realm: key.realm.to_wire(),
        pattern: key.pattern.to_string(),
        step,
        sender: asks.then(|| me.to_wire()),
        others: others.iter().take(CONTACTS_MAX).map(Contact::to_wire).collect(),
    };
    Frame::new(FrameKind::TREE_LINK, &link, Bytes::new())
}

/// Reads a word that `from` said; `None`: it is none.
pub(crate) fn read_word(from: NodeId, frame: &Frame) -> Option<(TreeKey, Said)> {
    let sender = Contact { id: from, addrs: Vec::new() };
    match frame.kind() {
        FrameKind::TREE_HAVE => {
            let have: wire::TreeHave = frame.header().ok()?;
            let spans = read_spans(&have.spans)?;
            Some((read_key(&have.realm, &have.pattern)?, Said::Word(sender, Word::Have(spans))))
        }
        FrameKind::TREE_WANT => {
            let want: wire::TreeWant = frame.header().ok()?;
            let word = Word::Want { spans: read_spans(&want.spans)?, graft: want.graft };
            Some((read_key(&want.realm, &want.pattern)?, Said::Word(sender, word)))
        }
        _ => read_link(sender, &frame.header().ok()?),
    }
}

fn read_link(from: Contact, link: &wire::TreeLink) -> Option<(TreeKey, Said)> {
    let key = read_key(&link.realm, &link.pattern)?;
    let others = || -> Option<Vec<Contact>> {
        let others = link.others.iter().take(CONTACTS_MAX);
        others.map(|contact| Contact::from_wire(Some(contact)).ok()).collect()
    };
    let word = match link.step {
        step::ASK | step::ASK_URGENTLY => {
            let sender = Contact::from_wire(link.sender.as_ref()).ok()?;
            let urgent = link.step == step::ASK_URGENTLY;
            // Where it is, is its own word; who it is, is proven.
            let is_itself = sender.id == from.id;
            return is_itself.then_some((key, Said::Word(sender, Word::Ask { urgent })));
        }
        step::ACCEPT => Word::Accept,
        step::REFUSE => Word::Refuse { others: others()? },
        step::LEAVE => Word::Leave,
        step::PRUNE => Word::Prune,
        step::EXCHANGE => Word::Others { others: others()?, reply: true },
        step::OTHERS => Word::Others { others: others()?, reply: false },
        step::INVITE => return Some((key, Said::Invite(others()?))),
        _ => return None,
    };
    Some((key, Said::Word(from, word)))
}

fn read_key(realm: &str, pattern: &str) -> Option<TreeKey> {
    Some(TreeKey { realm: Realm::from_wire(realm).ok()?, pattern: pattern.parse().ok()? })
}

fn span_to_wire(span: &Span) -> wire::TreeSpan {
    wire::TreeSpan {
        origin: Bytes::copy_from_slice(span.stream.origin.as_bytes()),
        run: span.stream.run,
        first: span.first,
        last: span.last,
        hops: span.hops,
        late: span.late,
    }
}

fn read_spans(spans: &[wire::TreeSpan]) -> Option<Vec<Span>> {
    let read = |span: &wire::TreeSpan| {
        let stream = StreamId { origin: NodeId::try_from(span.origin.as_ref()).ok()?, run: span.run };
        let (first, last) = (span.first, span.last);
        Some(Span { stream, first, last, hops: span.hops, late: span.late })
    };
    spans.iter().take(SPANS_MAX).map(read).collect()
}

#[cfg(test)]
mod tests {
    use macula_proto::{Ed25519Verifier, SecretKey};

    use super::*;
    use crate::Payload;

    fn key() -> TreeKey {
        TreeKey { realm: Realm::default(), pattern: "a.*".parse().unwrap() }
    }

    fn contact(n: u8) -> Contact {
        Contact { id: NodeId::from_bytes([n; 32]), addrs: vec![([10, 0, 0, n], 4_000).into()] }
    }

    fn sealed(secret: &SecretKey, topic: &str) -> Parcel<Carried> {
        let content = Content {
            realm: Realm::default(),
            topic: topic.parse().unwrap(),
            payload: Payload::new("hi").header("k", "v"),
            publisher: secret.node_id(),
            epoch: 7,
            sequence: 9,
            retained_as: 0,
        };
        let place = Place { pattern: key().pattern, run: 3, number: 5, since: 2, continued: true };
        let payload_hash = hash(&content.payload.bytes);
        parcel(&place, Carried::seal(content, &place, payload_hash, secret))
    }

    #[test]
    fn a_message_survives_the_wire_with_its_publishers_signature() {
        let sent = Parcel { hops: 4, answer: true, ..sealed(&SecretKey::from_seed([1; 32]), "a.b") };
        let frame = message(&sent).unwrap().unwrap();
        let (tree, received) = read_message(frame, &Ed25519Verifier).unwrap();
        assert_eq!(tree, key());
        let shape = |parcel: &Parcel<Carried>| {
            let Parcel { stream, number, since, continued, hops, answer, .. } = *parcel;
            (stream, number, since, continued, hops, answer)
        };
        assert_eq!(shape(&received), shape(&sent));
        assert_eq!(received.body.content().payload, sent.body.content().payload);
        assert_eq!((received.body.content().epoch, received.body.content().sequence), (7, 9));
        assert!(received.body.scope().grouped, "no queue group is served by a tree");
        assert_eq!(message(&received).unwrap().unwrap(), message(&sent).unwrap().unwrap());
    }

    #[test]
    fn what_a_forwarder_changed_is_refused() {
        let sent = sealed(&SecretKey::from_seed([1; 32]), "a.b");
        let frame = message(&sent).unwrap().unwrap();
        let header: wire::TreeMessage = frame.header().unwrap();
        let refused = |header: &wire::TreeMessage, payload: &'static str| {
            let frame = Frame::new(FrameKind::TREE_MESSAGE, header, Bytes::from_static(payload.as_bytes()));
            read_message(frame.unwrap(), &Ed25519Verifier).unwrap_err()
        };
        assert_eq!(refused(&header, "ho"), BadFrame::Publisher);
        let mut signed = header.signed.clone().unwrap();
        signed.body = [signed.body.as_ref(), &[0]].concat().into();
        let changed = wire::TreeMessage { signed: Some(signed), ..header.clone() };
        assert_eq!(refused(&changed, "hi"), BadFrame::Publisher);
        assert_eq!(refused(&wire::TreeMessage { signed: None, ..header }, "hi"), BadFrame::Publisher);
        let elsewhere = sealed(&SecretKey::from_seed([1; 32]), "b.b");
        let frame = message(&elsewhere).unwrap().unwrap();
        assert_eq!(read_message(frame, &Ed25519Verifier).unwrap_err(), BadFrame::Malformed);
    }

    #[test]
    fn words_survive_the_wire() {
        let stream = StreamId { origin: contact(4).id, run: 8 };
        let spans = vec![Span { stream, first: 2, last: 9, hops: 3, late: true }];
        let words = [
            Word::Ask { urgent: false },
            Word::Ask { urgent: true },
            Word::Accept,
            Word::Refuse { others: vec![contact(7), contact(8)] },
            Word::Leave,
            Word::Prune,
            Word::Others { others: vec![contact(7)], reply: true },
            Word::Others { others: vec![], reply: false },
            Word::Have(vec![]),
            Word::Have(spans.clone()),
            Word::Want { spans, graft: true },
        ];
        for said in words {
            let frame = word(&key(), &contact(1), &said).unwrap();
            match read_word(contact(1).id, &frame) {
                Some((tree, Said::Word(from, heard))) => {
                    assert_eq!((tree, heard), (key(), said.clone()));
                    let has_address = !from.addrs.is_empty();
                    assert_eq!((from.id, has_address), (contact(1).id, matches!(said, Word::Ask { .. })));
                }
                other => panic!("{said:?} became {other:?}"),
            }
        }
        let invited = read_word(contact(1).id, &invitation(&key(), &contact(1), &[contact(2)]).unwrap());
        assert!(matches!(invited, Some((_, Said::Invite(others))) if others == [contact(2)]));
        let forged = word(&key(), &contact(1), &Word::Ask { urgent: true }).unwrap();
        assert!(read_word(contact(2).id, &forged).is_none(), "nobody asks in another's name");
    }
}
