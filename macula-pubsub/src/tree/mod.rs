//! The tree of one topic or pattern: how a message gets to thousands of subscribers while no node sends more than a few copies.
//!
//! ```text
//!   publisher ──▶ ○ ──▶ ○ ──▶ ○        ──▶  pushed: the tree
//!                 │     ┆     ┆        ┄┄▶  announced: links beside it, for repair
//!                 ▼     ▼     ▼
//!                 ○ ┄┄▶ ○ ──▶ ○
//! ```
//!
//! [`Tree`] is one node's part in it, as a pure machine: links to a few random others, which of them messages are pushed to,
//! what is missing and who has it, and the order in which a publisher's messages are delivered. It knows neither
//! sockets nor what a message is.
//!
//! # Bounds
//! Links, nodes known, publishers, messages that wait for their turn, messages kept for others, and missing messages are all
//! bounded by [`TreeConfig`]; what peers say can replace entries, never add to that. A message that nobody sends within
//! [`give_up`](TreeConfig::give_up) is counted as lost, and what came after it is delivered.
//!
//! # Example
//! ```
//! use macula_proto::{Contact, NodeId, Timestamp};
//! use macula_pubsub::tree::{Body, Effect, Parcel, StreamId, Tree, TreeConfig, TreeMetrics, Word};
//!
//! #[derive(Clone, Debug, PartialEq)]
//! struct Text(&'static str);
//! impl Body for Text {
//!     fn bytes(&self) -> usize {
//!         self.0.len()
//!     }
//! }
//!
//! let contact = |n| Contact { id: NodeId::from_bytes([n; 32]), addrs: Vec::new() };
//! let (now, mut out) = (Timestamp::ZERO, Vec::new());
//! let mut tree = Tree::new(now, contact(1), TreeConfig::default(), TreeMetrics::default(), 7);
//! tree.on_word(now, &contact(2), Word::Ask { urgent: true }, &mut out);
//! assert_eq!(out, [Effect::Tell { to: contact(2), word: Word::Accept }]);
//! out.clear();
//!
//! let stream = StreamId { origin: contact(1).id, run: 1 };
//! let hello = Parcel { stream, number: 1, since: 1, continued: false, hops: 0, answer: false, body: Text("hello") };
//! tree.publish(now, hello.clone(), &mut out);
//! assert_eq!(out, [Effect::Push { to: vec![contact(2).id], parcel: Parcel { hops: 1, ..hello } }]);
//! ```

mod cache;
mod config;
mod effect;
mod links;
mod machine;
mod metrics;
mod repair;
mod stage;
mod stream;

pub(crate) use cache::Cache;
pub use config::TreeConfig;
pub use effect::{
    Body, CONTACTS_MAX, Effect, HOPS_UNKNOWN, Parcel, SPAN_NUMBERS_MAX, SPANS_MAX, Span, StreamId, Word,
};
pub use machine::{LinkInfo, Tree};
pub use metrics::TreeMetrics;
