//! Deadlines by name: setting one again moves it.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;

/// The timers of one machine, each known by what it is for. Time comes in with each call.
///
/// ```
/// use std::time::Duration;
/// use macula_proto::{Timers, Timestamp};
///
/// let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
/// let mut timers = Timers::default();
/// timers.set("ping", at(5));
/// timers.set("ping", at(7));
/// assert_eq!((timers.next(), timers.pop(at(6)), timers.pop(at(7))), (Some(at(7)), None, Some("ping")));
/// ```
#[derive(Debug)]
pub struct Timers<T> {
    due: BTreeMap<T, Timestamp>,
    order: BTreeSet<(Timestamp, T)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<T: Ord + Copy> Timers<T> {
    /// Fires `timer` at `at`, and no more when it was set for before.
    pub fn set(&mut self, timer: T, at: Timestamp) {
        self.cancel(timer);
        self.due.insert(timer, at);
        self.order.insert((at, timer));
    }

    /// Fires `timer` at `at`, unless it is due sooner anyway.
    pub fn set_by(&mut self, timer: T, at: Timestamp) {
        if self.due.get(&timer).is_none_or(|due| *due > at) {
            self.set(timer, at);
        }
    }

    /// Fires `timer` no more.
    pub fn cancel(&mut self, timer: T) {
        if let Some(at) = self.due.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Timestamp) -> Option<T> {
        let (_, timer) = *self.order.first().filter(|(at, _)| *at <= now)?;
        self.cancel(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_timer_fires_once_at_its_last_setting() {
        let mut timers = Timers::default();
        timers.set('a', at(1));
        timers.set('a', at(5));
        timers.set('b', at(3));
        assert_eq!((timers.next(), timers.pop(at(2))), (Some(at(3)), None));
        assert_eq!((timers.pop(at(9)), timers.pop(at(9)), timers.pop(at(9))), (Some('b'), Some('a'), None));
    }

    #[test]
    fn set_by_only_brings_forward() {
        let mut timers = Timers::default();
        timers.set_by('a', at(5));
        timers.set_by('a', at(9));
        assert_eq!(timers.next(), Some(at(5)));
        timers.set_by('a', at(2));
        assert_eq!(timers.next(), Some(at(2)));
    }
}
