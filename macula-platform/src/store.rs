//! Where a group's log, vote and state outlive the process.
//!
//! ```text
//!   raft log, vote ──┐                          ┌── RedbStore    one file, one writer thread for all groups
//!   objects' image ──┼─▶ Batch ─▶ LogStore ─────┤
//!   entries of logs ─┘                          └── MemoryStore  for tests: forgets what was not synced
//! ```
//!
//! Everything is written in [`Batch`]es, and the batches of a store take effect in the order in which they were given to it,
//! whichever group they are of. What is not durable yet may not be readable yet either: who needs that keeps it itself.

mod frame;
mod memory;
mod metrics;
mod redb;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

pub use self::memory::{MemoryFaults, MemoryStore};
pub use self::metrics::StoreMetrics;
pub use self::redb::{RedbStore, StoreOptions};

/// A Raft group, in all the world: drawn by whoever founds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u128);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value that is kept once a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Slot {
    /// Whom this node voted for (Raft §5.2).
    Vote = 0,
    /// Up to where the log is known to be committed.
    Committed = 1,
    /// Up to where the log was given up, as its entries are part of the image.
    Purged = 2,
    /// The objects as they were after some entry of the log.
    Image = 3,
    /// How this node takes part in the group.
    Part = 4,
}

/// One change to what is kept for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Replaces a value.
    Set(Slot, Bytes),
    /// Adds an entry to the Raft log, behind the last.
    Append(u64, Bytes),
    /// Removes the entries of the Raft log from this one on.
    Truncate(u64),
    /// Removes the entries of the Raft log up to and including this one.
    Purge(u64),
    /// Keeps an entry of an application's log.
    LogPut {
        /// Which log.
        log: u128,
        /// Where in it.
        offset: u64,
        /// The entry.
        entry: Bytes,
    },
    /// Removes an application's log below an offset; all of it below `u64::MAX`.
    LogTrim {
        /// Which log.
        log: u128,
        /// The first offset that stays.
        below: u64,
    },
    /// Removes everything of the group.
    Forget,
}

impl Write {
    /// About how many bytes it takes while it waits to be written.
    pub(crate) fn bytes(&self) -> usize {
        const OVERHEAD: usize = 64;
        OVERHEAD
            + match self {
                Self::Set(_, bytes) | Self::Append(_, bytes) | Self::LogPut { entry: bytes, .. } => {
                    bytes.len()
                }
                Self::Truncate(_) | Self::Purge(_) | Self::LogTrim { .. } | Self::Forget => 0,
            }
    }
}

/// Told once, from any thread, when a batch is on the disk or never will be.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Changes to one group that take effect together.
pub struct Batch {
    /// Which group.
    pub group: GroupId,
    /// What changes, in this order.
    pub writes: Vec<Write>,
    /// Whether it is to be on the disk as soon as possible. Else it is written along with a later one, or after a short while.
    pub urgent: bool,
    /// Told when the batch, and with it every batch before, is on the disk.
    pub done: Option<Done>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, writes, urgent, .. } = self;
        write!(f, "Batch {{ {group}, {} writes, urgent: {urgent} }}", writes.len())
    }
}

/// Why something could not be kept or read. After [`Failed`](Self::Failed) a store takes no more writes: what a disk does
/// after a failed fsync is anybody's guess, so the node that owns it has to stop taking part, and start again from what
/// is on the disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened: it is another process's, or not readable.
    #[error("{path} cannot be opened: {cause}")]
    Open {
        /// Which file.
        path: String,
        /// Why.
        cause: String,
    },
    /// Writing or reading failed.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// What was read is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(Arc<str>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

/// Bytes that are kept for Raft groups.
///
/// # Guarantees
/// - What a batch's [`done`](Batch::done) was told is on the disk survives the process and a loss of power.
/// - Of a batch, all or nothing is kept; and of all batches, a first part.
/// - A value that was damaged on the disk is an error when it is read, never another value.
pub trait LogStore: Send + Sync + 'static {
    /// Takes a batch, waiting while too much is waiting to be written.
    ///
    /// # Errors
    /// [`StoreError::Failed`] once a write has failed, [`StoreError::Closed`].
    fn write(&self, batch: Batch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// A group's value; `None` if it was never set.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Damaged`].
    fn slot(&self, group: GroupId, slot: Slot) -> Result<Option<Bytes>, StoreError>;

    /// The first and the last index of the Raft log, `None` if it is empty.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn bounds(&self, group: GroupId) -> Result<Option<(u64, u64)>, StoreError>;

    /// Entries of the Raft log from `from` to below `end`, as many as fit `bytes_max`, but one at least.
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Damaged`].
    fn entries(
        &self,
        group: GroupId,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// Entries of an application's log, as with [`entries`](Self::entries).
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Damaged`].
    fn log_entries(
        &self,
        group: GroupId,
        log: u128,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// The logs of which entries are kept.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn logs(&self, group: GroupId) -> Result<Vec<u128>, StoreError>;

    /// The groups of which something is kept, with their [`Slot::Part`].
    ///
    /// # Errors
    /// [`StoreError::Failed`], [`StoreError::Damaged`].
    fn groups(&self) -> Result<Vec<(GroupId, Bytes)>, StoreError>;
}

/// Writes a batch and waits until it is on the disk.
///
/// # Errors
/// Why it is not.
pub(crate) async fn write_durably(
    store: &impl LogStore,
    group: GroupId,
    writes: Vec<Write>,
) -> Result<(), StoreError> {
    let (told, done) = tokio::sync::oneshot::channel();
    let done_now: Done = Box::new(move |result| {
        let _ = told.send(result);
    });
    store.write(Batch { group, writes, urgent: true, done: Some(done_now) }).await?;
    done.await.unwrap_or(Err(StoreError::Closed))
}

/// As many entries as fit, but one at least.
pub(crate) fn fitting(
    entries: impl Iterator<Item = Result<(u64, Bytes), StoreError>>,
    bytes_max: usize,
) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let mut room = bytes_max;
    let mut taken = Vec::new();
    for item in entries {
        let (at, entry) = item?;
        if entry.len() > room && !taken.is_empty() {
            break;
        }
        room = room.saturating_sub(entry.len());
        taken.push((at, entry));
    }
    Ok(taken)
}

#[cfg(test)]
#[path = "store/redb_test.rs"]
mod tests;
