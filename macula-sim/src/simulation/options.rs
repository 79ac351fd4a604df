//! What a simulation is made of.

use std::time::Duration;

use macula_dht::KademliaConfig;
use macula_membership::SwimConfig;

use super::directory::DirectoryFaults;
use crate::faults::Faults;

/// Everything that shapes a run, besides its seed. [`Default`] is production's configuration over a healthy network.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of every node's membership.
    pub swim: SwimConfig,
    /// Of every node's directory.
    pub kademlia: KademliaConfig,
    /// Which layers the nodes run.
    pub layers: Layers,
    /// What goes wrong on the way.
    pub faults: Faults,
    /// No clock of a node is faster or slower than real time by more than so many millionths; each node's own share is drawn.
    /// Below 1,000,000.
    pub drift_ppm: u32,
    /// Which directories misbehave, and how.
    pub directory_faults: DirectoryFaults,
    /// Every message is encoded and decoded on its way, and what comes out is compared with what went in. Without, the
    /// value itself is handed over and its size told without encoding it: statements are then shared in memory, which is
    /// what makes ten thousand nodes fit.
    pub through_codec: bool,
    /// A dial to whoever does not answer fails after this long. 5 s, the transport's handshake timeout.
    pub dial_timeout: Duration,
    /// A link whose other end is silent is gone after this long. 75 s, the transport's `dead_after`.
    pub link_silence: Duration,
    /// A link that nobody uses is closed after this long. 60 s, the transport's `idle`.
    pub link_idle: Duration,
    /// A node has at most so many links; one more closes the one that was not used for longest. 100, the transport's
    /// `connections_max`.
    pub links_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            swim: SwimConfig::default(),
            kademlia: KademliaConfig::default(),
            layers: Layers::Membership,
            faults: Faults::default(),
            drift_ppm: 0,
            directory_faults: DirectoryFaults::default(),
            through_codec: true,
            dial_timeout: Duration::from_secs(5),
            link_silence: Duration::from_secs(75),
            link_idle: Duration::from_secs(60),
            links_max: 100,
        }
    }
}

impl Options {
    /// How long after a disturbance a node may still be held for dead: two shortest suspicions in a mesh of `nodes`.
    pub(crate) fn grace(&self, nodes: usize) -> Duration {
        self.swim.suspect_timeout.mul_f64(2.0 * (nodes.max(10) as f64).log10())
    }
}

/// Which layers the nodes run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layers {
    /// SWIM alone.
    Membership,
    /// Kademlia alone: nobody tells it who died.
    Directory,
    /// Both, wired as in a real node.
    Both,
}

impl Layers {
    pub(crate) const fn membership(self) -> bool {
        matches!(self, Self::Membership | Self::Both)
    }

    pub(crate) const fn directory(self) -> bool {
        matches!(self, Self::Directory | Self::Both)
    }
}
