use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, SecretKey, UnixMillis};

use super::mesh_test::{Faults, Mesh, key};
use super::*;
use crate::{DirectoryError, Found};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_lone_node_finds_only_itself_and_spreads_its_record_once_it_joins() {
    let mut mesh = Mesh::joined(1, 30);
    let lone = mesh.add();
    assert_eq!(mesh.find(lone, key(1), 1), Err(DirectoryError::NoPeers));
    assert_eq!(mesh.announce(lone, key(1), "early").unwrap().holders, 1);
    assert_eq!(mesh.find(lone, key(1), 1).unwrap().records.len(), 1);
    let seed = mesh.ids[0];
    assert!(mesh.find(seed, key(1), 1).unwrap().records.is_empty());

    mesh.meet(lone, seed);
    mesh.run_for(seconds(5));
    let holding = mesh.closest(&key(1), 20).iter().filter(|id| !mesh.nodes[id].store().is_empty()).count();
    assert!(holding >= 18, "{holding} of the 20 closest hold the record");
    assert_eq!(mesh.find(seed, key(1), 1).unwrap().records.len(), 1);
}

#[test]
fn three_hundred_nodes_that_joined_cold_find_the_closest_and_what_they_hold() {
    let mut mesh = Mesh::joined(2, 300);
    let mut recall = 0;
    for n in 0..20 {
        let from = mesh.ids[(n as usize * 37) % 300];
        let trace = mesh.trace(from, key(n));
        let truth: Vec<NodeId> =
            mesh.closest(&key(n), 21).into_iter().filter(|id| *id != from).take(20).collect();
        recall += trace.closest.iter().filter(|contact| truth.contains(&contact.id)).count();
        assert!(trace.hops <= 4, "{} hops", trace.hops);
    }
    assert!(recall >= 396, "{recall} of 400");

    for n in 0..20 {
        let (announcer, finder) = (mesh.ids[n as usize * 7], mesh.ids[299 - n as usize * 3]);
        assert_eq!(mesh.announce(announcer, key(n), "value").unwrap().holders, 20);
        let found = mesh.find(finder, key(n), 1).unwrap();
        assert_eq!(found.by(&announcer).unwrap().value, "value");
        assert!(found.is_complete());
    }
}

#[test]
fn loss_and_sudden_death_of_a_fifth_do_not_hide_records() {
    let faults = Faults { loss: 2, latency_ms: (5, 80) };
    let mut mesh = Mesh::new(3, faults, KademliaConfig::default());
    mesh.grow(300);
    for n in 0..20 {
        let announcer = mesh.ids[n as usize * 3 + 1];
        let holders = mesh.announce(announcer, key(n), "value").unwrap().holders;
        assert!(holders >= 15, "{holders} holders");
    }
    // Nobody is told: the tables are full of the dead.
    mesh.dead = mesh.ids.iter().skip(100).step_by(3).take(60).copied().collect();
    let alive: Vec<NodeId> = mesh.ids.iter().filter(|id| !mesh.dead.contains(id)).copied().collect();
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let started = mesh.now;
        let found = mesh.find(alive[n as usize * 11], key(n), 1).unwrap();
        slowest = slowest.max(mesh.now - started);
        assert_eq!(found.records.len(), 1, "key {n}");
    }
    assert!(slowest < seconds(4), "{slowest:?}: the dead hold up nobody for long");
    let mut recall = 0;
    for n in 20..40 {
        let from = alive[n as usize * 5];
        let trace = mesh.trace(from, key(n));
        let truth: Vec<NodeId> =
            mesh.closest(&key(n), 21).into_iter().filter(|id| *id != from).take(20).collect();
        recall += trace.closest.iter().filter(|contact| truth.contains(&contact.id)).count();
    }
    assert!(recall >= 360, "{recall} of 400");
}

