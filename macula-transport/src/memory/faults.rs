//! What the network does to what is sent over it.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// Faults of the whole network, or of one direction between two nodes. The default is a perfect network.
///
/// ```
/// use std::time::Duration;
/// use macula_transport::memory::Faults;
/// let rough = Faults { latency: Duration::from_millis(40), loss: 0.05, ..Faults::default() };
/// # assert_eq!(rough.duplication, 0.0);
/// ```
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Faults {
    /// Time from one node to the other, one way.
    pub latency: Duration,
    /// Added to `latency`, drawn evenly from zero to this for each packet.
    pub jitter: Duration,
    /// Share of packets lost, 0 to 1. A datagram is gone; a frame of a lane or stream comes later, after a
    /// retransmission. At 1 nothing passes, as in a partition.
    pub loss: f64,
    /// Share of datagrams that arrive twice, 0 to 1.
    pub duplication: f64,
    /// Share of datagrams that are held back long enough for later ones to overtake them, 0 to 1.
    pub reordering: f64,
    /// How many bytes a second one direction carries; `None`: any number.
    pub bandwidth_bytes_per_s: Option<u64>,
}

/// Retransmissions at most, for one frame: by then QUIC would have given up as well.
const RETRANSMISSIONS_MAX: u32 = 10;

/// Waits at least so long before a retransmission, whatever the latency.
const RETRANSMISSION_MIN: Duration = Duration::from_millis(25);

/// A datagram that is held back comes at most so much later, besides twice the latency and jitter.
const HELD_BACK_MAX: Duration = Duration::from_millis(20);

impl Faults {
    /// A local network: 0.2 ms, a little jitter, nothing lost.
    pub fn lan() -> Self {
        let (latency, jitter) = (Duration::from_micros(200), Duration::from_micros(100));
        Self { latency, jitter, ..Self::default() }
    }

    /// A wide-area network: 40 ms, 10 ms of jitter, 1 % lost, a few datagrams doubled or out of order.
    pub fn wan() -> Self {
        Self {
            latency: Duration::from_millis(40),
            jitter: Duration::from_millis(10),
            loss: 0.01,
            duplication: 0.002,
            reordering: 0.01,
            bandwidth_bytes_per_s: None,
        }
    }

    /// Whether nothing at all passes.
    pub(super) fn is_silent(&self) -> bool {
        self.loss >= 1.0
    }

    /// How long a frame of a lane or stream is under way.
    pub(super) fn reliable_trip(&self, rng: &mut StdRng) -> Duration {
        let mut trip = self.trip(rng);
        let mut wait = (2 * (self.latency + self.jitter)).max(RETRANSMISSION_MIN);
        for _ in 0..RETRANSMISSIONS_MAX {
            if !draw(rng, self.loss) {
                break;
            }
            trip += wait;
            wait *= 2;
        }
        trip
    }

    /// When the copies of a datagram arrive, counted from now: none, one or two.
    pub(super) fn datagram_trips(&self, rng: &mut StdRng) -> [Option<Duration>; 2] {
        let copies = 1 + usize::from(draw(rng, self.duplication));
        let mut trips = [None; 2];
        for trip in trips.iter_mut().take(copies) {
            if !draw(rng, self.loss) {
                *trip = Some(self.trip(rng) + self.held_back(rng));
            }
        }
        trips
    }

    /// How long `bytes` occupy the line.
    pub(super) fn transmission(&self, bytes: usize) -> Duration {
        match self.bandwidth_bytes_per_s {
            Some(bandwidth) => Duration::from_secs_f64(bytes as f64 / bandwidth.max(1) as f64),
            None => Duration::ZERO,
        }
    }

    fn trip(&self, rng: &mut StdRng) -> Duration {
        self.latency + evenly(rng, self.jitter)
    }

    fn held_back(&self, rng: &mut StdRng) -> Duration {
        if !draw(rng, self.reordering) {
            return Duration::ZERO;
        }
        let most = 2 * (self.latency + self.jitter) + HELD_BACK_MAX;
        Duration::from_millis(1) + evenly(rng, most)
    }
}

fn draw(rng: &mut StdRng, share: f64) -> bool {
    // A perfect network consumes no draws, so that adding traffic to it does not shift the others' faults.
    share > 0.0 && rng.random_bool(share.min(1.0))
}

fn evenly(rng: &mut StdRng, most: Duration) -> Duration {
    if most.is_zero() {
        return Duration::ZERO;
    }
    let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(0..=most_ns))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn arrivals(faults: &Faults, seed: u64) -> Vec<[Option<Duration>; 2]> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..2000).map(|_| faults.datagram_trips(&mut rng)).collect()
    }

    #[test]
    fn a_perfect_network_delivers_once_and_at_once() {
        assert!(arrivals(&Faults::default(), 1).iter().all(|trips| *trips == [Some(Duration::ZERO), None]));
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = Faults { reordering: 0.1, duplication: 0.1, ..Faults::wan() };
        assert_eq!(arrivals(&faults, 7), arrivals(&faults, 7));
        assert_ne!(arrivals(&faults, 7), arrivals(&faults, 8));
    }

    #[test]
    fn shares_are_met_roughly() {
        let faults = Faults { loss: 0.2, duplication: 0.1, ..Faults::default() };
        let copies: usize = arrivals(&faults, 3).iter().map(|trips| trips.iter().flatten().count()).sum();
        // 2000 × 1.1 × 0.8 = 1760 expected.
        assert!((1650..1870).contains(&copies), "{copies}");
    }

    #[test]
    fn a_loss_delays_what_is_reliable_and_never_for_ever() {
        let mut rng = StdRng::seed_from_u64(5);
        let faults = Faults { latency: Duration::from_millis(10), loss: 0.5, ..Faults::default() };
        let trips: Vec<_> = (0..1000).map(|_| faults.reliable_trip(&mut rng)).collect();
        assert!(trips.contains(&faults.latency), "some come through at once");
        assert!(trips.iter().any(|trip| *trip > 3 * faults.latency), "some are retransmitted");
        assert!(trips.iter().all(|trip| *trip < Duration::from_secs(60)));
    }

    #[test]
    fn bandwidth_is_bytes_a_second() {
        let faults = Faults { bandwidth_bytes_per_s: Some(1000), ..Faults::default() };
        assert_eq!(faults.transmission(250), Duration::from_millis(250));
        assert_eq!(Faults::default().transmission(1 << 30), Duration::ZERO);
    }
}
