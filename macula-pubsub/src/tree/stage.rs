//! The order of one stream: what comes out of turn waits for what is missing before it.
//!
//! ```text
//!   by the tree ──┐
//!                 ├─▶ held ──▶ next, next + 1, … ──▶ delivered
//!   directly  ────┘    │
//!                      └── too many wait, or what is missing was given up: the gap is skipped
//! ```

use std::collections::BTreeMap;

use super::effect::Parcel;

#[derive(Debug)]
pub(super) struct Stage<M> {
    /// The number to be delivered next; `None` while it is not known where the stream begins.
    next: Option<u64>,
    /// `None`: given up.
    held: BTreeMap<u64, Option<Parcel<M>>>,
    held_max: usize,
}

impl<M> Stage<M> {
    pub(super) fn new(held_max: usize) -> Self {
        Self { next: None, held: BTreeMap::new(), held_max: held_max.max(1) }
    }

    pub(super) fn is_open(&self) -> bool {
        self.next.is_some()
    }

    /// From here on things are delivered; what is held before is not.
    pub(super) fn open(&mut self, next: u64) {
        if self.next.is_none() {
            self.next = Some(next);
            self.held = self.held.split_off(&next);
        }
    }

    /// The stream begins with the first that is held.
    pub(super) fn open_at_first(&mut self) {
        if let Some(first) = self.held.keys().next() {
            self.open(*first);
        }
    }

    /// The stream begins with this number, or with the first that is held if that is lower.
    pub(super) fn open_by(&mut self, number: u64) {
        let first = self.held.keys().next().copied().unwrap_or(number);
        self.open(first.min(number));
    }

    /// The numbers before this one that are waited for.
    pub(super) fn gaps_before(&self, number: u64) -> Vec<u64> {
        let first = self.next.unwrap_or(number).max(number.saturating_sub(self.held_max as u64));
        (first..number).filter(|gap| !self.held.contains_key(gap)).collect()
    }

    /// Takes a message; `false` if it is there, or was delivered.
    pub(super) fn put(&mut self, parcel: Parcel<M>) -> bool {
        let number = parcel.number;
        let is_new =
            self.next.is_none_or(|next| number >= next) && self.held.get(&number).is_none_or(Option::is_none);
        if is_new {
            self.held.insert(number, Some(parcel));
        }
        if self.held.len() > self.held_max {
            self.open_at_first();
        }
        is_new
    }

    /// A number will not come.
    pub(super) fn give_up(&mut self, number: u64) {
        if self.next.is_none_or(|next| number >= next) {
            self.held.entry(number).or_insert(None);
        }
    }

    /// The next one in order. A gap is skipped when too many wait behind it.
    pub(super) fn take(&mut self) -> Option<Parcel<M>> {
        loop {
            let next = self.next?;
            let first = *self.held.keys().next()?;
            if first > next && self.held.len() <= self.held_max {
                return None;
            }
            let parcel = self.held.remove(&first)?;
            self.next = Some(first + 1);
            if parcel.is_some() {
                return parcel;
            }
        }
    }

    /// Below this, nothing is waited for any more.
    pub(super) fn floor(&self) -> u64 {
        self.next.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use macula_proto::NodeId;

    use super::*;
    use crate::tree::StreamId;

    fn put(stage: &mut Stage<()>, number: u64) -> bool {
        let stream = StreamId { origin: NodeId::from_bytes([1; 32]), run: 1 };
        stage.put(Parcel { stream, number, since: 1, continued: false, hops: 0, answer: false, body: () })
    }

    fn taken(stage: &mut Stage<()>) -> Vec<u64> {
        std::iter::from_fn(|| stage.take()).map(|parcel| parcel.number).collect()
    }

    #[test]
    fn what_comes_out_of_turn_waits() {
        let mut stage = Stage::new(10);
        stage.open(3);
        assert!(put(&mut stage, 5) && put(&mut stage, 4) && !put(&mut stage, 2) && !put(&mut stage, 5));
        assert!(taken(&mut stage).is_empty());
        put(&mut stage, 3);
        assert_eq!(taken(&mut stage), [3, 4, 5]);
    }

    #[test]
    fn what_is_given_up_is_skipped_unless_it_comes_after_all() {
        let mut stage = Stage::new(10);
        stage.open(1);
        put(&mut stage, 3);
        stage.give_up(2);
        assert!(taken(&mut stage).is_empty());
        stage.give_up(1);
        assert_eq!(taken(&mut stage), [3]);
        put(&mut stage, 6);
        stage.give_up(5);
        assert!(put(&mut stage, 5));
        put(&mut stage, 4);
        assert_eq!(taken(&mut stage), [4, 5, 6]);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut stage = Stage::new(3);
        stage.open(1);
        (2..5).for_each(|number| assert!(put(&mut stage, number)));
        assert!(taken(&mut stage).is_empty());
        put(&mut stage, 7);
        assert_eq!(taken(&mut stage), [2, 3, 4]);
        assert!(!put(&mut stage, 1));
    }

    #[test]
    fn it_is_closed_until_it_is_known_where_the_stream_begins() {
        let mut stage = Stage::new(10);
        for number in [9, 7, 8] {
            put(&mut stage, number);
        }
        assert!(taken(&mut stage).is_empty());
        stage.open(8);
        assert_eq!(taken(&mut stage), [8, 9]);
        let mut other = Stage::new(10);
        put(&mut other, 4);
        other.open_at_first();
        assert_eq!(taken(&mut other), [4]);
        let mut full = Stage::new(2);
        for number in [7, 5, 6] {
            put(&mut full, number);
        }
        assert_eq!(taken(&mut full), [5, 6, 7], "it opens when there is no more room");
    }
}