#[test]
fn a_mesh_that_grew_around_a_record_still_finds_it() {
    let mut mesh = Mesh::joined(4, 10);
    let announcer = mesh.ids[3];
    mesh.announce(announcer, key(1), "old").unwrap();
    // Its announcer is gone: only the holders can hand it over.
    mesh.dead.insert(announcer);
    mesh.grow(120);
    let finder = *mesh.ids.last().unwrap();
    let found = mesh.find(finder, key(1), 1).unwrap();
    assert_eq!(found.records.len(), 1);
    let holding = mesh.closest(&key(1), 20).iter().filter(|id| !mesh.nodes[id].store().is_empty()).count();
    assert!(holding >= 15, "{holding} of the 20 closest hold it");
}

#[test]
fn watches_are_pushed_to_wherever_they_are() {
    let mut mesh = Mesh::joined(5, 120);
    let watchers: Vec<NodeId> = mesh.ids.iter().skip(10).step_by(10).copied().collect();
    for watcher in &watchers {
        mesh.watch(*watcher, key(1));
    }
    mesh.run_for(seconds(2));
    let announcer = mesh.ids[77];
    let announced = mesh.announce(announcer, key(1), "first").unwrap();
    assert_eq!((announced.watchers_told, announced.watchers_lapsed), (watchers.len(), 0));
    for watcher in &watchers {
        assert_eq!(mesh.values(*watcher, key(1)), ["first"]);
    }
    // The same again is no change: nobody is bothered.
    let again = mesh.announce(announcer, key(1), "first").unwrap();
    assert_eq!((again.watchers_told, again.watchers_lapsed), (0, 0));
    mesh.withdraw(announcer, key(1)).unwrap();
    for watcher in &watchers {
        assert!(mesh.values(*watcher, key(1)).is_empty());
    }

    // The first four are not there any more; their watches lapse without holding anybody up.
    mesh.dead = watchers[..4].iter().copied().collect();
    let announced = mesh.announce(announcer, key(1), "second").unwrap();
    assert_eq!((announced.watchers_told, announced.watchers_lapsed), (watchers.len() - 4, 4));
}

#[test]
fn what_the_dead_announced_is_hidden_until_they_are_back() {
    let mut mesh = Mesh::joined(15, 60);
    let (announcer, watcher) = (mesh.ids[7], mesh.ids[8]);
    mesh.announce(announcer, key(1), "value").unwrap();
    let others: Vec<NodeId> = mesh.ids.iter().filter(|id| **id != announcer).copied().collect();
    mesh.dead.insert(announcer);
    others.iter().for_each(|id| mesh.lose(*id, announcer));
    assert_eq!(mesh.find(mesh.ids[20], key(1), 1).unwrap(), Found::default());
    mesh.watch(watcher, key(1));
    mesh.run_for(seconds(1));
    assert!(mesh.values(watcher, key(1)).is_empty());
    mesh.dead.remove(&announcer);
    // It was not dead after all. Nobody had told it, so it has announced nothing again.
    others.iter().for_each(|id| mesh.back(*id, announcer));
    mesh.run_for(seconds(1));
    assert_eq!(mesh.values(watcher, key(1)), ["value"]);
    assert_eq!(mesh.find(mesh.ids[20], key(1), 1).unwrap().records.len(), 1);
}

#[test]
fn a_watch_hides_whom_its_node_knows_to_be_gone_before_the_holders_do() {
    let mut mesh = Mesh::joined(16, 8);
    let (announcer, other, watcher) = (mesh.ids[2], mesh.ids[3], mesh.ids[4]);
    mesh.announce(announcer, key(1), "value").unwrap();
    mesh.announce(other, key(1), "other").unwrap();
    mesh.watch(watcher, key(1));
    mesh.run_for(seconds(2));
    assert_eq!(mesh.values(watcher, key(1)).len(), 2);
    // Of so few all are holders, so the watch is looked up again at once, at those who do not know yet.
    mesh.dead.insert(announcer);
    mesh.lose(watcher, announcer);
    assert_eq!(mesh.values(watcher, key(1)), ["other"]);
    mesh.run_for(seconds(5));
    assert_eq!(mesh.values(watcher, key(1)), ["other"], "it is not shown again");
    mesh.dead.remove(&announcer);
    mesh.back(watcher, announcer);
    assert_eq!(mesh.values(watcher, key(1)).len(), 2);

    mesh.lose(watcher, announcer);
    mesh.announce(announcer, key(1), "again").unwrap();
    mesh.run_for(seconds(1));
    let shown = mesh.values(watcher, key(1));
    assert!(shown.len() == 2 && shown.contains(&"again".into()), "who announces anew is there: {shown:?}");
}

