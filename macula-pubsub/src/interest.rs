//! Where an interest is announced, and where a publisher looks for it.
//!
//! ```text
//!   subscription          announced at                    a publisher of a.b.c resolves
//!   a.b.c                 topic  a.b.c                    topic  a.b.c
//!   a.b.*   a.b.#.x       prefix a.b                      prefix (root), a, a.b, a.b.c
//!   *.b     #             prefix (root)
//! ```
//!
//! A node has one record at a key, whose value lists what it wants there: patterns, and the filters that narrow them. What
//! does not fit into a record is left out so that the node wants more, never less. Everything here is pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use macula_proto::{Key, Name, Realm, wire};
use prost::Message as _;

use crate::announce::Records;
use crate::{Filter, Group, Pattern};

/// How many literal segments of a pattern choose its key, at most.
pub const PREFIX_DEPTH: usize = 4;

/// Largest value of an interest record, in bytes; it is the directory's own limit.
pub const INTEREST_BYTES_MAX: usize = 1024;

/// Most patterns that an interest record may list, and most conditions.
pub const INTEREST_PATTERNS_MAX: usize = 128;

/// One thing that a node wants: the messages of a topic or a family of topics, or those that pass a filter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    /// Which topics.
    pub pattern: Pattern,
    /// Which of their messages; all if there is none.
    pub filter: Option<Filter>,
    /// With whom it shares them.
    pub group: Option<Group>,
}

/// The key at which a subscription is announced.
pub fn announced_at(realm: &Realm, pattern: &Pattern) -> Key {
    if pattern.is_exact() {
        topic_key(realm, pattern.as_str())
    } else {
        prefix_key(realm, pattern.literal_prefix(PREFIX_DEPTH))
    }
}

/// The keys at which subscriptions that match `topic` can be: its own, and those of its prefixes down to
/// [`PREFIX_DEPTH`], the realm's root included.
pub fn resolved_at(realm: &Realm, topic: &Name) -> Vec<Key> {
    let prefixes = prefixes(topic).map(|prefix| prefix_key(realm, prefix));
    std::iter::once(topic_key(realm, topic.as_str())).chain(prefixes).collect()
}

/// The prefixes of a topic down to [`PREFIX_DEPTH`], the root and the topic itself included.
pub(crate) fn prefixes(topic: &Name) -> impl Iterator<Item = &str> {
    let ends = topic.segments().take(PREFIX_DEPTH).scan(0, |end, segment| {
        *end += segment.len() + usize::from(*end > 0);
        Some(*end)
    });
    std::iter::once(0).chain(ends).map(|end| &topic.as_str()[..end])
}

/// Reads the value of another node's record. What is no pattern is left out and counted; a filter that this version cannot
/// read counts as none.
pub fn decode(value: &Bytes) -> Decoded {
    let message = Some(value).filter(|value| value.len() <= INTEREST_BYTES_MAX);
    let message = message.and_then(|value| macula_proto::decode::<wire::Interest>(value.clone()).ok());
    let Some(wire::Interest { patterns, conditions, trees }) = message else {
        return Decoded { invalid: 1, ..Decoded::default() };
    };
    let conditions = &conditions[..conditions.len().min(INTEREST_PATTERNS_MAX)];
    let invalid = patterns.len().saturating_sub(INTEREST_PATTERNS_MAX);
    let mut decoded = Decoded { invalid, ..Decoded::default() };
    for (index, text) in patterns.iter().take(INTEREST_PATTERNS_MAX).enumerate() {
        match text.parse::<Pattern>() {
            Ok(pattern) => {
                let of_this = conditions.iter().filter(|condition| condition.pattern as usize == index);
                decoded.add(&pattern, of_this);
                if trees.iter().any(|tree| usize::from(*tree) == index) {
                    decoded.trees.push(pattern);
                }
            }
            Err(_) => decoded.invalid += 1,
        }
    }
    decoded
}

/// What an interest record says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// What the announcer wants, as far as it belongs to the record's key.
    pub wants: Vec<Want>,
    /// The patterns in whose trees it is.
    pub trees: Vec<Pattern>,
    /// How many entries were no patterns, or too many.
    pub invalid: usize,
}

