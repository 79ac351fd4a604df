//! The routing table (Maymounkov & Mazières 2002, §2.2 and §2.4).
//!
//! ```text
//!   bucket 0      nodes that differ from this one in the first bit
//!   bucket 1      the same first bit, another second bit
//!   ...
//!   bucket n      the same first n bits: this node's own neighbourhood; the only one that splits
//! ```
//!
//! Only contacts that were heard from get in. Newcomers do not push live contacts out of one half of a full bucket; the
//! other half is drawn by lot from all that were heard from (see `bucket.rs`). Whoever has no place waits in the bucket's
//! replacement cache until a contact of the bucket fails to answer.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Contact, Distance, Key, MessageError, NodeId, Timestamp, decode, wire};
use prost::Message;
use rand::Rng;
use rand::seq::IteratorRandom as _;

use super::bucket::{Bucket, Lots};
use super::config::{KademliaConfig, SubnetLimits};
use super::subnet::Tally;

/// Deepest split: ids have 256 bits.
const BUCKETS_MAX: usize = 256;

/// A contact that failed to answer so many times in a row is dropped even if nobody waits to replace it.
const FAILURES_MAX: u32 = 3;

/// Most contacts read from a saved table.
const SAVED_MAX: usize = 10_000;

/// A contact and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Who and where.
    pub contact: Contact,
    /// When it got into the table, or was last heard from while it waited for a place.
    pub since: Timestamp,
    /// When it was last heard from.
    pub seen: Timestamp,
    /// Smoothed time that it takes to answer; `None` if it was never asked.
    pub rtt: Option<Duration>,
    /// Requests in a row that it did not answer.
    pub failures: u32,
}

/// The k-buckets.
#[derive(Debug)]
pub struct Table {
    own: Key,
    k: usize,
    limits: SubnetLimits,
    buckets: Vec<Bucket>,
    subnets: Tally,
    lots: Lots,
    len: usize,
    last_heard: Timestamp,
}

/// What became of a contact that was heard from.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It is new in the table.
    Added,
    /// It is new in the table, by lot in place of another.
    Drawn,
    /// It was there.
    Updated,
    /// Its bucket is full: it waits. The one seen longest ago might be probed.
    Waiting {
        /// The contact of the bucket that was silent for longest.
        oldest: Known,
    },
    /// Too many of its subnet are there.
    SubnetFull,
    /// It is this node.
    Myself,
}

/// One bucket, for people to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketSnapshot {
    /// How many leading bits its contacts share with this node (at least so many in the last bucket).
    pub shared_bits: usize,
    /// Its contacts, least recently seen first.
    pub contacts: Vec<Known>,
    /// How many wait to replace one that dies.
    pub waiting: usize,
}

/// The routing table at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSnapshot {
    /// Whose table.
    pub own: Key,
    /// When: compare with [`Known::seen`] for a contact's age.
    pub at: Timestamp,
    /// The buckets, farthest first.
    pub buckets: Vec<BucketSnapshot>,
}

