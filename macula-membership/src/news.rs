//! The news that are being spread: each piece goes once to each neighbour that does not know it yet.
//!
//! The neighbours form a connected graph (see the overlay), so that news reach everybody who can be reached, in as many
//! rounds as the graph is wide, and cost each member at most one message a neighbour: those who bring a piece are not told
//! (SWIM §4.1 sends to random members instead, and so λ log n times; feedback: Demers et al., "Epidemic algorithms", §1.4).

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashTable;
use macula_proto::{NodeId, Timestamp};

use crate::Update;
use crate::message::ACCUSATION_BYTES_MAX;
use crate::overlay::RINGS_MAX;
use crate::roster::keyed;

/// Pieces passed over because they did not fit or are known, before a packet counts as full.
const PASSED_OVER_MAX: usize = 128;

/// Hearsay takes one part in so many of a packet.
const HEARSAY_SHARE: usize = 3;

/// Members of whom it is remembered how often they were told a piece: as many as there can be neighbours.
const TOLD_MAX: usize = 2 * RINGS_MAX;

/// They told it themselves.
const KNOWS: u32 = 15;

/// One subject has one statement, one accusation from each suspecting member, and one death under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topic {
    Statement,
    Suspicion { by: NodeId },
    Death,
}

/// How often it was passed on, then a serial number that counts down: least-passed first, of those the newest.
type Place = (u32, u64);

type Queue = BTreeMap<Place, u32>;

/// The queue of what members say themselves.
const WORDS: usize = 0;

/// The queue of what others say about them.
const HEARSAY: usize = 1;

/// The retransmit queue. Bounded: when it is full, the most often passed piece is dropped.
///
/// What members say themselves and hearsay about them have half of the room each, so that a flood of the one, which lies
/// might be, does not drown the other, which might refute them.
///
/// A piece stays in its slot for as long as it lives; being passed on only moves the slot's number in the queue.
#[derive(Debug)]
pub(crate) struct News {
    /// [`WORDS`] and [`HEARSAY`].
    queues: [Queue; 2],
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
    told: Told,
    /// On the wire.
    bytes: u32,
}

/// How often whom was told a piece. A part of each id is enough; that two share it only spares one of them a message that
/// others bring as well.
#[derive(Debug, Default)]
struct Told {
    /// 28 bits of the id, four of the count.
    marks: [u32; TOLD_MAX],
    len: u8,
}

impl Told {
    fn times(&self, id: &NodeId) -> u32 {
        self.of(mark(id)).map_or(0, |known| known & KNOWS)
    }

    fn set(&mut self, id: &NodeId, times: u32) {
        let (mark, times) = (mark(id), times.min(KNOWS));
        let known = &mut self.marks[..usize::from(self.len)];
        if let Some(known) = known.iter_mut().find(|known| **known & !KNOWS == mark) {
            *known = mark | times;
        } else if usize::from(self.len) < TOLD_MAX {
            self.marks[usize::from(self.len)] = mark | times;
            self.len += 1;
        }
    }

    fn of(&self, mark: u32) -> Option<u32> {
        self.marks[..usize::from(self.len)].iter().copied().find(|known| known & !KNOWS == mark)
    }
}

fn mark(id: &NodeId) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_le_bytes([a, b, c, d]) & !KNOWS
}

/// Who is to be told, and how often each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audience<'a> {
    /// A piece that all of these know is done.
    pub(crate) neighbours: &'a [NodeId],
    /// At least 1; more makes up for losses where there are few neighbours.
    pub(crate) times: u32,
}

impl Audience<'_> {
    fn is_done(&self, told: &Told) -> bool {
        !self.neighbours.is_empty() && self.neighbours.iter().all(|id| told.times(id) >= self.times)
    }
}

fn topic(update: &Update) -> Topic {
    match update {
        Update::Statement(_) => Topic::Statement,
        Update::Suspect(accusation) => Topic::Suspicion { by: accusation.accuser() },
        Update::Dead(_) | Update::Doubt(_) => Topic::Death,
    }
}

