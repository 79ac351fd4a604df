//! What goes wrong on the way from one node to another: all of it in one struct of options.

use std::ops::Range;
use std::time::Duration;

use macula_proto::Timestamp;

use crate::NodeIndex;

/// How the network misbehaves. [`Default`] is a healthy wide-area network.
///
/// Datagrams suffer all of it. What travels on a connection (streams, dials) is repeated when it gets lost, so there
/// loss only costs time; partitions stop it as well.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// No message takes less time than this, one way.
    pub latency_min: Duration,
    /// What it takes on average, one way; at most twice that, less `latency_min`. At least `latency_min`.
    pub latency_mean: Duration,
    /// Share of messages that get lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that arrive twice, 0 to 1.
    pub duplication: f64,
    /// Share of datagrams that may arrive before or after their turn, 0 to 1. All others keep their order on a link.
    pub reordering: f64,
    /// Who is cut off from whom, and when.
    pub partitions: Vec<Partition>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_millis(2),
            latency_mean: Duration::from_millis(10),
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            partitions: Vec::new(),
        }
    }
}

/// Some nodes are cut off from all others for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// From when until when.
    pub time: Range<Timestamp>,
    /// Who is on one side; everybody else is on the other.
    pub side: Range<NodeIndex>,
    /// Which messages are stopped.
    pub stops: Stops,
}

/// Which messages a [`Partition`] stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stops {
    /// Those from and to the side.
    Both,
    /// Those that come from the side.
    Outgoing,
    /// Those that go to the side.
    Incoming,
}

impl Partition {
    /// Whether it stops what `from` sends to `to`, while it lasts.
    pub fn stops(&self, from: NodeIndex, to: NodeIndex) -> bool {
        let (leaves, enters) = (self.side.contains(&from), self.side.contains(&to));
        match self.stops {
            Stops::Both => leaves != enters,
            Stops::Outgoing => leaves && !enters,
            Stops::Incoming => enters && !leaves,
        }
    }

    /// Whether the two are on different sides.
    pub fn separates(&self, one: NodeIndex, other: NodeIndex) -> bool {
        self.side.contains(&one) != self.side.contains(&other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_way_partition_stops_one_way() {
        let node = NodeIndex;
        let with =
            |stops| Partition { time: Timestamp::ZERO..Timestamp::ZERO, side: node(0)..node(2), stops };
        let stopped = |stops| {
            let partition = with(stops);
            [(0, 5), (5, 0), (0, 1), (5, 6)].map(|(from, to)| partition.stops(node(from), node(to)))
        };
        assert_eq!(stopped(Stops::Both), [true, true, false, false]);
        assert_eq!(stopped(Stops::Outgoing), [true, false, false, false]);
        assert_eq!(stopped(Stops::Incoming), [false, true, false, false]);
    }
}
