use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn matches(pattern_text: &str, topic: &str) -> bool {
    pattern(pattern_text).matches(&topic.parse().unwrap())
}

/// The definition, word by word; exponential, which is fine for a few segments.
fn naive(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern.split_first(), topic.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => {
            naive(rest, topic) || topic.split_first().is_some_and(|(_, topic)| naive(pattern, topic))
        }
        (Some((&"*", rest)), Some((_, topic))) => naive(rest, topic),
        (Some((literal, rest)), Some((segment, topic))) => literal == segment && naive(rest, topic),
        _ => false,
    }
}

pub(crate) fn naive_match(pattern: &str, topic: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let topic: Vec<&str> = topic.split('.').collect();
    naive(&pattern, &topic)
}

/// Few different segments, so that matches are common.
pub(crate) fn any_pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("c"), Just("*"), Just("#")];
    prop::collection::vec(segment, 1..7).prop_map(|segments| segments.join("."))
}

pub(crate) fn any_topic() -> impl Strategy<Value = String> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop::collection::vec(segment, 1..7).prop_map(|segments| segments.join("."))
}

#[test]
fn the_documented_cases() {
    for (wanted, topic) in
        [("a.#", "a"), ("a.#.z", "a.z"), ("a.#.z", "a.b.c.z"), ("#.*", "a.b"), ("#", "a.b.c"), ("a.*", "a.b")]
    {
        assert!(matches(wanted, topic), "{wanted} matches {topic}");
    }
    for (wanted, topic) in
        [("a.*", "a"), ("a.*", "a.b.c"), ("*.*", "a"), ("a.#.z", "a"), ("a", "A"), ("#.a", "b")]
    {
        assert!(!matches(wanted, topic), "{wanted} does not match {topic}");
    }
}

#[test]
fn each_rule_has_its_error() {
    assert_eq!("".parse::<Pattern>(), Err(PatternError::Length(0)));
    assert_eq!("a".repeat(256).parse::<Pattern>(), Err(PatternError::Length(256)));
    assert!(matches!("a.b!".parse::<Pattern>(), Err(PatternError::Character { found: '!', .. })));
    for bad in [".", "a.", ".#", "a..b"] {
        assert_eq!(bad.parse::<Pattern>(), Err(PatternError::EmptySegment(bad.into())));
    }
    for (bad, segment) in [("a.b*", "b*"), ("##", "##"), ("*a.b", "*a"), ("a.*#", "*#")] {
        let expected = PatternError::PartialWildcard { pattern: bad.into(), segment: segment.into() };
        assert_eq!(bad.parse::<Pattern>(), Err(expected));
    }
    let deep = vec!["*"; 17].join(".");
    assert_eq!(deep.parse::<Pattern>(), Err(PatternError::Segments { pattern: deep.clone(), segments: 17 }));
    assert!(vec!["#"; 16].join(".").parse::<Pattern>().is_ok());
}

#[test]
fn the_literal_prefix_ends_at_the_first_wildcard_or_the_depth() {
    for (text, depth, prefix) in [
        ("a.b.c.d.e.#", 4, "a.b.c.d"),
        ("a.b.*", 4, "a.b"),
        ("#.a", 4, ""),
        ("*", 4, ""),
        ("a.b", 0, ""),
        ("longer.names", 4, "longer.names"),
    ] {
        assert_eq!(pattern(text).literal_prefix(depth), prefix, "{text} at {depth}");
    }
}

#[test]
fn only_patterns_without_wildcards_are_exact() {
    assert!(pattern("a.b").is_exact());
    assert!(!pattern("a.*").is_exact());
    assert!(!pattern("#").is_exact());
}

proptest! {
    #[test]
    fn matching_is_what_the_definition_says(wanted in any_pattern(), topic in any_topic()) {
        prop_assert_eq!(matches(&wanted, &topic), naive_match(&wanted, &topic));
    }
}
