//! The news that are being spread: each piece is sent a limited number of times, the least-sent first (SWIM §4.1).

use std::collections::BTreeMap;

use macula_proto::NodeId;

use crate::Update;
use crate::message::RUMOUR_BYTES_MAX;

/// Pieces passed over because they did not fit, before a packet counts as full.
const MISFITS_MAX: usize = 32;

/// One subject has one statement and one rumour from each suspecting member under way.
type Topic = (NodeId, Option<u64>);

/// How often it was sent, then a serial number that counts down: least-sent first, of those the newest.
type Place = (u32, u64);

/// The retransmit queue. Bounded: when it is full, the most often sent piece is dropped.
///
/// A piece stays in its slot for as long as it lives; being sent only moves the slot's number in the queue.
#[derive(Debug)]
pub(crate) struct News {
    queue: BTreeMap<Place, u32>,
    slots: BTreeMap<Topic, u32>,
    items: Vec<Option<Item>>,
    free: Vec<u32>,
    serial: u64,
    items_max: usize,
}

#[derive(Debug)]
struct Item {
    update: Update,
    /// Who brought it, and so needs not be told.
    source: Option<NodeId>,
    place: Place,
    /// On the wire.
    bytes: u32,
}

impl Item {
    fn topic(&self) -> Topic {
        match &self.update {
            Update::Statement(statement) => (statement.id(), None),
            Update::Suspect(rumour) | Update::Dead(rumour) => (rumour.id, Some(rumour.by)),
        }
    }
}

impl News {
    pub(crate) const fn new(items_max: usize) -> Self {
        Self {
            queue: BTreeMap::new(),
            slots: BTreeMap::new(),
            items: Vec::new(),
            free: Vec::new(),
            serial: 0,
            items_max,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds news; older news about the same subject that it makes pointless go. Returns whether something else had
    /// to be dropped for lack of room.
    pub(crate) fn push(&mut self, update: Update, source: Option<NodeId>) -> bool {
        let subject = update.subject();
        match &update {
            Update::Statement(_) => self.retract(subject, None),
            Update::Dead(_) => self.retract(subject, Some(0)),
            Update::Suspect(_) => {}
        }
        let bytes = update.wire_len() as u32;
        self.serial = self.serial.wrapping_sub(1);
        let item = Item { update, source, place: (0, self.serial), bytes };
        let topic = item.topic();
        self.remove(&topic);
        let full = self.queue.len() >= self.items_max;
        if full && let Some((_, last)) = self.queue.pop_last() {
            self.vacate(last);
        }
        let slot = self.free.pop().unwrap_or(self.items.len() as u32);
        self.queue.insert(item.place, slot);
        self.slots.insert(topic, slot);
        match self.items.get_mut(slot as usize) {
            Some(vacant) => *vacant = Some(item),
            None => self.items.push(Some(item)),
        }
        full
    }

    /// Moves what fits into `room` bytes to `out` and counts it as sent to `to`. What was sent `sends_max` times goes.
    pub(crate) fn take(&mut self, to: &NodeId, mut room: usize, sends_max: u32, out: &mut Vec<Update>) {
        let mut taken = Vec::new();
        let mut misfits = 0;
        for slot in self.queue.values() {
            let Some(item) = &self.items[*slot as usize] else { continue };
            if item.source.as_ref() == Some(to) || item.update.subject() == *to {
                continue;
            }
            let Some(rest) = room.checked_sub(item.bytes as usize) else {
                misfits += 1;
                if misfits > MISFITS_MAX {
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
            self.count_sent(slot, sends_max);
        }
    }

    fn count_sent(&mut self, slot: u32, sends_max: u32) {
        let Some(item) = &mut self.items[slot as usize] else { return };
        self.queue.remove(&item.place);
        item.place.0 += 1;
        if item.place.0 < sends_max {
            self.queue.insert(item.place, slot);
        } else {
            self.vacate(slot);
        }
    }

    /// Removes everything about `subject` from topic `from` on: `None` is all, `Some(0)` the rumours.
    fn retract(&mut self, subject: NodeId, from: Option<u64>) {
        let range = (subject, from)..=(subject, Some(u64::MAX));
        while let Some((topic, _)) = self.slots.range(range.clone()).next() {
            let topic = *topic;
            self.remove(&topic);
        }
    }

    fn remove(&mut self, topic: &Topic) {
        if let Some(slot) = self.slots.get(topic).copied()
            && let Some(item) = &self.items[slot as usize]
        {
            self.queue.remove(&item.place);
            self.vacate(slot);
        }
    }

    /// Frees the slot of a piece that is not in the queue any more.
    fn vacate(&mut self, slot: u32) {
        if let Some(item) = self.items[slot as usize].take() {
            self.slots.remove(&item.topic());
            self.free.push(slot);
        }
    }
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

    fn subjects(news: &mut News, to: u8, room: usize) -> Vec<u8> {
        let mut out = Vec::new();
        news.take(&id(to), room, 3, &mut out);
        out.iter().map(|update| update.subject().as_bytes()[0]).collect()
    }

    #[test]
    fn the_least_sent_goes_first_and_each_goes_only_so_often() {
        let mut news = News::new(16);
        news.push(suspect(1, 0), None);
        assert_eq!(subjects(&mut news, 9, 60), [1]);
        news.push(suspect(2, 0), None);
        assert_eq!(subjects(&mut news, 9, 60), [2]);
        assert_eq!(subjects(&mut news, 9, 120), [2, 1]);
        assert_eq!(subjects(&mut news, 9, 120), [2, 1]);
        assert!(news.is_empty(), "three times each");
    }

    #[test]
    fn whoever_brought_it_or_is_its_subject_is_not_told() {
        let mut news = News::new(16);
        news.push(suspect(1, 0), Some(id(7)));
        assert!(subjects(&mut news, 7, 1_000).is_empty());
        assert!(subjects(&mut news, 1, 1_000).is_empty());
        assert_eq!(subjects(&mut news, 8, 1_000), [1]);
    }

    #[test]
    fn a_death_replaces_the_suspicions_and_a_full_queue_drops_the_most_sent() {
        let mut news = News::new(2);
        news.push(suspect(1, 1), None);
        news.push(suspect(1, 2), None);
        news.push(Update::Dead(Rumour { id: id(1), incarnation: Incarnation(1), by: 3 }), None);
        assert_eq!(subjects(&mut news, 9, 1_000), [1]);
        assert!(!news.push(suspect(2, 0), None));
        assert!(news.push(suspect(3, 0), None), "full");
        assert_eq!(subjects(&mut news, 9, 1_000), [3, 2]);
    }
}
