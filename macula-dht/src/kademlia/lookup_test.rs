use std::net::SocketAddr;

use macula_proto::{Realm, SecretKey, UnixMillis};

use super::super::record::RecordBody;
use super::*;

const HEDGE: Duration = Duration::from_millis(100);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(millis))
}

/// Contacts by their distance from the target: the target is zero.
fn contact(distance: u32) -> Contact {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&distance.to_be_bytes());
    Contact::new(NodeId::from_bytes(id), SocketAddr::from(([127, 0, 0, 1], 4000)))
}

fn goal(want: usize) -> Goal {
    Goal {
        target: Key::from_bytes([0; 32]),
        want,
        records: true,
        watch: None,
        agree: Some(2),
        paths: 1,
        subnets: SubnetLimits::default(),
        alpha: 3,
        alpha_max: 10,
        requests_max: 50,
        hops_max: 5,
        deadline: at(10_000),
    }
}

fn lookup(goal: Goal, seeds: impl IntoIterator<Item = u32>) -> Lookup {
    let mut starts = vec![Vec::new(); goal.paths];
    seeds.into_iter().enumerate().for_each(|(n, seed)| starts[n % goal.paths].push(contact(seed)));
    Lookup::new(at(0), NodeId::from_bytes([0xff; 32]), goal, starts)
}

fn asked(lookup: &mut Lookup, now: Timestamp) -> Vec<u32> {
    let mut out = Vec::new();
    lookup.poll(now, HEDGE, &mut out);
    out.iter().map(|(contact, _)| distance_of(contact)).collect()
}

fn distance_of(contact: &Contact) -> u32 {
    u32::from_be_bytes(contact.id.as_bytes()[..4].try_into().unwrap())
}

fn referrals(distances: impl IntoIterator<Item = u32>) -> Answer {
    Answer { contacts: distances.into_iter().map(contact).collect(), ..Answer::default() }
}

fn record(announcer: u8, sequence: u64, withdrawn: bool) -> Arc<SignedRecord> {
    let secret = SecretKey::from_seed([announcer; 32]);
    let body = RecordBody {
        key: Key::derive("test", &Realm::default(), "lookup"),
        announcer: Contact::new(secret.node_id(), SocketAddr::from(([127, 0, 0, 1], 1))),
        value: bytes::Bytes::new(),
        sequence,
        issued: UnixMillis(1),
        ttl: Duration::from_secs(1),
        withdrawn,
        lasting: false,
        life: 0,
    };
    Arc::new(SignedRecord::sign(&secret, body))
}

fn records(records: &[Arc<SignedRecord>]) -> Answer {
    let estimate = records.iter().filter(|record| !record.body().withdrawn).count();
    Answer { records: records.to_vec(), estimate, ..Answer::default() }
}

#[test]
fn it_asks_the_closest_three_then_closer_ones_and_ends_when_the_closest_have_answered() {
    let mut lookup = lookup(goal(2), [40, 10, 30, 20]);
    assert_eq!(asked(&mut lookup, at(0)), [10, 20], "no more than could count");
    lookup.answered(at(10), &contact(20).id, referrals([5, 50]));
    assert_eq!(asked(&mut lookup, at(10)), [5]);
    lookup.answered(at(20), &contact(5).id, referrals([]));
    assert!(!lookup.is_done(at(20)), "the second closest has not answered");
    lookup.answered(at(30), &contact(10).id, referrals([]));
    assert!(lookup.is_done(at(30)));
    let outcome = lookup.finish(at(30));
    assert_eq!(outcome.closest, [contact(5), contact(10)]);
    assert_eq!((outcome.asked, outcome.answered, outcome.trace.hops), (3, 3, 2));
    assert_eq!(outcome.trace.steps[0].took, Some(Duration::from_millis(30)));
}

