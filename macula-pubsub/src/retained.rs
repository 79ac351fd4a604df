//! Retained values: where they are kept, and what their records say.
//!
//! ```text
//!   value of a.b            at  retained  a.b          the message itself, one record for each publisher
//!   its name, in an index   at  prefixes  (root), a, a.b   for whoever subscribes to a pattern
//! ```
//!
//! A publisher's index at a prefix is cut into shards of a record each. Everything here is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Key, Name, NodeId, Realm, wire};
use prost::Message as _;

use crate::announce::Records;
use crate::interest::prefixes;
use crate::message::{Content, Headers, header_to_wire};
use crate::{PREFIX_DEPTH, Pattern, Payload};

/// Largest value of a record of a retained message, in bytes; it is the directory's own limit.
pub const RETAINED_BYTES_MAX: usize = 1024;

/// Most topics with a retained value of one node.
pub const RETAINED_TOPICS_MAX: usize = 1_000;

/// Most shards of one node's index at a prefix: with the longest topics, three fit into a shard.
pub(crate) const SHARDS_MAX: usize = RETAINED_TOPICS_MAX / 3 + 1;

/// Most topics that a shard of another node may list.
const SHARD_TOPICS_MAX: usize = 512;

/// The key at which the retained values of a topic are.
pub fn retained_at(realm: &Realm, topic: &Name) -> Key {
    Key::derive("retained", realm, topic.as_str())
}

/// The key of a shard of the indexes that a pattern's topics are in.
pub(crate) fn index_at(realm: &Realm, pattern: &Pattern, shard: usize) -> Key {
    shard_at(realm, pattern.literal_prefix(PREFIX_DEPTH), shard)
}

fn shard_at(realm: &Realm, prefix: &str, shard: usize) -> Key {
    Key::derive("retained-index", realm, &format!("{prefix}/{shard}"))
}

/// A retained message, ready for its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetainedValue {
    sequence: u64,
    bytes: Bytes,
}

/// So many bytes do not fit into a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge(pub(crate) usize);

/// There are as many retained values of this node as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetainedFull;

impl RetainedValue {
    pub(crate) fn of(content: &Content) -> Result<Self, TooLarge> {
        let headers = content.payload.headers.iter();
        let value = wire::Retained {
            topic: content.topic.to_string(),
            epoch: content.epoch,
            sequence: content.sequence,
            content_type: content.payload.content_type.to_string(),
            headers: headers.map(|(name, value)| header_to_wire(name, value)).collect(),
            payload: content.payload.bytes.clone(),
        };
        match value.encoded_len() {
            len if len > RETAINED_BYTES_MAX => Err(TooLarge(len)),
            _ => Ok(Self { sequence: content.sequence, bytes: value.encode_to_vec().into() }),
        }
    }
}

/// Reads another node's record; `None` if it is not about `topic`, or breaks a limit.
pub(crate) fn read_value(realm: &Realm, topic: &Name, publisher: NodeId, value: &Bytes) -> Option<Content> {
    let value = Some(value).filter(|value| value.len() <= RETAINED_BYTES_MAX)?;
    let value = macula_proto::decode::<wire::Retained>(value.clone()).ok()?;
    let headers = value.headers.into_iter().map(|entry| (entry.name.into(), entry.value)).collect();
    let payload = Payload {
        bytes: value.payload,
        content_type: value.content_type.into(),
        headers: Headers::new(headers),
    };
    if value.topic != topic.as_str() || payload.check().is_err() {
        return None;
    }
    let (realm, topic, epoch, sequence) = (realm.clone(), topic.clone(), value.epoch, value.sequence);
    Some(Content { realm, topic, payload, publisher, epoch, sequence, retained_as: sequence })
}

/// What a shard of another node's index says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// How many shards there are, if this is the first.
    pub(crate) shards: usize,
    pub(crate) topics: Vec<Name>,
}

/// Reads a shard of another node's index. What is no topic, or too much, is left out.
pub(crate) fn read_shard(value: &Bytes) -> Listed {
    let value = Some(value).filter(|value| value.len() <= RETAINED_BYTES_MAX);
    let shard = value.and_then(|value| macula_proto::decode::<wire::RetainedIndex>(value.clone()).ok());
    let Some(wire::RetainedIndex { shards, topics }) = shard else { return Listed::default() };
    let topics = topics.iter().take(SHARD_TOPICS_MAX).filter_map(|topic| topic.parse().ok());
    Listed { shards: (shards as usize).min(SHARDS_MAX), topics: topics.collect() }
}

/// This node's own retained values.
#[derive(Debug, Default)]
pub(crate) struct RetainedTable {
    values: BTreeMap<(Realm, Name), RetainedValue>,
    indexes: BTreeMap<Prefix, Index>,
    at_key: BTreeMap<Key, Place>,
}

