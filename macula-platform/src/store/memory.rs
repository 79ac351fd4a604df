//! The store without a disk, for tests: it writes at once, and forgets what was not synced when the power goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Batch, Done, GroupId, LogStore, Slot, StoreError, StoreMetrics, Write, fitting};

/// What goes wrong with a [`MemoryStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFaults {
    /// Every write from now on fails.
    pub fails: bool,
    /// Batches are said to be on the disk, and are not: what a store that skips the fsync does. Planted by tests, to see that
    /// they would notice.
    pub lies: bool,
}

/// A store in memory, whose clones are the same store: it outlives the node that uses it, as a disk does.
///
/// Batches take effect as they are given, without a thread, so that a test under paused time goes on in order.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    metrics: StoreMetrics,
}

#[derive(Debug, Default)]
struct Inner {
    /// With everything that was written.
    now: Content,
    /// With what was synced.
    synced: Content,
    /// What `now` has and `synced` has not.
    unsynced: Vec<Batch>,
    faults: MemoryFaults,
}

#[derive(Clone, Debug, Default)]
struct Content {
    slots: BTreeMap<(GroupId, Slot), Bytes>,
    entries: BTreeMap<(GroupId, u64), Bytes>,
    logs: BTreeMap<(GroupId, u128, u64), Bytes>,
}

impl MemoryStore {
    /// The power goes: what was not synced is gone.
    pub fn power_cut(&self) {
        let mut inner = self.inner.lock();
        inner.now = inner.synced.clone();
        inner.unsynced.clear();
    }

    /// From now on these things go wrong.
    pub fn set_faults(&self, faults: MemoryFaults) {
        self.inner.lock().faults = faults;
    }

    /// What was counted.
    pub const fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }
}

impl Inner {
    /// Makes durable what was written, or says so. Returns who is to be told.
    fn sync(&mut self, metrics: &StoreMetrics) -> Vec<Done> {
        let batches = std::mem::take(&mut self.unsynced);
        if !self.faults.lies {
            for batch in &batches {
                batch.writes.iter().for_each(|write| self.synced.apply(batch.group, write));
            }
            metrics.syncs.inc();
        }
        batches.into_iter().filter_map(|batch| batch.done).collect()
    }
}

impl Content {
    fn apply(&mut self, group: GroupId, write: &Write) {
        match write {
            Write::Set(slot, value) => {
                self.slots.insert((group, *slot), value.clone());
            }
            Write::Append(index, entry) => {
                self.entries.insert((group, *index), entry.clone());
            }
            Write::Truncate(from) => self.entries.retain(|(of, index), _| *of != group || index < from),
            Write::Purge(through) => self.entries.retain(|(of, index), _| *of != group || index > through),
            Write::LogPut { log, offset, entry } => {
                self.logs.insert((group, *log, *offset), entry.clone());
            }
            Write::LogTrim { log, below } => {
                self.logs.retain(|(of, other, offset), _| (*of, other) != (group, log) || offset >= below);
            }
            Write::Forget => {
                self.slots.retain(|(of, _), _| *of != group);
                self.entries.retain(|(of, _), _| *of != group);
                self.logs.retain(|(of, ..), _| *of != group);
            }
        }
    }
}

impl LogStore for MemoryStore {
    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let synced = {
            let mut inner = self.inner.lock();
            if inner.faults.fails {
                self.metrics.failures.inc();
                return Err(StoreError::Failed("a fault that was asked for".into()));
            }
            let urgent = batch.urgent;
            batch.writes.iter().for_each(|write| inner.now.apply(batch.group, write));
            self.metrics.batches.inc();
            self.metrics.bytes.inc_by(batch.writes.iter().map(Write::bytes).sum::<usize>() as u64);
            inner.unsynced.push(batch);
            if urgent { inner.sync(&self.metrics) } else { Vec::new() }
        };
        synced.into_iter().for_each(|done| done(Ok(())));
        Ok(())
    }

    fn slot(&self, group: GroupId, slot: Slot) -> Result<Option<Bytes>, StoreError> {
        Ok(self.inner.lock().now.slots.get(&(group, slot)).cloned())
    }

    fn bounds(&self, group: GroupId) -> Result<Option<(u64, u64)>, StoreError> {
        let inner = self.inner.lock();
        let mut indices =
            inner.now.entries.range((group, 0)..=(group, u64::MAX)).map(|((_, index), _)| *index);
        let Some(first) = indices.next() else { return Ok(None) };
        Ok(Some((first, indices.next_back().unwrap_or(first))))
    }

    fn entries(
        &self,
        group: GroupId,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let inner = self.inner.lock();
        let found = inner.now.entries.range((group, from)..(group, end.max(from)));
        fitting(found.map(|((_, index), entry)| Ok((*index, entry.clone()))), bytes_max)
    }

    fn log_entries(
        &self,
        group: GroupId,
        log: u128,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let inner = self.inner.lock();
        let found = inner.now.logs.range((group, log, from)..(group, log, end.max(from)));
        fitting(found.map(|((.., offset), entry)| Ok((*offset, entry.clone()))), bytes_max)
    }

    fn logs(&self, group: GroupId) -> Result<Vec<u128>, StoreError> {
        let inner = self.inner.lock();
        let found = inner.now.logs.range((group, 0, 0)..=(group, u128::MAX, u64::MAX));
        let mut logs: Vec<_> = found.map(|((_, log, _), _)| *log).collect();
        logs.dedup();
        Ok(logs)
    }

    fn groups(&self) -> Result<Vec<(GroupId, Bytes)>, StoreError> {
        let inner = self.inner.lock();
        let parts = inner.now.slots.iter().filter(|((_, slot), _)| *slot == Slot::Part);
        Ok(parts.map(|((group, _), part)| (*group, part.clone())).collect())
    }
}