#[test]
fn failures_are_made_up_for_by_the_next_closest() {
    let mut lookup = lookup(goal(2), [1, 2, 3, 4]);
    assert_eq!(asked(&mut lookup, at(0)), [1, 2]);
    lookup.failed(at(1), &contact(1).id);
    lookup.failed(at(1), &contact(2).id);
    assert_eq!(asked(&mut lookup, at(1)), [3, 4]);
    lookup.answered(at(2), &contact(3).id, referrals([]));
    lookup.failed(at(2), &contact(4).id);
    assert!(lookup.is_done(at(2)), "nobody is left");
    assert_eq!(lookup.finish(at(2)).closest, [contact(3)]);
}

#[test]
fn a_slow_peer_is_passed_over_but_its_late_answer_counts() {
    let mut lookup = lookup(goal(3), [1, 2, 3, 4]);
    assert_eq!(asked(&mut lookup, at(0)), [1, 2, 3]);
    assert_eq!(lookup.next_hedge(at(0), HEDGE), Some(at(100)));
    lookup.answered(at(10), &contact(2).id, referrals([]));
    lookup.answered(at(10), &contact(3).id, referrals([]));
    assert_eq!(asked(&mut lookup, at(99)), [0; 0]);
    assert_eq!(asked(&mut lookup, at(100)), [4]);
    lookup.answered(at(110), &contact(1).id, referrals([]));
    assert!(lookup.is_done(at(110)), "four is not needed any more");
    let outcome = lookup.finish(at(110));
    assert_eq!(outcome.closest, [contact(1), contact(2), contact(3)]);
    assert_eq!(outcome.hedged, 1);
}

#[test]
fn with_too_few_answers_the_slow_ones_are_waited_for() {
    let mut lookup = lookup(goal(3), [1]);
    asked(&mut lookup, at(0));
    asked(&mut lookup, at(500));
    assert!(!lookup.is_done(at(500)));
    lookup.answered(at(600), &contact(1).id, referrals([]));
    assert!(lookup.is_done(at(600)));
}

#[test]
fn an_endless_chain_of_ever_closer_referrals_comes_to_an_end() {
    let mut lookup = lookup(goal(20), [1 << 30]);
    let (mut requests, mut now) = (0, 0);
    while !lookup.is_done(at(now)) {
        let next = asked(&mut lookup, at(now));
        assert!(!next.is_empty());
        requests += next.len();
        now += 1;
        for distance in next {
            lookup.answered(
                at(now),
                &contact(distance).id,
                referrals([distance / 2, distance / 2 + 1, distance / 3]),
            );
        }
    }
    assert!(requests <= 50, "{requests} requests");
    assert!(lookup.finish(at(now)).trace.hops <= 5);
}

#[test]
fn it_ends_early_when_holders_agree_on_a_complete_answer() {
    let mut lookup = lookup(goal(20), 1..=20);
    asked(&mut lookup, at(0));
    let both = [record(1, 1, false), record(2, 1, false)];
    lookup.answered(at(1), &contact(1).id, records(&both));
    assert!(!lookup.is_done(at(1)));
    lookup.answered(at(2), &contact(2).id, records(&both[..1]));
    assert!(!lookup.is_done(at(2)), "the second one knows less");
    lookup.answered(at(3), &contact(3).id, records(&both));
    assert!(lookup.is_done(at(3)));
    let outcome = lookup.finish(at(3));
    assert_eq!((outcome.records.len(), outcome.unseen), (2, 0));
}

#[test]
fn a_sample_is_no_complete_answer() {
    let mut lookup = lookup(goal(2), [1, 2]);
    asked(&mut lookup, at(0));
    let sample = Answer { estimate: 900, ..records(&[record(1, 1, false)]) };
    lookup.answered(at(1), &contact(1).id, sample.clone());
    lookup.answered(at(1), &contact(2).id, sample);
    assert_eq!(lookup.finish(at(1)).unseen, 899);
}

