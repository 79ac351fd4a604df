//! What is counted.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::tree::TreeMetrics;

/// One node's pub/sub metrics.
#[derive(Debug, Clone)]
pub struct PubSubMetrics {
    /// Messages published by this node.
    pub published: Counter,
    /// Copies handed to peers' lanes.
    pub sent: Counter,
    /// Messages put into this node's subscribers' queues.
    pub delivered: Counter,
    /// Copies lost, by reason.
    pub dropped: Family<DropLabels, Counter>,
    /// Messages received from peers.
    pub received: Counter,
    /// Received messages that no subscription here matches.
    pub unwanted: Counter,
    /// Received messages that came twice or too late.
    pub duplicates: Counter,
    /// Received messages and interests that were refused, by reason.
    pub refused: Family<RefuseLabels, Counter>,
    /// Copies spared because a filter does not let the message through, by where it was evaluated.
    pub filtered: Family<FilterLabels, Counter>,
    /// Messages for a queue group that were offered to another of its nodes, because one could not be given it.
    pub group_handovers: Counter,
    /// Messages for a queue group that no node of it could be given.
    pub group_unserved: Counter,
    /// Received messages for a queue group of which no member here wants it.
    pub group_missed: Counter,
    /// Answers to messages that are to be acknowledged, and answers that did not come, by what became of the message.
    pub acknowledgements: Family<AckLabels, Counter>,
    /// Copies sent again over a new connection, because they were not acknowledged.
    pub resent: Counter,
    /// Published messages whose look-ups failed or timed out.
    pub unresolved: Counter,
    /// Subscriptions made.
    pub subscriptions_added: Counter,
    /// Subscriptions ended.
    pub subscriptions_removed: Counter,
    /// Live subscriptions.
    pub subscriptions: Gauge,
    /// Topics with a cached route.
    pub route_cache: Gauge,
    /// Routes made because a topic had none.
    pub route_misses: Counter,
    /// Routes given up because the cache was full or they were idle.
    pub route_evictions: Counter,
    /// Announcements that failed and are tried again.
    pub announce_failures: Counter,
    /// Topics with a retained value of this node.
    pub retained: Gauge,
    /// Retained values put into this node's subscribers' queues.
    pub retained_delivered: Counter,
    /// Look-ups of retained values that failed or took too long.
    pub retained_failures: Counter,
    /// Trees in which this node takes part.
    pub trees: Gauge,
    /// Invitations to trees that this node sent.
    pub tree_invitations: Counter,
    /// Messages for which there was no room on the way to a neighbour in a tree.
    pub tree_slow: Counter,
    /// What happens in those trees.
    pub tree: TreeMetrics,
    /// Payload sizes of published and received messages.
    pub message_bytes: Histogram,
}

/// Why a copy was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum DropReason {
    /// The queue to the peer was full.
    PeerFull,
    /// There was no connection to the peer, or it broke.
    PeerFailed,
    /// A subscriber's queue was full.
    SubscriberFull,
}

/// Labels of [`PubSubMetrics::dropped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    /// Why.
    pub reason: DropReason,
}

/// Labels of [`PubSubMetrics::acknowledgements`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AckLabels {
    /// What became of the copy.
    pub outcome: AckOutcome,
}

/// What became of a copy that is to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum AckOutcome {
    /// Everybody there who wants it took it.
    Taken,
    /// Nobody there wants it after all.
    Unwanted,
    /// Not everybody there took it, as far as is known.
    Missed,
}

/// Where a filter was evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum FilterPlace {
    /// At the publisher: a copy to a peer.
    Publisher,
    /// At the subscriber's node: a copy to a subscription.
    Subscriber,
}

/// Labels of [`PubSubMetrics::filtered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FilterLabels {
    /// Where.
    pub place: FilterPlace,
}

/// Why something from a peer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RefuseReason {
    /// No message, or past a limit.
    Malformed,
    /// It names another publisher than its sender.
    Publisher,
    /// This node is not in its realm.
    Realm,
    /// Policy says no.
    Forbidden,
    /// A kind of frame that this version does not know.
    UnknownKind,
    /// An interest record holds something that is no pattern.
    Interest,
}

/// Labels of [`PubSubMetrics::refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefuseLabels {
    /// Why.
    pub reason: RefuseReason,
}

