//! How one node of the in-memory network is set up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Capabilities, Realm, SecretKey, VersionRange};

use crate::{AddressBook, TransportMetrics};

/// The settings of one [`MemoryTransport`](super::MemoryTransport). The defaults are those of the QUIC transport
/// where both have the setting.
///
/// Cloning shares the address book and the counters. Made from a number or a key: `MemoryConfig::from(7)` is a node with a fixed key that listens at 10.0.0.7:4000.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Who the node is.
    pub key: SecretKey,
    /// Where it listens; `None`: the network gives it the next free address of 10.1.0.0/16.
    pub listen: Option<SocketAddr>,
    /// Where it says that it can be reached; empty: where it listens.
    pub advertised: Vec<SocketAddr>,
    /// The realms it is in. Two nodes without a common one refuse each other.
    pub realms: Vec<Realm>,
    /// Its optional features.
    pub capabilities: Capabilities,
    /// The versions it speaks.
    pub versions: VersionRange,
    /// Software name and version, for people.
    pub agent: String,
    /// Tells this start of the node's process from others; `None`: drawn from the network's seed.
    pub instance: Option<u64>,
    /// Live connections at most. Default 100.
    pub connections_max: usize,
    /// A connection closes after so long without application frames, open streams or undelivered data. Default 60 s.
    pub idle_timeout: Duration,
    /// A connection to a peer that cannot be heard for so long is over. Default 10 s.
    pub peer_timeout: Duration,
    /// A dial fails after so long. Default 5 s.
    pub dial_timeout: Duration,
    /// How long a stopping node waits for its lanes to empty and its streams to end. Default 5 s.
    pub drain_timeout: Duration,
    /// Bytes that wait in a lane's queue before it is full. Default 256 KiB.
    pub lane_queue_bytes: usize,
    /// Bytes under way on one lane or one direction of a stream before the sender waits (a single larger frame
    /// goes when nothing else is under way). Default 256 KiB.
    pub window_bytes: usize,
    /// Streams that this node may have open towards one peer; the next one waits. Default 256.
    pub streams_max: usize,
    /// Datagrams from one peer that wait for delivery; beyond it the oldest is dropped. Default 1,024.
    pub datagrams_max: usize,
    /// Largest frame in a datagram, in bytes. Default 1,200.
    pub datagram_bytes_max: usize,
    /// Where other nodes can be reached, as far as this node has heard. Default: an empty book of its own, for 10,000.
    pub book: Arc<AddressBook>,
    /// Where it is counted. Default: a set of its own.
    pub metrics: TransportMetrics,
}

impl MemoryConfig {
    /// The defaults, for a node with this key.
    pub fn new(key: SecretKey) -> Self {
        Self {
            key,
            listen: None,
            advertised: Vec::new(),
            realms: vec![Realm::default()],
            capabilities: Capabilities::DIRECTORY.with(Capabilities::NUMBERED_CALLS),
            versions: VersionRange::CURRENT,
            agent: concat!("macula/", env!("CARGO_PKG_VERSION")).into(),
            instance: None,
            connections_max: 100,
            idle_timeout: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            lane_queue_bytes: 256 * 1024,
            window_bytes: 256 * 1024,
            streams_max: 256,
            datagrams_max: 1024,
            datagram_bytes_max: 1200,
            book: Arc::new(AddressBook::new(10_000)),
            metrics: TransportMetrics::default(),
        }
    }
}

impl From<SecretKey> for MemoryConfig {
    fn from(key: SecretKey) -> Self {
        Self::new(key)
    }
}

impl From<u8> for MemoryConfig {
    fn from(n: u8) -> Self {
        let listen = Some(SocketAddr::from(([10, 0, 0, n], 4000)));
        Self { listen, ..Self::new(SecretKey::from_seed([n; 32])) }
    }
}
