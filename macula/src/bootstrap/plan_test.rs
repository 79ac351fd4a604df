//! The plan over virtual time.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn seed(n: u8) -> BootstrapTarget {
    BootstrapTarget::Seed(format!("s{n}.example:4000").parse().unwrap())
}

fn peer(n: u8) -> BootstrapTarget {
    BootstrapTarget::Peer(NodeId::from_bytes([n; 32]))
}

fn at(since_start: Duration) -> Timestamp {
    Timestamp::from_start(since_start)
}

fn plan(targets: &[BootstrapTarget]) -> BootstrapPlan {
    let mut plan = BootstrapPlan::new(PlanConfig::default(), 1);
    for target in targets {
        assert!(plan.add(Timestamp::ZERO, target.clone()));
    }
    plan
}

fn poll(plan: &mut BootstrapPlan, now: Timestamp) -> Vec<BootstrapTarget> {
    let mut out = vec![];
    plan.poll(now, &mut out);
    out
}

/// Runs until `end`, with `reached` saying who answers; returns the attempts.
fn run(
    plan: &mut BootstrapPlan,
    mut now: Timestamp,
    end: Timestamp,
    reached: impl Fn(&BootstrapTarget) -> bool,
) -> Vec<(Timestamp, BootstrapTarget)> {
    let mut attempts = vec![];
    loop {
        for target in poll(plan, now) {
            match reached(&target) {
                true => plan.on_success(now, &target),
                false => plan.on_failure(now, &target),
            }
            attempts.push((now, target));
        }
        match plan.deadline() {
            Some(next) if next <= end => now = now.max(next),
            _ => return attempts,
        }
    }
}

#[test]
fn alone_seeds_come_first_then_peers_and_only_so_many_at_once() {
    let mut plan = plan(&[peer(9), peer(8), seed(1), seed(2), peer(7)]);
    assert_eq!(poll(&mut plan, Timestamp::ZERO), [seed(1), seed(2), peer(9), peer(8)]);
    assert_eq!(poll(&mut plan, Timestamp::ZERO), []);
    plan.on_failure(Timestamp::ZERO, &seed(1));
    assert_eq!(poll(&mut plan, Timestamp::ZERO), [peer(7)]);
}

#[test]
fn a_target_that_fails_is_tried_with_growing_bounded_pauses() {
    let mut plan = plan(&[seed(1)]);
    let attempts = run(&mut plan, Timestamp::ZERO, at(10 * MINUTE), |_| false);
    let pauses: Vec<_> = attempts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(pauses[0] <= SECOND / 2 && pauses[0] >= SECOND / 4, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 30 * SECOND), "{pauses:?}");
    assert!(pauses[6..].iter().all(|pause| *pause >= 15 * SECOND), "{pauses:?}");
    assert!((20..60).contains(&attempts.len()), "{}", attempts.len());
}

#[test]
fn a_seed_that_answers_while_the_node_stays_alone_is_tried_again_soon() {
    let mut plan = plan(&[seed(1)]);
    let attempts = run(&mut plan, Timestamp::ZERO, at(MINUTE), |_| true);
    assert!((12..=25).contains(&attempts.len()), "{}", attempts.len());
}

#[test]
fn once_joined_seeds_are_tried_now_and_then_and_old_peers_no_more() {
    let mut plan = plan(&[seed(1), seed(2), peer(1)]);
    plan.on_members(Timestamp::ZERO, 5);
    let attempts = run(&mut plan, Timestamp::ZERO, at(60 * MINUTE), |target| *target == seed(1));
    assert!(attempts.iter().all(|(_, target)| !is_peer(target)));
    let of = |seed: BootstrapTarget| attempts.iter().filter(|(_, target)| *target == seed).count();
    assert!((6..=13).contains(&of(seed(1))), "{}", of(seed(1)));
    assert!((12..=26).contains(&of(seed(2))), "more often at first, while it is unreached: {}", of(seed(2)));
}