impl Decoded {
    fn add<'c>(&mut self, pattern: &Pattern, conditions: impl Iterator<Item = &'c wire::InterestCondition>) {
        let mut conditions = conditions.peekable();
        if conditions.peek().is_none() {
            self.wants.push(Want { pattern: pattern.clone(), filter: None, group: None });
        }
        for condition in conditions {
            let group = match condition.group.as_str() {
                "" => None,
                group => match group.parse() {
                    Ok(group) => Some(group),
                    Err(_) => {
                        self.invalid += 1;
                        continue;
                    }
                },
            };
            // An empty text is no filter either.
            self.wants.push(Want { pattern: pattern.clone(), filter: condition.filter.parse().ok(), group });
        }
    }
}

/// This node's own interest, by key.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    keys: BTreeMap<Key, AtKey>,
}

#[derive(Debug)]
struct AtKey {
    /// Stands for all patterns at this key when they do not fit into one record.
    covering: Pattern,
    /// How many subscriptions there are of each kind.
    wants: BTreeMap<Want, usize>,
    /// The patterns in whose trees this node is.
    trees: BTreeSet<Pattern>,
}

impl Interests {
    /// One more subscription wants this. Returns where it is to be announced; `None` if it cannot be, because the groups
    /// at that key would not fit into a record: of them nothing may be left out.
    pub(crate) fn add(&mut self, realm: &Realm, want: &Want) -> Option<Key> {
        let key = announced_at(realm, &want.pattern);
        let at_key = self.keys.entry(key).or_insert_with(|| AtKey::new(&want.pattern));
        *at_key.wants.entry(want.clone()).or_insert(0) += 1;
        if want.group.is_some() && at_key.encode_covering().is_none() {
            self.remove(realm, want);
            return None;
        }
        Some(key)
    }

    /// One subscription less wants this.
    pub(crate) fn remove(&mut self, realm: &Realm, want: &Want) -> Key {
        let key = announced_at(realm, &want.pattern);
        if let Some(at_key) = self.keys.get_mut(&key) {
            at_key.remove(want);
            if at_key.wants.is_empty() {
                self.keys.remove(&key);
            }
        }
        key
    }

    /// This node is in the tree of a pattern, or not any more. Returns where that is to be announced; `None`: it changes
    /// nothing.
    pub(crate) fn set_tree(&mut self, realm: &Realm, pattern: &Pattern, is_in: bool) -> Option<Key> {
        let key = announced_at(realm, pattern);
        let trees = &mut self.keys.get_mut(&key)?.trees;
        let has_changed = if is_in { trees.insert(pattern.clone()) } else { trees.remove(pattern) };
        has_changed.then_some(key)
    }
}

impl Records for Interests {
    const LASTING: bool = false;

    fn value(&self, key: &Key) -> Option<Bytes> {
        self.keys.get(key).map(AtKey::encode)
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.keys().copied().collect()
    }
}

impl AtKey {
    fn new(first: &Pattern) -> Self {
        let covering = if first.is_exact() {
            first.clone()
        } else {
            // No longer than any pattern at this key: each has at least one segment behind the prefix.
            let text = match first.literal_prefix(PREFIX_DEPTH) {
                "" => "#".to_owned(),
                prefix => format!("{prefix}.#"),
            };
            text.parse().expect("a pattern's prefix followed by a wildcard is a pattern")
        };
        Self { covering, wants: BTreeMap::new(), trees: BTreeSet::new() }
    }

    fn remove(&mut self, want: &Want) {
        if let Some(count) = self.wants.get_mut(want) {
            *count -= 1;
            if *count == 0 {
                self.wants.remove(want);
            }
        }
    }

    /// Everything if it fits; else without the filters of those who are in no group; else with the pattern that covers
    /// all of them.
    fn encode(&self) -> Bytes {
        let unfiltered = |want: &Want| match &want.group {
            None => Want { filter: None, ..want.clone() },
            Some(_) => want.clone(),
        };
        encode(self.wants.keys().cloned(), &self.trees)
            .or_else(|| encode(self.wants.keys().map(unfiltered), &self.trees))
            .or_else(|| encode(self.wants.keys().map(unfiltered), &BTreeSet::new()))
            .or_else(|| self.encode_covering())
            .expect("what does not fit even so is not added")
    }

