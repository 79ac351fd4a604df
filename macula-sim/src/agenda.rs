//! What is going to happen: events in the order of time and, at one moment, in the order in which they were put down.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use macula_proto::Timestamp;

/// The event heap.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Entry<E>>,
    serial: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Timestamp,
    serial: u64,
    event: E,
}

impl<E> Agenda<E> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), serial: 0 }
    }

    /// Puts an event down.
    pub(crate) fn push(&mut self, at: Timestamp, event: E) {
        self.serial += 1;
        self.heap.push(Entry { at, serial: self.serial, event });
    }

    /// Takes the next event if it is due by `until`.
    pub(crate) fn pop(&mut self, until: Timestamp) -> Option<(Timestamp, E)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

impl<E> Ord for Entry<E> {
    /// The heap gives its greatest first: that is to be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_then_of_putting_down() {
        let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
        let mut agenda = Agenda::new();
        for (seconds, event) in [(2, 'c'), (1, 'a'), (2, 'd'), (1, 'b'), (9, 'z')] {
            agenda.push(at(seconds), event);
        }
        let order: String = std::iter::from_fn(|| agenda.pop(at(5))).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd", "what is due later stays");
    }
}
