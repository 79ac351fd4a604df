//! Topics over a mesh: publish to a name, subscribe to a pattern.
//!
//! ```text
//!   publish(topic)                                              recv()
//!        │                                                        ▲
//!   route (cached, watched) ── who wants it? ──▶ directory        │ bounded queue
//!        │                                          ▲             │
//!        ▼                                          │ announce    │
//!   link to each peer ─── lane ═══ QUIC ═══▶ on_lane_frame ─▶ window ─▶ trie
//! ```
//!
//! A subscription may have a [`Filter`] over headers and JSON fields. It goes along with the announcement, so that a publisher
//! does not send what no filter of a node lets through; that node evaluates it again, for each subscription.
//!
//! Subscriptions in one queue [`Group`] share the work: one of them gets each message. The publisher picks a node of the
//! group in turn, and another if there is no connection to it, or no room in its queue; within a node, the member with the shortest queue
//! is given it. What the dead had been sent is lost; order holds for each member's node, except for what is handed over.
//!
//! # Call order
//! 1. [`PubSub::new`] over a `Transport` and a `Directory`.
//! 2. Feed it: every `PUBLISH` frame that the transport delivers goes to [`PubSub::on_lane_frame`].
//! 3. Run it: [`PubSub::run`] in one task, until the node stops.
//! 4. Use it: [`PubSub::subscribe`], [`PubSub::publish`].
//! 5. After the directory was restarted: [`PubSub::replay`].
//!
//! # At least once
//! [`PubSub::publish_acknowledged`] waits until each subscribing node that is known then says that its subscriptions took the
//! message, or did not, and sends it again over each new connection meanwhile. A message counts as taken when the
//! application has received and dropped it. It is given to no subscription twice by one run of its node, as far as the 4,096 last
//! numbers of a publisher are remembered. What waits to be acknowledged is bounded by
//! [`unacked_bytes`](PubSubConfig::unacked_bytes) for each peer. Nothing is promised past the end of the call.
//!
//! # What is promised
//! Per publisher and topic in order, and nothing twice within one subscriber process (as far as the bounded window of
//! [`window_topics`](PubSubConfig::window_topics) remembers). At most once, unless an acknowledgement
//! is waited for: nothing is sent again. All queues are bounded; what is lost is counted and shown to the caller. A message goes straight from its publisher
//! to each subscribing node, in one copy a node.
//!
//! # Retained values
//! [`PubSub::publish_retained`] has a message kept as its publisher's last value of the topic, in the directory;
//! [`PubSub::subscribe_with_retained`] begins with those values, one for each topic and publisher, and
//! [`PubSub::retained`] shows them. A value that is published while somebody subscribes comes once, one way or the other. It takes
//! up to [`RETAINED_BYTES_MAX`] bytes, outlives its publisher until its record expires, and can be read by the nodes
//! that hold it.
//!
//! # Trees
//! Where more nodes want one and the same pattern than [`direct_max`](PubSubConfig::direct_max), they pass messages on among
//! themselves, in a [`tree`] ([`PubSub::with_trees`]). All that is promised holds there, too, but: nobody waits for a full
//! subscriber ([`LagPolicy::Wait`] drops the new message); a filter is evaluated at the subscriber's node alone; a message that is missing is asked
//! for, and given up and counted after five seconds. Queue groups and [`publish_acknowledged`](PubSub::publish_acknowledged) go
//! directly to all nodes that the directory names, as always; on such a topic, acknowledged messages are in order among themselves, and
//! in none with the others. [`Published::by_trees`] says how many nodes a tree covers, [`PubSub::trees`] which trees a node is in.
//!
//! # What is not there
//! A node whose interest the directory refuses, because it holds as many as it may at that key, cannot subscribe. Whether a peer is *in* a realm is for the [`Gate`](macula_proto::Gate) to know.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use macula_dht::MemoryDirectoryNetwork;
//! use macula_proto::{AllowAll, Realm, Unwatched};
//! use macula_pubsub::{Payload, PubSub, PubSubConfig, SubscribeOptions};
//! use macula_transport::memory::MemoryNetwork;
//! use macula_transport::{TokioClock, Transport};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let transport = MemoryNetwork::new(1).node(1);
//! let directory = MemoryDirectoryNetwork::default().directory(transport.local().id);
//! let clock = Arc::new(TokioClock::default());
//! let epoch = 7; // drawn anew at each start
//! let pubsub = PubSub::new(transport, directory, Arc::new(AllowAll), Arc::new(Unwatched), clock, epoch, PubSubConfig::default());
//!
//! let realm = Realm::default();
//! let mut kitchen = pubsub.subscribe(&realm, "home.kitchen.#".parse()?, SubscribeOptions::default()).await?;
//! pubsub.publish(&realm, &"home.kitchen.light".parse()?, Payload::new("on")).await?;
//! assert_eq!(kitchen.recv().await.unwrap().payload, "on");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate must not know about SWIM or the insides of Kademlia.

mod acknowledged;
mod acks;
mod announce;
mod bus;
#[cfg(feature = "testing")]
pub mod conformance;
mod error;
mod fanout;
mod filter;
mod group;
mod heard;
mod interest;
mod link;
mod local;
mod mailbox;
#[cfg(feature = "testing")]
mod memory;
mod message;
mod metrics;
mod options;
mod pattern;
mod publish;
mod pubsub;
mod quick;
mod reading;
mod receipt;
mod receive;
mod retain;
mod retained;
mod route;
mod subscription;
pub mod tree;
mod trie;
mod window;

pub use acknowledged::{Acknowledged, MissReason, Missed};
pub use bus::Bus;
pub use error::{PayloadError, PublishError, RetainError, SubscribeError};
pub use fanout::TreeInfo;
pub use filter::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TESTS_MAX, Filter, FilterError};
pub use group::{GROUP_BYTES_MAX, GROUPS_MAX, Group, GroupError};
pub use interest::{
    Decoded, INTEREST_BYTES_MAX, INTEREST_PATTERNS_MAX, PREFIX_DEPTH, Want, announced_at, decode, resolved_at,
};
#[cfg(feature = "testing")]
pub use memory::{MemoryBus, MemoryBusNetwork};
pub use message::{
    CONTENT_TYPE_BYTES_MAX, Envelope, HEADER_NAME_BYTES_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, Headers,
    Message, Payload,
};
pub use metrics::{
    AckLabels, AckOutcome, DropLabels, DropReason, FilterLabels, FilterPlace, PubSubMetrics, RefuseLabels,
    RefuseReason,
};
pub use options::{LagPolicy, PubSubConfig, PublishOptions, SubscribeOptions};
pub use pattern::{Pattern, PatternError};
pub use publish::Published;
pub use pubsub::PubSub;
pub use quick::Publisher;
pub use retain::{Retained, RetainedFound, RetainedMessage};
pub use retained::{RETAINED_BYTES_MAX, RETAINED_TOPICS_MAX, retained_at};
pub use route::RouteInfo;
pub use subscription::{RetainedReport, Subscription, SubscriptionId, SubscriptionInfo};
pub use trie::Trie;