impl TableSnapshot {
    /// How many contacts there are.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.contacts.len()).sum()
    }

    /// Whether there is no contact.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    /// An empty table for the node `own`. `secret` decides who is drawn where there is not room for all: nobody else may
    /// know it.
    pub fn new(own: NodeId, config: &KademliaConfig, secret: u64) -> Self {
        Self {
            own: own.into(),
            k: config.k.max(1),
            limits: config.subnets,
            buckets: vec![Bucket::default()],
            subnets: Tally::default(),
            lots: Lots(secret),
            len: 0,
            last_heard: Timestamp::ZERO,
        }
    }

    /// How many contacts there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no contact.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many buckets there are; it grows by one with each split.
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// How many contacts bucket `at` has.
    pub(super) fn bucket_len(&self, at: usize) -> usize {
        self.buckets.get(at).map_or(0, |bucket| bucket.known.len())
    }

    /// A contact was heard from: it answered, or it asked over an authenticated connection.
    pub fn heard(&mut self, now: Timestamp, contact: Contact, rtt: Option<Duration>) -> Heard {
        if Key::from(contact.id) == self.own {
            return Heard::Myself;
        }
        self.last_heard = now;
        let at = self.bucket_of(&contact.id.into());
        if self.buckets[at].position(&contact.id).is_some() {
            return self.update(at, now, contact, rtt);
        }
        let newcomer = Known { contact, since: now, seen: now, rtt, failures: 0 };
        self.add(now, newcomer)
    }

    /// A contact did not answer what it was asked at `asked`. Whoever waits replaces it; `true` if it is gone.
    ///
    /// If nobody at all was heard from since then, it is probably this node that is cut off: it keeps whom it knew,
    /// so as to find back.
    pub fn failed(&mut self, id: &NodeId, asked: Timestamp) -> bool {
        let is_cut_off = self.last_heard <= asked;
        let at = self.bucket_of(&(*id).into());
        let bucket = &mut self.buckets[at];
        bucket.waiting.retain(|known| known.contact.id != *id);
        let Some(position) = bucket.position(id) else { return false };
        let known = &mut bucket.known[position];
        known.failures += 1;
        let is_over = known.failures >= FAILURES_MAX || !bucket.waiting.is_empty();
        if is_over && !is_cut_off {
            self.remove(id);
        }
        is_over && !is_cut_off
    }

    /// A contact is known to be gone. Whoever waited longest seen takes its place.
    pub fn remove(&mut self, id: &NodeId) -> Option<Known> {
        let at = self.bucket_of(&(*id).into());
        self.buckets[at].waiting.retain(|known| known.contact.id != *id);
        let position = self.buckets[at].position(id)?;
        let gone = self.buckets[at].known.remove(position);
        self.len -= 1;
        self.count_subnets(&gone.contact, false);
        while let Some(next) = self.buckets[at].waiting.pop_back() {
            if self.has_subnet_room(at, &next.contact) {
                self.put(at, next);
                break;
            }
        }
        Some(gone)
    }

    /// What is known of a node.
    pub fn get(&self, id: &NodeId) -> Option<&Known> {
        let bucket = &self.buckets[self.bucket_of(&(*id).into())];
        bucket.position(id).map(|position| &bucket.known[position])
    }

    /// The `count` contacts closest to `target`, closest first. Those that failed lately are left out
    /// unless `failed_too`.
    pub fn closest(&self, target: &Key, count: usize, failed_too: bool) -> Vec<Contact> {
        self.closest_where(target, count, |known| failed_too || known.failures == 0)
    }

    /// The `count` contacts closest to `target`, closest first, of those that are `wanted`.
    pub(super) fn closest_where(
        &self,
        target: &Key,
        count: usize,
        wanted: impl Fn(&Known) -> bool,
    ) -> Vec<Contact> {
        let mut by_distance: Vec<(Distance, &Contact)> = Vec::new();
        for buckets in self.by_closeness(target) {
            if by_distance.len() >= count {
                break;
            }
            let known = self.buckets[buckets].iter().flat_map(|bucket| &bucket.known);
            let known = known.filter(|known| wanted(known));
            by_distance
                .extend(known.map(|known| (target.distance(&known.contact.id.into()), &known.contact)));
        }
        if by_distance.len() > count && count > 0 {
            by_distance.select_nth_unstable_by_key(count - 1, |(distance, _)| *distance);
            by_distance.truncate(count);
        }
        by_distance.sort_unstable_by_key(|(distance, _)| *distance);
        by_distance.into_iter().take(count).map(|(_, contact)| contact.clone()).collect()
    }

    /// The `count` contacts that it has known for longest, without those that failed lately.
    pub fn eldest(&self, count: usize) -> Vec<Contact> {
        let mut known: Vec<&Known> = self.iter().filter(|known| known.failures == 0).collect();
        known.sort_unstable_by_key(|known| (known.since, known.contact.id));
        known.into_iter().take(count).map(|known| known.contact.clone()).collect()
    }

    /// `count` contacts drawn from the whole table, without those that failed lately.
    pub fn drawn(&self, count: usize, rng: &mut impl Rng) -> Vec<Contact> {
        let known = self.iter().filter(|known| known.failures == 0);
        known.map(|known| known.contact.clone()).sample(rng, count)
    }

    /// How many contacts that answered last time are closer to `target` than `distance`.
    pub fn closer_than(&self, target: &Key, distance: &Distance) -> usize {
        let closer = |known: &&Known| target.distance(&known.contact.id.into()) < *distance;
        self.iter().filter(|known| known.failures == 0).filter(closer).count()
    }

    /// All contacts, farthest bucket first.
    pub fn iter(&self) -> impl Iterator<Item = &Known> {
        self.buckets.iter().flat_map(|bucket| &bucket.known)
    }

    /// Something near `target` is being looked up: its bucket need not be refreshed for a while.
    pub fn looked_up(&mut self, now: Timestamp, target: &Key) {
        let at = self.bucket_of(target);
        self.buckets[at].looked_up = now;
    }

    /// Buckets in which nothing was looked up since `since`.
    pub fn stale(&self, since: Timestamp) -> Vec<usize> {
        (0..self.buckets.len()).filter(|at| self.buckets[*at].looked_up < since).collect()
    }

    /// A target in the range of bucket `at`, from random bits.
    pub fn target_in(&self, at: usize, random: [u8; 32]) -> Key {
        let own = self.own.as_bytes();
        let last = at + 1 >= self.buckets.len();
        let bit = |bytes: &[u8; 32], i: usize| bytes[i / 8] >> (7 - i % 8) & 1;
        let mut target = random;
        for i in 0..at.min(255) + 1 {
            let wanted = match (i == at, last) {
                (true, true) => continue,
                (true, false) => 1 - bit(own, i),
                (false, _) => bit(own, i),
            };
            let mask = 1 << (7 - i % 8);
            target[i / 8] = (target[i / 8] & !mask) | (wanted * mask);
        }
        Key::from_bytes(target)
    }

    /// The whole table, for people.
    pub fn snapshot(&self, at: Timestamp) -> TableSnapshot {
        let snapshot = |(shared_bits, bucket): (usize, &Bucket)| BucketSnapshot {
            shared_bits,
            contacts: bucket.known.clone(),
            waiting: bucket.waiting.len(),
        };
        TableSnapshot { own: self.own, at, buckets: self.buckets.iter().enumerate().map(snapshot).collect() }
    }

    /// The contacts as bytes to keep on disk, most recently heard from first.
    pub fn save(&self) -> Bytes {
        let mut known: Vec<&Known> = self.iter().collect();
        known.sort_by_key(|known| (known.failures, std::cmp::Reverse(known.seen), known.contact.id));
        let contacts = known.iter().take(SAVED_MAX).map(|known| known.contact.to_wire()).collect();
        wire::DhtTable { contacts }.encode_to_vec().into()
    }

    /// Reads what [`save`](Self::save) wrote. Contacts that are none are left out.
    ///
    /// # Errors
    /// If the bytes are no saved table.
    pub fn saved(bytes: Bytes) -> Result<Vec<Contact>, MessageError> {
        let table: wire::DhtTable = decode(bytes)?;
        let contacts = table.contacts.iter().take(SAVED_MAX);
        Ok(contacts.filter_map(|contact| Contact::from_wire(Some(contact)).ok()).collect())
    }

    /// Ranges of buckets: everybody in one is closer to `target` than everybody in the next. First those on its own branch,
    /// then those that part from it where this node does, then those that part from it ever earlier.
    fn by_closeness(&self, target: &Key) -> impl Iterator<Item = Range<usize>> {
        let at = self.bucket_of(target);
        let near = [at..at + 1, at + 1..self.buckets.len()];
        near.into_iter().chain((0..at).rev().map(|at| at..at + 1))
    }

    fn bucket_of(&self, id: &Key) -> usize {
        let shared = self.own.distance(id).leading_zeros() as usize;
        shared.min(self.buckets.len() - 1)
    }

    fn update(&mut self, at: usize, now: Timestamp, contact: Contact, rtt: Option<Duration>) -> Heard {
        let position = self.buckets[at].position(&contact.id).expect("the caller found it");
        let mut known = self.buckets[at].known.remove(position);
        self.count_subnets(&known.contact, false);
        known.seen = now;
        known.failures = 0;
        known.rtt = match (known.rtt, rtt) {
            (Some(old), Some(new)) => Some((old * 7 + new) / 8),
            (old, new) => new.or(old),
        };
        // A changed address counts like a newcomer's: moving must not get around the limit.
        if known.contact.addrs != contact.addrs && self.has_subnet_room(at, &contact) {
            known.contact = contact;
        }
        self.count_subnets(&known.contact, true);
        self.buckets[at].known.push(known);
        Heard::Updated
    }

    fn add(&mut self, now: Timestamp, newcomer: Known) -> Heard {
        loop {
            let at = self.bucket_of(&newcomer.contact.id.into());
            if !self.has_subnet_room(at, &newcomer.contact) {
                return Heard::SubnetFull;
            }
            if self.buckets[at].known.len() < self.k {
                self.buckets[at].waiting.retain(|known| known.contact.id != newcomer.contact.id);
                self.put(at, newcomer);
                return Heard::Added;
            }
            if at + 1 < self.buckets.len() || self.buckets.len() >= BUCKETS_MAX {
                return self.compete(now, at, newcomer);
            }
            self.split();
        }
    }

    /// A contact that failed makes room at once. Otherwise the lot decides, and who has no place waits.
    fn compete(&mut self, now: Timestamp, at: usize, newcomer: Known) -> Heard {
        // Half as many as have a place are enough until the next newcomers.
        let waiting_max = self.k.div_ceil(2);
        let bucket = &mut self.buckets[at];
        let failed = bucket.known.iter().find(|known| known.failures > 0).map(|known| known.contact.id);
        if let Some(failed) = failed {
            bucket.wait(now, newcomer, self.lots, usize::MAX);
            self.remove(&failed);
            return Heard::Added;
        }
        let Some(loser) = bucket.loser(&newcomer.contact.id, self.lots) else {
            bucket.wait(now, newcomer, self.lots, waiting_max);
            return Heard::Waiting { oldest: self.buckets[at].known[0].clone() };
        };
        let loser = bucket.known.remove(loser);
        bucket.waiting.retain(|known| known.contact.id != newcomer.contact.id);
        self.len -= 1;
        self.count_subnets(&loser.contact, false);
        self.put(at, newcomer);
        self.buckets[at].wait(now, loser, self.lots, waiting_max);
        Heard::Drawn
    }

    /// Divides the last bucket into the half away from this node and the half with it.
    fn split(&mut self) {
        let depth = self.buckets.len() - 1;
        let last = self.buckets.last_mut().expect("there is always a bucket");
        let own = self.own;
        let is_far = |known: &Known| own.distance(&known.contact.id.into()).leading_zeros() as usize == depth;
        let (far, near) = std::mem::take(&mut last.known).into_iter().partition(is_far);
        let (far_waiting, near_waiting) = std::mem::take(&mut last.waiting).into_iter().partition(is_far);
        let looked_up = last.looked_up;
        *last = Bucket { known: far, waiting: far_waiting, looked_up };
        self.buckets.push(Bucket { known: near, waiting: near_waiting, looked_up });
    }

    fn put(&mut self, at: usize, known: Known) {
        self.count_subnets(&known.contact, true);
        self.buckets[at].known.push(known);
        self.len += 1;
    }

    fn has_subnet_room(&self, at: usize, contact: &Contact) -> bool {
        let subnets = self.limits.subnets(contact);
        let in_bucket = |subnet| {
            let known = self.buckets[at].known.iter();
            known.filter(|known| self.limits.subnets(&known.contact).contains(subnet)).count()
        };
        self.subnets.has_room(&subnets, self.limits.table_max)
            && subnets.iter().all(|subnet| in_bucket(subnet) < self.limits.bucket_max)
    }

    fn count_subnets(&mut self, contact: &Contact, is_added: bool) {
        let subnets = self.limits.subnets(contact);
        if is_added {
            self.subnets.add(&subnets);
        } else {
            self.subnets.remove(&subnets);
        }
    }
}

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
