//! What one node knows of one publisher's messages: which came, which are missing, and who has those.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use macula_proto::{NodeId, Timestamp};

use super::effect::{HOPS_UNKNOWN, Parcel, SPAN_NUMBERS_MAX, Span, StreamId};
use super::stage::Stage;

/// How far back numbers are remembered one by one; all before count as seen.
const REMEMBERED: u64 = 1_024;

/// Most nodes remembered that have a missing message.
const HOLDERS_MAX: usize = 6;

/// Of how many repetitions a message is part.
const REPEATS: usize = 3;

/// Which numbers came by the tree.
#[derive(Debug)]
pub(super) struct Seen {
    /// All below count as seen.
    floor: u64,
    above: BTreeSet<u64>,
}

/// A message that is known to exist, and did not come yet.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) since: Timestamp,
    /// When it is asked for (again).
    pub(super) due: Timestamp,
    /// Who says to have it.
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    peer: NodeId,
    hops: u32,
    asked: u32,
}

/// Whether messages come by themselves.
#[derive(Debug)]
pub(super) struct Feed {
    /// Who last pushed a new one.
    pub(super) feeder: Option<NodeId>,
    /// The link to that one is over.
    pub(super) is_orphaned: bool,
    /// When somebody who pushes to this node last did, or said why not.
    at: Timestamp,
    /// How often in a row that was not in time.
    missed: u32,
    /// How often messages had to be asked for since one was pushed.
    pulled: u32,
}

/// How often in a row nobody may push, or say why not, before the tree is mended.
const MISSED_MAX: u32 = 2;

/// How often messages may have to be asked for, whatever is said: those who push to each other may all be cut off together.
const PULLED_MAX: u32 = 5;

#[derive(Debug)]
pub(super) struct Stream<M> {
    pub(super) run: u64,
    /// The run before this one, of which stragglers may come.
    pub(super) superseded: Option<u64>,
    /// `None` until the first message came.
    pub(super) seen: Option<Seen>,
    pub(super) missing: BTreeMap<u64, Missing>,
    pub(super) stage: Stage<M>,
    /// With which number it began here.
    pub(super) began: u64,
    /// When a message last came.
    pub(super) heard: Timestamp,
    pub(super) feed: Feed,
    /// Who answered a request that is still to be judged.
    pub(super) answered: Option<NodeId>,
    /// The highest numbers at the last repetitions, the oldest first.
    repeated: VecDeque<u64>,
}

impl Seen {
    pub(super) fn new(floor: u64) -> Self {
        Self { floor, above: BTreeSet::new() }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        number < self.floor || self.above.contains(&number)
    }

    pub(super) fn highest(&self) -> u64 {
        self.above.last().copied().unwrap_or(self.floor.saturating_sub(1))
    }

    pub(super) fn insert(&mut self, number: u64) {
        if number >= self.floor {
            self.above.insert(number);
        }
        self.floor = self.floor.max(self.highest().saturating_sub(REMEMBERED));
        self.above = self.above.split_off(&self.floor);
        while self.above.remove(&self.floor) {
            self.floor += 1;
        }
    }
}

impl Feed {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { feeder: None, is_orphaned: false, at: now, missed: 0, pulled: 0 }
    }

    /// Somebody pushed, or is about to.
    pub(super) fn fed_by(&mut self, now: Timestamp, feeder: NodeId) {
        *self = Self { feeder: Some(feeder), is_orphaned: false, at: now, missed: 0, pulled: 0 };
    }

    /// Somebody who pushes said why nothing came.
    pub(super) fn is_alive(&mut self, now: Timestamp) {
        (self.at, self.missed) = (now, 0);
    }

    /// A link is over.
    pub(super) fn lose(&mut self, peer: &NodeId) {
        if self.feeder.as_ref() == Some(peer) {
            (self.feeder, self.is_orphaned) = (None, true);
        }
    }

    /// Messages had to be asked for. Whether it seems that none will be pushed any more: nobody did, or said why not,
    /// `within` so long.
    pub(super) fn is_cut_off(&mut self, now: Timestamp, within: Duration) -> bool {
        self.pulled += 1;
        self.missed = if now.since(self.at) <= within { 0 } else { self.missed + 1 };
        self.missed >= MISSED_MAX || self.pulled >= PULLED_MAX
    }
}

impl Missing {
    pub(super) fn new(now: Timestamp, due: Timestamp) -> Self {
        Self { since: now, due, holders: Vec::new() }
    }

    /// Somebody has it, to whom it was sent so many times.
    pub(super) fn held_by(&mut self, peer: NodeId, hops: u32) {
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.peer == peer) {
            holder.hops = holder.hops.min(hops);
        } else if self.holders.len() < HOLDERS_MAX {
            self.holders.push(Holder { peer, hops, asked: 0 });
        }
    }

    /// Whom to ask now: all in turn, and who is close to the publisher before others.
    pub(super) fn next_holder(&mut self) -> Option<NodeId> {
        let next = self.holders.iter_mut().min_by_key(|holder| (holder.asked, holder.hops))?;
        next.asked += 1;
        Some(next.peer)
    }

    pub(super) fn forget(&mut self, peer: &NodeId) {
        self.holders.retain(|holder| holder.peer != *peer);
    }
}

