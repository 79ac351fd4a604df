//! The news that are being spread: each piece is passed on a limited number of times, the least-passed first (SWIM §4.1).
//!
//! A piece that comes in again counts as passed on, too, and whoever brought it is not told: where everybody knows, a rumour
//! dies out (the feedback and counter of Demers et al., "Epidemic algorithms", §1.4).

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashTable;
use macula_proto::{NodeId, Timestamp};

use crate::Update;
use crate::message::RUMOUR_BYTES_MAX;
use crate::roster::keyed;

/// Pieces passed over because they did not fit or are known, before a packet counts as full.
const PASSED_OVER_MAX: usize = 128;

/// Members of whom it is remembered that they know a piece.
const KNOWERS_MAX: usize = 8;

/// One subject has one statement, one rumour from each suspecting member, and one death under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topic {
    Statement,
    Suspicion { by: u64 },
    Death,
}

/// How often it was passed on, then a serial number that counts down: least-passed first, of those the newest.
type Place = (u32, u64);

/// The retransmit queue. Bounded: when it is full, the most often passed piece is dropped.
///
/// A piece stays in its slot for as long as it lives; being passed on only moves the slot's number in the queue.
#[derive(Debug)]
pub(crate) struct News {
    queue: BTreeMap<Place, u32>,
    /// From topic to slot; hashed by subject alone, so that all topics of one subject are found together.
    slots: HashTable<u32>,
    items: Vec<Option<Item>>,
    free: Vec<u32>,
    serial: u64,
    hash_key: u64,
    items_max: usize,
}

#[derive(Debug)]
struct Item {
    update: Update,
    place: Place,
    since: Timestamp,
    knowers: Knowers,
    /// On the wire.
    bytes: u32,
}

/// Who is known to know a piece: they told it. A part of each id is enough; that two share it only spares one of them a
/// message that others bring as well.
#[derive(Debug, Default)]
struct Knowers {
    marks: [u32; KNOWERS_MAX],
    len: u8,
}

impl Knowers {
    fn insert(&mut self, mark: u32) {
        if !self.contains(mark) && usize::from(self.len) < KNOWERS_MAX {
            self.marks[usize::from(self.len)] = mark;
            self.len += 1;
        }
    }

    fn contains(&self, mark: u32) -> bool {
        self.marks[..usize::from(self.len)].contains(&mark)
    }
}

