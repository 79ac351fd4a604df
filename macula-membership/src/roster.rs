//! The member list: compact, found by id in one step, with running hashes for anti-entropy.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use macula_proto::{Contact, NodeId, Timestamp};

use crate::message::BUCKETS;
use crate::{Incarnation, Member, MemberState, Statement};

/// One member: 16 bytes, besides the statement that everybody shares.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    statement: Arc<Statement>,
    /// Tenths of a second since the clock's start: good for 13 years.
    since: u32,
    state: MemberState,
    /// See [`bucket_of`]: to sort members into buckets without a look at their statements.
    bucket: u8,
}

/// All known members, the dead and this node itself included.
///
/// The entries lie in one vector, so that a random one is found in one step; a keyed hash table leads from id to place.
/// Iteration is in the vector's order, which depends on nothing but the order of events.
#[derive(Debug)]
pub(crate) struct Roster {
    entries: Vec<Entry>,
    places: HashTable<u32>,
    hash_key: u64,
    buckets: Box<[u64; BUCKETS]>,
    present: usize,
    version: u64,
}

impl Entry {
    pub(crate) const fn statement(&self) -> &Arc<Statement> {
        &self.statement
    }

    /// Which bucket of anti-entropy it is in.
    pub(crate) const fn bucket(&self) -> u8 {
        self.bucket
    }

    pub(crate) const fn state(&self) -> MemberState {
        self.state
    }

    pub(crate) fn id(&self) -> NodeId {
        self.statement.id()
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.statement.incarnation()
    }

    /// Whether it died or left at `at`.
    pub(crate) fn is_gone_since(&self, at: Timestamp) -> bool {
        !self.state.is_present() && self.since == tenths(at)
    }

    /// Since when its state holds.
    pub(crate) fn since(&self) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(u64::from(self.since) * 100))
    }

    /// The member as users see it; `None` for one of whom only the goodbye is known.
    pub(crate) fn member(&self) -> Option<Member> {
        let presence = self.statement.presence()?;
        Some(Member {
            contact: presence.contact.clone(),
            state: self.state,
            incarnation: self.incarnation(),
            tags: presence.tags.clone(),
            instance: presence.instance,
            since: self.since(),
        })
    }

    /// The member as far as it is still known: whoever left took address and tags along.
    pub(crate) fn remembered(&self) -> Member {
        self.member().unwrap_or_else(|| Member {
            contact: Arc::new(Contact { id: self.id(), addrs: Vec::new() }),
            state: self.state,
            incarnation: self.incarnation(),
            tags: Arc::default(),
            instance: 0,
            since: self.since(),
        })
    }

    /// What a member adds to its bucket's hash: nothing unless it is present, so that the forgotten dead make no
    /// difference.
    fn hash(&self) -> u64 {
        if self.state.is_present() { mix(word(&self.id(), 1) ^ mix(self.incarnation().0)) } else { 0 }
    }
}

impl Roster {
    /// An empty list. `hash_key` makes places in the table unpredictable for whoever picks ids.
    pub(crate) fn new(hash_key: u64) -> Self {
        let (entries, places, buckets) = (Vec::new(), HashTable::new(), Box::new([0; BUCKETS]));
        Self { entries, places, hash_key, buckets, present: 0, version: 0 }
    }

    pub(crate) fn get(&self, id: &NodeId) -> Option<&Entry> {
        self.place(id).map(|place| self.at(place))
    }

    /// Where a member is, until the next one is removed.
    pub(crate) fn place(&self, id: &NodeId) -> Option<usize> {
        let is_it = |place: &u32| self.entries[*place as usize].id() == *id;
        self.places.find(self.hash(id), is_it).map(|place| *place as usize)
    }

    /// How many are known, the dead included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many count as there, this node included.
    pub(crate) const fn present(&self) -> usize {
        self.present
    }

    /// Grows with every change.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    pub(crate) const fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The statements of those who count as there.
    pub(crate) fn present_statements(&self) -> impl Iterator<Item = &Statement> {
        self.iter().filter(|entry| entry.state.is_present()).map(|entry| &*entry.statement)
    }

    /// The entry at a place; places go from 0 to [`len`](Self::len).
    pub(crate) fn at(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    /// Puts a member in, in place of what was known about it.
    pub(crate) fn put(&mut self, statement: Arc<Statement>, state: MemberState, now: Timestamp) {
        self.version += 1;
        let id = statement.id();
        let entry = Entry { statement, since: tenths(now), state, bucket: bucket_of(&id) };
        let (hash, key, entries) = (self.hash(&id), self.hash_key, &self.entries);
        let same = |place: &u32| entries[*place as usize].id() == id;
        let rehash = |place: &u32| keyed(key, &entries[*place as usize].id());
        match self.places.entry(hash, same, rehash) {
            Slot::Occupied(slot) => {
                let place = *slot.get() as usize;
                self.uncount(place);
                self.entries[place] = entry;
                self.count(place);
            }
            Slot::Vacant(slot) => {
                slot.insert(self.entries.len() as u32);
                self.entries.push(entry);
                self.count(self.entries.len() - 1);
            }
        }
    }

    /// Something besides the entries changed that snapshots show.
    pub(crate) const fn touch(&mut self) {
        self.version += 1;
    }

    /// Forgets a member.
    pub(crate) fn remove(&mut self, id: &NodeId) {
        let hash = self.hash(id);
        let entries = &self.entries;
        let Ok(slot) = self.places.find_entry(hash, |place| entries[*place as usize].id() == *id) else {
            return;
        };
        self.version += 1;
        let (place, _) = slot.remove();
        self.uncount(place as usize);
        self.entries.swap_remove(place as usize);
        let Some(moved) = self.entries.get(place as usize) else { return };
        let (hash, from) = (self.hash(&moved.id()), self.entries.len() as u32);
        if let Some(slot) = self.places.find_mut(hash, |other| *other == from) {
            *slot = place;
        }
    }

    fn count(&mut self, place: usize) {
        let entry = &self.entries[place];
        let bucket = &mut self.buckets[usize::from(entry.bucket)];
        *bucket = bucket.wrapping_add(entry.hash());
        self.present += usize::from(entry.state.is_present());
    }

    fn uncount(&mut self, place: usize) {
        let entry = &self.entries[place];
        let bucket = &mut self.buckets[usize::from(entry.bucket)];
        *bucket = bucket.wrapping_sub(entry.hash());
        self.present -= usize::from(entry.state.is_present());
    }

    fn hash(&self, id: &NodeId) -> u64 {
        keyed(self.hash_key, id)
    }
}

/// Which bucket of anti-entropy an id is in.
const fn bucket_of(id: &NodeId) -> u8 {
    id.as_bytes()[0]
}

fn tenths(now: Timestamp) -> u32 {
    u32::try_from(now.since_start().as_millis() / 100).unwrap_or(u32::MAX)
}

/// A hash of `id` that nobody can foretell without `key`.
pub(crate) fn keyed(key: u64, id: &NodeId) -> u64 {
    mix(word(id, 0) ^ key)
}

fn word(id: &NodeId, n: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| id.as_bytes()[n * 8 + i]))
}

/// Spreads every bit over all (the finaliser of SplitMix64).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "roster_test.rs"]
mod tests;
