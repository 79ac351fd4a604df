//! The wire, byte for byte: `docs/vectors/*.txt` against this crate, both ways.
//!
//! A vector that changes is a change of the protocol. If it is meant, run
//! `MACULA_VECTORS=write cargo test -p macula-proto --test vectors`, and say so in CHANGELOG.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its own functions too")]

use std::fmt::{Debug, Write as _};
use std::path::Path;
use std::{env, fs};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use macula_proto::wire::swim_update::Kind;
use macula_proto::{
    Contact, Domain, Ed25519Verifier, Frame, FrameDecoder, FrameKind, Key, PublicKey, Realm, SecretKey,
    Signature, Signer, Verifier, decode, open, seal, wire,
};
use prost::Message;

#[path = "vectors/group.rs"]
mod group;
#[path = "vectors/raft.rs"]
mod raft;
#[path = "vectors/trees.rs"]
mod trees;

/// One line of a file.
struct Vector {
    name: &'static str,
    note: &'static str,
    encoded: Vec<u8>,
    /// Reads bytes from the file and compares values.
    check: Check,
}

type Check = Box<dyn Fn(&[u8])>;

impl Vector {
    fn new(
        name: &'static str,
        note: &'static str,
        encoded: Vec<u8>,
        check: impl Fn(&[u8]) + 'static,
    ) -> Self {
        Self { name, note, encoded, check: Box::new(check) }
    }
}

/// A whole frame.
fn frame<M>(
    name: &'static str,
    note: &'static str,
    kind: FrameKind,
    header: M,
    payload: &'static [u8],
) -> Vector
where
    M: Message + Default + PartialEq + Debug + 'static,
{
    let encoded = Frame::new(kind, &header, Bytes::from_static(payload)).unwrap().to_bytes().to_vec();
    Vector::new(name, note, encoded, move |bytes| {
        let frame = only_frame(bytes);
        assert_eq!(frame.kind(), kind);
        assert_eq!(frame.header::<M>().unwrap(), header);
        assert_eq!(frame.payload().as_ref(), payload);
    })
}

/// A message that travels inside of another: a signed body, a record's value.
fn body<M: Message + Default + PartialEq + Debug + 'static>(
    name: &'static str,
    note: &'static str,
    value: M,
) -> Vector {
    let encoded = value.encode_to_vec();
    Vector::new(name, note, encoded, move |bytes| {
        assert_eq!(decode::<M>(Bytes::copy_from_slice(bytes)).unwrap(), value);
    })
}

fn only_frame(bytes: &[u8]) -> Frame {
    let mut decoder = FrameDecoder::default();
    decoder.feed(Bytes::copy_from_slice(bytes));
    let frame = decoder.next_frame().unwrap().expect("a whole frame");
    assert_eq!(decoder.pending_bytes(), 0, "one frame and nothing else");
    frame
}

/// Compares the file with `vectors`, both ways; or writes it.
fn check_file(file: &str, vectors: &[Vector]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors").join(file);
    if env::var("MACULA_VECTORS").is_ok_and(|mode| mode == "write") {
        fs::write(&path, written(vectors)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(" = ").expect("name = hex"))
        .collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, vectors.iter().map(|vector| vector.name).collect::<Vec<_>>(), "{file}");
    for (vector, (name, hex)) in vectors.iter().zip(lines) {
        assert_eq!(HEXLOWER.encode(&vector.encoded), hex, "{file}: {name}: encoding gives other bytes");
        (vector.check)(&HEXLOWER.decode(hex.as_bytes()).expect("lower-case hex"));
    }
}