    fn encode_covering(&self) -> Option<Bytes> {
        let covering = Want { pattern: self.covering.clone(), filter: None, group: None };
        let groups = self.wants.keys().filter(|want| want.group.is_some());
        encode(groups.cloned().chain([covering]), &BTreeSet::new())
    }
}

/// The conditions under which a pattern is wanted: its groups, and its filters.
type Conditions = BTreeSet<(Option<Group>, Option<Filter>)>;

/// The record's value for these wants; `None` if they are too many.
fn encode(wants: impl IntoIterator<Item = Want>, trees: &BTreeSet<Pattern>) -> Option<Bytes> {
    let mut by_pattern: BTreeMap<Pattern, Conditions> = BTreeMap::new();
    for want in wants {
        by_pattern.entry(want.pattern).or_default().insert((want.group, want.filter));
    }
    let mut message = wire::Interest::default();
    let mut in_trees = Vec::new();
    for (index, (pattern, mut conditions)) in by_pattern.into_iter().enumerate() {
        message.patterns.push(pattern.to_string());
        if trees.contains(&pattern) {
            in_trees.push(u8::try_from(index).ok()?);
        }
        // Who wants all messages of a pattern anyway has no use for a filter.
        if conditions.contains(&(None, None)) {
            conditions.retain(|(group, filter)| group.is_some() || filter.is_none());
        }
        if conditions.iter().any(|condition| *condition != (None, None)) {
            message.conditions.extend(conditions.into_iter().map(|(group, filter)| {
                wire::InterestCondition {
                    pattern: index as u32,
                    filter: filter.map(|filter| filter.to_string()).unwrap_or_default(),
                    group: group.map(|group| group.to_string()).unwrap_or_default(),
                }
            }));
        }
        let too_many = message.patterns.len().max(message.conditions.len()) > INTEREST_PATTERNS_MAX;
        if too_many || message.encoded_len() > INTEREST_BYTES_MAX {
            return None;
        }
    }
    message.trees = in_trees.into();
    let is_small = message.encoded_len() <= INTEREST_BYTES_MAX;
    is_small.then(|| message.encode_to_vec().into())
}

fn topic_key(realm: &Realm, topic: &str) -> Key {
    Key::derive("topic", realm, topic)
}

