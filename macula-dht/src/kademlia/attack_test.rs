//! What a hostile peer can send, and what it gets: refusals, within bounded memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{
    AllowAll, Contact, Ed25519Verifier, Key, NodeId, Realm, SecretKey, Timestamp, UnixMillis, wire,
};

use super::*;
use crate::VALUE_BYTES_MAX;

const UNIX: UnixMillis = UnixMillis(1_700_000_000_000);

fn now(millis: u64) -> Now {
    Now { at: Timestamp::from_start(Duration::from_millis(millis)), unix: UnixMillis(UNIX.0 + millis) }
}

fn victim() -> (Node, DhtMetrics) {
    let secret = SecretKey::from_seed([1; 32]);
    let local = Contact::new(secret.node_id(), SocketAddr::from(([198, 51, 100, 1], 4000)));
    let metrics = DhtMetrics::default();
    let (signer, verifier, gate) = (Arc::new(secret), Arc::new(Ed25519Verifier), Arc::new(AllowAll));
    let node =
        Node::new(now(0), local, KademliaConfig::default(), signer, verifier, gate, metrics.clone(), 7);
    (node, metrics)
}

fn id(n: u32) -> NodeId {
    NodeId::from_bytes(*Key::derive("attack", &Realm::default(), &n.to_string()).as_bytes())
}

/// Shares its first `bits` bits with `with`, and no more.
fn near(with: &[u8; 32], bits: usize, n: u32) -> NodeId {
    let mut bytes = *id(n).as_bytes();
    for bit in 0..=bits {
        let mask = 1 << (7 - bit % 8);
        let wanted = if bit < bits { with[bit / 8] & mask } else { !with[bit / 8] & mask };
        bytes[bit / 8] = bytes[bit / 8] & !mask | wanted;
    }
    NodeId::from_bytes(bytes)
}

/// A node of its own subnet, or one of few.
fn at(id: NodeId, addr: [u8; 4]) -> Contact {
    Contact::new(id, SocketAddr::from((addr, 4000)))
}

fn honest(n: u32) -> Contact {
    let [_, _, a, b] = n.to_be_bytes();
    at(id(n), [11, a, b, 1])
}

fn record(key: Key, value: usize, announcer: u8) -> wire::Signed {
    record_of(&SecretKey::from_seed([announcer; 32]), key, value, [203, 0, 113, announcer])
}

fn record_of(secret: &SecretKey, key: Key, value: usize, addr: [u8; 4]) -> wire::Signed {
    let body = RecordBody {
        key,
        announcer: at(secret.node_id(), addr),
        value: Bytes::from(vec![b'x'; value]),
        sequence: 1,
        issued: UNIX,
        ttl: Duration::from_secs(100),
        withdrawn: false,
        lasting: false,
        life: 0,
    };
    SignedRecord::sign(secret, body).envelope().clone()
}

/// What the victim answers to a store.
fn store(node: &mut Node, records: Vec<wire::Signed>) -> Vec<Option<Refusal>> {
    let mut out = Vec::new();
    node.on_request(now(1), id(9), None, Request::Store(records), ReplyTo(1), &mut out);
    let Some(Effect::Reply { response: Response::Stored(stored), .. }) = out.pop() else {
        panic!("no reply to a store: {out:?}")
    };
    stored.outcomes.into_iter().map(|outcome| outcome.refusal).collect()
}

#[test]
fn ids_near_this_node_flooded_from_one_subnet_take_few_places() {
    let (mut node, metrics) = victim();
    let own = *node.local().id.as_bytes();
    let mut out = Vec::new();
    for n in 0..100 {
        node.peer_up(now(n.into()), honest(n), &mut out);
    }
    let before = node.snapshot(now(100));
    for n in 0..2_000 {
        let sybil = at(near(&own, (n % 40) as usize, 10_000 + n), [203, 0, 113, n as u8]);
        node.peer_up(now(200), sybil, &mut out);
    }
    let limits = KademliaConfig::default().subnets;
    let snapshot = node.snapshot(now(200));
    let of_sybils = |contacts: &[Known]| {
        contacts
            .iter()
            .filter(|known| known.contact.addrs[0].ip().to_string().starts_with("203.0.113."))
            .count()
    };
    let each: Vec<usize> = snapshot.buckets.iter().map(|bucket| of_sybils(&bucket.contacts)).collect();
    let sybils: usize = each.iter().sum();
    assert!((1..=limits.table_max).contains(&sybils), "{each:?}");
    assert!(each.iter().all(|count| *count <= limits.bucket_max), "{each:?}");
    assert!(metrics.contacts_crowded.get() > 1_900, "the others are counted");
    let is_gone = |known: &&Known| node.table().get(&known.contact.id).is_none();
    for bucket in &before.buckets {
        let mut known = bucket.contacts.clone();
        known.sort_by_key(|known| known.since);
        let (eldest, others) = known.split_at(KademliaConfig::default().k.div_ceil(2).min(known.len()));
        assert_eq!(eldest.iter().find(is_gone), None, "nobody pushes out who is known for longest");
        assert!(others.iter().filter(is_gone).count() <= limits.bucket_max, "nor more than may come in");
    }
    let neighbour = at(near(&own, 30, 1), [11, 77, 77, 1]);
    node.peer_up(now(300), neighbour.clone(), &mut out);
    assert!(node.table().get(&neighbour.id).is_some(), "an honest neighbour still finds a place");
    let waiting: usize = snapshot.buckets.iter().map(|bucket| bucket.waiting).sum();
    assert!(waiting <= 100, "only honest ones wait: {waiting}");
}

