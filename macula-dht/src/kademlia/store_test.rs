use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Contact, SecretKey};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::record::RecordBody;
use super::*;

const UNIX: UnixMillis = UnixMillis(1_000_000);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(seconds))
}

fn key(n: u8) -> Key {
    let mut bytes = [0; 32];
    bytes[0] = n;
    Key::from_bytes(bytes)
}

fn body(key: Key, announcer: u8, sequence: u64) -> RecordBody {
    let id = SecretKey::from_seed([announcer; 32]).node_id();
    RecordBody {
        key,
        announcer: Contact::new(id, "127.0.0.1:4000".parse().unwrap()),
        value: Bytes::from(format!("value {sequence}")),
        sequence,
        issued: UNIX,
        ttl: Duration::from_secs(100),
        withdrawn: false,
        lasting: false,
        life: 0,
    }
}

fn signed(body: RecordBody, announcer: u8) -> Arc<SignedRecord> {
    Arc::new(SignedRecord::sign(&SecretKey::from_seed([announcer; 32]), body))
}

fn record(n: u8, announcer: u8, sequence: u64) -> Arc<SignedRecord> {
    signed(body(key(n), announcer, sequence), announcer)
}

fn store(quotas: Quotas) -> Store {
    Store::new(NodeId::from_bytes([0; 32]), quotas, SubnetLimits::default())
}

#[test]
fn the_higher_sequence_wins_and_the_same_again_is_no_change() {
    let mut store = store(Quotas::default());
    assert_eq!(store.put(at(0), UNIX, record(1, 1, 5)), Ok(Put::Changed));
    assert_eq!(store.put(at(0), UNIX, record(1, 1, 5)), Ok(Put::Refreshed));
    assert_eq!(store.put(at(0), UNIX, record(1, 1, 4)), Err(Refusal::Outdated));
    assert_eq!(store.put(at(0), UNIX, record(1, 1, 6)), Ok(Put::Changed));
    let same_value = signed(RecordBody { value: "value 6".into(), ..body(key(1), 1, 7) }, 1);
    assert_eq!(store.put(at(0), UNIX, same_value), Ok(Put::Refreshed));
    let withdrawal = signed(RecordBody { withdrawn: true, ..body(key(1), 1, 8) }, 1);
    assert_eq!(store.put(at(0), UNIX, withdrawal), Ok(Put::Changed));
    assert_eq!(store.put(at(0), UNIX, record(1, 1, 7)), Err(Refusal::Outdated));
    assert_eq!(store.len(), 1);
}

#[test]
fn each_quota_has_its_refusal_and_replacing_needs_no_room() {
    let quotas = Quotas { per_key: 2, per_announcer: 2, records: 4, ..Quotas::default() };
    let mut store = store(quotas);
    for (n, announcer) in [(1, 1), (1, 2)] {
        assert_eq!(store.put(at(0), UNIX, record(n, announcer, 1)), Ok(Put::Changed));
    }
    assert_eq!(store.put(at(0), UNIX, record(1, 3, 1)), Err(Refusal::KeyFull));
    assert_eq!(store.put(at(0), UNIX, record(1, 1, 2)), Ok(Put::Changed));
    assert_eq!(store.put(at(0), UNIX, record(2, 1, 1)), Ok(Put::Changed));
    assert_eq!(store.put(at(0), UNIX, record(3, 1, 1)), Err(Refusal::AnnouncerFull));
    assert_eq!(store.put(at(0), UNIX, record(4, 2, 1)), Ok(Put::Changed));
    assert_eq!(store.put(at(0), UNIX, record(9, 3, 1)), Err(Refusal::Full), "farther than all that is held");
    assert_eq!(store.put(at(0), UNIX, record(3, 3, 1)), Ok(Put::Changed), "closer than the farthest");
    let keys: Vec<Key> = store.keys().copied().collect();
    assert_eq!(keys, [key(1), key(2), key(3)], "the farthest gave way");
}

#[test]
fn bytes_are_bounded_too() {
    let one = cost(&record(1, 1, 1));
    let mut store = store(Quotas { bytes: 3 * one, ..Quotas::default() });
    for announcer in 1..=3 {
        assert_eq!(store.put(at(0), UNIX, record(1, announcer, 1)), Ok(Put::Changed));
    }
    assert!(store.is_half_full());
    assert_eq!(store.put(at(0), UNIX, record(1, 4, 1)), Err(Refusal::Full));
    assert_eq!(store.bytes(), 3 * one);
}

