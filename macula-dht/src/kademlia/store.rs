//! Records held for others, within quotas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use macula_proto::{Distance, Key, NodeId, Timestamp, UnixMillis};
use rand::{Rng, RngExt};

use super::config::{Quotas, SubnetLimits};
use super::message::RECORDS_BYTES_MAX;
use super::record::{RecordBody, SignedRecord};
use super::subnet::{Subnet, Tally};

/// Bytes that each record is charged besides its envelope.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// Why a holder does not store a record. The number goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a record, or not signed by its announcer.
    #[error("it is no valid record")]
    Invalid,
    /// A newer one is held.
    #[error("a newer record is held")]
    Outdated,
    /// The key has as many records as one may have.
    #[error("the key is full")]
    KeyFull,
    /// The announcer has as many records as one may have.
    #[error("the announcer's share is full")]
    AnnouncerFull,
    /// The store is full of records of closer keys.
    #[error("the store is full")]
    Full,
    /// Enough other nodes are closer to the key.
    #[error("the key is too far away")]
    Far,
    /// Announcers of one subnet have as many records as they may have, at this key or in all.
    #[error("the announcer's subnet has its share")]
    SubnetFull,
    /// Policy says no.
    #[error("forbidden")]
    Forbidden,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// A code that this version has no name for.
    #[error("refused for another reason")]
    Other,
}

impl Refusal {
    const CODES: [(u32, Self); 9] = [
        (1, Self::Invalid),
        (2, Self::Outdated),
        (3, Self::KeyFull),
        (4, Self::AnnouncerFull),
        (5, Self::Full),
        (6, Self::Far),
        (7, Self::Forbidden),
        (8, Self::Expired),
        (9, Self::SubnetFull),
    ];

    /// The number on the wire; 0 means "stored".
    pub fn code(self) -> u32 {
        Self::CODES.iter().find(|(_, refusal)| *refusal == self).map_or(u32::MAX, |(code, _)| *code)
    }

    /// Reads the number on the wire.
    pub fn from_code(code: u32) -> Option<Self> {
        let known = Self::CODES.iter().find(|(known, _)| *known == code);
        (code != 0).then(|| known.map_or(Self::Other, |(_, refusal)| *refusal))
    }
}

/// What a stored record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Users see a difference.
    Changed,
    /// The same again, but good for longer; or word for word what is held.
    Refreshed,
}

/// A part of the records at a key.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// By announcer id, withdrawals included.
    pub records: Vec<Arc<SignedRecord>>,
    /// Live records in all.
    pub estimate: usize,
    /// There is more after the last one.
    pub more: bool,
}

/// The records that this node holds for others.
///
/// Keys are in order of their distance from this node: when the store is full, a record whose key is closer takes the
/// place of the farthest.
#[derive(Debug)]
pub struct Store {
    own: Key,
    quotas: Quotas,
    keys: BTreeMap<Distance, Shelf>,
    per_announcer: BTreeMap<NodeId, usize>,
    limits: SubnetLimits,
    per_subnet: Tally,
    /// Announcers who are gone and have records here.
    gone: BTreeSet<NodeId>,
    expiry: BTreeSet<(Timestamp, Distance, NodeId)>,
    bytes: usize,
}

#[derive(Debug)]
struct Shelf {
    key: Key,
    records: BTreeMap<NodeId, Held>,
}

#[derive(Debug)]
struct Held {
    record: Arc<SignedRecord>,
    expires: Timestamp,
}

