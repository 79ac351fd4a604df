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
    marks: BTreeMap<(NodeId, Realm, Name), Mark>,
    entries_max: usize,
    heard: u64,
}

#[derive(Debug)]
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
        Self { marks: BTreeMap::new(), entries_max: entries_max.max(2), heard: 0 }
    }

    /// Looks at a message and remembers it.
    pub(crate) fn check(&mut self, content: &Content) -> Verdict {
        self.heard += 1;
        let key = (content.publisher, content.realm.clone(), content.topic.clone());
        let heard = self.heard;
        if let Some(mark) = self.marks.get_mut(&key) {
            return mark.check(content, heard);
        }
        if self.marks.len() >= self.entries_max {
            self.forget_half();
        }
        let mark = Mark { epoch: content.epoch, superseded: None, sequence: content.sequence, heard };
        self.marks.insert(key, mark);
        Verdict::Fresh
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.marks.len()
    }

    fn forget_half(&mut self) {
        let mut ages: Vec<u64> = self.marks.values().map(|mark| mark.heard).collect();
        let middle = ages.len() / 2;
        let (_, &mut median, _) = ages.select_nth_unstable(middle);
        self.marks.retain(|_, mark| mark.heard > median);
    }
}

impl Mark {
    fn check(&mut self, content: &Content, heard: u64) -> Verdict {
        if content.epoch == self.epoch {
            if content.sequence <= self.sequence {
                return Verdict::Stale;
            }
        } else if self.superseded == Some(content.epoch) {
            return Verdict::Stale;
        } else {
            self.superseded = Some(std::mem::replace(&mut self.epoch, content.epoch));
        }
        self.sequence = content.sequence;
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
