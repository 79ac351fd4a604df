//! What a whole cell of machines does: convergence, failures, restarts, partitions.

mod network;

use std::collections::BTreeSet;
use std::time::Duration;

use macula_membership::{Event, MemberState};
use network::Network;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn everybody_finds_everybody_over_few_links() {
    let mut net = Network::new(1, 0.0);
    net.grow(100);
    net.run(secs(30));
    net.assert_full(100);
    // Two a ring, shared by both ends, the seed's, and those of rare random probes; a full mesh has 4,950.
    assert!(net.links() < 900, "{} links", net.links());
}

#[test]
fn loss_alone_kills_nobody() {
    let mut net = Network::new(2, 0.05);
    net.grow(60);
    net.run(secs(300));
    net.assert_full(60);
    assert_eq!(net.confirmed(), []);
    assert!(net.metrics.probes_failed.get() > 0, "there was loss");
}

#[test]
fn a_crash_is_found_by_everybody() {
    let mut net = Network::new(3, 0.05);
    net.grow(100);
    net.run(secs(30));
    let dead: BTreeSet<_> = [7, 42, 99].into_iter().collect();
    for n in &dead {
        net.crash(*n);
    }
    net.run(secs(60));
    net.assert_full(97);
    let ids: BTreeSet<_> = dead.iter().map(|n| net.id(*n)).collect();
    let confirmed: BTreeSet<_> = net.confirmed().into_iter().map(|(_, id)| id).collect();
    assert_eq!(confirmed, ids, "exactly those who crashed");
}

#[test]
fn a_restart_with_the_same_id_always_comes_back() {
    let mut net = Network::new(4, 0.05);
    net.grow(50);
    net.run(secs(30));
    // At once, after its death is known, and with a wall clock that is an hour behind.
    net.crash(5);
    net.restart(5, 0);
    net.crash(6);
    net.crash(7);
    net.run(secs(60));
    assert_eq!(net.disagreeing(6, MemberState::Dead), []);
    net.restart(6, 0);
    net.restart(7, (-3_600_000i64) as u64);
    net.run(secs(60));
    net.assert_full(50);
    for n in [5, 6, 7] {
        assert_eq!(net.disagreeing(n, MemberState::Alive), [], "node {n}");
    }
}

#[test]
fn a_leave_is_no_death_and_the_departed_may_return() {
    let mut net = Network::new(5, 0.05);
    net.grow(50);
    net.run(secs(30));
    net.leave(9);
    net.run(secs(3));
    net.crash(9);
    net.run(secs(30));
    assert_eq!(net.disagreeing(9, MemberState::Left), []);
    let about = net.id(9);
    let died =
        net.events.iter().any(|(_, _, e)| matches!(e, Event::Confirmed(_)) && e.member().id() == about);
    assert!(!died, "a goodbye is not mistaken for a death");
    let left = net.events.iter().filter(|(_, _, e)| matches!(e, Event::Left(_))).count();
    assert_eq!(left, 49, "each of the others saw it go, once");
    net.restart(9, 0);
    net.run(secs(30));
    assert_eq!(net.disagreeing(9, MemberState::Alive), []);
}

#[test]
fn both_halves_of_a_partition_find_each_other_again() {
    let mut net = Network::new(6, 0.02);
    net.grow(60);
    net.run(secs(30));
    net.partition(30);
    net.run(secs(90));
    net.assert_full(30);
    let suspected = net.metrics.suspected.get();
    net.partition(0);
    net.run(secs(60));
    net.assert_full(60);
    assert_eq!(net.metrics.suspected.get(), suspected, "coming together makes nobody suspect");
}

#[test]
fn tags_reach_everybody() {
    let mut net = Network::new(7, 0.05);
    net.grow(30);
    net.run(secs(10));
    let tags = [("zone".to_string(), "v".repeat(508))].into_iter().collect();
    net.act(3, |machine, now, out| machine.set_tags(now, tags, out)).expect("up").expect("within the limit");
    net.run(secs(10));
    let id = net.id(3);
    for n in 0..30 {
        let member = net.machine(n).members().find(|member| member.id() == id).expect("a member");
        assert_eq!(member.tags["zone"].len(), 508, "node {n}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut net = Network::new(seed, 0.1);
        net.grow(30);
        net.crash(4);
        net.run(secs(60));
        (net.trace, net.events)
    };
    assert_eq!(run(8), run(8));
    assert_ne!(run(8).0, run(9).0);
}