impl<M> Stream<M> {
    pub(super) fn new(now: Timestamp, run: u64, held_max: usize) -> Self {
        Self {
            run,
            superseded: None,
            seen: None,
            missing: BTreeMap::new(),
            stage: Stage::new(held_max),
            began: 0,
            heard: now,
            feed: Feed::new(now),
            answered: None,
            repeated: VecDeque::new(),
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.contains(number))
    }

    /// Whether a number that somebody announced can be one of this stream, as far as its messages tell.
    pub(super) fn is_plausible(&self, number: u64) -> bool {
        match &self.seen {
            Some(seen) => number <= seen.highest() + SPAN_NUMBERS_MAX,
            None => self.missing.is_empty() || self.missing.contains_key(&number),
        }
    }

    /// Notes a message that came by the tree. Returns the numbers before it of which this node has not heard.
    pub(super) fn arrived(&mut self, parcel: &Parcel<M>, begins: u64) -> Vec<u64> {
        let number = parcel.number;
        if self.seen.is_none() {
            self.began = begins.min(number);
            self.repeated.push_back(self.began.saturating_sub(1));
        }
        let seen = self.seen.get_or_insert_with(|| Seen::new(self.began));
        let highest = seen.highest();
        seen.insert(number);
        let seen: &Seen = seen;
        let earliest = (highest + 1).max(number.saturating_sub(SPAN_NUMBERS_MAX)).max(self.stage.floor());
        self.missing.retain(|known, _| !seen.contains(*known));
        (earliest..number).filter(|gap| !self.missing.contains_key(gap) && !seen.contains(*gap)).collect()
    }

    /// When the next missing message is due to be asked for.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.missing.values().map(|missing| missing.due).min()
    }

    /// What came since a few repetitions ago, to be announced again; and notes that it is.
    pub(super) fn repeat(&mut self, stream: StreamId) -> Vec<Span> {
        let Some(seen) = &self.seen else { return Vec::new() };
        let highest = seen.highest();
        let oldest = self.repeated.front().copied().unwrap_or(0);
        self.repeated.push_back(highest);
        if self.repeated.len() > REPEATS {
            self.repeated.pop_front();
        }
        let first = (oldest + 1).max(highest.saturating_sub(SPAN_NUMBERS_MAX - 1));
        let mut spans: Vec<Span> = Vec::new();
        for number in (first..=highest).filter(|number| seen.contains(*number)) {
            match spans.last_mut() {
                Some(span) if span.last + 1 == number => span.last = number,
                _ => {
                    let hops = HOPS_UNKNOWN;
                    spans.push(Span { stream, first: number, last: number, hops, late: false });
                }
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn what_was_seen_is_remembered_in_bounded_room() {
        let mut seen = Seen::new(5);
        for number in [7, 5, 9] {
            seen.insert(number);
        }
        let known: Vec<u64> = (0..12).filter(|number| seen.contains(*number)).collect();
        assert_eq!((known, seen.highest()), (vec![0, 1, 2, 3, 4, 5, 7, 9], 9));
        seen.insert(9_000);
        assert!(seen.contains(7_000) && !seen.contains(8_500) && seen.above.len() <= REMEMBERED as usize);
        (9_001..20_000).for_each(|number| seen.insert(number));
        assert!(seen.above.len() <= REMEMBERED as usize);
    }

    #[test]
    fn those_who_have_a_message_are_asked_in_turn() {
        let mut missing = Missing::new(Timestamp::ZERO, Timestamp::ZERO);
        assert_eq!(missing.next_holder(), None);
        (1..20).for_each(|n| missing.held_by(id(n), 10 - u32::from(n.min(9))));
        let asked: Vec<_> = (0..7).filter_map(|_| missing.next_holder()).collect();
        assert_eq!(asked, [6, 5, 4, 3, 2, 1, 6].map(id));
        missing.forget(&id(5));
        assert_eq!(missing.next_holder(), Some(id(4)));
    }

    #[test]
    fn gaps_are_found_from_where_the_stream_begins() {
        let stream = StreamId { origin: id(1), run: 1 };
        let parcel =
            |number| Parcel { stream, number, since: 1, continued: false, hops: 0, answer: false, body: () };
        let mut known = Stream::new(Timestamp::ZERO, 1, 10);
        assert_eq!(known.arrived(&parcel(5), 3), [3, 4]);
        assert_eq!(known.arrived(&parcel(7), 7), [6]);
        assert!(known.has(2) && !known.has(3) && known.has(5));
        known.missing.insert(3, Missing::new(Timestamp::ZERO, Timestamp::ZERO + Duration::from_secs(1)));
        known.arrived(&parcel(3), 3);
        assert!(known.missing.is_empty() && known.is_plausible(200) && !known.is_plausible(2_000));
    }

    #[test]
    fn what_came_lately_is_repeated_a_few_times() {
        let stream = StreamId { origin: id(1), run: 1 };
        let parcel =
            |number| Parcel { stream, number, since: 1, continued: false, hops: 0, answer: false, body: () };
        let mut known = Stream::new(Timestamp::ZERO, 1, 10);
        for number in [11, 12, 14] {
            known.arrived(&parcel(number), 11);
        }
        let spans = |known: &mut Stream<()>| -> Vec<(u64, u64)> {
            known.repeat(stream).iter().map(|span| (span.first, span.last)).collect()
        };
        for _ in 0..REPEATS {
            assert_eq!(spans(&mut known), [(11, 12), (14, 14)]);
        }
        known.arrived(&parcel(15), 1);
        assert_eq!(spans(&mut known), [(15, 15)]);
    }
}
