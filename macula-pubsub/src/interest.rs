//! Where an interest is announced, and where a publisher looks for it.
//!
//! ```text
//!   subscription          announced at                    a publisher of a.b.c resolves
//!   a.b.c                 topic  a.b.c                    topic  a.b.c
//!   a.b.*   a.b.#.x       prefix a.b                      prefix (root), a, a.b, a.b.c
//!   *.b     #             prefix (root)
//! ```
//!
//! A node has one record at a key, whose value lists its patterns there. Everything here is pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use macula_proto::{Key, Name, Realm, wire};
use prost::Message as _;

use crate::Pattern;

/// How many literal segments of a pattern choose its key, at most.
pub const PREFIX_DEPTH: usize = 4;

/// Largest value of an interest record, in bytes; it is the directory's own limit.
pub const INTEREST_BYTES_MAX: usize = 1024;

/// Most patterns that an interest record may list.
pub const INTEREST_PATTERNS_MAX: usize = 128;

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
    let mut keys = vec![topic_key(realm, topic.as_str()), prefix_key(realm, "")];
    let mut end = 0;
    for segment in topic.segments().take(PREFIX_DEPTH) {
        end += segment.len() + usize::from(end > 0);
        keys.push(prefix_key(realm, &topic.as_str()[..end]));
    }
    keys
}

/// Reads the value of another node's record. What is no pattern is left out and counted.
pub fn decode(value: &Bytes) -> Decoded {
    let message = Some(value).filter(|value| value.len() <= INTEREST_BYTES_MAX);
    let message = message.and_then(|value| macula_proto::decode::<wire::Interest>(value.clone()).ok());
    let Some(message) = message else {
        return Decoded { patterns: Vec::new(), invalid: 1 };
    };
    let listed = message.patterns.len();
    let patterns: Vec<Pattern> =
        message.patterns.iter().take(INTEREST_PATTERNS_MAX).filter_map(|text| text.parse().ok()).collect();
    Decoded { invalid: listed - patterns.len(), patterns }
}

/// What an interest record says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    /// The announcer's patterns at the record's key.
    pub patterns: Vec<Pattern>,
    /// How many entries were no patterns, or too many.
    pub invalid: usize,
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
    /// How many subscriptions have each pattern.
    patterns: BTreeMap<Pattern, usize>,
}

impl Interests {
    /// One more subscription has this pattern. Returns where it is to be announced.
    pub(crate) fn add(&mut self, realm: &Realm, pattern: &Pattern) -> Key {
        let key = announced_at(realm, pattern);
        let at_key = self.keys.entry(key).or_insert_with(|| AtKey::new(pattern));
        *at_key.patterns.entry(pattern.clone()).or_insert(0) += 1;
        key
    }

    /// One subscription less has this pattern.
    pub(crate) fn remove(&mut self, realm: &Realm, pattern: &Pattern) -> Key {
        let key = announced_at(realm, pattern);
        if let Some(at_key) = self.keys.get_mut(&key) {
            at_key.remove(pattern);
            if at_key.patterns.is_empty() {
                self.keys.remove(&key);
            }
        }
        key
    }

    /// What the record at `key` should say; `None`: there should be none.
    pub(crate) fn value(&self, key: &Key) -> Option<Bytes> {
        self.keys.get(key).map(AtKey::encode)
    }

    /// Every key at which something is to be announced.
    pub(crate) fn keys(&self) -> Vec<Key> {
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
        Self { covering, patterns: BTreeMap::new() }
    }

    fn remove(&mut self, pattern: &Pattern) {
        if let Some(count) = self.patterns.get_mut(pattern) {
            *count -= 1;
            if *count == 0 {
                self.patterns.remove(pattern);
            }
        }
    }

    fn encode(&self) -> Bytes {
        let mut bytes = 0;
        let mut patterns = Vec::new();
        for pattern in self.patterns.keys() {
            // Field tag, at most two bytes of length, text.
            bytes += 3 + pattern.as_str().len();
            if bytes > INTEREST_BYTES_MAX || patterns.len() == INTEREST_PATTERNS_MAX {
                patterns = vec![self.covering.to_string()];
                break;
            }
            patterns.push(pattern.to_string());
        }
        wire::Interest { patterns }.encode_to_vec().into()
    }
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
        let key = interests.add(&realm, &pattern("a.*"));
        interests.add(&realm, &pattern("a.*"));
        interests.add(&realm, &pattern("a.#.z"));
        let listed = |interests: &Interests| decode(&interests.value(&key).unwrap()).patterns;
        assert_eq!(listed(&interests), [pattern("a.#.z"), pattern("a.*")]);
        interests.remove(&realm, &pattern("a.*"));
        assert_eq!(listed(&interests).len(), 2);
        interests.remove(&realm, &pattern("a.*"));
        assert_eq!(listed(&interests), [pattern("a.#.z")]);
        interests.remove(&realm, &pattern("a.#.z"));
        assert_eq!(interests.value(&key), None);
    }

    #[test]
    fn what_does_not_fit_one_record_collapses_to_its_prefix() {
        let (realm, mut interests) = (Realm::default(), Interests::default());
        let mut key = None;
        for n in 0..200 {
            key = Some(interests.add(&realm, &pattern(&format!("a.*.some-long-segment-{n}"))));
        }
        let value = interests.value(&key.unwrap()).unwrap();
        assert!(value.len() <= INTEREST_BYTES_MAX);
        assert_eq!(decode(&value).patterns, [pattern("a.#")]);
    }

    #[test]
    fn what_others_announce_is_checked() {
        assert_eq!(decode(&Bytes::from(vec![0xff; 40])).invalid, 1);
        assert_eq!(decode(&Bytes::from(vec![0; INTEREST_BYTES_MAX + 1])).invalid, 1);
        let mixed = wire::Interest { patterns: vec!["a.*".into(), "b*".into()] }.encode_to_vec();
        assert_eq!(decode(&mixed.into()), Decoded { patterns: vec![pattern("a.*")], invalid: 1 });
        let many = wire::Interest { patterns: vec!["a".into(); 200] }.encode_to_vec();
        assert_eq!(decode(&many.into()).patterns.len(), INTEREST_PATTERNS_MAX);
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
            prop_assert!(decode(&value.into()).patterns.len() <= INTEREST_PATTERNS_MAX);
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
                key = Some(interests.add(&realm, &pattern(&format!("p.*.{suffix}"))));
            }
            let value = interests.value(&key.unwrap()).unwrap();
            let topic: Name = format!("p.x.{}", suffixes[at.index(suffixes.len())]).parse().unwrap();
            prop_assert!(value.len() <= INTEREST_BYTES_MAX);
            prop_assert!(decode(&value).patterns.iter().any(|listed| listed.matches(&topic)));
        }
    }
}