#[test]
fn made_up_contacts_are_probed_a_few_at_a_time_and_never_believed() {
    let (mut node, metrics) = victim();
    let mut out = Vec::new();
    for n in 0..10_000 {
        node.add_contact(now(1), honest(n), &mut out);
    }
    assert!(out.len() <= 16, "{} requests at once", out.len());
    assert!(metrics.overloads.get() > 9_000, "what does not fit is counted");
    assert!(node.table().is_empty(), "nobody has answered");
    // All of them stay silent: each is given up, and in the end nothing is left to do but upkeep.
    let mut asked = 0;
    while let Some(due) = node.deadline().filter(|due| *due < Timestamp::from_start(Duration::from_mins(3))) {
        asked += std::mem::take(&mut out).len();
        let millis = due.since_start().as_millis() as u64;
        node.on_timeout(now(millis + 1), &mut out);
    }
    assert!((16..=300).contains(&asked), "{asked}");
    assert!(node.table().is_empty());
}

#[test]
fn records_for_far_keys_are_refused() {
    let (mut node, _) = victim();
    let mut out = Vec::new();
    for n in 0..500 {
        node.peer_up(now(1), honest(n), &mut out);
    }
    let own = *node.local().id.as_bytes();
    let farthest = Key::from_bytes(own.map(|byte| !byte));
    let here = Key::from_bytes(own);
    let records = (1..=32).map(|announcer| record(farthest, 10, announcer)).collect();
    assert_eq!(store(&mut node, records), [Some(Refusal::Far); 32]);
    assert_eq!(store(&mut node, vec![record(here, 10, 1)]), [None]);
    assert_eq!(node.store().len(), 1);
}

#[test]
fn oversized_values_and_batches_are_refused() {
    let (mut node, _) = victim();
    let here = Key::from_bytes(*node.local().id.as_bytes());
    let too_large = record(here, VALUE_BYTES_MAX + 1, 1);
    assert_eq!(
        store(&mut node, vec![too_large, record(here, VALUE_BYTES_MAX, 2)]),
        [Some(Refusal::Invalid), None]
    );
    let one = record(here, 10, 3);
    let answers = store(&mut node, vec![one; 5_000]);
    assert!(answers.len() <= 32, "{} of a batch were looked at", answers.len());
    let mut forged = record(here, 10, 4);
    forged.signature = record(here, 11, 4).signature;
    assert_eq!(store(&mut node, vec![forged]), [Some(Refusal::Invalid)]);
    assert_eq!(node.store().len(), 2);
}

/// Looks something up where everybody who is asked answers and knows twenty more that are closer than all before, at the
/// addresses that `addr` gives them. How many were asked, and what came of it.
fn in_an_endless_chain(node: &mut Node, addr: impl Fn(u32) -> [u8; 4]) -> (usize, Done) {
    let target = Key::derive("attack", &Realm::default(), "target");
    let mut out = Vec::new();
    node.peer_up(now(1), honest(0), &mut out);
    // The bootstrap that the first contact starts is left without an answer.
    let started = 20_000;
    node.on_timeout(now(started), &mut Vec::new());
    out.clear();
    node.find(now(started), Op(1), target, Some(1), &mut out);
    let (mut asked, mut made, mut millis) = (0, 0, started);
    loop {
        let effects = std::mem::take(&mut out);
        if let Some(done) = effects.iter().find_map(|effect| match effect {
            Effect::Done { outcome, .. } => Some(outcome.clone()),
            _ => None,
        }) {
            return (asked, done);
        }
        for effect in effects {
            let Effect::Send { id, request: Request::Find(find), .. } = effect else { continue };
            asked += usize::from(find.key == target);
            millis += 1;
            let contacts = (0..20).map(|_| {
                made += 1;
                at(near(target.as_bytes(), (made / 20).min(200) as usize, made), addr(made))
            });
            let found = Findings { contacts: contacts.collect(), ..Findings::default() };
            node.on_response(now(millis), id, Response::Found(found), &mut out);
        }
        millis += 1;
        node.on_timeout(now(millis), &mut out);
        assert!(millis < 60_000, "no end");
    }
}

