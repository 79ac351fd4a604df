//! The news that are being spread: each piece is sent a limited number of times, the least-sent first (SWIM §4.1).

use std::collections::BTreeMap;

use macula_proto::NodeId;

use crate::Update;

/// Pieces passed over because they did not fit, before a packet counts as full.
const MISFITS_MAX: usize = 32;

/// One subject has one statement and one rumour from each suspecting member under way.
type Topic = (NodeId, Option<u64>);

/// How often it was sent, then a serial number that counts down: least-sent first, of those the newest.
type Place = (u32, u64);

/// The retransmit queue. Bounded: when it is full, the most often sent piece is dropped.
#[derive(Debug)]
pub(crate) struct News {
    queue: BTreeMap<Place, Item>,
    places: BTreeMap<Topic, Place>,
    serial: u64,
    items_max: usize,
}

#[derive(Debug)]
struct Item {
    topic: Topic,
    update: Update,
    /// On the wire.
    bytes: usize,
    /// Who brought it, and so needs not be told.
    source: Option<NodeId>,
}

impl News {
    pub(crate) const fn new(items_max: usize) -> Self {
        Self { queue: BTreeMap::new(), places: BTreeMap::new(), serial: 0, items_max }
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
        let topic = match &update {
            Update::Statement(_) => {
                self.retract(subject, None);
                (subject, None)
            }
            Update::Suspect(rumour) => (subject, Some(rumour.by)),
            Update::Dead(rumour) => {
                self.retract(subject, Some(0));
                (subject, Some(rumour.by))
            }
        };
        self.remove(&topic);
        let full = self.queue.len() >= self.items_max;
        if full && let Some((_, last)) = self.queue.pop_last() {
            self.places.remove(&last.topic);
        }
        self.serial = self.serial.wrapping_sub(1);
        let place = (0, self.serial);
        self.places.insert(topic, place);
        self.queue.insert(place, Item { topic, bytes: update.wire_len(), update, source });
        full
    }

    /// Moves what fits into `room` bytes to `out` and counts it as sent to `to`. What was sent `sends_max` times goes.
    pub(crate) fn take(&mut self, to: &NodeId, mut room: usize, sends_max: u32, out: &mut Vec<Update>) {
        let mut taken = Vec::new();
        let mut misfits = 0;
        for (place, item) in &self.queue {
            if item.source.as_ref() == Some(to) || item.topic.0 == *to {
                continue;
            }
            let Some(rest) = room.checked_sub(item.bytes) else {
                misfits += 1;
                if misfits > MISFITS_MAX {
                    break;
                }
                continue;
            };
            room = rest;
            out.push(item.update.clone());
            taken.push(*place);
        }
        for place in taken {
            self.count_sent(place, sends_max);
        }
    }

    fn count_sent(&mut self, place: Place, sends_max: u32) {
        let Some(item) = self.queue.remove(&place) else { return };
        let (sent, serial) = (place.0 + 1, place.1);
        if sent >= sends_max {
            self.places.remove(&item.topic);
        } else {
            self.places.insert(item.topic, (sent, serial));
            self.queue.insert((sent, serial), item);
        }
    }

    /// Removes everything about `subject` from topic `from` on: `None` is all, `Some(0)` the rumours.
    fn retract(&mut self, subject: NodeId, from: Option<u64>) {
        let range = (subject, from)..=(subject, Some(u64::MAX));
        let topics: Vec<Topic> = self.places.range(range).map(|(topic, _)| *topic).collect();
        for topic in topics {
            self.remove(&topic);
        }
    }

    fn remove(&mut self, topic: &Topic) {
        if let Some(place) = self.places.remove(topic) {
            self.queue.remove(&place);
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
