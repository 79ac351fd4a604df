use std::time::Duration;

use super::Setting;
use super::liars::{Coming, Kind, among_liars};
use crate::scenario::named;

/// Runs a scenario twice, once with every message encoded and decoded on its way: it passes, and both runs are the same
/// to the last bit.
fn holds(name: &str, nodes: u32, span: Option<Duration>) {
    let run = |through_codec| {
        let outcome = named(name).unwrap().run(Setting { nodes, seed: 3, span, through_codec });
        assert!(outcome.violations.is_empty(), "{outcome}");
        (outcome.trace, outcome.rows)
    };
    assert_eq!(run(true), run(false), "the same seed, another run");
}

#[test]
fn records_are_found_after_many_died_at_once() {
    holds("dht-massacre", 32, None);
}

#[test]
fn records_are_found_while_nodes_come_and_go() {
    holds("dht-churn", 32, Some(Duration::from_mins(1)));
}

#[test]
fn the_slow_and_the_dead_hold_nothing_up() {
    holds("dht-slow", 32, None);
}

#[test]
fn liars_hide_no_records() {
    holds("dht-liars", 32, None);
}

#[test]
fn the_cost_of_a_look_up_is_measured() {
    let setting = Setting { nodes: 100, seed: 3, span: None, through_codec: false };
    let curve = crate::scenario::curve("dht-cost", setting).unwrap();
    assert_eq!(curve.at, [100.0]);
    let (name, values) = &curve.lines[1];
    assert!(name.starts_with("requests") && values[0] >= 20.0, "{name}: {values:?}");
    assert!(crate::scenario::curve("no such", setting).is_none());
}

#[test]
fn liars_cost_requests() {
    let setting = Setting { nodes: 24, seed: 3, span: None, through_codec: false };
    let kind = Kind { coming: Coming::Evenly, discreet: false };
    let [none, half] = [0.0, 0.5].map(|share| among_liars(setting, share, kind).one);
    assert!(half.requests > none.requests, "{} and {}", half.requests, none.requests);
}
