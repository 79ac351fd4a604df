use proptest::prelude::*;

use super::*;
use crate::pattern::tests::{any_pattern, any_topic};

fn content(topic: &str, sequence: u64, payload: Payload) -> Content {
    Content {
        realm: Realm::default(),
        topic: topic.parse().unwrap(),
        payload,
        publisher: NodeId::from_bytes([1; 32]),
        epoch: 7,
        sequence,
        retained_as: 0,
    }
}

fn value(topic: &str, sequence: u64) -> RetainedValue {
    RetainedValue::of(&content(topic, sequence, Payload::new("v"))).unwrap()
}

fn name(topic: &str) -> Name {
    topic.parse().unwrap()
}

#[test]
fn a_value_survives_its_record() {
    let payload = Payload::new("21.5").content_type("text/plain").header("unit", "celsius");
    let content = content("a.b", 3, payload);
    let kept = RetainedValue::of(&content).unwrap();
    let read = read_value(&content.realm, &content.topic, content.publisher, &kept.bytes).unwrap();
    assert_eq!((read.payload, read.epoch, read.sequence, read.retained_as), (content.payload, 7, 3, 3));
    assert!(read_value(&content.realm, &name("a.c"), content.publisher, &kept.bytes).is_none());
}

#[test]
fn a_value_fills_a_record_and_no_more() {
    let of = |bytes| RetainedValue::of(&content("a.b", 1, Payload::new(vec![0; bytes])));
    let largest = (900..RETAINED_BYTES_MAX).rev().find(|bytes| of(*bytes).is_ok()).unwrap();
    assert_eq!(of(largest).unwrap().bytes.len(), RETAINED_BYTES_MAX);
    assert_eq!(of(largest + 1), Err(TooLarge(RETAINED_BYTES_MAX + 1)));
}

#[test]
fn an_older_value_does_not_replace_a_newer_one() {
    let (realm, mut table) = (Realm::default(), RetainedTable::default());
    let topic = name("a");
    table.set(&realm, &topic, value("a", 5)).unwrap();
    table.set(&realm, &topic, value("a", 4)).unwrap();
    let now = table.value(&retained_at(&realm, &topic)).unwrap();
    assert_eq!(read_value(&realm, &topic, NodeId::from_bytes([1; 32]), &now).unwrap().sequence, 5);
}

#[test]
fn there_are_only_so_many() {
    let (realm, mut table) = (Realm::default(), RetainedTable::default());
    let long = "x".repeat(250);
    for n in 0..RETAINED_TOPICS_MAX {
        let topic = format!("{long}{n:04}");
        table.set(&realm, &name(&topic), value(&topic, 1)).unwrap();
    }
    assert_eq!(table.set(&realm, &name("one.more"), value("one.more", 1)), Err(RetainedFull));
    let first = read_shard(&table.value(&shard_at(&realm, "", 0)).unwrap());
    assert!((300..=SHARDS_MAX).contains(&first.shards), "{}", first.shards);
    assert_eq!(table.set(&realm, &name(&format!("{long}0007")), value("x", 2)).unwrap().len(), 1);
}

#[test]
fn what_others_announce_is_checked() {
    assert_eq!(read_shard(&Bytes::from(vec![0xff; 40])), Listed::default());
    assert_eq!(read_shard(&Bytes::from(vec![0; RETAINED_BYTES_MAX + 1])), Listed::default());
    let shard =
        wire::RetainedIndex { shards: u32::MAX, topics: vec!["a.b".into(), "a.*".into(), String::new()] };
    let listed = read_shard(&shard.encode_to_vec().into());
    assert_eq!(listed, Listed { shards: SHARDS_MAX, topics: vec![name("a.b")] });
}

/// Everything that the table says, by key.
fn all(table: &RetainedTable) -> BTreeMap<Key, Bytes> {
    table.keys().into_iter().map(|key| (key, table.value(&key).unwrap())).collect()
}

/// The topics in the index where the subscribers of `pattern` look.
fn listed(table: &RetainedTable, pattern: &Pattern) -> BTreeSet<Name> {
    let realm = Realm::default();
    let shard = |shard| table.value(&index_at(&realm, pattern, shard)).map(|value| read_shard(&value));
    let shards = shard(0).map_or(0, |first| first.shards);
    (0..shards).flat_map(|number| shard(number).unwrap().topics).collect()
}

proptest! {
    #[test]
    fn what_changes_is_said_and_every_subscriber_finds_its_topics(
        steps in prop::collection::vec((any::<bool>(), any_topic(), 0usize..200), 1..60),
        wanted in any_pattern(),
    ) {
        let (realm, mut table) = (Realm::default(), RetainedTable::default());
        let (mut told, mut topics) = (BTreeMap::new(), BTreeSet::new());
        for (sequence, (sets, topic, padding)) in steps.into_iter().enumerate() {
            // Long names make many shards.
            let long = format!("{topic}.{}", "x".repeat(padding + 1));
            let topic = if long.len() <= 255 { long } else { topic };
            let Ok(topic) = topic.parse::<Name>() else { continue };
            let changed = if sets {
                topics.insert(topic.clone());
                table.set(&realm, &topic, value(topic.as_str(), sequence as u64)).unwrap()
            } else {
                topics.remove(&topic);
                table.clear(&realm, &topic)
            };
            for key in changed {
                match table.value(&key) {
                    Some(value) => told.insert(key, value),
                    None => told.remove(&key),
                };
            }
            prop_assert_eq!(&told, &all(&table));
        }
        prop_assert!(told.values().all(|value| value.len() <= RETAINED_BYTES_MAX));
        prop_assert_eq!(table.len(), topics.len());
        let wanted: Pattern = wanted.parse().unwrap();
        let listed = listed(&table, &wanted);
        for topic in topics.iter().filter(|topic| !wanted.is_exact() && wanted.matches(topic)) {
            prop_assert!(listed.contains(topic), "{topic} for {wanted}");
        }
        for topic in topics.clone() {
            table.clear(&realm, &topic);
        }
        prop_assert!(table.keys().is_empty() && table.indexes.is_empty());
    }

    #[test]
    fn garbage_is_no_value(bytes: Vec<u8>) {
        let topic = name("a.b");
        if let Some(content) = read_value(&Realm::default(), &topic, NodeId::from_bytes([1; 32]), &bytes.clone().into()) {
            prop_assert_eq!(content.topic, topic);
        }
        prop_assert!(read_shard(&bytes.into()).topics.len() <= SHARD_TOPICS_MAX);
    }
}
