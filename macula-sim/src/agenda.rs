//! What is going to happen: events in the order of time and, at one moment, in the order in which they were put down.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use macula_proto::Timestamp;

/// The event heap. Only short entries move about in it; the events stay in their slots.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
    serial: u64,
}

/// When, as which one put down, and in which slot.
type Entry = (Timestamp, u64, u32);

impl<E> Agenda<E> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), serial: 0 }
    }

    /// Puts an event down.
    pub(crate) fn push(&mut self, at: Timestamp, event: E) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(event);
        self.serial += 1;
        self.heap.push(Reverse((at, self.serial, slot)));
    }

    /// Takes the next event if it is due by `until`.
    pub(crate) fn pop(&mut self, until: Timestamp) -> Option<(Timestamp, E)> {
        if self.heap.peek()?.0.0 > until {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot as usize].take().map(|event| (at, event))
    }
}

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
