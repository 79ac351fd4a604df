//! What is published, retained and received.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Payload;

/// Body of `POST /v1/publish`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// Topic.
    pub topic: String,
    /// Realm; the node's first one if absent.
    #[serde(default)]
    pub realm: Option<String>,
    /// What to publish.
    #[serde(flatten)]
    pub payload: Payload,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long it may wait for room, in milliseconds; without it, it is dropped where there is none.
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// What happens to a message for a subscription whose queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lag {
    /// The oldest queued messages go, and are counted.
    DropOldest,
    /// The new one waits, for as long as its publisher allows; then it goes, and is counted.
    Wait,
}

impl From<Lag> for macula::LagPolicy {
    fn from(lag: Lag) -> Self {
        match lag {
            Lag::DropOldest => Self::DropOldest,
            Lag::Wait => Self::Wait,
        }
    }
}

impl From<macula::LagPolicy> for Lag {
    fn from(lag: macula::LagPolicy) -> Self {
        match lag {
            macula::LagPolicy::DropOldest => Self::DropOldest,
            macula::LagPolicy::Wait => Self::Wait,
        }
    }
}

/// Body of `POST /v1/publish-acknowledged`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishAcknowledged {
    /// The message.
    #[serde(flatten)]
    pub message: Publish,
    /// How long to wait for everybody to take it, in milliseconds.
    pub within_ms: u64,
}

/// Answer to `POST /v1/publish-acknowledged`: who took the message, and who did not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Whether everybody took it who should.
    pub complete: bool,
    /// Nodes of which every subscription that wants it took it.
    pub taken: Vec<String>,
    /// Nodes that did not take it, as far as is known.
    pub missed: Vec<Missed>,
    /// Queue groups, and the node whose member took it.
    pub groups: BTreeMap<String, String>,
    /// Queue groups of which no member took it.
    pub unserved: Vec<String>,
    /// Remote nodes at most that the directory counted without naming them.
    pub unnamed: usize,
    /// Look-ups that did not succeed in time.
    pub unresolved: usize,
}

/// A node that did not take a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Missed {
    /// Which.
    pub node: String,
    /// Why, in words.
    pub reason: String,
}

/// One row of `GET /v1/trees`: subscribers to one pattern that pass messages on among themselves, because they are too many for
/// their publishers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// Realm.
    pub realm: String,
    /// The subscribers' pattern.
    pub pattern: String,
    /// Neighbours to which this node pushes messages.
    pub eager: Vec<String>,
    /// Neighbours to which it announces them.
    pub lazy: Vec<String>,
    /// Whether publishers know that this node takes part.
    pub announced: bool,
    /// How many times the last message was sent on its way here.
    pub hops: u32,
}

/// Answer to `POST /v1/publish`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Remote nodes whose lane took the message.
    pub peers: usize,
    /// Subscriptions in this node that got it.
    pub local: usize,
    /// Copies dropped because the queue of a remote node, or of a subscription in this node, was full.
    pub dropped: usize,
    /// Remote nodes to which there was no connection in time.
    pub failed: usize,
    /// Remote nodes that got nothing because the directory counted them without naming them: at most so many.
    pub unnamed: usize,
    /// Remote nodes that are to get it from others, by a tree.
    #[serde(default)]
    pub by_trees: usize,
    /// Queue groups of which a member was given it.
    #[serde(default)]
    pub groups: usize,
    /// Queue groups of which no member could be given it.
    #[serde(default)]
    pub unserved: usize,
}

/// Answer to `POST /v1/publish-retained`, whose body is that of `POST /v1/publish`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Retained {
    /// Nodes that keep the value.
    pub holders: usize,
    /// Whom the message reached.
    #[serde(flatten)]
    pub published: Published,
}

/// Answer to `GET /v1/retained`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetainedFound {
    /// One for each topic and publisher.
    pub values: Vec<RetainedValue>,
    /// Look-ups that failed or took too long: there may be more.
    pub failed: usize,
}

/// A retained value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetainedValue {
    /// Topic.
    pub topic: String,
    /// Who published it.
    pub publisher: String,
    /// What was published.
    #[serde(flatten)]
    pub payload: Payload,
    /// Headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub headers: BTreeMap<String, String>,
}

/// Answer to `DELETE /v1/retained`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RetainedCleared {
    /// Whether this node had a value there.
    pub cleared: bool,
}

/// One line of `GET /v1/subscribe`. The first line has no message: it says that the subscription stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum SubscribeEvent {
    /// The subscription stands: what is published from now on arrives.
    Subscribed {
        /// Pattern.
        pattern: String,
        /// Nodes that hold the announcement.
        holders: usize,
        /// Retained values that follow, if they were asked for.
        #[serde(default)]
        retained: usize,
        /// Retained values that found no room in the queue.
        #[serde(default)]
        retained_lost: u64,
        /// Look-ups of retained values that failed or took too long.
        #[serde(default)]
        retained_failed: usize,
    },
    /// A message.
    Message(Message),
    /// So many messages were lost since the last line, because this client reads too slowly.
    Lagged {
        /// How many.
        lost: u64,
    },
}

/// A delivered message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Realm.
    pub realm: String,
    /// Who published it.
    pub publisher: String,
    /// The publisher's count of messages on this topic.
    pub sequence: u64,
    /// Whether it is a retained value, published before the subscription was made.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub retained: bool,
    /// What was published.
    #[serde(flatten)]
    pub payload: Payload,
    /// Headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub headers: BTreeMap<String, String>,
}
