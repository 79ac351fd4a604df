//! The network: which links there are, and what becomes of each message.
//!
//! ```text
//!                 dialled               one end died, and forgot
//!   no link ───────────────▶ live ───────────────────────────────▶ half-open
//!      ▲                      │ idle, evicted, or long silence         │ long silence, or the restarted end
//!      └──────────────────────┴────────────────────────────────────────┘ says that it knows no such link
//! ```
//!
//! Each end has its own belief; a link is live while both believe in it.

use std::time::Duration;

use macula_proto::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::NodeIndex;
use crate::faults::{Faults, Partition};

/// What a lost packet of a connection costs until it is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

/// Repetitions after which a packet gets through in any case: loss alone does not break a connection.
const REPEATS_MAX: u32 = 8;

/// Links and the fate of messages.
#[derive(Debug)]
pub(crate) struct Network {
    faults: Faults,
    /// By node: the ends of links that it believes in, by peer.
    ends: Vec<Vec<End>>,
    rng: StdRng,
}

/// The smaller one first.
type Pair = (NodeIndex, NodeIndex);

/// One end's belief in a link.
#[derive(Clone, Copy, Debug)]
struct End {
    peer: NodeIndex,
    /// When either end last sent something.
    used: Timestamp,
    /// When the last datagram sent from here arrives.
    last: Timestamp,
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives, perhaps twice.
    Arrives { at: Timestamp, again: Option<Timestamp> },
    /// It is lost.
    Lost,
    /// There is no link.
    NoLink,
    /// The other end does not know the link.
    HalfOpen,
}

impl Network {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, ends: Vec::new(), rng: StdRng::seed_from_u64(seed) }
    }

    pub(crate) const fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(crate) const fn faults_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// Whether `one` believes to be linked with `other`.
    pub(crate) fn is_linked(&self, one: NodeIndex, other: NodeIndex) -> bool {
        self.end(one, other).is_some()
    }

    /// Whether both ends believe in the link.
    pub(crate) fn is_live(&self, one: NodeIndex, other: NodeIndex) -> bool {
        self.is_linked(one, other) && self.is_linked(other, one)
    }

    /// A fresh link, in place of a half-open one if there was.
    pub(crate) fn link(&mut self, now: Timestamp, one: NodeIndex, other: NodeIndex) {
        for (node, peer) in [(one, other), (other, one)] {
            if self.ends.len() <= node.place() {
                self.ends.resize_with(node.place() + 1, Vec::new);
            }
            let (ends, fresh) = (&mut self.ends[node.place()], End { peer, used: now, last: now });
            match ends.binary_search_by_key(&peer, |end| end.peer) {
                Ok(at) => ends[at] = fresh,
                Err(at) => ends.insert(at, fresh),
            }
        }
    }

    /// `one` does not believe in its link with `other` any more.
    pub(crate) fn forget(&mut self, one: NodeIndex, other: NodeIndex) {
        if let Some(ends) = self.ends.get_mut(one.place())
            && let Ok(at) = ends.binary_search_by_key(&other, |end| end.peer)
        {
            ends.remove(at);
        }
    }

    /// A node died, and with it all that it knew. Returns those that still believe in a link with it.
    pub(crate) fn abandon(&mut self, node: NodeIndex) -> Vec<NodeIndex> {
        let ends = self.ends.get_mut(node.place()).map(std::mem::take).unwrap_or_default();
        let peers = ends.into_iter().map(|end| end.peer);
        peers.filter(|peer| self.is_linked(*peer, node)).collect()
    }

    /// With whom a node believes to be linked.
    pub(crate) fn peers(&self, node: NodeIndex) -> Vec<NodeIndex> {
        self.ends_of(node).iter().map(|end| end.peer).collect()
    }

    /// How many links a node has.
    pub(crate) fn degree(&self, node: NodeIndex) -> usize {
        self.ends_of(node).len()
    }

    /// The other end of the link of `node` that was not used for longest.
    pub(crate) fn least_used(&self, node: NodeIndex) -> Option<NodeIndex> {
        self.ends_of(node).iter().min_by_key(|end| end.used).map(|end| end.peer)
    }

    /// Links across a partition, both ends.
    pub(crate) fn across(&self, partition: &Partition) -> Vec<Pair> {
        self.links(|one, end| partition.separates(one, end.peer))
    }

    /// Links that nobody used since `since`, both ends.
    pub(crate) fn idle(&self, since: Timestamp) -> Vec<Pair> {
        self.links(|_, end| end.used < since)
    }

    /// Links that somebody believes in, each once.
    fn links(&self, wanted: impl Fn(NodeIndex, &End) -> bool) -> Vec<Pair> {
        let nodes = NodeIndex::each(0..self.ends.len() as u32);
        let ends = nodes.flat_map(|node| self.ends_of(node).iter().map(move |end| (node, end)));
        let once = |(node, end): &(NodeIndex, &End)| *node < end.peer || !self.is_linked(end.peer, *node);
        let wanted = ends.filter(|(node, end)| wanted(*node, end)).filter(once);
        wanted.map(|(node, end)| pair(node, end.peer)).collect()
    }

    fn ends_of(&self, node: NodeIndex) -> &[End] {
        self.ends.get(node.place()).map_or(&[], Vec::as_slice)
    }

    fn end(&self, node: NodeIndex, peer: NodeIndex) -> Option<&End> {
        let ends = self.ends_of(node);
        ends.binary_search_by_key(&peer, |end| end.peer).ok().map(|at| &ends[at])
    }

    fn end_mut(&mut self, node: NodeIndex, peer: NodeIndex) -> Option<&mut End> {
        let ends = self.ends.get_mut(node.place())?;
        ends.binary_search_by_key(&peer, |end| end.peer).ok().map(|at| &mut ends[at])
    }

    /// Something is sent over a link, which both ends remember.
    fn touch(&mut self, now: Timestamp, from: NodeIndex, to: NodeIndex) {
        for (node, peer) in [(from, to), (to, from)] {
            if let Some(end) = self.end_mut(node, peer) {
                end.used = now;
            }
        }
    }

    /// Whether a partition stops what `from` sends to `to` now.
    pub(crate) fn is_cut(&self, now: Timestamp, from: NodeIndex, to: NodeIndex) -> bool {
        self.faults.partitions.iter().any(|cut| cut.time.contains(&now) && cut.stops(from, to))
    }

    /// Whether a connection between the two can work now: it needs both directions.
    pub(crate) fn is_open(&self, now: Timestamp, one: NodeIndex, other: NodeIndex) -> bool {
        !self.is_cut(now, one, other) && !self.is_cut(now, other, one)
    }

    /// What becomes of a datagram.
    pub(crate) fn datagram(&mut self, now: Timestamp, from: NodeIndex, to: NodeIndex) -> Fate {
        let cut = self.is_cut(now, from, to);
        let lost = self.happens(self.faults.loss);
        let (delay, ordered) = (self.latency(), !self.happens(self.faults.reordering));
        let again = self.happens(self.faults.duplication).then(|| now + self.latency() * 2);
        let live = self.is_linked(to, from);
        if !self.is_linked(from, to) {
            return Fate::NoLink;
        }
        self.touch(now, from, to);
        if cut || lost {
            return Fate::Lost;
        }
        if !live {
            return Fate::HalfOpen;
        }
        let mut at = now + delay;
        if ordered && let Some(end) = self.end_mut(from, to) {
            at = at.max(end.last);
            end.last = at;
        }
        Fate::Arrives { at, again }
    }

    /// How long a message of a connection takes, repetitions included.
    pub(crate) fn stream_delay(&mut self, now: Timestamp, from: NodeIndex, to: NodeIndex) -> Duration {
        self.touch(now, from, to);
        let mut delay = self.latency();
        for _ in 0..REPEATS_MAX {
            if !self.happens(self.faults.loss) {
                break;
            }
            delay += REPEAT_AFTER;
        }
        delay
    }

    /// The mean of two even draws: around the middle more often than at the ends. Whole nanoseconds, so that every
    /// machine computes the same.
    fn latency(&mut self) -> Duration {
        let Faults { latency_min, latency_mean, .. } = self.faults;
        let spread =
            u64::try_from(latency_mean.saturating_sub(latency_min).as_nanos()).unwrap_or(u64::MAX / 4);
        let extra = self.rng.random_range(0..=spread) + self.rng.random_range(0..=spread);
        latency_min + Duration::from_nanos(extra)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random_bool(share.min(1.0))
    }
}