#[test]
fn a_watch_moves_on_when_its_holders_die() {
    let mut mesh = Mesh::joined(6, 80);
    let (watcher, announcer) = (mesh.ids[5], mesh.ids[40]);
    mesh.watch(watcher, key(1));
    mesh.run_for(seconds(2));
    let holders: Vec<NodeId> =
        mesh.closest(&key(1), 20).into_iter().filter(|id| *id != watcher && *id != announcer).collect();
    for holder in holders {
        mesh.dead.insert(holder);
        let living: Vec<NodeId> = mesh.ids.iter().filter(|id| !mesh.dead.contains(id)).copied().collect();
        for id in living {
            mesh.with(id, |node, now, out| node.peer_lost(now, &holder, out));
        }
    }
    mesh.run_for(seconds(5));
    let announced = mesh.announce(announcer, key(1), "late").unwrap();
    assert_eq!(announced.watchers_told, 1);
    assert_eq!(mesh.values(watcher, key(1)), ["late"]);
}

#[test]
fn an_unwatched_key_is_not_pushed_for_long() {
    let mut mesh = Mesh::joined(7, 40);
    let (watcher, announcer) = (mesh.ids[5], mesh.ids[30]);
    mesh.watch(watcher, key(1));
    mesh.run_for(seconds(2));
    mesh.with(watcher, |node, _, _| node.unwatch(&key(1)));
    mesh.announce(announcer, key(1), "one").unwrap();
    let received = mesh.metrics.notifies_received.get();
    assert!(received > 0, "the holders did not know yet");
    mesh.announce(announcer, key(1), "two").unwrap();
    assert_eq!(mesh.metrics.notifies_received.get(), received, "they learned it from the first push");
}

#[test]
fn many_announcers_are_paged_and_beyond_the_cap_sampled() {
    let config = KademliaConfig {
        quotas: Quotas { answer_records: 150, ..Quotas::default() },
        ..KademliaConfig::default()
    };
    let mut mesh = Mesh::new(8, Faults { loss: 0, latency_ms: (5, 10) }, config);
    mesh.grow(240);
    let value: &'static str = Box::leak("x".repeat(1000).into_boxed_str());
    for n in 0..120 {
        mesh.announce(mesh.ids[n], key(1), value).unwrap();
    }
    let found = mesh.find(mesh.ids[239], key(1), 1).unwrap();
    assert_eq!((found.records.len(), found.is_complete()), (120, true), "three pages");
    for n in 120..240 {
        mesh.announce(mesh.ids[n], key(1), value).unwrap();
    }
    let found = mesh.find(mesh.ids[0], key(1), 1).unwrap();
    assert!((30..240).contains(&found.records.len()), "{} are a sample", found.records.len());
    assert_eq!(found.estimate, 240);
    assert!(!found.is_complete());
    mesh.watch(mesh.ids[3], key(1));
    mesh.run_for(seconds(2));
    assert_eq!(mesh.shown[&(mesh.ids[3], key(1))].as_ref().unwrap().estimate, 240);
}

