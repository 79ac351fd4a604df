//! What bounds a tree, and how fast it reacts.

use std::time::Duration;

/// The bounds of one node's part in one tree. The defaults are measured for 1,000 nodes and 5 % loss
/// (`cargo xtask sim --scenario fanout`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeConfig {
    /// How many links a node looks for. Default 7: with 5, ways among 1,000 nodes get longer than 12 hops when copies
    /// are lost.
    pub links_wanted: usize,
    /// How many links a node accepts, so that newcomers find somebody. It also bounds how many copies of a message a node
    /// sends on. Default 8.
    pub links_max: usize,
    /// How many others a node remembers for when it loses a link. Default 32.
    pub known_max: usize,
    /// How long an asked node has to answer before another one is asked. Default 2 s.
    pub ask_timeout: Duration,
    /// How often something is said over a quiet link. Default 3 s.
    pub keep_alive: Duration,
    /// A link over which nothing was heard for so long is gone. Default 16 s: five words in a row were lost.
    pub silence_max: Duration,
    /// How often a node exchanges some of whom it knows with a neighbour. Default 20 s.
    pub shuffle_interval: Duration,
    /// How long announcements of messages are collected for one frame. Default 30 ms.
    pub batch: Duration,
    /// How long a node waits for an announced message before it asks for it. Default 600 ms: longer than the way
    /// through the tree differs from the way of the announcement, also where a few lost packets are sent again on it.
    pub patience: Duration,
    /// How long a node asks for a message, one neighbour after the other, before it counts it as lost and delivers what
    /// came after it. Default 5 s.
    pub give_up: Duration,
    /// How often what was received lately is announced again, in case announcements were lost. Default 1 s.
    pub repeat_interval: Duration,
    /// How long a stream is held back whose publisher has just begun to use the tree, because earlier messages may still come
    /// directly. Default 500 ms.
    pub opening: Duration,
    /// Most publishers of which a node keeps the order; those that were silent for longest go first. Default 1,024.
    pub streams_max: usize,
    /// Most messages of one publisher that wait for an earlier one. Default 256.
    pub held_max: usize,
    /// Most messages kept for neighbours that may ask for them. Default 4,096.
    pub cache_messages: usize,
    /// Most bytes of them. Default 4 MiB.
    pub cache_bytes: usize,
    /// How long they are kept. Default 15 s.
    pub cache_ttl: Duration,
}

impl Default for TreeConfig {
    fn default() -> Self {
        Self {
            links_wanted: 7,
            links_max: 8,
            known_max: 32,
            ask_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(3),
            silence_max: Duration::from_secs(16),
            shuffle_interval: Duration::from_secs(20),
            batch: Duration::from_millis(30),
            patience: Duration::from_millis(600),
            give_up: Duration::from_secs(5),
            repeat_interval: Duration::from_secs(1),
            opening: Duration::from_millis(500),
            streams_max: 1_024,
            held_max: 256,
            cache_messages: 4_096,
            cache_bytes: 4 * 1024 * 1024,
            cache_ttl: Duration::from_secs(15),
        }
    }
}