#[test]
fn records_expire_when_their_announcer_said() {
    let mut store = store(Quotas::default());
    let later = UnixMillis(UNIX.0 + 40_000);
    assert_eq!(store.put(at(10), later, record(1, 1, 1)), Ok(Put::Changed));
    assert_eq!(store.next_expiry(), Some(at(70)), "60 of 100 seconds are left");
    assert_eq!(store.expire(at(69)), 0);
    assert_eq!(store.expire(at(70)), 1);
    assert_eq!((store.len(), store.bytes(), store.per_announcer.len(), store.keys().count()), (0, 0, 0, 0));
    let too_late = UnixMillis(UNIX.0 + 100_000);
    assert_eq!(store.put(at(70), too_late, record(1, 1, 1)), Err(Refusal::Expired));
}

#[test]
fn pages_cover_all_records_once_in_order() {
    let mut records: Vec<_> = (0..200).map(large).collect();
    records.sort_by_key(|record| record.body().announcer.id);
    let mut rng = StdRng::seed_from_u64(1);
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = Page::cut(records.clone(), after, 1_000, &mut rng);
        assert_eq!(page.estimate, 200);
        assert!(page.records.iter().map(|record| record.wire_len()).sum::<usize>() <= RECORDS_BYTES_MAX);
        after = page.records.last().map(|record| record.body().announcer.id);
        seen.extend(page.records);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, records);

    let sampled = Page::cut(records, None, 100, &mut rng);
    assert_eq!((sampled.estimate, sampled.more), (200, false));
    assert!(sampled.records.len() >= 30);
    assert!(sampled.records.is_sorted_by_key(|record| record.body().announcer.id));
}

fn large(announcer: u8) -> Arc<SignedRecord> {
    signed(RecordBody { value: vec![7; 1024].into(), ..body(key(1), announcer, 1) }, announcer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn counts_always_agree_with_contents(puts in prop::collection::vec((0u8..6, 1u8..6, 0u64..4, 0u64..120), 0..60)) {
        let quotas = Quotas { per_key: 3, per_announcer: 5, records: 10, ..Quotas::default() };
        let mut store = store(quotas);
        for (n, announcer, sequence, second) in puts {
            let _ = store.put(at(second), UNIX, record(n, announcer, sequence));
            store.expire(at(second));
        }
        let held: Vec<&Held> = store.keys.values().flat_map(|shelf| shelf.records.values()).collect();
        prop_assert_eq!(held.len(), store.len());
        prop_assert_eq!(held.iter().map(|held| cost(&held.record)).sum::<usize>(), store.bytes());
        prop_assert_eq!(store.per_announcer.values().sum::<usize>(), store.len());
        prop_assert!(store.len() <= 10);
        prop_assert!(store.keys.values().all(|shelf| !shelf.records.is_empty() && shelf.records.len() <= 3));
        prop_assert!(store.per_announcer.values().all(|count| (1..=5).contains(count)));
    }
}

#[test]
fn announcers_of_one_subnet_share_a_quota_at_a_key_and_in_all() {
    let at_host = |n: u8, announcer: u8, host: [u8; 4], sequence| {
        let mut body = body(key(n), announcer, sequence);
        body.announcer.addrs = vec![(host, 4000).into()];
        signed(body, announcer)
    };
    let quotas = Quotas { per_key_and_subnet: 2, per_subnet: 3, ..Quotas::default() };
    let mut store = store(quotas);
    let mut put = |record| store.put(at(0), UNIX, record);
    assert_eq!(put(at_host(1, 1, [203, 0, 113, 1], 1)), Ok(Put::Changed));
    assert_eq!(put(at_host(1, 2, [203, 0, 113, 2], 1)), Ok(Put::Changed));
    assert_eq!(put(at_host(1, 3, [203, 0, 113, 3], 1)), Err(Refusal::SubnetFull), "two at a key");
    assert_eq!(put(at_host(1, 3, [198, 51, 100, 3], 1)), Ok(Put::Changed), "others still may");
    assert_eq!(put(at_host(1, 3, [203, 0, 113, 3], 2)), Err(Refusal::SubnetFull), "moving does not help");
    assert_eq!(put(at_host(1, 1, [203, 0, 113, 9], 2)), Ok(Put::Changed), "one within it may move");
    assert_eq!(put(at_host(2, 1, [203, 0, 113, 1], 1)), Ok(Put::Changed));
    assert_eq!(put(at_host(3, 1, [203, 0, 113, 1], 1)), Err(Refusal::SubnetFull), "three in all");
    for announcer in 1..20 {
        assert_eq!(
            put(at_host(4, announcer, [10, 0, 0, announcer], 1)),
            Ok(Put::Changed),
            "private ones are exempt"
        );
    }
    store.expire(at(101));
    assert!(store.per_subnet.is_empty());
}