type Prefix = (Realm, Arc<str>);

#[derive(Debug)]
enum Place {
    Value(Realm, Name),
    Shard(Prefix, usize),
}

/// The topics with one prefix.
#[derive(Debug, Default)]
struct Index {
    shards: Vec<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    topics: BTreeSet<Name>,
    bytes: usize,
}

impl RetainedTable {
    /// Retains a value unless a newer one is. Returns the keys of the records that change.
    pub(crate) fn set(
        &mut self,
        realm: &Realm,
        topic: &Name,
        value: RetainedValue,
    ) -> Result<Vec<Key>, RetainedFull> {
        let name = (realm.clone(), topic.clone());
        let key = retained_at(realm, topic);
        if let Some(current) = self.values.get_mut(&name) {
            if current.sequence < value.sequence {
                *current = value;
            }
            return Ok(vec![key]);
        }
        if self.values.len() >= RETAINED_TOPICS_MAX {
            return Err(RetainedFull);
        }
        self.values.insert(name, value);
        self.at_key.insert(key, Place::Value(realm.clone(), topic.clone()));
        let mut keys = vec![key];
        for prefix in prefixes(topic) {
            let prefix: Prefix = (realm.clone(), prefix.into());
            let index = self.indexes.entry(prefix.clone()).or_default();
            for shard in index.add(topic) {
                let key = shard_at(realm, &prefix.1, shard);
                self.at_key.insert(key, Place::Shard(prefix.clone(), shard));
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Forgets a value. Returns the keys of the records that change; none if there was no value.
    pub(crate) fn clear(&mut self, realm: &Realm, topic: &Name) -> Vec<Key> {
        if self.values.remove(&(realm.clone(), topic.clone())).is_none() {
            return Vec::new();
        }
        let mut keys = vec![retained_at(realm, topic)];
        for text in prefixes(topic) {
            let prefix: Prefix = (realm.clone(), text.into());
            let Some(index) = self.indexes.get_mut(&prefix) else { continue };
            keys.extend(index.remove(topic).into_iter().map(|shard| shard_at(realm, text, shard)));
            if index.shards.is_empty() {
                self.indexes.remove(&prefix);
            }
        }
        for key in &keys {
            if self.value(key).is_none() {
                self.at_key.remove(key);
            }
        }
        keys
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

impl Records for RetainedTable {
    const LASTING: bool = true;

    fn value(&self, key: &Key) -> Option<Bytes> {
        match self.at_key.get(key)? {
            Place::Value(realm, topic) => {
                self.values.get(&(realm.clone(), topic.clone())).map(|value| value.bytes.clone())
            }
            Place::Shard(prefix, shard) => self.indexes.get(prefix)?.value(*shard),
        }
    }

    fn keys(&self) -> Vec<Key> {
        self.at_key.keys().copied().collect()
    }
}

impl Index {
    /// Lists a topic; returns the shards that change.
    fn add(&mut self, topic: &Name) -> BTreeSet<usize> {
        let bytes = listed_len(topic);
        let room = self.shards.iter().position(|shard| shard.bytes + bytes <= SHARD_BYTES_MAX);
        let at = room.unwrap_or_else(|| {
            self.shards.push(Shard::default());
            self.shards.len() - 1
        });
        self.shards[at].bytes += bytes;
        self.shards[at].topics.insert(topic.clone());
        // The first says how many there are.
        if room.is_none() { BTreeSet::from([0, at]) } else { BTreeSet::from([at]) }
    }

    /// Lists a topic no more; returns the shards that change.
    fn remove(&mut self, topic: &Name) -> BTreeSet<usize> {
        let Some(at) = self.shards.iter().position(|shard| shard.topics.contains(topic)) else {
            return BTreeSet::new();
        };
        self.shards[at].bytes -= listed_len(topic);
        self.shards[at].topics.remove(topic);
        let mut changed = BTreeSet::from([at]);
        while self.shards.last().is_some_and(|shard| shard.topics.is_empty()) {
            self.shards.pop();
            changed.extend([0, self.shards.len()]);
        }
        changed
    }

    fn value(&self, shard: usize) -> Option<Bytes> {
        let topics = self.shards.get(shard)?.topics.iter().map(ToString::to_string).collect();
        let shards = if shard == 0 { self.shards.len() as u32 } else { 0 };
        Some(wire::RetainedIndex { shards, topics }.encode_to_vec().into())
    }
}

/// Room for topics in a shard's record, besides the number of shards.
const SHARD_BYTES_MAX: usize = RETAINED_BYTES_MAX - 8;

/// What a topic takes in a record: its tag, its length in at most two bytes, its text.
fn listed_len(topic: &Name) -> usize {
    3 + topic.as_str().len()
}

#[cfg(test)]
#[path = "retained_test.rs"]
mod tests;