#[test]
fn losing_everyone_makes_everything_due_within_a_moment() {
    let mut plan = plan(&[seed(1), peer(1)]);
    plan.on_members(Timestamp::ZERO, 5);
    run(&mut plan, Timestamp::ZERO, at(60 * MINUTE), |_| true);
    let now = at(60 * MINUTE);
    plan.on_members(now, 0);
    assert_eq!(plan.mood(), Mood::Alone);
    let attempts = run(&mut plan, now, now + SECOND / 2, |_| true);
    let targets: Vec<_> = attempts.iter().map(|(_, target)| target.clone()).collect();
    assert!(targets.contains(&seed(1)) && targets.contains(&peer(1)), "{targets:?}");
}

#[test]
fn a_mesh_that_lost_a_part_looks_for_it_at_its_seeds_until_small_is_normal() {
    let mut plan = plan(&[seed(1)]);
    plan.on_members(Timestamp::ZERO, 100);
    run(&mut plan, Timestamp::ZERO, at(MINUTE), |_| true);
    plan.on_members(at(MINUTE), 80);
    assert_eq!(plan.mood(), Mood::Joined, "some come and go");
    plan.on_members(at(MINUTE), 50);
    assert_eq!(plan.mood(), Mood::Shrunk);
    let attempts = run(&mut plan, at(MINUTE), at(15 * MINUTE), |_| true);
    assert!((28..=60).contains(&attempts.len()), "{}", attempts.len());
    assert!(run(&mut plan, at(15 * MINUTE), at(17 * MINUTE), |_| true).len() <= 8);
    assert_eq!(plan.mood(), Mood::Joined, "fifteen minutes at fifty: that is its size now");
    assert!(run(&mut plan, at(17 * MINUTE), at(37 * MINUTE), |_| true).len() <= 5);
}

#[test]
fn a_mesh_that_is_whole_again_calms_down_at_once() {
    let mut plan = plan(&[seed(1)]);
    plan.on_members(Timestamp::ZERO, 4);
    plan.on_members(at(SECOND), 2);
    assert_eq!(plan.mood(), Mood::Shrunk);
    plan.on_members(at(2 * SECOND), 4);
    assert_eq!(plan.mood(), Mood::Joined);
}

#[test]
fn an_attempt_that_nobody_reports_on_is_given_up() {
    let mut plan = plan(&[seed(1)]);
    assert_eq!(poll(&mut plan, Timestamp::ZERO), [seed(1)]);
    assert_eq!(plan.deadline(), Some(at(2 * MINUTE)));
    assert_eq!(poll(&mut plan, at(2 * MINUTE)), []);
    assert!(plan.deadline().unwrap() <= at(2 * MINUTE + SECOND));
}

#[test]
fn targets_come_and_go_at_run_time() {
    let mut plan = plan(&[]);
    assert_eq!(plan.deadline(), None);
    assert!(plan.add(at(SECOND), seed(1)) && !plan.add(at(SECOND), seed(1)));
    assert_eq!(poll(&mut plan, at(SECOND)), [seed(1)]);
    assert!(plan.remove(&seed(1)) && !plan.remove(&seed(1)));
    plan.on_failure(at(SECOND), &seed(1));
    assert_eq!((poll(&mut plan, at(MINUTE)), plan.deadline()), (vec![], None));
}

proptest! {
    /// Whatever happens, the plan neither spins nor sleeps for ever, and never exceeds its attempts.
    #[test]
    fn there_is_always_a_next_step_and_never_too_many(
        steps in prop::collection::vec((0u64..100_000, 0usize..4, any::<bool>()), 1..200), rng_seed: u64,
    ) {
        let mut plan = BootstrapPlan::new(PlanConfig::default(), rng_seed);
        for n in 0..6 {
            plan.add(Timestamp::ZERO, if n % 2 == 0 { seed(n) } else { peer(n) });
        }
        let (mut now, mut under_way) = (Timestamp::ZERO, Vec::new());
        for (pass, members, reached) in steps {
            now = now + Duration::from_millis(pass);
            plan.on_members(now, members);
            plan.poll(now, &mut under_way);
            prop_assert!(under_way.len() <= 4, "at most four attempts at once");
            let deadline = plan.deadline();
            prop_assert!(deadline.is_some_and(|at| at <= now + 10 * MINUTE), "{:?}", deadline);
            if under_way.len() < 4 {
                prop_assert!(deadline > Some(now), "nothing is due right after a poll with room");
            }
            for target in under_way.drain(..) {
                if reached { plan.on_success(now, &target) } else { plan.on_failure(now, &target) }
            }
        }
    }
}