fn pair(one: NodeIndex, other: NodeIndex) -> Pair {
    (one.min(other), one.max(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeIndex = NodeIndex(0);
    const B: NodeIndex = NodeIndex(1);

    fn linked(faults: Faults) -> Network {
        let mut network = Network::new(faults, 7);
        network.link(Timestamp::ZERO, A, B);
        network
    }

    fn arrivals(network: &mut Network, count: usize) -> Vec<Timestamp> {
        let fates = (0..count).map(|_| network.datagram(Timestamp::ZERO, A, B));
        fates.filter_map(|fate| if let Fate::Arrives { at, .. } = fate { Some(at) } else { None }).collect()
    }

    #[test]
    fn datagrams_keep_their_order_unless_reordering_is_asked_for() {
        assert!(arrivals(&mut linked(Faults::default()), 200).is_sorted());
        let reordering = Faults { reordering: 0.5, ..Faults::default() };
        assert!(!arrivals(&mut linked(reordering), 200).is_sorted());
    }

    #[test]
    fn as_many_are_lost_as_asked_for() {
        let count = arrivals(&mut linked(Faults { loss: 0.2, ..Faults::default() }), 10_000).len();
        assert!((7_800..8_200).contains(&count), "{count}");
    }

    #[test]
    fn latency_has_the_mean_asked_for() {
        let mut network = linked(Faults { reordering: 1.0, ..Faults::default() });
        let sum: Duration = arrivals(&mut network, 10_000).iter().map(|at| at.since_start()).sum();
        let mean = sum / 10_000;
        assert!((9_800..10_200).contains(&mean.as_micros()), "{mean:?}");
    }

    #[test]
    fn a_link_is_live_while_both_ends_believe_in_it() {
        let mut network = linked(Faults::default());
        assert!(network.is_live(A, B));
        assert_eq!(network.abandon(A), [B]);
        assert_eq!((network.is_linked(A, B), network.is_linked(B, A)), (false, true));
        assert_eq!(network.datagram(Timestamp::ZERO, B, A), Fate::HalfOpen);
        assert_eq!(network.datagram(Timestamp::ZERO, A, B), Fate::NoLink);
        network.forget(B, A);
        assert_eq!(network.datagram(Timestamp::ZERO, B, A), Fate::NoLink);
        assert_eq!((network.degree(A), network.degree(B)), (0, 0));
    }

    #[test]
    fn the_link_that_was_not_used_for_longest_is_known() {
        let mut network = linked(Faults::default());
        let (c, later) = (NodeIndex(2), Timestamp::ZERO + Duration::from_secs(1));
        network.link(later, A, c);
        assert_eq!(network.least_used(A), Some(B));
        network.datagram(later + Duration::from_secs(1), B, A);
        assert_eq!(network.least_used(A), Some(c));
    }
}