#[test]
fn further_pages_are_asked_for_until_there_are_none_or_they_make_no_progress() {
    let mut all = [record(1, 1, false), record(2, 1, false), record(3, 1, false)];
    all.sort_by_key(|record| record.body().announcer.id);
    let mut lookup = lookup(goal(1), [1]);
    let page = |records: &[Arc<SignedRecord>], more| Answer {
        records: records.to_vec(),
        estimate: 3,
        more,
        ..Answer::default()
    };
    asked(&mut lookup, at(0));
    lookup.answered(at(1), &contact(1).id, page(&all[..2], true));
    let mut out = Vec::new();
    lookup.poll(at(1), HEDGE, &mut out);
    assert_eq!(out[0].1.after, Some(all[1].body().announcer.id));
    lookup.answered(at(2), &contact(1).id, page(&all[..1], true));
    assert!(lookup.is_done(at(2)), "the same page again leads nowhere");
    assert_eq!(lookup.finish(at(2)).records.len(), 2);
}

#[test]
fn the_newest_word_of_each_announcer_is_kept() {
    let mut lookup = lookup(goal(2), [1, 2]);
    asked(&mut lookup, at(0));
    lookup.answered(at(1), &contact(1).id, records(&[record(1, 5, true)]));
    lookup.answered(at(1), &contact(2).id, records(&[record(1, 4, false)]));
    let outcome = lookup.finish(at(1));
    assert!(outcome.records.values().all(|record| record.body().withdrawn));
    assert_eq!(outcome.unseen, 0);
}

#[test]
fn disjoint_paths_have_no_node_in_common() {
    let mut lookup = lookup(Goal { paths: 2, agree: None, ..goal(4) }, 100..110);
    let mut now = 0;
    let mut all = BTreeSet::new();
    while !lookup.is_done(at(now)) {
        let next = asked(&mut lookup, at(now));
        now += 1;
        for distance in next {
            assert!(all.insert(distance), "{distance} was asked on both paths");
            lookup.answered(at(now), &contact(distance).id, referrals((distance / 2)..(distance / 2 + 4)));
        }
    }
    assert!(all.len() > 8);
    assert_eq!(lookup.finish(at(now)).closest.len(), 4);
}

#[test]
fn the_deadline_ends_it_with_what_there_is() {
    let mut lookup = lookup(goal(2), [1, 2]);
    asked(&mut lookup, at(0));
    lookup.answered(at(5), &contact(1).id, referrals([]));
    assert!(!lookup.is_done(at(9_999)));
    assert!(lookup.is_done(at(10_000)));
    let outcome = lookup.finish(at(10_000));
    assert_eq!((outcome.closest.len(), outcome.trace.steps[1].outcome), (1, StepOutcome::Unanswered));
}

#[test]
fn made_up_referrals_cost_a_few_questions_and_hold_nothing_up() {
    let mut lookup = lookup(Goal { hops_max: 16, requests_max: 200, ..goal(3) }, [1000, 1001, 1002]);
    let is_made_up = |distance: &u32| *distance < 500;
    let (mut made_up, mut now) = (0, 0);
    while !lookup.is_done(at(now)) {
        let questions = asked(&mut lookup, at(now));
        made_up += questions.iter().filter(|distance| is_made_up(distance)).count();
        now += 10;
        for distance in questions {
            let answer = match distance {
                // The liar, and those it makes up, who never answer.
                1002 => referrals(1..=20),
                1..500 => continue,
                1000 | 1001 => referrals([500, 501, 502, 503]),
                _ => referrals([500, 501, 502, 503, 1002]),
            };
            lookup.answered(at(now), &contact(distance).id, answer);
        }
        now = lookup
            .next_hedge(at(now), HEDGE)
            .map_or(now, |hedge| now.max(hedge.since_start().as_millis() as u64));
        assert!(now < 2_000, "it must not wait until the made-up ones have failed");
    }
    assert!((1..=10).contains(&made_up), "{made_up}");
    assert_eq!(lookup.finish(at(now)).closest, [contact(500), contact(501), contact(502)]);
}