impl PubSubMetrics {
    /// Adds all metrics to `registry`, under `pubsub_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("pubsub");
        registry.register("published", "Messages published by this node", self.published.clone());
        registry.register("sent", "Copies handed to peers", self.sent.clone());
        registry.register("delivered", "Messages put into subscribers' queues", self.delivered.clone());
        registry.register("dropped", "Copies lost", self.dropped.clone());
        registry.register("received", "Messages received from peers", self.received.clone());
        registry.register("unwanted", "Received messages that nobody here wants", self.unwanted.clone());
        registry.register("duplicates", "Received messages that came twice or late", self.duplicates.clone());
        registry.register("refused", "Received messages and interests refused", self.refused.clone());
        registry.register("filtered", "Copies spared by filters", self.filtered.clone());
        registry.register(
            "group_handovers",
            "Messages for a group offered to another node of it",
            self.group_handovers.clone(),
        );
        registry.register(
            "group_unserved",
            "Messages for a group that no node of it could be given",
            self.group_unserved.clone(),
        );
        registry.register(
            "group_missed",
            "Received messages for a group that nobody here is in",
            self.group_missed.clone(),
        );
        registry.register(
            "acknowledgements",
            "What became of copies that are to be acknowledged",
            self.acknowledgements.clone(),
        );
        registry.register(
            "resent",
            "Copies sent again because they were not acknowledged",
            self.resent.clone(),
        );
        registry.register("unresolved", "Messages whose look-ups did not succeed", self.unresolved.clone());
        registry.register("subscriptions_added", "Subscriptions made", self.subscriptions_added.clone());
        registry.register("subscriptions_removed", "Subscriptions ended", self.subscriptions_removed.clone());
        registry.register("subscriptions", "Live subscriptions", self.subscriptions.clone());
        registry.register("route_cache", "Topics with a cached route", self.route_cache.clone());
        registry.register("route_misses", "Routes made for a topic without one", self.route_misses.clone());
        registry.register("route_evictions", "Routes given up", self.route_evictions.clone());
        registry.register("announce_failures", "Announcements that failed", self.announce_failures.clone());
        registry.register("retained", "Topics with a retained value of this node", self.retained.clone());
        let delivered = self.retained_delivered.clone();
        registry.register("retained_delivered", "Retained values queued for subscribers", delivered);
        let failures = self.retained_failures.clone();
        registry.register("retained_failures", "Look-ups of retained values that failed", failures);
        registry.register("trees", "Trees of subscribers in which this node takes part", self.trees.clone());
        registry.register("tree_invitations", "Invitations to trees sent", self.tree_invitations.clone());
        let slow = self.tree_slow.clone();
        registry.register("tree_slow", "Messages for which a neighbour in a tree had no room", slow);
        self.tree.register(registry);
        let sizes = self.message_bytes.clone();
        registry.register_with_unit("message", "Payload sizes of messages", Unit::Bytes, sizes);
    }

    pub(crate) fn drop_copies(&self, reason: DropReason, copies: u64) {
        if copies > 0 {
            self.dropped.get_or_create(&DropLabels { reason }).inc_by(copies);
        }
    }

    pub(crate) fn filter(&self, place: FilterPlace, copies: u64) {
        if copies > 0 {
            self.filtered.get_or_create(&FilterLabels { place }).inc_by(copies);
        }
    }

    pub(crate) fn acknowledge(&self, outcome: AckOutcome) {
        self.acknowledgements.get_or_create(&AckLabels { outcome }).inc();
    }

    pub(crate) fn refuse(&self, reason: RefuseReason) {
        self.refused.get_or_create(&RefuseLabels { reason }).inc();
    }
}

impl Default for PubSubMetrics {
    fn default() -> Self {
        Self {
            published: Counter::default(),
            sent: Counter::default(),
            delivered: Counter::default(),
            dropped: Family::default(),
            received: Counter::default(),
            unwanted: Counter::default(),
            duplicates: Counter::default(),
            refused: Family::default(),
            filtered: Family::default(),
            acknowledgements: Family::default(),
            resent: Counter::default(),
            group_handovers: Counter::default(),
            group_unserved: Counter::default(),
            group_missed: Counter::default(),
            unresolved: Counter::default(),
            subscriptions_added: Counter::default(),
            subscriptions_removed: Counter::default(),
            subscriptions: Gauge::default(),
            route_cache: Gauge::default(),
            route_misses: Counter::default(),
            route_evictions: Counter::default(),
            announce_failures: Counter::default(),
            retained: Gauge::default(),
            retained_delivered: Counter::default(),
            retained_failures: Counter::default(),
            trees: Gauge::default(),
            tree_invitations: Counter::default(),
            tree_slow: Counter::default(),
            tree: TreeMetrics::default(),
            // 16 B to 1 MiB.
            message_bytes: Histogram::new(exponential_buckets(16.0, 4.0, 9)),
        }
    }
}