fn written(vectors: &[Vector]) -> String {
    let mut out =
        String::from("# Test vectors of the Macula protocol; docs/PROTOCOL.md says how to read them.\n");
    for vector in vectors {
        let hex = HEXLOWER.encode(&vector.encoded);
        writeln!(out, "\n# {}\n{} = {hex}", vector.note, vector.name).expect("strings take all text");
    }
    out
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn id_bytes(seed: u8) -> Bytes {
    Bytes::copy_from_slice(key(seed).node_id().as_bytes())
}

fn contact(seed: u8) -> wire::Contact {
    Contact::new(key(seed).node_id(), "192.0.2.7:4000".parse().unwrap()).to_wire()
}

fn hello_body() -> wire::HelloBody {
    wire::HelloBody {
        major: 1,
        minor_min: 0,
        minor_max: 0,
        capabilities: 1,
        realms: vec![String::new(), "acme.eu-1".into()],
        contact: Some(contact(1)),
        agent: "macula/0.1.0".into(),
        binding: Bytes::from_static(&[0xb1; 32]),
        instance: 0x0102_0304_0506_0708,
    }
}

fn alive_body() -> wire::AliveBody {
    wire::AliveBody {
        incarnation: 1_700_000_000_000,
        contact: Some(contact(1)),
        tags: vec![wire::SwimTag { key: "zone".into(), value: "eu-1".into() }],
        instance: 7,
        unix_ms: 1_700_000_000_001,
    }
}

fn leave_body() -> wire::LeaveBody {
    wire::LeaveBody { incarnation: 1_700_000_000_000, unix_ms: 1_700_000_060_000 }
}

fn record() -> wire::DhtRecord {
    wire::DhtRecord {
        key: Bytes::copy_from_slice(Key::derive("topic", &Realm::default(), "home.kitchen").as_bytes()),
        announcer: Some(contact(1)),
        value: Bytes::from_static(b"value"),
        sequence: 3,
        issued_unix_ms: 1_700_000_000_000,
        ttl_ms: 3_600_000,
        withdrawn: false,
        lasting: false,
        life: 0,
    }
}

fn signed(domain: Domain, body: &impl Message) -> wire::Signed {
    seal(&key(1), domain, body.encode_to_vec().into())
}

#[test]
fn frames_of_the_transport() {
    let hello = wire::Hello { signed: Some(signed(Domain::HELLO, &hello_body())) };
    let refused = wire::Welcome { refusal: 9, reason: "no realm in common".into() };
    check_file(
        "transport.txt",
        &[
            body("hello-body", "The body of the hello below; its binding is 32 times b1.", hello_body()),
            frame("hello", "Signed with the key of seed 01.", FrameKind::HELLO, hello, b""),
            frame(
                "welcome",
                "Refusal 0: the peer is let in.",
                FrameKind::WELCOME,
                wire::Welcome::default(),
                b"",
            ),
            frame("welcome-refused", "Refusal 9: no realm in common.", FrameKind::WELCOME, refused, b""),
            frame("lane-open", "Lane 1.", FrameKind::LANE_OPEN, wire::LaneOpen { lane: 1 }, b""),
            frame("go-away", "Close code 1: idle.", FrameKind::GO_AWAY, wire::GoAway { code: 1 }, b""),
        ],
    );
}

#[test]
fn frames_of_membership() {
    let update = |kind| wire::SwimUpdate { kind: Some(kind) };
    let alive = update(Kind::Alive(signed(Domain::ALIVE, &alive_body())));
    let leave = update(Kind::Leave(signed(Domain::LEAVE, &leave_body())));
    let accusation = wire::SuspectBody { id: id_bytes(2), incarnation: 5 };
    let suspect = update(Kind::Suspect(signed(Domain::SUSPECT, &accusation)));
    let doubt = update(Kind::Doubt(wire::SwimDoubt { id: id_bytes(2), incarnation: 5 }));
    let packet = |sequence, updates| wire::SwimPacket { sequence, updates, ..Default::default() };
    let asked = wire::SwimPacket { sequence: 300, target: id_bytes(2), updates: Vec::new() };
    let bucket = wire::SwimBucket {
        index: 0x34,
        complete: true,
        entries: [&id_bytes(2)[..], &5u64.to_be_bytes(), &[1]].concat().into(),
    };
    let digest = wire::SwimSync { digest: vec![bucket], last: true, step: 2, ..Default::default() };
    let buckets = wire::SwimSync { buckets: vec![1, 2], last: true, step: 1, ..Default::default() };
    check_file(
        "membership.txt",
        &[
            body("alive-body", "What a member says of itself.", alive_body()),
            body("leave-body", "What a member says when it leaves.", leave_body()),
            frame("ping", "Probe 300, no news.", FrameKind::SWIM_PING, packet(300, Vec::new()), b""),
            frame(
                "ack",
                "Its answer, with the word of a live member.",
                FrameKind::SWIM_ACK,
                packet(300, vec![alive]),
                b"",
            ),
            frame("nack", "The helper got no answer.", FrameKind::SWIM_NACK, packet(300, Vec::new()), b""),
            frame("ping-req", "Probe the node of seed 02 for me.", FrameKind::SWIM_PING_REQ, asked, b""),
            frame(
                "gossip",
                "Somebody left, somebody is suspected, and the sender doubts somebody.",
                FrameKind::SWIM_GOSSIP,
                packet(0, vec![leave, suspect, doubt]),
                b"",
            ),
            frame("sync-digest", "One bucket with one suspect.", FrameKind::SWIM_SYNC, digest, b""),
            frame("sync-buckets", "Packed numbers; a real one has 256.", FrameKind::SWIM_SYNC, buckets, b""),
        ],
    );
}

#[test]
fn frames_of_the_directory() {
    let key = record().key;
    let envelope = signed(Domain::RECORD, &record());
    let find = wire::DhtFind {
        sender: Some(contact(2)),
        key: key.clone(),
        records: true,
        watch_ms: 60_000,
        after: Bytes::new(),
    };
    let found = wire::DhtFound {
        unix_ms: 0,
        contacts: vec![contact(1)],
        records: vec![envelope.clone()],
        estimate: 1,
        more: false,
        watching: true,
    };
    let store = wire::DhtStore { sender: Some(contact(1)), records: vec![envelope.clone()] };
    let full = wire::DhtStoreOutcome { refusal: 3, newer: None };
    let outcomes = vec![wire::DhtStoreOutcome::default(), full];
    let stored = wire::DhtStored { outcomes, told: vec![id_bytes(2)], lapsed: Vec::new() };
    let notify = wire::DhtNotify { sender: Some(contact(2)), records: vec![envelope] };
    let notified = wire::DhtNotified { unwatched: vec![key] };
    check_file(
        "directory.txt",
        &[
            body("record-body", "A record at the key of topic home.kitchen, announced by seed 01.", record()),
            frame(
                "find",
                "The records at that key, and a watch of a minute.",
                FrameKind::DHT_FIND,
                find,
                b"",
            ),
            frame("found", "One record.", FrameKind::DHT_FOUND, found, b""),
            frame("store", "Hold this record.", FrameKind::DHT_STORE, store, b""),
            frame("stored", "One stored, one refused: the key is full.", FrameKind::DHT_STORED, stored, b""),
            frame("notify", "A record at a watched key changed.", FrameKind::DHT_NOTIFY, notify, b""),
            frame(
                "notified",
                "Nobody watches that key here any more.",
                FrameKind::DHT_NOTIFIED,
                notified,
                b"",
            ),
        ],
    );
}

#[test]
fn frames_of_pubsub() {
    let publish = wire::Publish {
        topic: "home.kitchen".into(),
        epoch: 9,
        sequence: 1,
        content_type: "text/plain".into(),
        headers: vec![wire::PublishHeader { name: "trace".into(), value: Bytes::from_static(&[1, 2]) }],
        ..Default::default()
    };
    let interest =
        wire::Interest { patterns: vec!["home.kitchen".into(), "home.#".into()], ..Default::default() };
    let conditional = wire::Interest {
        patterns: vec!["home.#".into()],
        conditions: vec![wire::InterestCondition {
            pattern: 0,
            filter: "json.celsius > 30".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let grouped = wire::Interest {
        patterns: vec!["home.#".into()],
        conditions: vec![
            wire::InterestCondition::default(),
            wire::InterestCondition { group: "workers".into(), ..Default::default() },
        ],
        ..Default::default()
    };
    let picked =
        wire::Publish { groups: vec!["workers".into()], grouped: true, headers: vec![], ..publish.clone() };
    let acknowledged = wire::Publish { acknowledge: 300, headers: vec![], ..publish.clone() };
    let acks = wire::PublishAcks { epoch: 9, taken: vec![300, 301], lagged: vec![302], ..Default::default() };
    let handed_over = wire::Publish { handed_over: true, ..picked.clone() };
    check_file(
        "pubsub.txt",
        &[
            frame(
                "publish",
                "In the default realm; the payload is 21.5.",
                FrameKind::PUBLISH,
                publish,
                b"21.5",
            ),
            body("interest", "The value of a directory record.", interest),
            frame("publish-picked", "The receiver serves a group.", FrameKind::PUBLISH, picked, b"21.5"),
            frame(
                "publish-handed-over",
                "Another node could not be given it.",
                FrameKind::PUBLISH,
                handed_over,
                b"21.5",
            ),
            frame("publish-acknowledged", "To be acknowledged.", FrameKind::PUBLISH, acknowledged, b"21.5"),
            frame("published", "Two were taken, one was not.", FrameKind::PUBLISHED, acks, b""),
            body(
                "grouped-interest",
                "All below home, once for its own and once as a member of a group.",
                grouped,
            ),
            body("conditional-interest", "All below home, of which only what is hot.", conditional),
        ],
    );
}

#[test]
fn frames_of_rpc() {
    let call = wire::Call {
        realm: "acme".into(),
        procedure: "math.add".into(),
        timeout_ms: 5_000,
        content_type: "application/json".into(),
        headers: vec![wire::CallHeader { name: "trace".into(), value: "1".into() }],
        idempotent: true,
        streamed: false,
        parts: false,
    };
    let result = wire::CallResult {
        content_type: "application/json".into(),
        last: true,
        load: 2,
        ..Default::default()
    };
    let failure =
        wire::CallFailure { code: 7, text: "overflow".into(), ran: true, handler_code: Some(0), load: 2 };
    let keepable = wire::CallResult { last: true, cache_ms: 10_000, ..Default::default() };
    let offer = wire::ProcedureOffer {
        description: "adds two numbers".into(),
        concurrency_max: 64,
        ..Default::default()
    };
    let inner = wire::Call { procedure: "math.add".into(), ..Default::default() };
    let number = 0x1122_3344_5566_7788;
    let numbered = wire::NumberedCall {
        number,
        timeout_ms: 5_000,
        call: inner.encode_to_vec().into(),
        ..Default::default()
    };
    let cancelled = wire::NumberedCall { number, cancelled: true, ..Default::default() };
    let last = wire::CallResult { last: true, ..Default::default() };
    let answer = wire::NumberedAnswer { number, result: last.encode_to_vec().into(), ..Default::default() };
    let panic = wire::CallFailure { code: 8, text: "ouch".into(), ran: true, ..Default::default() };
    let panicked =
        wire::NumberedAnswer { number, failure: panic.encode_to_vec().into(), ..Default::default() };
    check_file(
        "rpc.txt",
        &[
            frame("call", "The payload is the request.", FrameKind::CALL, call, b"[2,3]"),
            frame(
                "call-part",
                "Nothing but payload.",
                FrameKind::CALL_PART,
                wire::CallPart::default(),
                b"part",
            ),
            frame("result", "The last one; the payload is the answer.", FrameKind::RESULT, result, b"5"),
            frame("result-keepable", "It may be kept for ten seconds.", FrameKind::RESULT, keepable, b"5"),
            frame("error", "The handler failed with its own code 0.", FrameKind::ERROR, failure, b""),
            body("offer", "The value of a directory record.", offer),
            frame("calls", "Small calls follow.", FrameKind::CALLS, wire::Calls {}, b""),
            frame("numbered-call", "A call of math.add.", FrameKind::NUMBERED_CALL, numbered, b"[2,3]"),
            frame("numbered-call-cancelled", "It has ended.", FrameKind::NUMBERED_CALL, cancelled, b""),
            frame("numbered-answer", "Its answer.", FrameKind::NUMBERED_ANSWER, answer, b"5"),
            frame("numbered-failure", "The handler panicked.", FrameKind::NUMBERED_ANSWER, panicked, b""),
        ],
    );
}

#[test]
fn framing() {
    let kind_only = |payload: &'static [u8]| {
        frame(
            "frame-unknown-kind",
            "Kind 4242 is skipped, not refused.",
            FrameKind(4242),
            wire::CallPart {},
            payload,
        )
    };
    let long: &'static [u8] = &[0x5a; 70];
    check_file(
        "framing.txt",
        &[
            frame(
                "frame-empty",
                "Kind 35, no header, no payload.",
                FrameKind::CALL_PART,
                wire::CallPart {},
                b"",
            ),
            frame(
                "frame-length-of-two-bytes",
                "73 bytes after the length.",
                FrameKind::CALL_PART,
                wire::CallPart {},
                long,
            ),
            kind_only(b"x"),
        ],
    );
}

#[test]
fn longer_varints_than_needed_are_read_as_well() {
    let bytes = [0x80, 0, 0, 9, 0x40, 35, 0xc0, 0, 0, 0, 0, 0, 0, 0];
    // The length says nine, but ten bytes follow it: the frame's parts do not fit.
    let mut decoder = FrameDecoder::default();
    decoder.feed(Bytes::copy_from_slice(&bytes));
    assert!(decoder.next_frame().is_err());

    let bytes = [0x80, 0, 0, 10, 0x40, 35, 0xc0, 0, 0, 0, 0, 0, 0, 0];
    let frame = only_frame(&bytes);
    assert_eq!((frame.kind(), frame.payload().len()), (FrameKind::CALL_PART, 0));
}

#[test]
fn identity() {
    let secret = key(1);
    let public = secret.public_key();
    let signature = secret.sign(Domain::ALIVE, b"body");
    let two_addrs = Contact {
        id: secret.node_id(),
        addrs: vec!["192.0.2.7:4000".parse().unwrap(), "[2001:db8::7]:4001".parse().unwrap()],
    };
    let envelope = signed(Domain::RECORD, &record());
    let verifies = move |bytes: &[u8]| {
        let signature = Signature::from_bytes(bytes.try_into().unwrap());
        assert!(Ed25519Verifier.verify(&public, Domain::ALIVE, b"body", &signature));
    };
    let opens = move |bytes: &[u8]| {
        let envelope: wire::Signed = decode(Bytes::copy_from_slice(bytes)).unwrap();
        let opened = open(&Ed25519Verifier, Domain::RECORD, Some(&envelope)).unwrap();
        assert_eq!(opened, (key(1).node_id(), record().encode_to_vec().into()));
    };
    let id_text = secret.node_id().to_string().into_bytes();
    let vectors = [
        Vector::new(
            "public-key",
            "Of the private key whose seed is 32 times 01.",
            public.as_bytes().to_vec(),
            move |bytes| {
                assert_eq!(PublicKey::from_bytes(bytes), Ok(public));
            },
        ),
        Vector::new("public-key-spki", "The same as SubjectPublicKeyInfo.", public.to_spki(), move |bytes| {
            assert_eq!(PublicKey::from_spki(bytes), Ok(public));
        }),
        Vector::new("node-id", "SHA-256 of the line above.", id_bytes(1).to_vec(), |bytes| {
            assert_eq!(key(1).node_id(), bytes.try_into().unwrap());
        }),
        Vector::new("node-id-text", "The same in base32, as ASCII.", id_text, |bytes| {
            assert_eq!(std::str::from_utf8(bytes).unwrap().parse(), Ok(key(1).node_id()));
        }),
        Vector::new("private-key-pkcs8", "As it is kept on disk.", secret.to_pkcs8(), |bytes| {
            assert_eq!(SecretKey::from_pkcs8(bytes).unwrap().node_id(), key(1).node_id());
        }),
        Vector::new(
            "signature",
            "Of the four bytes of \"body\", in the domain \"macula/1 alive\".",
            signature.as_bytes().to_vec(),
            verifies,
        ),
        Vector::new(
            "signed",
            "The envelope around directory.txt's record-body, in the domain \"macula/1 record\".",
            envelope.encode_to_vec(),
            opens,
        ),
        Vector::new(
            "contact",
            "192.0.2.7:4000, then [2001:db8::7]:4001.",
            two_addrs.to_wire().encode_to_vec(),
            move |bytes| {
                let wire = decode::<wire::Contact>(Bytes::copy_from_slice(bytes)).unwrap();
                assert_eq!(Contact::from_wire(Some(&wire)).as_ref(), Ok(&two_addrs));
            },
        ),
    ];
    check_file("identity.txt", &vectors);
}

#[test]
fn keys_of_the_directory() {
    let vector = |name, note, kind: &'static str, realm: &'static str, of: &'static str| {
        let key = move || Key::derive(kind, &realm.parse().unwrap(), of);
        Vector::new(name, note, key().as_bytes().to_vec(), move |bytes| {
            assert_eq!(key(), bytes.try_into().unwrap());
        })
    };
    check_file(
        "keys.txt",
        &[
            vector("topic", "(\"topic\", \"default\", \"home.kitchen\")", "topic", "default", "home.kitchen"),
            vector(
                "topic-in-realm",
                "(\"topic\", \"acme.eu-1\", \"home.kitchen\")",
                "topic",
                "acme.eu-1",
                "home.kitchen",
            ),
            vector(
                "topic-prefix",
                "(\"topic-prefix\", \"default\", \"home\")",
                "topic-prefix",
                "default",
                "home",
            ),
            vector("topic-root", "(\"topic-prefix\", \"default\", \"\")", "topic-prefix", "default", ""),
            vector(
                "procedure",
                "(\"procedure\", \"default\", \"math.add\")",
                "procedure",
                "default",
                "math.add",
            ),
        ],
    );
}
