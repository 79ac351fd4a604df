//! What a store did.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Counters of one store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    /// Batches written.
    pub batches: Counter,
    /// Bytes of what they wrote.
    pub bytes: Counter,
    /// Times that the disk was made to keep what was written (fsync).
    pub syncs: Counter,
    /// How long each of these took, in seconds.
    pub sync_seconds: Histogram,
    /// Writes that failed. After the first one the store takes no more.
    pub failures: Counter,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            bytes: Counter::default(),
            syncs: Counter::default(),
            sync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            failures: Counter::default(),
        }
    }
}

impl StoreMetrics {
    /// Registers them under the prefix of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let Self { batches, bytes, syncs, sync_seconds, failures } = self;
        registry.register("store_batches", "Batches written to the store", batches.clone());
        registry.register("store_bytes", "Bytes written to the store", bytes.clone());
        registry.register("store_syncs", "Commits that were synced to disk", syncs.clone());
        registry.register("store_sync_seconds", "How long a synced commit took", sync_seconds.clone());
        registry.register("store_failures", "Writes to the store that failed", failures.clone());
    }
}