fn mark(id: &NodeId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn topic(update: &Update) -> Topic {
    match update {
        Update::Statement(_) => Topic::Statement,
        Update::Suspect(rumour) => Topic::Suspicion { by: rumour.by },
        Update::Dead(_) => Topic::Death,
    }
}

impl News {
    /// Nothing; at most `items_max` pieces. `hash_key` makes places in the table unpredictable for whoever picks ids.
    pub(crate) const fn new(items_max: usize, hash_key: u64) -> Self {
        Self {
            queue: BTreeMap::new(),
            slots: HashTable::new(),
            items: Vec::new(),
            free: Vec::new(),
            serial: 0,
            hash_key,
            items_max,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds news that `source` brought; older news about the same subject that it makes pointless go. Returns whether
    /// something else had to be dropped for lack of room.
    pub(crate) fn push(&mut self, now: Timestamp, update: Update, source: Option<NodeId>) -> bool {
        let subject = update.subject();
        match topic(&update) {
            Topic::Statement => self.retract(&subject, |_| true),
            Topic::Death => self.retract(&subject, |topic| topic != Topic::Statement),
            again @ Topic::Suspicion { .. } => self.retract(&subject, |topic| topic == again),
        }
        let full = self.queue.len() >= self.items_max;
        if full && let Some((_, last)) = self.queue.pop_last() {
            self.vacate(last);
        }
        let bytes = update.wire_len() as u32;
        let mut knowers = Knowers::default();
        source.iter().for_each(|source| knowers.insert(mark(source)));
        self.serial = self.serial.wrapping_sub(1);
        let place = (0, self.serial);
        let slot = self.free.pop().unwrap_or(self.items.len() as u32);
        match self.items.get_mut(slot as usize) {
            Some(vacant) => *vacant = Some(Item { update, place, since: now, knowers, bytes }),
            None => self.items.push(Some(Item { update, place, since: now, knowers, bytes })),
        }
        self.queue.insert(place, slot);
        let (key, items) = (self.hash_key, &self.items);
        self.slots.insert_unique(keyed(key, &subject), slot, |slot| subject_hash(items, *slot, key));
        full
    }

    /// `from` told what this node knows already: it needs not be told, and others are likely to know as well.
    pub(crate) fn heard(&mut self, from: &NodeId, update: &Update, sends_max: u32) {
        let hash = keyed(self.hash_key, &update.subject());
        let found = self.slots.find(hash, |slot| self.is_of(*slot, update));
        if let Some(slot) = found.copied()
            && let Some(item) = &mut self.items[slot as usize]
            && !item.knowers.contains(mark(from))
        {
            item.knowers.insert(mark(from));
            self.count(slot, sends_max);
        }
    }

    /// Moves what fits into `room` bytes to `out` and counts it as passed on. What was passed on `sends_max` times goes.
    pub(crate) fn take(&mut self, to: &NodeId, mut room: usize, sends_max: u32, out: &mut Vec<Update>) {
        let mut taken = Vec::new();
        let (mut passed_over, mark) = (0, mark(to));
        for slot in self.queue.values() {
            let Some(item) = &self.items[*slot as usize] else { continue };
            let left = room.checked_sub(item.bytes as usize);
            let Some(rest) = left.filter(|_| !item.knowers.contains(mark) && item.update.subject() != *to)
            else {
                passed_over += 1;
                if passed_over > PASSED_OVER_MAX {
                    break;
                }
                continue;
            };
            room = rest;
            out.push(item.update.clone());
            taken.push(*slot);
            if room < RUMOUR_BYTES_MAX {
                break;
            }
        }
        for slot in taken {
            self.count(slot, sends_max);
        }
    }

    /// Drops what was passed on at least once and is older than `age`: by now everybody knows, or learns it from an
    /// exchange of lists.
    pub(crate) fn expire(&mut self, now: Timestamp, age: Duration) {
        let stale = |slot: &u32| {
            let item = self.items[*slot as usize].as_ref();
            item.is_some_and(|item| item.place.0 > 0 && now.since(item.since) > age)
        };
        let stale: Vec<u32> = self.queue.values().copied().filter(stale).collect();
        for slot in stale {
            self.remove(slot);
        }
    }

    fn count(&mut self, slot: u32, sends_max: u32) {
        let Some(item) = &mut self.items[slot as usize] else { return };
        self.queue.remove(&item.place);
        item.place.0 += 1;
        if item.place.0 < sends_max {
            self.queue.insert(item.place, slot);
        } else {
            self.vacate(slot);
        }
    }

    /// Removes the topics about `subject` that are `pointless` now.
    fn retract(&mut self, subject: &NodeId, pointless: impl Fn(Topic) -> bool) {
        let hash = keyed(self.hash_key, subject);
        let is_pointless = |slot: &&u32| {
            let update = self.items[**slot as usize].as_ref().map(|item| &item.update);
            update.is_some_and(|update| update.subject() == *subject && pointless(topic(update)))
        };
        let found: Vec<u32> = self.slots.iter_hash(hash).filter(is_pointless).copied().collect();
        for slot in found {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        if let Some(item) = &self.items[slot as usize] {
            self.queue.remove(&item.place);
            self.vacate(slot);
        }
    }

    /// Frees the slot of a piece that is not in the queue any more.
    fn vacate(&mut self, slot: u32) {
        let Some(item) = self.items[slot as usize].take() else { return };
        let hash = keyed(self.hash_key, &item.update.subject());
        if let Ok(entry) = self.slots.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        self.free.push(slot);
    }

    fn is_of(&self, slot: u32, other: &Update) -> bool {
        let update = self.items[slot as usize].as_ref().map(|item| &item.update);
        update.is_some_and(|update| update.subject() == other.subject() && topic(update) == topic(other))
    }
}

fn subject_hash(items: &[Option<Item>], slot: u32, key: u64) -> u64 {
    items[slot as usize].as_ref().map_or(0, |item| keyed(key, &item.update.subject()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, Rumour};

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn suspect(about: u8, by: u64) -> Update {
        Update::Suspect(Rumour { id: id(about), incarnation: Incarnation(1), by })
    }

    fn push(news: &mut News, update: Update) -> bool {
        news.push(Timestamp::ZERO, update, None)
    }

    fn subjects(news: &mut News, to: u8, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        news.take(&id(to), room, 3, &mut out);
        out.iter().map(|update| update.subject().as_bytes()[0]).collect()
    }

    #[test]
    fn the_least_passed_goes_first_and_each_goes_only_so_often() {
        let mut news = News::new(16, 7);
        push(&mut news, suspect(1, 0));
        assert_eq!(subjects(&mut news, 9, 60), [1]);
        push(&mut news, suspect(2, 0));
        assert_eq!(subjects(&mut news, 9, 60), [2]);
        assert_eq!(subjects(&mut news, 9, 120), [2, 1]);
        assert_eq!(subjects(&mut news, 9, 120), [2, 1]);
        assert!(news.is_empty(), "three times each");
    }

    #[test]
    fn whoever_brought_it_or_is_its_subject_is_not_told() {
        let mut news = News::new(16, 7);
        news.push(Timestamp::ZERO, suspect(1, 0), Some(id(7)));
        assert!(subjects(&mut news, 7, 1_000).is_empty());
        assert!(subjects(&mut news, 1, 1_000).is_empty());
        news.heard(&id(8), &suspect(1, 0), 3);
        news.heard(&id(8), &suspect(1, 0), 3);
        assert!(subjects(&mut news, 8, 1_000).is_empty());
        assert_eq!(subjects(&mut news, 9, 1_000), [1]);
        assert_eq!(news.len(), 1, "heard once more and sent once: two of three");
        news.heard(&id(10), &suspect(1, 0), 3);
        assert!(news.is_empty(), "everybody seems to know");
    }

    #[test]
    fn a_death_replaces_the_suspicions_and_a_full_queue_drops_the_most_passed() {
        let mut news = News::new(2, 7);
        push(&mut news, suspect(1, 1));
        push(&mut news, suspect(1, 2));
        push(&mut news, Update::Dead(Rumour { id: id(1), incarnation: Incarnation(1), by: 3 }));
        assert_eq!(subjects(&mut news, 9, 1_000), [1]);
        assert!(!push(&mut news, suspect(2, 0)));
        assert!(push(&mut news, suspect(3, 0)), "full");
        assert_eq!(subjects(&mut news, 9, 1_000), [3, 2]);
    }

    #[test]
    fn what_was_passed_on_grows_old_and_what_was_not_waits() {
        let mut news = News::new(16, 7);
        push(&mut news, suspect(1, 0));
        assert_eq!(subjects(&mut news, 9, 60), [1]);
        push(&mut news, suspect(2, 0));
        let age = Duration::from_secs(5);
        news.expire(Timestamp::ZERO + age, age);
        assert_eq!(news.len(), 2);
        news.expire(Timestamp::ZERO + age * 2, age);
        assert_eq!(subjects(&mut news, 9, 1_000), [2]);
    }
}