fn prefix_key(realm: &Realm, prefix: &str) -> Key {
    Key::derive("topic-prefix", realm, prefix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pattern::tests::{any_pattern, any_topic};

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn want(pattern: &str) -> Want {
        Want { pattern: pattern.parse().unwrap(), filter: None, group: None }
    }

    fn want_in(pattern: &str, group: &str) -> Want {
        Want { group: Some(group.parse().unwrap()), ..want(pattern) }
    }

    fn want_if(pattern: &str, filter: &str) -> Want {
        Want { filter: Some(filter.parse().unwrap()), ..want(pattern) }
    }

    #[test]
    fn a_publisher_resolves_its_topic_and_its_prefixes_and_no_more() {
        let realm = Realm::default();
        assert_eq!(resolved_at(&realm, &"a.b".parse().unwrap()).len(), 4);
        assert_eq!(resolved_at(&realm, &"a.b.c.d.e.f".parse().unwrap()).len(), 6);
    }

    #[test]
    fn an_exact_topic_and_a_prefix_of_the_same_name_have_different_keys() {
        let realm = Realm::default();
        assert_ne!(announced_at(&realm, &pattern("a.b")), announced_at(&realm, &pattern("a.b.#")));
        let other: Realm = "other".parse().unwrap();
        assert_ne!(announced_at(&realm, &pattern("a.b")), announced_at(&other, &pattern("a.b")));
    }

    #[test]
    fn a_pattern_is_listed_until_its_last_subscription_is_gone() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let key = interests.add(&realm, &want("a.*")).unwrap();
        interests.add(&realm, &want("a.*"));
        interests.add(&realm, &want("a.#.z"));
        let listed = |interests: &Interests| decode(&interests.value(&key).unwrap()).wants;
        assert_eq!(listed(&interests), [want("a.#.z"), want("a.*")]);
        interests.remove(&realm, &want("a.*"));
        assert_eq!(listed(&interests).len(), 2);
        interests.remove(&realm, &want("a.*"));
        assert_eq!(listed(&interests), [want("a.#.z")]);
        interests.remove(&realm, &want("a.#.z"));
        assert_eq!(interests.value(&key), None);
    }

    #[test]
    fn what_does_not_fit_one_record_collapses_to_its_prefix() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let mut key = None;
        for n in 0..200 {
            key = interests.add(&realm, &want(&format!("a.*.some-long-segment-{n}")));
        }
        let value = interests.value(&key.unwrap()).unwrap();
        assert!(value.len() <= INTEREST_BYTES_MAX);
        assert_eq!(decode(&value).wants, [want("a.#")]);
    }

    #[test]
    fn what_others_announce_is_checked() {
        assert_eq!(decode(&Bytes::from(vec![0xff; 40])).invalid, 1);
        assert_eq!(decode(&Bytes::from(vec![0; INTEREST_BYTES_MAX + 1])).invalid, 1);
        let mixed = announced(&["a.*", "b*"], &[]);
        assert_eq!(decode(&mixed), Decoded { wants: vec![want("a.*")], trees: vec![], invalid: 1 });
        assert_eq!(decode(&announced(&["a"; 200], &[])).wants.len(), INTEREST_PATTERNS_MAX);
    }

    fn announced(patterns: &[&str], conditions: &[(u32, &str)]) -> Bytes {
        let condition = |(pattern, filter): &(u32, &str)| wire::InterestCondition {
            pattern: *pattern,
            filter: (*filter).into(),
            ..Default::default()
        };
        let patterns = patterns.iter().map(ToString::to_string).collect();
        wire::Interest {
            patterns,
            conditions: conditions.iter().map(condition).collect(),
            ..Default::default()
        }
        .encode_to_vec()
        .into()
    }

    #[test]
    fn filters_stand_beside_their_pattern_unless_somebody_wants_all_of_it() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let (hot, new) = (want_if("a.*", "json.celsius > 30"), want_if("a.*", "header.new"));
        let key = interests.add(&realm, &hot).unwrap();
        interests.add(&realm, &new);
        let listed = |interests: &Interests| decode(&interests.value(&key).unwrap()).wants;
        assert_eq!(listed(&interests), [new.clone(), hot.clone()]);
        interests.add(&realm, &want("a.*"));
        assert_eq!(listed(&interests), [want("a.*")]);
        interests.remove(&realm, &want("a.*"));
        interests.remove(&realm, &new);
        assert_eq!(listed(&interests), [hot]);
    }

    #[test]
    fn filters_that_do_not_fit_are_left_out_before_patterns_are() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let long = format!("header.x == \"{}\"", "x".repeat(400));
        let mut key = interests.add(&realm, &want_if("a.*", &long)).unwrap();
        assert_eq!(decode(&interests.value(&key).unwrap()).wants, [want_if("a.*", &long)]);
        for pattern in ["a.*.b", "a.*.c"] {
            key = interests.add(&realm, &want_if(pattern, &long)).unwrap();
        }
        let listed = decode(&interests.value(&key).unwrap()).wants;
        assert_eq!(listed, [want("a.*"), want("a.*.b"), want("a.*.c")]);
    }

    #[test]
    fn trees_are_named_beside_their_pattern_while_there_is_room() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let key = interests.add(&realm, &want("a.*")).unwrap();
        interests.add(&realm, &want("a.#"));
        assert_eq!(interests.set_tree(&realm, &pattern("a.*"), true), Some(key));
        assert_eq!(interests.set_tree(&realm, &pattern("a.*"), true), None, "nothing new");
        let trees = |interests: &Interests| decode(&interests.value(&key).unwrap()).trees;
        assert_eq!(trees(&interests), [pattern("a.*")]);
        for n in 0..100 {
            interests.add(&realm, &want(&format!("a.*.some-long-segment-{n}")));
        }
        assert_eq!(trees(&interests), [], "what covers all patterns has no tree");
        for n in 0..100 {
            interests.remove(&realm, &want(&format!("a.*.some-long-segment-{n}")));
        }
        assert_eq!(trees(&interests), [pattern("a.*")]);
        assert_eq!(interests.set_tree(&realm, &pattern("a.*"), false), Some(key));
        assert_eq!(trees(&interests), []);
    }

    #[test]
    fn groups_are_listed_whole_or_refused() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let mut groups = vec![
            want_in("a.*", "workers"),
            Want { group: Some("hot".parse().unwrap()), ..want_if("a.*", "json.hot") },
        ];
        let mut key = None;
        for group in &groups {
            key = interests.add(&realm, group);
        }
        let key = key.unwrap();
        let listed = |interests: &Interests| decode(&interests.value(&key).unwrap()).wants;
        groups.reverse();
        assert_eq!(listed(&interests), groups);
        interests.add(&realm, &want("a.*"));
        assert_eq!(listed(&interests), [vec![want("a.*")], groups.clone()].concat());

        // Plain patterns collapse; groups do not.
        for n in 0..100 {
            interests.add(&realm, &want(&format!("a.*.some-long-segment-{n}")));
        }
        assert_eq!(listed(&interests), [vec![want("a.#")], groups.clone()].concat());
        let added = (0..100).take_while(|n| {
            let long = want_in(&format!("a.*.{}", "x".repeat(100)), &format!("group-{n}"));
            interests.add(&realm, &long).is_some()
        });
        let added = added.count();
        assert!((10..100).contains(&added), "{added}");
        assert_eq!(listed(&interests).len(), 1 + groups.len() + added);
        assert!(interests.add(&realm, &want("a.*")).is_some(), "what is in no group always finds room");
    }

    #[test]
    fn a_group_without_a_name_that_can_be_read_is_left_out() {
        let condition = |pattern, group: &str| wire::InterestCondition {
            pattern,
            group: group.into(),
            ..Default::default()
        };
        let conditions = vec![condition(0, "two words"), condition(0, "workers"), condition(1, "two words")];
        let patterns = vec!["a".into(), "b".into()];
        let value = wire::Interest { patterns, conditions, ..Default::default() };
        let decoded = decode(&value.encode_to_vec().into());
        assert_eq!(decoded, Decoded { wants: vec![want_in("a", "workers")], trees: vec![], invalid: 2 });
    }

    #[test]
    fn a_filter_of_a_later_version_counts_as_none_and_a_condition_without_pattern_is_nothing() {
        let value = announced(&["a.*", "b"], &[(0, "header.x ~= 3"), (7, "header.x")]);
        assert_eq!(
            decode(&value),
            Decoded { wants: vec![want("a.*"), want("b")], trees: vec![], invalid: 0 }
        );
    }

    proptest! {
        #[test]
        fn whatever_matches_a_topic_is_announced_where_its_publisher_looks(
            wanted in any_pattern(),
            topic in any_topic(),
        ) {
            let (realm, topic) = (Realm::default(), topic.parse::<Name>().unwrap());
            let wanted = pattern(&wanted);
            if wanted.matches(&topic) {
                prop_assert!(resolved_at(&realm, &topic).contains(&announced_at(&realm, &wanted)));
            }
        }

        #[test]
        fn garbage_decodes_to_valid_patterns_or_nothing(value: Vec<u8>) {
            prop_assert!(decode(&value.into()).wants.len() <= 2 * INTEREST_PATTERNS_MAX);
        }

        #[test]
        fn the_value_covers_every_pattern_at_its_key(
            suffixes in prop::collection::btree_set("[a-z]{1,40}", 1..60),
            at in any::<prop::sample::Index>(),
        ) {
            let (realm, mut interests) = (Realm::default(), Interests::default());
            let suffixes: Vec<String> = suffixes.into_iter().collect();
            let mut key = None;
            for suffix in &suffixes {
                key = interests.add(&realm, &want(&format!("p.*.{suffix}")));
            }
            let value = interests.value(&key.unwrap()).unwrap();
            let topic: Name = format!("p.x.{}", suffixes[at.index(suffixes.len())]).parse().unwrap();
            prop_assert!(value.len() <= INTEREST_BYTES_MAX);
            prop_assert!(decode(&value).wants.iter().any(|listed| listed.pattern.matches(&topic)));
        }
    }
}
