//! What a caller chooses, and what an operator configures.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use macula_proto::Realm;

use crate::tree::TreeConfig;
use crate::{Filter, FilterError, Group, GroupError};

/// What happens to a message for a subscriber whose queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LagPolicy {
    /// The oldest queued messages go, and are counted. Holds nobody up.
    #[default]
    DropOldest,
    /// The new message waits for room, at most as long as its publisher allows
    /// ([`PublishOptions::wait`]); then it is dropped and counted. While it waits, later messages of the same
    /// peer wait behind it, for all subscribers on this node.
    Wait,
}

/// What a subscription wants, and how its queue behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscribeOptions {
    /// Which messages of the topics it wants; all if there is none. Publishers do not send what no filter of a node lets
    /// through, as far as the filters fit into its announcement. Default none.
    pub filter: Option<Filter>,
    /// The queue group that it is in: of all subscriptions of the realm in this group, one gets each message. Default none.
    pub group: Option<Group>,
    /// Most messages that wait to be received. Default 1,024.
    pub queue_messages: NonZeroUsize,
    /// Most payload bytes that wait to be received; a larger single message is taken into an empty queue.
    /// Default 16 MiB.
    pub queue_bytes: NonZeroUsize,
    /// What happens when the queue is full. Default [`LagPolicy::DropOldest`].
    pub lag: LagPolicy,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            filter: None,
            group: None,
            queue_messages: const { NonZeroUsize::new(1024).expect("not zero") },
            queue_bytes: const { NonZeroUsize::new(16 * 1024 * 1024).expect("not zero") },
            lag: LagPolicy::default(),
        }
    }
}

impl SubscribeOptions {
    /// Only the messages that this filter lets through.
    ///
    /// # Errors
    /// [`FilterError`]: where the text is no filter, and which rule it breaks.
    pub fn filter(mut self, filter: &str) -> Result<Self, FilterError> {
        self.filter = Some(filter.parse()?);
        Ok(self)
    }

    /// Sharing the messages with the other members of this queue group.
    ///
    /// # Errors
    /// [`GroupError`]: which rule the name breaks.
    pub fn group(mut self, group: &str) -> Result<Self, GroupError> {
        self.group = Some(group.parse()?);
        Ok(self)
    }
}

/// How long a message may be held up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishOptions {
    /// How long the message may wait for room: here, in the queue to a busy peer; there, at a full subscriber
    /// that asked for [`LagPolicy::Wait`] (receivers cap that). Default zero: it is dropped for that peer or
    /// subscriber, and counted.
    pub wait: Duration,
    /// How long the message may wait for a connection to a peer that is not connected. Default 5 s.
    /// Connected peers have it by then.
    pub connect: Duration,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { wait: Duration::ZERO, connect: Duration::from_secs(5) }
    }
}

/// What an operator configures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PubSubConfig {
    /// The realms that this node is in. Default: the default realm.
    pub realms: BTreeSet<Realm>,
    /// How long a topic that is not published to keeps its route and its watches. Default 5 min.
    /// A route in use is kept fresh by its watches, so this is no bound on staleness.
    pub cache_ttl: Duration,
    /// Most topics with a cached route; the least recently used go first. Default 10,000.
    pub max_cache_size: NonZeroUsize,
    /// How long the first publish of a topic waits to learn who subscribes. Default 5 s.
    pub lookup_timeout: Duration,
    /// How long connecting to a peer may take, in all. Default 10 s.
    pub dial_timeout: Duration,
    /// Most bytes that wait for one peer's connection, besides the connection's own queue. Default 1 MiB.
    pub link_queue_bytes: usize,
    /// Most bytes that are kept for one peer until it has acknowledged them. Default 4 MiB.
    pub unacked_bytes: usize,
    /// The longest that a publisher's [`PublishOptions::wait`] is honoured by this node's subscribers. Default 5 s.
    pub wait_max: Duration,
    /// Most (publisher, topic) pairs in the de-duplication window. Default 65,536, about 20 MiB when full.
    pub window_topics: usize,
    /// Most subscriptions of this node. Default 1,000,000.
    pub subscriptions_max: usize,
    /// How many nodes with one and the same pattern a publisher sends a message to itself. If there are more, they pass
    /// it on among themselves, in a [tree](crate::tree), until there are half as many. Default 64: a node keeps a hundred
    /// connections.
    pub direct_max: usize,
    /// In the trees of so many of its subscriptions' patterns this node takes part, at most; of further ones,
    /// publishers send it a copy themselves. Default 8, of which each takes up to eight connections.
    pub trees_max: usize,
    /// What bounds each tree.
    pub tree: TreeConfig,
    /// How long the records of this node may take to be withdrawn at shutdown. Default 2 s.
    pub shutdown_timeout: Duration,
}

impl Default for PubSubConfig {
    fn default() -> Self {
        Self {
            realms: BTreeSet::from([Realm::default()]),
            cache_ttl: Duration::from_secs(300),
            max_cache_size: const { NonZeroUsize::new(10_000).expect("not zero") },
            lookup_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(10),
            link_queue_bytes: 1024 * 1024,
            unacked_bytes: 4 * 1024 * 1024,
            wait_max: Duration::from_secs(5),
            window_topics: 65_536,
            subscriptions_max: 1_000_000,
            direct_max: 64,
            trees_max: 8,
            tree: TreeConfig::default(),
            shutdown_timeout: Duration::from_secs(2),
        }
    }
}