#[test]
fn records_of_the_dead_expire_and_those_of_the_living_are_republished() {
    let mut mesh = Mesh::joined(9, 40);
    let (living, dying) = (mesh.ids[10], mesh.ids[20]);
    mesh.announce(living, key(1), "living").unwrap();
    mesh.announce(dying, key(1), "dying").unwrap();
    mesh.dead.insert(dying);
    let finder = mesh.ids[30];
    mesh.run_for(seconds(55 * 60));
    assert_eq!(mesh.find(finder, key(1), 1).unwrap().records.len(), 2);
    mesh.run_for(seconds(10 * 60));
    let found = mesh.find(finder, key(1), 1).unwrap();
    assert_eq!((found.records.len(), found.by(&living).is_some()), (1, true));
    mesh.run_for(seconds(60 * 60));
    assert_eq!(mesh.find(finder, key(1), 1).unwrap().records.len(), 1);
    mesh.withdraw(living, key(1)).unwrap();
    mesh.run_for(seconds(65 * 60));
    let others = mesh.nodes.iter().filter(|(id, _)| !mesh.dead.contains(id));
    let held: usize = others.map(|(_, node)| node.store().len()).sum();
    assert_eq!(held, 0, "withdrawals are forgotten as well, in the end");
}

#[test]
fn what_was_announced_in_a_run_that_is_over_counts_for_nothing() {
    let mut mesh = Mesh::joined(17, 30);
    let (announcer, watcher, finder) = (mesh.ids[2], mesh.ids[4], mesh.ids[6]);
    let ids: Vec<NodeId> = mesh.ids.iter().copied().filter(|id| *id != announcer).collect();
    let tell = |mesh: &mut Mesh, id: NodeId, life: u64| {
        mesh.with(id, |node, now, out| node.peer_is(now, &announcer, life, out));
    };
    ids.iter().for_each(|id| tell(&mut mesh, *id, 1));
    mesh.live(announcer, 1);
    mesh.announce(announcer, key(1), "old").unwrap();
    mesh.announce_lasting(announcer, key(2), "lasting");
    mesh.watch(watcher, key(1));
    mesh.run_for(seconds(2));
    assert_eq!(mesh.values(watcher, key(1)), ["old"]);

    // It restarts. What it says now counts before others know that it did.
    mesh.live(announcer, 2);
    mesh.announce(announcer, key(3), "new").unwrap();
    tell(&mut mesh, watcher, 2);
    assert_eq!(mesh.values(watcher, key(1)), [""; 0], "though the holders have not heard of it");
    ids.iter().for_each(|id| tell(&mut mesh, *id, 2));
    mesh.run_for(seconds(60));
    assert_eq!(mesh.values(watcher, key(1)), [""; 0]);
    for (at, expected) in [(1, None), (2, Some("lasting")), (3, Some("new"))] {
        let found = mesh.find(finder, key(at), 1).unwrap();
        assert_eq!(found.by(&announcer).map(|record| record.value.clone()), expected.map(Into::into));
    }
    mesh.announce(announcer, key(1), "again").unwrap();
    mesh.run_for(seconds(1));
    assert_eq!(mesh.values(watcher, key(1)), ["again"]);
}

#[test]
fn somebody_who_just_died_holds_up_a_lookup_in_a_small_mesh_by_a_second_at_most() {
    let mut mesh = Mesh::joined(18, 5);
    mesh.announce(mesh.ids[1], key(1), "value").unwrap();
    mesh.dead.insert(mesh.ids[2]);
    let before = mesh.now;
    assert_eq!(mesh.find(mesh.ids[3], key(1), 1).unwrap().records.len(), 1);
    let took = mesh.now - before;
    assert!(took < Duration::from_millis(1_700), "{took:?}");
}