impl News {
    /// Nothing; at most `items_max` pieces. `hash_key` makes places in the table unpredictable for whoever picks ids.
    pub(crate) const fn new(items_max: usize, hash_key: u64) -> Self {
        Self {
            queues: [Queue::new(), Queue::new()],
            slots: HashTable::new(),
            items: Vec::new(),
            free: Vec::new(),
            serial: 0,
            hash_key,
            items_max,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.iter().map(Queue::len).sum()
    }

    /// Whether there is a piece that was not passed on yet.
    pub(crate) fn has_fresh(&self) -> bool {
        let firsts = self.queues.iter().filter_map(Queue::first_key_value);
        firsts.map(|(place, _)| place).any(|(passed, _)| *passed == 0)
    }

    /// Adds news that `source` brought; older news about the same subject that it makes pointless go. Returns whether
    /// something else had to be dropped for lack of room.
    ///
    /// Whoever says one thing after the other, each before the last has gone round, is passed on after everybody else.
    pub(crate) fn push(&mut self, now: Timestamp, update: Update, source: Option<NodeId>) -> bool {
        let subject = update.subject();
        let mut hurried = false;
        match topic(&update) {
            Topic::Statement => {
                hurried = self.is_spread(&subject);
                self.retract(&subject, |_| true);
            }
            Topic::Death => self.retract(&subject, |topic| topic != Topic::Statement),
            again @ Topic::Suspicion { .. } => self.retract(&subject, |topic| topic == again),
        }
        let half = self.items_max / 2;
        let queue = &mut self.queues[queue_of(&update)];
        let full = queue.len() >= half;
        if full && let Some((_, last)) = queue.pop_last() {
            self.vacate(last);
        }
        let bytes = update.wire_len() as u32;
        let mut told = Told::default();
        source.iter().for_each(|source| told.set(source, KNOWS));
        self.serial = self.serial.wrapping_sub(1);
        let place = (u32::from(hurried), self.serial);
        let slot = self.free.pop().unwrap_or(self.items.len() as u32);
        self.queues[queue_of(&update)].insert(place, slot);
        match self.items.get_mut(slot as usize) {
            Some(vacant) => *vacant = Some(Item { update, place, since: now, told, bytes }),
            None => self.items.push(Some(Item { update, place, since: now, told, bytes })),
        }
        let (key, items) = (self.hash_key, &self.items);
        self.slots.insert_unique(keyed(key, &subject), slot, |slot| subject_hash(items, *slot, key));
        full
    }

    /// `from` told what this node knows already: it needs not be told.
    pub(crate) fn heard(&mut self, from: &NodeId, update: &Update, audience: Audience<'_>) {
        let hash = keyed(self.hash_key, &update.subject());
        let found = self.slots.find(hash, |slot| self.is_of(*slot, update));
        if let Some(slot) = found.copied()
            && let Some(item) = &mut self.items[slot as usize]
        {
            item.told.set(from, KNOWS);
            if audience.is_done(&item.told) {
                self.remove(slot);
            }
        }
    }

    /// The link with `id` is new: what was sent over an old one may not have arrived.
    pub(crate) fn on_link(&mut self, id: &NodeId) {
        for item in self.items.iter_mut().flatten() {
            if (1..KNOWS).contains(&item.told.times(id)) {
                item.told.set(id, 0);
            }
        }
    }

    /// Moves what `to` is to be told and fits into `room` bytes to `out`, and counts it as told. Hearsay has a third of the
    /// room, all of it if there is nothing else.
    pub(crate) fn take(&mut self, to: &NodeId, room: usize, audience: Audience<'_>, out: &mut Vec<Update>) {
        let share = if self.queues[WORDS].is_empty() { room } else { room / HEARSAY_SHARE };
        let (hearsay, bytes) = self.pick(HEARSAY, to, share, audience);
        let (words, _) = self.pick(WORDS, to, room - bytes, audience);
        for slot in words.into_iter().chain(hearsay) {
            if let Some(item) = &self.items[slot as usize] {
                out.push(item.update.clone());
            }
            self.count(slot, to, audience);
        }
    }

    /// What of one queue `to` is to be told and fits, and how many bytes that takes.
    fn pick(&self, queue: usize, to: &NodeId, room: usize, audience: Audience<'_>) -> (Vec<u32>, usize) {
        let (mut picked, mut left) = (Vec::new(), room);
        let mut passed_over = 0;
        for slot in self.queues[queue].values() {
            let Some(item) = &self.items[*slot as usize] else { continue };
            let rest = left.checked_sub(item.bytes as usize);
            let wanted = item.told.times(to) < audience.times && item.update.subject() != *to;
            let Some(rest) = rest.filter(|_| wanted) else {
                passed_over += 1;
                if passed_over > PASSED_OVER_MAX {
                    break;
                }
                continue;
            };
            left = rest;
            picked.push(*slot);
            if left < ACCUSATION_BYTES_MAX {
                break;
            }
        }
        (picked, room - left)
    }

    /// Drops what was passed on at least once and is older than `age`: by now everybody knows, or learns it from an
    /// exchange of lists.
    pub(crate) fn expire(&mut self, now: Timestamp, age: Duration) {
        let stale = |slot: &u32| {
            let item = self.items[*slot as usize].as_ref();
            item.is_some_and(|item| item.place.0 > 0 && now.since(item.since) > age)
        };
        let stale: Vec<u32> = self.queues.iter().flat_map(Queue::values).copied().filter(stale).collect();
        for slot in stale {
            self.remove(slot);
        }
        if self.is_empty() {
            // After a storm, the room is given back.
            (self.items, self.free) = (Vec::new(), Vec::new());
            self.slots = HashTable::new();
        }
    }

    fn count(&mut self, slot: u32, to: &NodeId, audience: Audience<'_>) {
        let Some(item) = &mut self.items[slot as usize] else { return };
        item.told.set(to, item.told.times(to) + 1);
        let queue = &mut self.queues[queue_of(&item.update)];
        queue.remove(&item.place);
        item.place.0 += 1;
        if audience.is_done(&item.told) {
            self.vacate(slot);
        } else {
            queue.insert(item.place, slot);
        }
    }

    /// Whether a member's own word is under way.
    fn is_spread(&self, subject: &NodeId) -> bool {
        let word = |slot: &u32| match self.items[*slot as usize].as_ref().map(|item| &item.update) {
            Some(Update::Statement(statement)) => statement.id() == *subject,
            _ => false,
        };
        self.slots.find(keyed(self.hash_key, subject), word).is_some()
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
            self.queues[queue_of(&item.update)].remove(&item.place);
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

fn queue_of(update: &Update) -> usize {
    if topic(update) == Topic::Statement { WORDS } else { HEARSAY }
}

fn subject_hash(items: &[Option<Item>], slot: u32, key: u64) -> u64 {
    items[slot as usize].as_ref().map_or(0, |item| keyed(key, &item.update.subject()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use macula_proto::SecretKey;

    use super::*;
    use crate::{Accusation, Incarnation};

    /// Room for one accusation.
    const ONE: usize = ACCUSATION_BYTES_MAX;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn accusation(about: u8, by: u8) -> Arc<Accusation> {
        Arc::new(Accusation::new(&SecretKey::from_seed([by; 32]), id(about), Incarnation(1)))
    }

    fn suspect(about: u8, by: u8) -> Update {
        Update::Suspect(accusation(about, by))
    }

    fn push(news: &mut News, update: Update) -> bool {
        news.push(Timestamp::ZERO, update, None)
    }

    fn audience(neighbours: &[NodeId]) -> Audience<'_> {
        Audience { neighbours, times: 1 }
    }

    fn subjects(news: &mut News, to: u8, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        news.take(&id(to), room, audience(&[id(7), id(8), id(9)]), &mut out);
        out.iter().map(|update| update.subject().as_bytes()[0]).collect()
    }

    #[test]
    fn the_least_passed_goes_first_and_to_each_neighbour_once() {
        let mut news = News::new(16, 7);
        push(&mut news, suspect(1, 0));
        assert_eq!(subjects(&mut news, 9, ONE), [1]);
        push(&mut news, suspect(2, 0));
        assert_eq!(subjects(&mut news, 8, ONE), [2]);
        assert_eq!(subjects(&mut news, 8, 2 * ONE), [1]);
        assert_eq!(subjects(&mut news, 7, 2 * ONE), [2, 1]);
        assert_eq!(news.len(), 1, "all were told of the first");
        assert_eq!(subjects(&mut news, 7, 2 * ONE), []);
        assert_eq!(subjects(&mut news, 9, 2 * ONE), [2]);
        assert!(news.is_empty());
    }

    #[test]
    fn whoever_brought_it_or_is_its_subject_is_not_told() {
        let mut news = News::new(16, 7);
        news.push(Timestamp::ZERO, suspect(1, 0), Some(id(7)));
        assert!(subjects(&mut news, 7, 1_000).is_empty());
        assert!(subjects(&mut news, 1, 1_000).is_empty());
        let neighbours = [id(7), id(8), id(9)];
        news.heard(&id(8), &suspect(1, 0), audience(&neighbours));
        assert!(subjects(&mut news, 8, 1_000).is_empty());
        news.heard(&id(9), &suspect(1, 0), audience(&neighbours));
        assert!(news.is_empty(), "everybody knows");
    }

    #[test]
    fn where_there_are_few_each_is_told_again_and_over_a_new_link_as_well() {
        let mut news = News::new(16, 7);
        push(&mut news, suspect(1, 0));
        let (neighbours, mut out) = ([id(9)], Vec::new());
        let twice = Audience { neighbours: &neighbours, times: 2 };
        news.take(&id(9), 1_000, twice, &mut out);
        news.on_link(&id(9));
        news.take(&id(9), 1_000, twice, &mut out);
        assert_eq!((out.len(), news.len()), (2, 1));
        news.take(&id(9), 1_000, twice, &mut out);
        assert_eq!((out.len(), news.len()), (3, 0));
    }

    #[test]
    fn a_death_replaces_the_suspicions_and_a_full_queue_drops_the_most_passed() {
        let mut news = News::new(4, 7);
        push(&mut news, suspect(1, 1));
        push(&mut news, suspect(1, 2));
        push(&mut news, Update::Dead(accusation(1, 3)));
        assert_eq!(subjects(&mut news, 9, 1_000), [1]);
        assert!(!push(&mut news, suspect(2, 0)));
        assert!(push(&mut news, suspect(3, 0)), "full");
        assert_eq!(subjects(&mut news, 8, 1_000), [3, 2]);
    }

    #[test]
    fn what_was_passed_on_grows_old_and_what_was_not_waits() {
        let mut news = News::new(16, 7);
        push(&mut news, suspect(1, 0));
        assert_eq!(subjects(&mut news, 9, ONE), [1]);
        push(&mut news, suspect(2, 0));
        let age = Duration::from_secs(5);
        news.expire(Timestamp::ZERO + age, age);
        assert_eq!(news.len(), 2);
        news.expire(Timestamp::ZERO + age * 2, age);
        assert_eq!(subjects(&mut news, 9, 1_000), [2]);
    }
}