impl Store {
    /// An empty store of the node `own`. `limits` says which addresses count for the quotas of a subnet.
    pub fn new(own: NodeId, quotas: Quotas, limits: SubnetLimits) -> Self {
        Self {
            own: own.into(),
            quotas,
            keys: BTreeMap::new(),
            per_announcer: BTreeMap::new(),
            limits,
            per_subnet: Tally::default(),
            gone: BTreeSet::new(),
            expiry: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Records held, withdrawals included.
    pub fn len(&self) -> usize {
        self.expiry.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.expiry.is_empty()
    }

    /// Their size, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether more than half of the room is taken.
    pub fn is_half_full(&self) -> bool {
        2 * self.len() > self.quotas.records || 2 * self.bytes > self.quotas.bytes
    }

    /// Holds a record, in place of an older one of the same announcer at the same key.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn put(
        &mut self,
        now: Timestamp,
        unix: UnixMillis,
        record: Arc<SignedRecord>,
    ) -> Result<Put, Refusal> {
        let (key, announcer) = (record.body().key, record.body().announcer.id);
        let left = record.remaining(unix);
        if left.is_zero() {
            return Err(Refusal::Expired);
        }
        let has_moved =
            |held: &Arc<SignedRecord>| held.body().announcer.addrs != record.body().announcer.addrs;
        let put = match self.get(&key, &announcer) {
            Some(held) if held.body().sequence > record.body().sequence => return Err(Refusal::Outdated),
            // Two different records under one number: the first stays, whoever comes second.
            Some(held) if held.body().sequence == record.body().sequence => return Ok(Put::Refreshed),
            Some(held) if held.says_the_same(&record) => Put::Refreshed,
            // Moving must not get around the limit.
            Some(held) if has_moved(held) => {
                self.check_subnets(&key, &record)?;
                Put::Changed
            }
            Some(_) => Put::Changed,
            None => {
                self.check_subnets(&key, &record)?;
                self.make_room(&key, &announcer, cost(&record))?;
                Put::Changed
            }
        };
        let distance = self.own.distance(&key);
        self.take(distance, &announcer);
        self.insert(distance, Held { record, expires: now + left });
        Ok(put)
    }

    /// The record of one announcer at one key.
    pub fn get(&self, key: &Key, announcer: &NodeId) -> Option<&Arc<SignedRecord>> {
        Some(&self.keys.get(&self.own.distance(key))?.records.get(announcer)?.record)
    }

    /// All records at a key, withdrawals included.
    pub fn at(&self, key: &Key) -> impl Iterator<Item = &Arc<SignedRecord>> {
        let shelf = self.keys.get(&self.own.distance(key));
        shelf.into_iter().flat_map(|shelf| shelf.records.values().map(|held| &held.record))
    }

    /// All records at a key whose announcers are not gone, and those that last, in order of announcer.
    pub fn shown_at(&self, key: &Key) -> impl Iterator<Item = &Arc<SignedRecord>> {
        self.at(key).filter(|record| {
            let body = record.body();
            body.lasting || !self.gone.contains(&body.announcer.id)
        })
    }

    /// An announcer is gone: what it announced is kept, but not shown, until it expires or the announcer is back. What lasts is
    /// shown.
    pub fn hide(&mut self, announcer: &NodeId) {
        if self.per_announcer.contains_key(announcer) {
            self.gone.insert(*announcer);
        }
    }

    /// An announcer is back. Returns its records that were hidden.
    pub fn show(&mut self, announcer: &NodeId) -> Vec<Arc<SignedRecord>> {
        if !self.gone.remove(announcer) {
            return Vec::new();
        }
        let records = self.keys.values().filter_map(|shelf| shelf.records.get(announcer));
        records.map(|held| held.record.clone()).collect()
    }

    /// Forgets records of an announcer that are over.
    pub(super) fn forget(&mut self, announcer: &NodeId, is_over: impl Fn(&RecordBody) -> bool) {
        if !self.per_announcer.contains_key(announcer) {
            return;
        }
        let of_it = self.keys.iter().filter(|(_, shelf)| {
            shelf.records.get(announcer).is_some_and(|held| is_over(held.record.body()))
        });
        let places: Vec<Distance> = of_it.map(|(distance, _)| *distance).collect();
        places.into_iter().for_each(|distance| self.take(distance, announcer));
    }

    /// The keys held, closest to this node first.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values().map(|shelf| &shelf.key)
    }

    /// Drops what is past its time; returns how much that was.
    pub fn expire(&mut self, now: Timestamp) -> usize {
        let before = self.len();
        while let Some((at, distance, announcer)) = self.expiry.first().copied()
            && at <= now
        {
            self.take(distance, &announcer);
        }
        before - self.len()
    }