#[test]
fn where_all_else_is_silent_the_doubtful_are_tried() {
    let mut lookup = lookup(Goal { alpha: 1, alpha_max: 1, ..goal(2) }, [1000]);
    assert_eq!(asked(&mut lookup, at(0)), [1000]);
    lookup.answered(at(0), &contact(1000).id, referrals([1, 2, 3, 4, 5]));
    for distance in 1..=4 {
        assert_eq!(asked(&mut lookup, at(0)), [distance], "a referrer of the silent, but there is no other");
        lookup.failed(at(0), &contact(distance).id);
        assert!(!lookup.is_done(at(0)));
    }
    assert_eq!(asked(&mut lookup, at(0)), [5]);
    lookup.answered(at(0), &contact(5).id, referrals([]));
    assert!(lookup.is_done(at(0)));
    assert_eq!(lookup.finish(at(0)).closest, [contact(5), contact(1000)]);
}

#[test]
fn a_captured_path_takes_nobody_from_the_others_by_naming_them() {
    let mut lookup = lookup(Goal { paths: 2, agree: None, ..goal(4) }, [1000, 1001]);
    assert_eq!(asked(&mut lookup, at(0)), [1000, 1001]);
    // The liar names all the honest ones, and made-up ones that are closer and keep its path busy.
    lookup.answered(at(1), &contact(1000).id, referrals((1..=20).chain(500..504)));
    lookup.answered(at(1), &contact(1001).id, referrals(500..504));
    let next = asked(&mut lookup, at(1));
    assert!(next.contains(&1) && next.contains(&500), "both go on: {next:?}");
    for distance in 500..504 {
        lookup.answered(at(2), &contact(distance).id, referrals([]));
        asked(&mut lookup, at(2));
    }
    let outcome = lookup.finish(at(3));
    assert_eq!(outcome.closest, [500, 501, 502, 503].map(contact));
}

#[test]
fn no_path_uses_up_the_requests_of_another() {
    let mut lookup =
        lookup(Goal { paths: 2, agree: None, requests_max: 20, hops_max: 99, ..goal(4) }, [1 << 20, 1 << 30]);
    let (mut now, mut honest) = (0, BTreeSet::new());
    while !lookup.is_done(at(now)) {
        let next = asked(&mut lookup, at(now));
        now += 1;
        for distance in next {
            // Below, an endless chain of liars that all answer.
            let answer = if distance <= 1 << 20 {
                referrals((1..=4).map(|n| distance - n))
            } else {
                honest.insert(distance);
                referrals((1 << 29)..(1 << 29) + 4)
            };
            lookup.answered(at(now), &contact(distance).id, answer);
        }
        assert!(now < 1_000);
    }
    let outcome = lookup.finish(at(now));
    assert!(outcome.asked <= 15, "{} requests", outcome.asked);
    assert_eq!(honest.len(), 5, "the other path has heard all of its own");
}

#[test]
fn of_one_subnet_only_so_many_are_asked_and_silence_does_not_count() {
    let in_subnet = |distance: u32, last: u8| Contact {
        addrs: vec![SocketAddr::from(([203, 0, 113, last], 4000))],
        ..contact(distance)
    };
    let mut lookup = lookup(Goal { agree: None, ..goal(6) }, [1000]);
    asked(&mut lookup, at(0));
    let mut contacts: Vec<Contact> = (1..=14).map(|n| in_subnet(n, n as u8)).collect();
    contacts.extend((100..106).map(contact));
    lookup.answered(at(1), &contact(1000).id, Answer { contacts, ..Answer::default() });
    let (mut of_subnet, mut now, mut silent) = (0, 1, 2);
    while !lookup.is_done(at(now)) {
        let next = asked(&mut lookup, at(now));
        now += 1;
        for distance in next {
            if distance <= 20 && silent > 0 {
                silent -= 1;
                lookup.failed(at(now), &contact(distance).id);
                continue;
            }
            of_subnet += u32::from(distance <= 20);
            lookup.answered(at(now), &contact(distance).id, referrals([]));
        }
    }
    assert_eq!(of_subnet as usize, SubnetLimits::default().lookup_max);
    let others = lookup.finish(at(now)).closest.iter().filter(|it| distance_of(it) >= 100).count();
    assert_eq!(others, 2, "the rest of the six closest is of elsewhere");
}
