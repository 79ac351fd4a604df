use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(seconds))
}

/// Ids spread over the whole space, the same in every run.
fn id(n: u32) -> NodeId {
    let key = Key::derive("id", &macula_proto::Realm::default(), &n.to_string());
    NodeId::from_bytes(*key.as_bytes())
}

fn contact(n: u32) -> Contact {
    Contact::new(id(n), SocketAddr::from(([127, 0, 0, 1], 1 + (n % 60_000) as u16)))
}

fn table(k: usize) -> Table {
    Table::new(NodeId::from_bytes([0; 32]), &KademliaConfig { k, ..KademliaConfig::default() }, 7)
}

#[test]
fn a_full_far_bucket_keeps_its_live_contacts_and_newcomers_wait() {
    let mut table = table(2);
    let far: Vec<u32> = (0..1000).filter(|n| id(*n).as_bytes()[0] >= 0x80).take(4).collect();
    let near: Vec<u32> = (0..1000).filter(|n| id(*n).as_bytes()[0] < 0x80).take(1).collect();
    assert_eq!(table.heard(at(1), contact(far[0]), None), Heard::Added);
    assert_eq!(table.heard(at(2), contact(far[1]), None), Heard::Added);
    assert_eq!(table.heard(at(2), contact(near[0]), None), Heard::Added);
    let Heard::Waiting { oldest } = table.heard(at(3), contact(far[2]), None) else {
        panic!("room in a full bucket")
    };
    assert_eq!(oldest.contact, contact(far[0]));
    assert!(table.get(&id(far[2])).is_none());

    assert!(table.failed(&id(far[0]), at(2)), "one that fails is replaced at once if somebody waits");
    assert!(table.get(&id(far[0])).is_none());
    assert!(table.get(&id(far[2])).is_some());
    assert!(!table.failed(&id(far[1]), at(2)), "nobody waits any more");
    assert_eq!(table.heard(at(4), contact(far[3]), None), Heard::Added, "a failed contact makes room");
    assert!(table.get(&id(far[1])).is_none());
}

#[test]
fn a_node_that_is_cut_off_keeps_whom_it_knew() {
    let mut table = table(20);
    table.heard(at(1), contact(1), None);
    table.heard(at(1), contact(2), None);
    for _ in 0..10 {
        table.failed(&id(1), at(1));
        table.failed(&id(2), at(1));
    }
    assert_eq!(table.len(), 2);
    assert!(table.closest(&id(1).into(), 9, false).is_empty(), "but it does not recommend them");
    assert_eq!(table.closest(&id(1).into(), 9, true).len(), 2);
    table.heard(at(2), contact(2), None);
    assert!(table.failed(&id(1), at(1)));
    assert_eq!(table.len(), 1);
}

#[test]
fn one_subnet_fills_neither_a_bucket_nor_the_table() {
    let public = |n: u32| Contact::new(id(n), SocketAddr::from(([203, 0, 113, n as u8], 4000)));
    let mut table = table(20);
    let added = (0..200).filter(|n| table.heard(at(1), public(*n), None) == Heard::Added).count();
    assert_eq!(added, 2, "one bucket so far");
    let lan = |n: u32| Contact::new(id(n), SocketAddr::from(([192, 168, 1, n as u8], 4000)));
    let added = (300..330).filter(|n| table.heard(at(1), lan(*n), None) == Heard::Added).count();
    assert!(added > 10, "private addresses are exempt");
}

#[test]
fn a_saved_table_round_trips_most_recent_first() {
    let mut table = table(20);
    for n in 1..10 {
        table.heard(at(n.into()), contact(n), None);
    }
    let saved = Table::saved(table.save()).unwrap();
    assert_eq!(saved, (1..10).rev().map(contact).collect::<Vec<_>>());
    assert!(Table::saved(Bytes::from_static(b"\xff\xff\xff")).is_err());
}

#[test]
fn stale_buckets_are_those_without_lookups() {
    let mut table = table(1);
    for n in 0..50 {
        table.heard(at(1), contact(n), None);
    }
    assert!(table.bucket_count() > 3);
    let target = table.target_in(2, [0xa5; 32]);
    table.looked_up(at(10), &target);
    let stale = table.stale(at(5));
    assert!(!stale.contains(&2));
    assert_eq!(stale.len(), table.bucket_count() - 1);
}

proptest! {
    #[test]
    fn the_table_holds_its_laws(events in prop::collection::vec((0u32..400, 0u8..4), 0..600), k in 1usize..8) {
        let mut table = table(k);
        for (step, (n, what)) in events.iter().enumerate() {
            match what {
                0 => { table.failed(&id(*n), at(step as u64 / 2)); }
                1 => { table.remove(&id(*n)); }
                _ => { table.heard(at(step as u64), contact(*n), None); }
            }
        }
        prop_assert_eq!(table.iter().count(), table.len());
        let snapshot = table.snapshot(at(1000));
        prop_assert_eq!(snapshot.len(), table.len());
        let last = snapshot.buckets.len() - 1;
        for bucket in &snapshot.buckets {
            prop_assert!(bucket.contacts.len() <= k);
            prop_assert!(bucket.waiting <= k);
            for known in &bucket.contacts {
                let shared = table.own.distance(&known.contact.id.into()).leading_zeros() as usize;
                prop_assert_eq!(shared.min(last), bucket.shared_bits);
            }
        }
        prop_assert!(table.subnets.is_empty(), "loopback is not counted");
    }

    #[test]
    fn closest_is_what_sorting_everything_would_give(
        ns in prop::collection::btree_set(0u32..500, 0..120), k in 2usize..20, shared in 0usize..12, target: [u8; 32],
    ) {
        let mut table = table(k);
        for n in &ns {
            table.heard(at(1), contact(*n), None);
        }
        // The table's owner is all zeros: so many leading bits are its own.
        let bits = u16::from_be_bytes([target[0], target[1]]) & (u16::MAX >> shared);
        let mut target = target;
        target[..2].copy_from_slice(&bits.to_be_bytes());
        let target = Key::from_bytes(target);
        let mut all: Vec<Contact> = table.iter().map(|known| known.contact.clone()).collect();
        all.sort_by_key(|contact| target.distance(&contact.id.into()));
        all.truncate(7);
        let edge = all.last().map(|contact| target.distance(&contact.id.into()));
        prop_assert_eq!(table.closest(&target, 7, false), all.clone());
        if let Some(edge) = edge {
            prop_assert_eq!(table.closer_than(&target, &edge), all.len() - 1);
        }
    }

    #[test]
    fn a_target_in_a_bucket_is_in_its_range(random: [u8; 32]) {
        let mut table = table(1);
        for n in 0..60 {
            table.heard(at(1), contact(n), None);
        }
        for at in 0..table.bucket_count() {
            prop_assert_eq!(table.bucket_of(&table.target_in(at, random)), at);
        }
    }
}
