//! The Raft log and the vote, as openraft wants them, on a [`LogStore`].
//!
//! What was appended is readable at once and on the disk a little later, so the newest entries are kept in memory as well:
//! the appliers and the followers read them from there.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{decode, wire};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use prost::Message as _;

use super::codec::{CodecError, ballot_in, ballot_out, entry_in, entry_out, position_in, position_out};
use super::types::{Ballot, Entry, Position, Types};
use crate::store::{Batch, write_durably};
use crate::{GroupId, LogStore, Slot, StoreError, Write};

/// Entries that are sent in one message, in bytes, unless a single one is larger.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// The newest entries that are kept in memory, in bytes; those that are not on the disk yet come on top.
const RECENT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A group's log. Clones are the same log.
pub(crate) struct RaftLog<S> {
    group: GroupId,
    store: Arc<S>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    ballot: Option<Ballot>,
    committed: Option<Position>,
    purged: Option<Position>,
    last: Option<Position>,
    recent: Recent,
}

/// The end of the log, in memory.
#[derive(Default)]
struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    /// Entries before this index are on the disk.
    synced: u64,
}

impl<S> Clone for RaftLog<S> {
    fn clone(&self) -> Self {
        Self { group: self.group, store: self.store.clone(), shared: self.shared.clone() }
    }
}

impl Recent {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.index())
    }

    fn push(&mut self, entry: Entry, bytes: usize) {
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.bytes > RECENT_BYTES_MAX
            && let Some((entry, bytes)) = self.entries.front()
            && entry.index() < self.synced
        {
            self.bytes -= bytes;
            self.entries.pop_front();
        }
    }

    fn remove_from(&mut self, index: u64) {
        while let Some((entry, bytes)) = self.entries.back()
            && entry.index() >= index
        {
            self.bytes -= bytes;
            self.entries.pop_back();
        }
        self.synced = self.synced.min(index);
    }

    fn remove_through(&mut self, index: u64) {
        while let Some((entry, bytes)) = self.entries.front()
            && entry.index() <= index
        {
            self.bytes -= bytes;
            self.entries.pop_front();
        }
    }

    /// The entries from `from` to below `end`, as many as fit.
    fn read(&self, from: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first() else { return Vec::new() };
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut room = bytes_max;
        let mut taken = Vec::new();
        for (entry, bytes) in self.entries.iter().skip(skipped) {
            if entry.index() >= end || (*bytes > room && !taken.is_empty()) {
                break;
            }
            room = room.saturating_sub(*bytes);
            taken.push(entry.clone());
        }
        taken
    }
}

/// About how much of a message an entry takes.
fn size(entry: &Entry) -> usize {
    const OVERHEAD: usize = 32;
    OVERHEAD
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(proposal) => proposal.0.len(),
            EntryPayload::Membership(membership) => 64 * membership.nodes().count(),
        }
}

fn damaged(cause: CodecError) -> StoreError {
    StoreError::Damaged(Arc::from(cause.to_string()))
}

impl<S: LogStore> RaftLog<S> {
    /// Reads what is kept of the group's log.
    ///
    /// # Errors
    /// [`StoreError`], also for what was written by no version of this program.
    pub(crate) fn open(group: GroupId, store: Arc<S>) -> Result<Self, StoreError> {
        let position = |slot| -> Result<Option<Position>, StoreError> {
            let Some(bytes) = store.slot(group, slot)? else { return Ok(None) };
            Ok(Some(position_in(decode(bytes).map_err(|cause| damaged(cause.into()))?)))
        };
        let ballot = match store.slot(group, Slot::Vote)? {
            Some(bytes) => {
                let ballot: wire::RaftBallot = decode(bytes).map_err(|cause| damaged(cause.into()))?;
                Some(ballot_in(Some(ballot)).map_err(damaged)?)
            }
            None => None,
        };
        let (committed, purged) = (position(Slot::Committed)?, position(Slot::Purged)?);
        let (last, synced) = match store.bounds(group)? {
            Some((_, last)) => {
                let entry = store.entries(group, last, last + 1, 0)?.pop();
                let entry = entry.map(|(_, bytes)| entry_in(bytes).map_err(damaged)).transpose()?;
                (entry.map(|entry| entry.log_id()), last + 1)
            }
            None => (purged, 0),
        };
        let recent = Recent { synced, ..Recent::default() };
        let shared = Shared { ballot, committed, purged, last, recent };
        Ok(Self { group, store, shared: Arc::new(Mutex::new(shared)) })
    }

