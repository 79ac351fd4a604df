use std::net::SocketAddr;

use macula_proto::{Contact, Ed25519Verifier, SecretKey, UnixMillis};
use proptest::prelude::*;

use super::*;
use crate::Tags;
use crate::statement::Presence;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn alive(n: u8, tags: Tags, addrs: usize) -> Statement {
    let addrs = (0..addrs).map(|i| SocketAddr::from(([i as u16 + 1; 8], 4_000))).collect();
    let contact = Arc::new(Contact { id: key(n).node_id(), addrs });
    let presence = Presence { contact, tags: Arc::new(tags), instance: u64::MAX };
    Statement::alive(&key(n), Incarnation(u64::MAX), presence, UnixMillis(u64::MAX))
}

fn accusation(n: u8) -> Arc<Accusation> {
    Arc::new(Accusation::new(&key(n), key(n + 1).node_id(), Incarnation(u64::MAX)))
}

fn doubt(n: u8) -> Doubt {
    Doubt { id: key(n).node_id(), incarnation: Incarnation(u64::MAX) }
}

#[test]
fn packets_round_trip() {
    let updates = vec![
        Update::Statement(Arc::new(alive(1, Tags::from([("a".into(), "b".into())]), 2))),
        Update::Statement(Arc::new(Statement::leave(
            &key(2),
            key(2).node_id(),
            Incarnation(3),
            UnixMillis(4),
        ))),
        Update::Suspect(accusation(3)),
        Update::Dead(accusation(4)),
        Update::Doubt(doubt(5)),
    ];
    for kind in [PacketKind::Ping, PacketKind::Ack, PacketKind::PingReq, PacketKind::Nack, PacketKind::Gossip]
    {
        let target = (kind == PacketKind::PingReq).then(|| key(5).node_id());
        let packet = Packet { kind, sequence: 7, target, updates: updates.clone() };
        let back = Packet::from_frame(&packet.to_frame().unwrap()).unwrap();
        assert_eq!((back.message, back.refused), (packet, 0));
    }
}

#[test]
fn the_largest_statement_fits_a_packet_and_its_size_is_known() {
    // Many small tags cost the most.
    let tags: Tags = (0..32).map(|i| (format!("{i:08}"), "v".repeat(8))).collect();
    let update = Update::Statement(Arc::new(alive(1, tags, 8)));
    assert!(update.wire_len() <= crate::message::UPDATES_BYTES_MAX, "{} bytes", update.wire_len());
    let target = Some(key(5).node_id());
    let packet = Packet { kind: PacketKind::PingReq, sequence: u64::MAX, target, updates: vec![update] };
    let frame = packet.to_frame().unwrap();
    assert!(frame.wire_len() <= PACKET_BYTES_MAX, "{} bytes", frame.wire_len());
    assert_eq!(Packet::from_frame(&frame).unwrap().refused, 0);
}

#[test]
fn the_size_of_hearsay_is_not_underestimated() {
    let with = |update: &Update, count| {
        let updates = vec![update.clone(); count];
        let packet = Packet { kind: PacketKind::Gossip, sequence: u64::MAX, target: None, updates };
        packet.to_frame().unwrap().wire_len()
    };
    for update in [Update::Dead(accusation(1)), Update::Doubt(doubt(1))] {
        assert_eq!(with(&update, 7) - with(&update, 4), 3 * update.wire_len(), "{update:?}");
    }
}

#[test]
fn sync_messages_round_trip() {
    let entry = DigestEntry { id: key(1).node_id(), incarnation: Incarnation(9), state: MemberState::Left };
    let digest = BucketDigest { index: 255, complete: true, entries: vec![entry; 3] };
    let messages = [
        SyncMessage::Buckets(Box::new(std::array::from_fn(|i| i as u64))),
        SyncMessage::Digest { buckets: vec![digest], last: true },
        SyncMessage::Exchange {
            updates: vec![Update::Doubt(doubt(1))],
            wants: vec![key(2).node_id(), key(3).node_id()],
            last: false,
        },
        SyncMessage::Supply { updates: Vec::new(), last: true },
    ];
    for message in messages {
        let back = SyncMessage::from_frame(&message.to_frame().unwrap()).unwrap();
        assert_eq!((back.message, back.refused), (message, 0));
    }
}

