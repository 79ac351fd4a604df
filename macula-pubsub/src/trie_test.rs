use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::pattern::tests::{any_pattern, any_topic, naive_match};

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn matching(trie: &Trie<usize, ()>, topic: &str) -> (Vec<usize>, usize) {
    let mut found = Vec::new();
    let visited = trie.matching(&topic.parse().unwrap(), |key, ()| found.push(*key));
    found.sort_unstable();
    (found, visited)
}

#[test]
fn a_value_is_found_once_however_many_ways_lead_to_it() {
    let mut trie = Trie::new();
    for (key, text) in ["#.#.#.#", "#.a.#", "*.#.*", "a.#.a", "#"].iter().enumerate() {
        trie.insert(&pattern(text), key, ());
    }
    assert_eq!(matching(&trie, "a.a.a.a").0, [0, 1, 2, 3, 4]);
    assert_eq!(matching(&trie, "a").0, [0, 1, 4]);
    assert_eq!(matching(&trie, "b").0, [0, 4]);
}

#[test]
fn removing_everything_leaves_only_the_root() {
    let mut trie = Trie::new();
    let texts = ["a.b.c", "a.b", "a.*", "a.#.z", "#.#"];
    for (key, text) in texts.iter().enumerate() {
        assert_eq!(trie.insert(&pattern(text), key, ()), None);
    }
    assert_eq!(trie.remove(&pattern("a.b"), &0), None, "another value's key");
    assert_eq!(trie.remove(&pattern("a.x"), &0), None);
    for (key, text) in texts.iter().enumerate() {
        assert_eq!(trie.remove(&pattern(text), &key), Some(()));
    }
    assert!(trie.is_empty());
    assert_eq!(trie.nodes.len() - trie.free.len(), 1);
    assert!(trie.nodes[ROOT].is_bare());
}

#[test]
fn a_hundred_thousand_subscriptions_cost_a_topic_a_few_nodes() {
    let mut trie = Trie::new();
    for n in 0..100_000 {
        let text = match n % 5 {
            0 => format!("site.{}.sensor.{n}", n % 100),
            1 => format!("site.*.sensor.{n}"),
            2 => format!("site.{}.#.{n}", n % 100),
            3 => format!("#.{n}"),
            _ => format!("site.{n}.*.on"),
        };
        trie.insert(&pattern(&text), n, ());
    }
    assert_eq!(trie.len(), 100_000);
    let (found, visited) = matching(&trie, "site.5.sensor.5");
    assert_eq!(found, [5]);
    assert!(visited <= 20, "{visited} nodes");
}

#[test]
fn runs_of_many_wildcards_cost_no_more_than_one() {
    let mut trie = Trie::new();
    trie.insert(&pattern(&["#"; 16].join(".")), 0, ());
    trie.insert(&pattern("#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.b"), 1, ());
    let (found, visited) = matching(&trie, &["a"; 16].join("."));
    assert_eq!(found, [0]);
    assert!(visited <= 17 * 17, "{visited} nodes: at most every node for every segment");
}

proptest! {
    #[test]
    fn the_trie_finds_what_the_definition_says(
        texts in prop::collection::vec(any_pattern(), 0..40),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        topic in any_topic(),
    ) {
        let mut trie = Trie::new();
        let mut live: BTreeSet<usize> = (0..texts.len()).collect();
        for (key, text) in texts.iter().enumerate() {
            trie.insert(&pattern(text), key, ());
        }
        for index in removed.iter().filter(|_| !texts.is_empty()) {
            let key = index.index(texts.len());
            prop_assert_eq!(trie.remove(&pattern(&texts[key]), &key).is_some(), live.remove(&key));
        }
        let expected: Vec<usize> = live.into_iter().filter(|key| naive_match(&texts[*key], &topic)).collect();
        prop_assert_eq!(matching(&trie, &topic).0, expected);
    }
}
