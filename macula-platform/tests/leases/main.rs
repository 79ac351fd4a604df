//! Leases in a world where leaders are deposed without knowing, clocks drift, processes pause, and messages are late, lost
//! or doubled: at no instant do two nodes hold one election. Bugs planted on purpose are found.

mod clock;
mod findings;
mod node;
mod world;

use findings::{Faults, Findings, Plant};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use world::World;

fn run(faults: Faults, plant: Plant, seed: u64) -> Findings {
    World::new(faults, plant, seed).run()
}

fn faults() -> impl Strategy<Value = Faults> {
    let messages = (0..300u32, 0..200u32, 1_000..150_000u64);
    let upheaval = (300_000..6_000_000u64, 0..4_000_000u64, 0..2_500_000u64);
    (messages, upheaval, 0..40_000u32, any::<bool>()).prop_map(
        |(messages, upheaval, drift_ppm, clock_jumps)| Faults {
            lost_permille: messages.0,
            doubled_permille: messages.1,
            delay_max: messages.2,
            leader_every: upheaval.0,
            deposed_for: upheaval.1,
            pause_max: upheaval.2,
            drift_ppm,
            clock_jumps,
        },
    )
}

proptest! {
    // The same cases in each run.
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn nobody_relies_on_a_session_that_is_over(faults in faults(), seed: u64) {
        let findings = run(faults, Plant::Nothing, seed);
        prop_assert_eq!((findings.two_leaders, findings.overlaps), (0, 0), "{:?}", findings);
        prop_assert_eq!(findings.ended_while_valid, 0, "{:?}", findings);
        prop_assert_eq!(findings.ended_too_soon, 0, "{:?}", findings);
    }
}

/// All faults at once, and strong.
const STORM: Faults = Faults {
    lost_permille: 100,
    doubled_permille: 100,
    delay_max: 80_000,
    leader_every: 1_500_000,
    deposed_for: 4_000_000,
    pause_max: 2_000_000,
    drift_ppm: 40_000,
    clock_jumps: true,
};

const SEEDS: u64 = 150;

fn storm(plant: Plant) -> Findings {
    let total = (0..SEEDS).map(|seed| run(STORM, plant, seed)).fold(Findings::default(), Findings::add);
    println!("{plant:?}: {total:?}");
    total
}

#[test]
fn the_storm_does_what_it_says() {
    let total = storm(Plant::Nothing);
    assert_eq!((total.two_leaders, total.overlaps), (0, 0), "{total:?}");
    assert_eq!((total.ended_while_valid, total.ended_too_soon), (0, 0), "{total:?}");
    for (what, count) in [
        ("leader changes", total.leader_changes),
        ("answers of deposed leaders that a quorum still confirmed", total.answers_of_deposed),
        ("rounds that no quorum confirmed", total.rounds_failed),
        ("sessions ended", total.expired),
        ("elections granted", total.granted),
        ("pauses", total.pauses),
        ("clock jumps", total.clock_jumps),
    ] {
        assert!(count >= 20, "{what}: only {count} times");
    }
    assert!(total.valid_permille() >= 100, "somebody must lead now and then: {total:?}");
}

#[test]
fn without_faults_no_session_ends() {
    let calm = Faults { delay_max: 20_000, leader_every: u64::MAX / 4, ..Faults::default() };
    for seed in 0..20 {
        let findings = run(calm, Plant::Nothing, seed);
        assert_eq!((findings.expired, findings.two_leaders), (0, 0), "{findings:?}");
        assert!(findings.valid_permille() >= 900, "{findings:?}");
    }
}

#[test]
fn leader_changes_alone_end_no_session() {
    let changes =
        Faults { delay_max: 10_000, leader_every: 2_000_000, deposed_for: 100_000, ..Faults::default() };
    let total =
        (0..20).map(|seed| run(changes, Plant::Nothing, seed)).fold(Findings::default(), Findings::add);
    assert!(total.leader_changes >= 100, "{total:?}");
    assert_eq!(total.expired, 0, "{total:?}");
}

/// A planted bug is found in each way: a session that ended too early, and a second leader.
fn assert_found(plant: Plant) {
    let total = storm(plant);
    assert!(total.ended_while_valid > 0 && total.two_leaders > 0 && total.overlaps > 0, "{total:?}");
}

#[test]
fn a_lease_counted_from_the_reply_is_found() {
    assert_found(Plant::CountedFromReply);
}

#[test]
fn an_answer_without_a_round_is_found() {
    assert_found(Plant::NoRound);
}

#[test]
fn a_new_leader_that_does_not_begin_anew_is_found() {
    assert_found(Plant::NoFreshStart);
}

#[test]
fn a_lease_without_a_margin_is_found() {
    assert_found(Plant::NoMargin);
}