#[test]
fn a_node_whose_clock_begins_in_another_year_is_found_and_finds() {
    let mut mesh = Mesh::joined(20, 30);
    let (behind, other) = (mesh.ids[5], mesh.ids[9]);
    mesh.announce(behind, key(1), "before").unwrap();
    mesh.set_back(behind, 365 * 24 * 3_600_000);
    mesh.announce(other, key(2), "other").unwrap();
    assert_eq!(mesh.find(behind, key(2), 1).unwrap().records.len(), 1, "once it has heard what time it is");
    assert_eq!(mesh.announce(behind, key(3), "value").unwrap().holders, 20);
    mesh.announce(behind, key(1), "after").unwrap();
    for (at, value) in [(1, "after"), (3, "value")] {
        assert_eq!(mesh.find(other, key(at), 1).unwrap().by(&behind).unwrap().value, value);
    }
    mesh.run_for(seconds(3 * 3_600));
    assert_eq!(mesh.find(other, key(3), 1).unwrap().records.len(), 1, "it stays announced");
    mesh.withdraw(behind, key(1)).unwrap();
    assert_eq!(mesh.find(other, key(1), 1).unwrap().records.len(), 0);
}

#[test]
fn who_is_all_that_there_is_gets_all_the_time() {
    let mut mesh = Mesh::joined(19, 2);
    mesh.dead.insert(mesh.ids[0]);
    let before = mesh.now;
    assert!(mesh.find(mesh.ids[1], key(1), 1).is_err());
    assert_eq!(mesh.now - before, KademliaConfig::default().request_timeout);
}

#[test]
fn what_lasts_is_found_when_its_announcer_is_gone_until_it_expires() {
    let mut mesh = Mesh::joined(12, 30);
    let (dying, finder) = (mesh.ids[20], mesh.ids[3]);
    mesh.announce(dying, key(1), "usual").unwrap();
    mesh.announce_lasting(dying, key(2), "lasting");
    mesh.dead.insert(dying);
    for id in mesh.ids.clone() {
        mesh.with(id, |node, now, out| node.peer_lost(now, &dying, out));
    }
    assert_eq!(mesh.find(finder, key(1), 1).unwrap().records.len(), 0);
    assert_eq!(mesh.find(finder, key(2), 1).unwrap().by(&dying).unwrap().value, "lasting");
    mesh.run_for(seconds(65 * 60));
    assert_eq!(mesh.find(finder, key(2), 1).unwrap().records.len(), 0);
}

#[test]
fn what_lasts_does_so_when_it_is_announced_again_until_it_is_withdrawn() {
    let mut mesh = Mesh::joined(13, 30);
    let (announcer, holder) = (mesh.ids[20], mesh.closest(&key(2), 1)[0]);
    mesh.announce_lasting(announcer, key(2), "lasting");
    mesh.run_for(seconds(3 * 60 * 60));
    assert!(mesh.nodes[&holder].store().get(&key(2), &announcer).unwrap().body().lasting);
    mesh.withdraw(announcer, key(2)).unwrap();
    assert_eq!(mesh.find(mesh.ids[3], key(2), 1).unwrap().records.len(), 0);
}

#[test]
fn a_withdrawal_beats_an_older_record_that_comes_late() {
    let mut mesh = Mesh::joined(10, 25);
    let (announcer, holder) = (mesh.ids[3], mesh.closest(&key(1), 1)[0]);
    let (announcer, holder) = if announcer == holder { (mesh.ids[4], holder) } else { (announcer, holder) };
    mesh.announce(announcer, key(1), "old").unwrap();
    let old = mesh.nodes[&holder].store().get(&key(1), &announcer).unwrap().clone();
    mesh.withdraw(announcer, key(1)).unwrap();
    let stored = mesh.store(holder, vec![old.envelope().clone()]);
    assert_eq!(stored.outcomes[0].refusal, Some(Refusal::Outdated));
    assert!(stored.outcomes[0].newer.is_some());
    assert!(mesh.find(mesh.ids[7], key(1), 1).unwrap().records.is_empty());
}