#[test]
fn bad_updates_are_left_out_and_counted() {
    let mut forged = alive(1, Tags::new(), 1).signed().clone();
    forged.public_key = Bytes::copy_from_slice(&[0xff; 32]);
    let mut stolen = alive(1, Tags::new(), 1).signed().clone();
    stolen.public_key = alive(2, Tags::new(), 1).signed().public_key.clone();
    let update = |signed| wire::SwimUpdate { kind: Some(Kind::Alive(signed)) };
    let good = update(alive(3, Tags::new(), 1).signed().clone());
    let updates = vec![update(forged), good, update(stolen), wire::SwimUpdate::default()];
    let header = wire::SwimPacket { sequence: 1, updates, ..wire::SwimPacket::default() };
    let frame = Frame::new(FrameKind::SWIM_GOSSIP, &header, Bytes::new()).unwrap();
    let decoded = Packet::from_frame(&frame).unwrap();
    assert_eq!((decoded.message.updates.len(), decoded.refused), (1, 3));
}

#[test]
fn a_tampered_statement_does_not_verify() {
    let mut signed = alive(1, Tags::from([("role".into(), "a".into())]), 0).signed().clone();
    let at = signed.body.windows(4).position(|bytes| bytes == b"role").unwrap();
    let mut body = signed.body.to_vec();
    body[at] = b'R';
    signed.body = body.into();
    let statement = Statement::parse_alive(signed).unwrap();
    assert!(statement.verify(&Ed25519Verifier).is_err());
}

proptest! {
    #[test]
    fn no_bytes_break_a_decoder(kind in 8u32..14, header: Vec<u8>) {
        let mut decoder = macula_proto::FrameDecoder::default();
        let mut bytes = vec![(header.len() + 2) as u8 & 0x3f, kind as u8, header.len() as u8 & 0x3f];
        bytes.extend(&header);
        decoder.feed(bytes.into());
        if let Ok(Some(frame)) = decoder.next_frame() {
            let _ = Packet::from_frame(&frame);
            let _ = SyncMessage::from_frame(&frame);
        }
    }
}

fn updates() -> impl Strategy<Value = Vec<Update>> {
    let numbers = || prop_oneof![Just(0), 1u64..300, any::<u64>()];
    let statement = (0..5usize, 0..9usize).prop_map(|(tags, addrs)| {
        let tags = (0..tags).map(|tag| (tag.to_string(), "v".repeat(tag * 20))).collect();
        Update::Statement(Arc::new(alive(1, tags, addrs)))
    });
    let hearsay = (numbers(), 0..3u8).prop_map(|(incarnation, kind)| {
        let (id, incarnation) = (key(3).node_id(), Incarnation(incarnation));
        let accusation = || Arc::new(Accusation::new(&key(4), id, incarnation));
        match kind {
            0 => Update::Suspect(accusation()),
            1 => Update::Dead(accusation()),
            _ => Update::Doubt(Doubt { id, incarnation }),
        }
    });
    proptest::collection::vec(prop_oneof![statement, hearsay], 0..6)
}

fn digests() -> impl Strategy<Value = Vec<BucketDigest>> {
    let entry = DigestEntry { id: key(1).node_id(), incarnation: Incarnation(9), state: MemberState::Dead };
    let digest = (any::<u8>(), any::<bool>(), 0..50usize).prop_map(move |(index, complete, entries)| {
        BucketDigest { index, complete, entries: vec![entry; entries] }
    });
    proptest::collection::vec(digest, 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sizes_are_told_without_encoding(
        updates in updates(),
        buckets in digests(),
        sequence in prop_oneof![Just(0), any::<u64>()],
        (wants, last) in (0..600usize, any::<bool>()),
    ) {
        for target in [None, Some(key(5).node_id())] {
            let packet = Packet { kind: PacketKind::PingReq, sequence, target, updates: updates.clone() };
            prop_assert_eq!(packet.wire_len(), packet.to_frame().unwrap().wire_len());
        }
        let wants = vec![key(2).node_id(); wants];
        let messages = [
            SyncMessage::Buckets(Box::new([7; BUCKETS])),
            SyncMessage::Digest { buckets, last },
            SyncMessage::Exchange { updates: updates.clone(), wants, last },
            SyncMessage::Supply { updates, last },
        ];
        for message in messages {
            prop_assert_eq!(message.wire_len(), message.to_frame().unwrap().wire_len());
        }
    }
}