#[test]
fn endless_referrals_to_ever_closer_liars_end_within_the_budget() {
    let config = KademliaConfig::default();
    let (mut node, _) = victim();
    let (asked, done) = in_an_endless_chain(&mut node, |_| [12, 0, 0, 1]);
    assert!(matches!(done, Done::Found(Ok(ref found)) if found.records.is_empty()), "{done:?}");
    assert!(asked <= 1 + config.subnets.lookup_max, "{asked} were asked, all but one in one subnet");
    assert!(node.table().len() <= 1 + config.subnets.table_max, "they answered, but are of one subnet");

    let (mut node, _) = victim();
    let everywhere = |n: u32| [12, (n >> 8) as u8, n as u8, 1];
    let (asked, done) = in_an_endless_chain(&mut node, everywhere);
    assert!(matches!(done, Done::Found(Ok(ref found)) if found.records.is_empty()), "{done:?}");
    assert!((config.k..=config.lookup_requests_max).contains(&asked), "{asked} requests");
}

#[test]
fn records_flooded_from_one_subnet_leave_room_for_others() {
    let (mut node, metrics) = victim();
    let here = Key::from_bytes(*node.local().id.as_bytes());
    let quota = KademliaConfig::default().quotas.per_key_and_subnet;
    let mut held = 0;
    for n in 0..(quota as u32 + 100) {
        let flooder = SecretKey::from_seed(*id(50_000 + n).as_bytes());
        let flood = record_of(&flooder, here, 10, [203, 0, 113, n as u8]);
        held += usize::from(store(&mut node, vec![flood]) == [None]);
    }
    assert_eq!((held, node.store().len()), (quota, quota));
    assert_eq!(
        metrics.stores_refused.get_or_create(&RefusalLabel { reason: Refusal::SubnetFull.to_string() }).get(),
        100
    );
    let other = SecretKey::from_seed([77; 32]);
    assert_eq!(store(&mut node, vec![record_of(&other, here, 10, [11, 1, 1, 1])]), [None]);
}

/// Lets all time up to `end` pass for a node whose requests are all answered with nothing; says what it asked for when, in
/// milliseconds.
fn answered_with_nothing(node: &mut Node, out: &mut Vec<Effect>, end: u64) -> Vec<(u64, NodeId, Key)> {
    let (mut asked, mut millis) = (Vec::new(), 1);
    loop {
        for effect in std::mem::take(out) {
            let Effect::Send { id, to, request: Request::Find(find), .. } = effect else { continue };
            asked.push((millis, to.id, find.key));
            node.on_response(now(millis), id, Response::Found(Findings::default()), out);
        }
        if out.is_empty() {
            let due = node.deadline().map_or(end, |due| due.since_start().as_millis() as u64 + 1);
            millis = millis.max(due);
            if millis >= end {
                return asked;
            }
            node.on_timeout(now(millis), out);
        }
    }
}

#[test]
fn the_neighbourhood_is_looked_up_again_soon_after_the_join_and_then_ever_less_often() {
    let (mut node, _) = victim();
    let mut out = Vec::new();
    node.peer_up(now(1), honest(0), &mut out);
    let asked = answered_with_nothing(&mut node, &mut out, 3_600_000);
    let own: Key = node.local().id.into();
    let mut times: Vec<u64> =
        asked.iter().filter(|(_, _, key)| *key == own).map(|(at, ..)| at / 1_000).collect();
    times.dedup();
    let pauses: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!((times[0], pauses[0]), (0, 15), "{times:?}");
    assert!((48..=60).contains(&pauses[1]) && (192..=240).contains(&pauses[2]), "{times:?}");
    assert!(pauses[3..].iter().all(|pause| (720..=900).contains(pause)), "{times:?}");
}

#[test]
fn who_surrounds_a_key_in_the_table_is_not_on_all_paths() {
    let (mut node, _) = victim();
    let target = Key::derive("attack", &Realm::default(), "surrounded");
    let (mut out, seed) = (Vec::new(), at(near(target.as_bytes(), 0, 1), [10, 0, 0, 1]));
    node.peer_up(now(1), seed.clone(), &mut out);
    for n in 0..200 {
        let liar = at(near(target.as_bytes(), 1 + (n % 20) as usize, 100 + n), [10, 0, 0, 2]);
        node.peer_up(now(2), liar, &mut out);
    }
    answered_with_nothing(&mut node, &mut out, 10_000);
    let mut asked_over = |paths| {
        node.find(now(10_000), Op(paths as u64), target, Some(paths), &mut out);
        let asked = answered_with_nothing(&mut node, &mut out, 10_001);
        asked.iter().any(|(_, to, key)| *to == seed.id && *key == target)
    };
    assert!(!asked_over(1), "twenty liars are closer");
    assert!(asked_over(2), "whom it knows for longest is asked as well");
}