    async fn write_lazily(&self, write: Write) -> io::Result<()> {
        Ok(self
            .store
            .write(Batch { group: self.group, writes: vec![write], urgent: false, done: None })
            .await?)
    }

    /// Entries from `from` to below `end`: those in memory, and before them those on the disk.
    fn read(&self, from: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let first = {
            let shared = self.shared.lock();
            match shared.recent.first() {
                Some(first) if first <= from => return Ok(shared.recent.read(from, end, bytes_max)),
                first => first.unwrap_or(u64::MAX),
            }
        };
        let stored = self.store.entries(self.group, from, end.min(first), bytes_max)?;
        if stored.is_empty() {
            return Ok(self.shared.lock().recent.read(first, end, bytes_max));
        }
        stored.into_iter().map(|(_, bytes)| entry_in(bytes).map_err(damaged)).collect()
    }
}

/// From and end, exclusive.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (from, end)
}

impl<S: LogStore> RaftLogReader<Types> for RaftLog<S> {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut from, end) = bounds(&range);
        let mut entries: Vec<Entry> = Vec::new();
        // The disk's part and the one in memory.
        while from < end {
            let more = self.read(from, end, usize::MAX)?;
            let Some(last) = more.last() else { break };
            from = last.index() + 1;
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Ballot>, io::Error> {
        Ok(self.shared.lock().ballot)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start, end, MESSAGE_BYTES_MAX)?)
    }
}

impl<S: LogStore> RaftLogStorage<Types> for RaftLog<S> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let shared = self.shared.lock();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, ballot: &Ballot) -> Result<(), io::Error> {
        let bytes = Bytes::from(ballot_out(ballot).encode_to_vec());
        write_durably(&*self.store, self.group, vec![Write::Set(Slot::Vote, bytes)]).await?;
        self.shared.lock().ballot = Some(*ballot);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<Position>) -> Result<(), io::Error> {
        self.shared.lock().committed = committed;
        let Some(committed) = committed else { return Ok(()) };
        let bytes = Bytes::from(position_out(&committed).encode_to_vec());
        self.write_lazily(Write::Set(Slot::Committed, bytes)).await
    }

    async fn read_committed(&mut self) -> Result<Option<Position>, io::Error> {
        Ok(self.shared.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut writes = Vec::new();
        let mut end = 0;
        {
            let mut shared = self.shared.lock();
            for entry in entries {
                end = entry.index() + 1;
                shared.last = Some(entry.log_id());
                writes.push(Write::Append(entry.index(), entry_out(&entry).encode_to_vec().into()));
                let bytes = size(&entry);
                shared.recent.push(entry, bytes);
            }
        }
        let shared = self.shared.clone();
        let done = Box::new(move |result: Result<(), StoreError>| {
            if result.is_ok() {
                let recent = &mut shared.lock().recent;
                // A truncation that came later has taken some of them away.
                let last = recent.entries.back().map_or(end, |(entry, _)| entry.index() + 1);
                recent.synced = recent.synced.max(end.min(last));
                recent.shrink();
            }
            callback.io_completed(result.map_err(io::Error::from));
        });
        Ok(self.store.write(Batch { group: self.group, writes, urgent: true, done: Some(done) }).await?)
    }

    async fn truncate_after(&mut self, last: Option<Position>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        {
            let mut shared = self.shared.lock();
            shared.recent.remove_from(from);
            shared.last = shared.last.min(last);
        }
        Ok(write_durably(&*self.store, self.group, vec![Write::Truncate(from)]).await?)
    }

    async fn purge(&mut self, through: Position) -> Result<(), io::Error> {
        {
            let mut shared = self.shared.lock();
            shared.recent.remove_through(through.index);
            shared.purged = Some(through);
            shared.last = shared.last.max(Some(through));
        }
        let purged = Write::Set(Slot::Purged, position_out(&through).encode_to_vec().into());
        let writes = vec![purged, Write::Purge(through.index)];
        Ok(self.store.write(Batch { group: self.group, writes, urgent: false, done: None }).await?)
    }
}
