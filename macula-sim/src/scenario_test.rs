use super::*;

/// Runs a scenario for each seed twice, once with every message encoded and decoded on its way: it passes, and both runs
/// are the same to the last bit.
fn holds(name: &str, nodes: u32, seeds: &[u64]) {
    let scenario = named(name).unwrap();
    let hashes = seeds.iter().map(|seed| {
        let setting = |through_codec| Setting { nodes, seed: *seed, span: None, through_codec };
        let outcome = scenario.run(setting(true));
        assert!(outcome.violations.is_empty(), "{outcome}");
        let again = scenario.run(setting(false));
        assert_eq!((outcome.trace, outcome.rows), (again.trace, again.rows), "the same seed, another run");
        outcome.trace.to_string()
    });
    let mut hashes: Vec<_> = hashes.collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), seeds.len(), "each seed is a run of its own");
}

#[test]
fn all_find_each_other() {
    holds("join", 32, &[1, 2]);
}

#[test]
fn every_living_node_confirms_every_dead_one() {
    holds("crash", 32, &[1, 2]);
}

#[test]
fn loss_kills_nobody() {
    holds("loss", 32, &[1, 2]);
}

#[test]
fn halves_find_together_again() {
    holds("partition", 32, &[1, 2]);
}

#[test]
fn the_same_id_comes_back() {
    holds("restart", 32, &[1, 2]);
}

#[test]
fn who_leaves_is_not_suspected() {
    holds("leave", 32, &[1, 2]);
}

#[test]
fn what_is_announced_is_found_from_anywhere() {
    holds("lookup", 32, &[1, 2]);
}

#[test]
fn the_starved_take_no_healthy_one_down() {
    holds("pause", 16, &[1]);
}

#[test]
fn the_newest_tags_win() {
    holds("tags", 24, &[1]);
}

#[test]
fn one_way_cuts_hurt_nobody_else() {
    holds("one-way", 24, &[1]);
}

#[test]
fn who_accuses_everybody_kills_nobody() {
    let scenario = named("slander").unwrap();
    let setting =
        |seed| Setting { nodes: 24, seed, span: Some(Duration::from_secs(20)), through_codec: false };
    let outcomes = [1, 1, 2].map(|seed| scenario.run(setting(seed)));
    outcomes.iter().for_each(|outcome| assert!(outcome.violations.is_empty(), "{outcome}"));
    assert_eq!(outcomes[0].trace, outcomes[1].trace, "the same seed, another run");
    assert_ne!(outcomes[0].trace, outcomes[2].trace);
}

#[test]
fn clocks_may_drift() {
    holds("drift", 24, &[1]);
}

#[test]
fn a_mesh_in_churn_stays_right() {
    holds("churn", 24, &[1]);
}

#[test]
fn the_dead_are_found_though_messages_get_lost() {
    holds("crash-loss", 32, &[1, 2]);
    holds("kill-100", 32, &[1]);
}

#[test]
fn halves_find_together_after_hours() {
    holds("hour-partition", 12, &[1]);
    holds("two-hour-partition", 12, &[1]);
}

#[test]
fn liars_kill_nobody() {
    holds("attack", 24, &[1]);
}

#[test]
fn what_membership_costs_is_measured() {
    holds("swim-cost", 100, &[1]);
}

#[test]
fn names_are_unique_and_known() {
    for scenario in ALL {
        assert_eq!(named(scenario.name).map(|found| found.about), Some(scenario.about));
    }
    assert!(named("no such").is_none());
}
