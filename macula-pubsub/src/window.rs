//! What was already received: order kept, duplicates excluded.
//!
//! For each (publisher, realm, topic) the window remembers the highest sequence number of the publisher's
//! current epoch. A message passes if its number is higher. So among those messages that pass, order is the
//! publisher's and nothing passes twice; a message that comes late (over an older connection, say) is refused
//! rather than delivered out of order.
//!
//! The window is bounded. When it is full, the least recently heard half of its topics is forgotten: a duplicate
//! that comes after that passes.

use std::collections::BTreeMap;

use macula_proto::{Name, NodeId, Realm};

use crate::message::Content;

/// Whether a message is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fresh,
    /// Seen before, or later than one that was seen.
    Stale,
}

#[derive(Debug)]
pub(crate) struct Window {
    places: BTreeMap<(NodeId, Realm, Name), usize>,
    marks: Vec<Mark>,
    entries_max: usize,
    heard: u64,
    /// Counts how often places became invalid.
    forgotten: u64,
}

/// Where a topic's mark is, to find it again without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    at: usize,
    forgotten: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    epoch: u64,
    /// The epoch before this one: its stragglers are refused. Epochs have no order, so that a publisher whose
    /// clock was set back is not mute.
    superseded: Option<u64>,
    sequence: u64,
    heard: u64,
}

impl Window {
    /// A window of at most `entries_max` topics, each publisher's counted on its own.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            places: BTreeMap::new(),
            marks: Vec::new(),
            entries_max: entries_max.max(2),
            heard: 0,
            forgotten: 0,
        }
    }

    /// Looks at a message and remembers it.
    pub(crate) fn check(&mut self, content: &Content) -> Verdict {
        self.heard += 1;
        let key = (content.publisher, content.realm.clone(), content.topic.clone());
        let heard = self.heard;
        if let Some(at) = self.places.get(&key) {
            return self.marks[*at].check(content.epoch, content.sequence, heard);
        }
        if self.marks.len() >= self.entries_max {
            self.forget_half();
        }
        let mark = Mark { epoch: content.epoch, superseded: None, sequence: content.sequence, heard };
        self.places.insert(key, self.marks.len());
        self.marks.push(mark);
        Verdict::Fresh
    }

    /// Where the mark of a topic is that was checked before.
    pub(crate) fn place(&self, content: &Content) -> Option<Place> {
        let at = self.places.get(&(content.publisher, content.realm.clone(), content.topic.clone()))?;
        Some(Place { at: *at, forgotten: self.forgotten })
    }

    /// As [`check`](Self::check), for the topic at a place; `None` if the place is no longer valid.
    pub(crate) fn check_at(&mut self, place: Place, epoch: u64, sequence: u64) -> Option<Verdict> {
        if place.forgotten != self.forgotten {
            return None;
        }
        self.heard += 1;
        Some(self.marks[place.at].check(epoch, sequence, self.heard))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.marks.len()
    }

    fn forget_half(&mut self) {
        let mut ages: Vec<u64> = self.marks.iter().map(|mark| mark.heard).collect();
        let middle = ages.len() / 2;
        let (_, &mut median, _) = ages.select_nth_unstable(middle);
        let mut kept = Vec::with_capacity(self.marks.len());
        self.places.retain(|_, at| {
            let mark = self.marks[*at];
            let keep = mark.heard > median;
            if keep {
                *at = kept.len();
                kept.push(mark);
            }
            keep
        });
        self.marks = kept;
        self.forgotten += 1;
    }
}

impl Mark {
    fn check(&mut self, epoch: u64, sequence: u64, heard: u64) -> Verdict {
        if epoch == self.epoch {
            if sequence <= self.sequence {
                return Verdict::Stale;
            }
        } else if self.superseded == Some(epoch) {
            return Verdict::Stale;
        } else {
            self.superseded = Some(std::mem::replace(&mut self.epoch, epoch));
        }
        self.sequence = sequence;
        self.heard = heard;
        Verdict::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Payload;

    fn content(topic: &str, epoch: u64, sequence: u64) -> Content {
        Content {
            realm: Realm::default(),
            topic: topic.parse().unwrap(),
            payload: Payload::default(),
            publisher: NodeId::from_bytes([1; 32]),
            epoch,
            sequence,
            retained_as: 0,
        }
    }

    #[test]
    fn only_higher_numbers_pass_and_gaps_are_fine() {
        let mut window = Window::new(10);
        let verdicts: Vec<bool> = [5, 5, 4, 6, 9, 7]
            .map(|sequence| window.check(&content("a", 1, sequence)) == Verdict::Fresh)
            .to_vec();
        assert_eq!(verdicts, [true, false, false, true, true, false]);
        assert_eq!(window.check(&content("b", 1, 1)), Verdict::Fresh, "each topic counts for itself");
    }

    #[test]
    fn a_restarted_publisher_begins_anew_and_its_stragglers_are_refused() {
        let mut window = Window::new(10);
        window.check(&content("a", 9, 100));
        assert_eq!(window.check(&content("a", 3, 1)), Verdict::Fresh, "whatever the clock said at its start");
        assert_eq!(window.check(&content("a", 9, 101)), Verdict::Stale);
        assert_eq!(window.check(&content("a", 3, 2)), Verdict::Fresh);
    }

    #[test]
    fn it_stays_bounded_and_forgets_the_least_recently_heard() {
        let mut window = Window::new(4);
        window.check(&content("kept", 1, 1));
        for n in 0..100 {
            window.check(&content(&format!("t{n}"), 1, 1));
            assert_eq!(window.check(&content("kept", 1, n + 2)), Verdict::Fresh);
            assert!(window.len() <= 4);
        }
        assert_eq!(window.check(&content("kept", 1, 101)), Verdict::Stale);
    }
}