    /// When the next record expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiry.first().map(|(at, _, _)| *at)
    }

    /// Room for a new record, or why there is none. Only a farther key's record gives way.
    fn make_room(&mut self, key: &Key, announcer: &NodeId, bytes: usize) -> Result<(), Refusal> {
        let distance = self.own.distance(key);
        if self.keys.get(&distance).is_some_and(|shelf| shelf.records.len() >= self.quotas.per_key) {
            return Err(Refusal::KeyFull);
        }
        if self.per_announcer.get(announcer).is_some_and(|count| *count >= self.quotas.per_announcer) {
            return Err(Refusal::AnnouncerFull);
        }
        while self.len() >= self.quotas.records || self.bytes + bytes > self.quotas.bytes {
            let (farthest, shelf) = self.keys.last_key_value().ok_or(Refusal::Full)?;
            if *farthest <= distance {
                return Err(Refusal::Full);
            }
            let (farthest, victim) = (*farthest, *shelf.records.keys().next().expect("no shelf is empty"));
            self.take(farthest, &victim);
        }
        Ok(())
    }

    /// Whether announcers of the record's subnet may have one more, here and in all.
    fn check_subnets(&self, key: &Key, record: &SignedRecord) -> Result<(), Refusal> {
        let subnets = self.subnets(record);
        let at_key = |subnet| {
            let others = self.at(key).filter(|other| other.body().announcer.id != record.body().announcer.id);
            others.filter(|other| self.subnets(other).contains(subnet)).count()
        };
        let is_full = !self.per_subnet.has_room(&subnets, self.quotas.per_subnet)
            || subnets.iter().any(|subnet| at_key(subnet) >= self.quotas.per_key_and_subnet);
        if is_full { Err(Refusal::SubnetFull) } else { Ok(()) }
    }

    fn subnets(&self, record: &SignedRecord) -> Vec<Subnet> {
        self.limits.subnets(&record.body().announcer)
    }

    fn insert(&mut self, distance: Distance, held: Held) {
        let body = held.record.body();
        let (key, announcer) = (body.key, body.announcer.id);
        self.bytes += cost(&held.record);
        self.per_subnet.add(&self.limits.subnets(&body.announcer));
        self.expiry.insert((held.expires, distance, announcer));
        *self.per_announcer.entry(announcer).or_default() += 1;
        let shelf = self.keys.entry(distance).or_insert_with(|| Shelf { key, records: BTreeMap::new() });
        shelf.records.insert(announcer, held);
    }

    fn take(&mut self, distance: Distance, announcer: &NodeId) {
        let Some(shelf) = self.keys.get_mut(&distance) else { return };
        let Some(held) = shelf.records.remove(announcer) else { return };
        if shelf.records.is_empty() {
            self.keys.remove(&distance);
        }
        self.expiry.remove(&(held.expires, distance, *announcer));
        self.bytes -= cost(&held.record);
        self.per_subnet.remove(&self.limits.subnets(&held.record.body().announcer));
        if let Some(count) = self.per_announcer.get_mut(announcer) {
            *count -= 1;
            if *count == 0 {
                self.per_announcer.remove(announcer);
                self.gone.remove(announcer);
            }
        }
    }
}

impl Page {
    /// The part of `records` (in order of announcer) that goes into one answer: all that fits after `after`, or, if there
    /// are more than `complete_max` live ones, a random sample and no further pages.
    pub fn cut(
        records: Vec<Arc<SignedRecord>>,
        after: Option<NodeId>,
        complete_max: usize,
        rng: &mut impl Rng,
    ) -> Self {
        let estimate = records.iter().filter(|record| !record.body().withdrawn).count();
        if estimate > complete_max {
            return Self { records: sample(records, rng), estimate, more: false };
        }
        let is_next =
            |record: &Arc<SignedRecord>| after.is_none_or(|after| record.body().announcer.id > after);
        let mut page = Self { records: Vec::new(), estimate, more: false };
        let mut bytes = 0;
        for record in records.into_iter().filter(is_next) {
            bytes += record.wire_len() + ENTRY_BYTES;
            if bytes > RECORDS_BYTES_MAX {
                page.more = true;
                break;
            }
            page.records.push(record);
        }
        page
    }
}

/// What a record in a list costs besides its own bytes: tag and length.
const ENTRY_BYTES: usize = 4;

/// As many as fit one message, drawn at random, in order of announcer.
fn sample(mut records: Vec<Arc<SignedRecord>>, rng: &mut impl Rng) -> Vec<Arc<SignedRecord>> {
    records.retain(|record| !record.body().withdrawn);
    let mut drawn = Vec::new();
    let mut bytes = 0;
    while !records.is_empty() {
        let record = records.swap_remove(rng.random_range(0..records.len()));
        bytes += record.wire_len() + ENTRY_BYTES;
        if bytes > RECORDS_BYTES_MAX {
            break;
        }
        drawn.push(record);
    }
    drawn.sort_by_key(|record| record.body().announcer.id);
    drawn
}

fn cost(record: &SignedRecord) -> usize {
    record.wire_len() + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
