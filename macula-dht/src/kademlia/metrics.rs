//! What a node counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::store::Refusal;

/// A node's directory metrics. Clones share the same counts.
#[derive(Clone, Debug)]
pub struct DhtMetrics {
    /// Lookups begun, by this node's users and by maintenance.
    pub lookups_started: Counter,
    /// Lookups ended, well or ill.
    pub lookups_completed: Counter,
    /// Nodes asked one after the other to get to the closest.
    pub lookup_hops: Histogram,
    /// Seconds from start to end of a lookup.
    pub lookup_seconds: Histogram,
    /// Peers so slow that the next one was asked as well.
    pub peers_hedged: Counter,
    /// Buckets split.
    pub buckets_split: Counter,
    /// Buckets refreshed by a lookup.
    pub buckets_refreshed: Counter,
    /// Contacts in the routing table.
    pub table_size: Gauge,
    /// Contacts that took another's place in a full bucket by lot.
    pub contacts_drawn: Counter,
    /// Times that a contact was kept out of the table because of the others of its subnet.
    pub contacts_crowded: Counter,
    /// Records held for others.
    pub records_held: Gauge,
    /// Records announced by this node.
    pub records_announced: Gauge,
    /// Records that this node took from others.
    pub stores_accepted: Counter,
    /// Records that this node refused, by reason.
    pub stores_refused: Family<RefusalLabel, Counter>,
    /// Changes pushed to watchers.
    pub notifies_sent: Counter,
    /// Pushes that were not acknowledged in time.
    pub notifies_lapsed: Counter,
    /// Pushes received.
    pub notifies_received: Counter,
    /// Watches of other nodes, held here.
    pub watches_held: Gauge,
    /// Requests sent.
    pub requests_sent: Counter,
    /// Requests that were not answered.
    pub requests_failed: Counter,
    /// Requests and answers that were not what they should be.
    pub garbage: Counter,
    /// Hints and requests dropped because too much was waiting.
    pub overloads: Counter,
    /// By how many seconds this node's wall clock is behind those of its peers; negative: ahead of them. 0 within 30 s.
    pub clock_skew: Gauge,
}

/// Why a record was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// In words.
    pub reason: String,
}

impl Default for DhtMetrics {
    fn default() -> Self {
        Self {
            lookups_started: Counter::default(),
            lookups_completed: Counter::default(),
            lookup_hops: Histogram::new(linear_buckets(1.0, 1.0, 10)),
            lookup_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            peers_hedged: Counter::default(),
            buckets_split: Counter::default(),
            buckets_refreshed: Counter::default(),
            table_size: Gauge::default(),
            contacts_drawn: Counter::default(),
            contacts_crowded: Counter::default(),
            records_held: Gauge::default(),
            records_announced: Gauge::default(),
            stores_accepted: Counter::default(),
            stores_refused: Family::default(),
            notifies_sent: Counter::default(),
            notifies_lapsed: Counter::default(),
            notifies_received: Counter::default(),
            watches_held: Gauge::default(),
            requests_sent: Counter::default(),
            requests_failed: Counter::default(),
            garbage: Counter::default(),
            overloads: Counter::default(),
            clock_skew: Gauge::default(),
        }
    }
}

impl DhtMetrics {
    /// Puts everything into `registry`, with the prefix `dht`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("dht");
        r.register("lookups_started", "Lookups begun", self.lookups_started.clone());
        r.register("lookups_completed", "Lookups ended", self.lookups_completed.clone());
        r.register(
            "lookup_hops",
            "Nodes asked one after the other to get to the closest",
            self.lookup_hops.clone(),
        );
        r.register_with_unit("lookup", "Duration of a lookup", Unit::Seconds, self.lookup_seconds.clone());
        r.register("peers_hedged", "Slow peers beside which another was asked", self.peers_hedged.clone());
        r.register("buckets_split", "Routing table buckets split", self.buckets_split.clone());
        r.register("buckets_refreshed", "Routing table buckets refreshed", self.buckets_refreshed.clone());
        r.register("table_size", "Contacts in the routing table", self.table_size.clone());
        r.register("contacts_drawn", "Contacts that took a place by lot", self.contacts_drawn.clone());
        r.register("contacts_crowded", "Contacts kept out for their subnet", self.contacts_crowded.clone());
        r.register("records_held", "Records held for other nodes", self.records_held.clone());
        r.register("records_announced", "Records announced by this node", self.records_announced.clone());
        r.register("stores_accepted", "Records taken from other nodes", self.stores_accepted.clone());
        r.register("stores_refused", "Records refused", self.stores_refused.clone());
        r.register("notifies_sent", "Changes pushed to watchers", self.notifies_sent.clone());
        r.register("notifies_lapsed", "Pushes not acknowledged in time", self.notifies_lapsed.clone());
        r.register("notifies_received", "Pushes received", self.notifies_received.clone());
        r.register("watches_held", "Watches of other nodes held here", self.watches_held.clone());
        r.register("requests_sent", "Requests sent", self.requests_sent.clone());
        r.register("requests_failed", "Requests not answered", self.requests_failed.clone());
        r.register("garbage", "Messages that were not what they should be", self.garbage.clone());
        let skew = self.clock_skew.clone();
        r.register_with_unit(
            "clock_behind",
            "By how much the wall clock is behind those of peers",
            Unit::Seconds,
            skew,
        );
        r.register("overloads", "Hints and requests dropped under load", self.overloads.clone());
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.stores_refused.get_or_create(&RefusalLabel { reason: refusal.to_string() }).inc();
    }
}