#[test]
fn forged_expired_and_foreign_records_are_refused() {
    let mut mesh = Mesh::joined(11, 3);
    let holder = mesh.ids[1];
    let secret = SecretKey::from_seed([99; 32]);
    let body = RecordBody {
        key: key(1),
        announcer: macula_proto::Contact::new(secret.node_id(), "127.0.0.1:1".parse().unwrap()),
        value: Bytes::from_static(b"v"),
        sequence: 1,
        issued: mesh.time().unix,
        ttl: seconds(60),
        withdrawn: false,
        lasting: false,
        life: 0,
    };
    let signer = mesh.signer(&secret);
    let sign = |change: &dyn Fn(&mut RecordBody)| {
        let mut body = body.clone();
        change(&mut body);
        SignedRecord::sign(&signer, body).envelope().clone()
    };
    let mut tampered = sign(&|_| ());
    tampered.signature = Bytes::from(vec![0; 64]);
    let foreign = sign(&|body| body.announcer.id = NodeId::from_bytes([1; 32]));
    let expired = sign(&|body| body.issued = UnixMillis(1_000));
    let good = sign(&|_| ());
    let stored = mesh.store(holder, vec![tampered, foreign, expired, good]);
    let refusals: Vec<_> = stored.outcomes.iter().map(|outcome| outcome.refusal).collect();
    assert_eq!(refusals, [Some(Refusal::Invalid), Some(Refusal::Invalid), Some(Refusal::Expired), None]);
    assert_eq!(mesh.nodes[&holder].store().len(), 1);
}

#[test]
fn a_node_whose_clock_went_back_overtakes_its_former_self() {
    let mut mesh = Mesh::joined(12, 30);
    let announcer = mesh.ids[9];
    mesh.announce(announcer, key(1), "former").unwrap();
    // By less than others would set it right by.
    mesh.restart(announcer, 25_000);
    mesh.meet(announcer, mesh.ids[0]);
    mesh.run_for(seconds(5));
    mesh.announce(announcer, key(1), "latter").unwrap();
    let found = mesh.find(mesh.ids[20], key(1), 1).unwrap();
    assert_eq!(found.by(&announcer).unwrap().value, "latter");
}

#[test]
fn a_slow_peer_does_not_hold_a_lookup_up() {
    let mut mesh = Mesh::joined(13, 100);
    let near: Vec<NodeId> = mesh.closest(&key(1), 3);
    let from = *mesh.ids.iter().find(|id| !near.contains(id)).unwrap();
    for id in &near {
        mesh.slow.insert(*id, 4_000);
    }
    let started = mesh.now;
    let trace = mesh.trace(from, key(1));
    assert!(mesh.now - started < seconds(2), "{:?}", mesh.now - started);
    assert_eq!(trace.closest.len(), 20, "others stand in for the slow ones");
    assert!(mesh.metrics.peers_hedged.get() >= 3);
}

#[test]
fn disjoint_paths_agree_with_the_single_one() {
    let mut mesh = Mesh::joined(14, 100);
    let (announcer, finder) = (mesh.ids[3], mesh.ids[60]);
    mesh.announce(announcer, key(1), "value").unwrap();
    for paths in 1..=4 {
        assert_eq!(mesh.find(finder, key(1), paths).unwrap().records.len(), 1, "{paths} paths");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut mesh = Mesh::new(seed, Faults { loss: 5, latency_ms: (1, 90) }, KademliaConfig::default());
        mesh.grow(40);
        mesh.announce(mesh.ids[7], key(1), "v").unwrap();
        mesh.watch(mesh.ids[9], key(1));
        mesh.run_for(seconds(100));
        let tables: Vec<_> = mesh.nodes.values().map(Node::save_table).collect();
        (mesh.requests, tables)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn an_idle_mesh_is_quiet() {
    let mut mesh = Mesh::joined(15, 100);
    for n in 0..10 {
        mesh.announce(mesh.ids[n as usize * 9], key(n), "v").unwrap();
    }
    let before = mesh.requests;
    mesh.run_for(seconds(30 * 60));
    let per_node_and_second = (mesh.requests - before) as f64 / 100.0 / 1800.0;
    assert!(per_node_and_second < 0.5, "{per_node_and_second} requests a second and node");
    let tables: BTreeSet<bool> = mesh.nodes.values().map(|node| node.table().len() >= 20).collect();
    assert_eq!(tables, BTreeSet::from([true]));
}
