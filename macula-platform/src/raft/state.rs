//! The state machine, as openraft wants it: the group's objects, and the entries of its logs on the disk.
//!
//! The objects live in memory; what is on the disk is an image of them as they were after some entry of the Raft log, and the
//! log from there on. Entries of applications' logs are written as they are applied, by the way: an image is written
//! after them, so those that it counts are on the disk before it is, and those after it are applied again at a start.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use macula_proto::{UnixMillis, decode, wire};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use tokio::sync::broadcast;

use super::codec::{CodecError, image_in, image_out};
use super::types::{Position, Proposal, SnapshotMeta, StoredMembership, Types};
use crate::objects::{Answer, Change, Command, Effects, LogId, LogIndex, LogOffset, LogWrite, Objects};
use crate::store::{Batch, write_durably};
use crate::{GroupId, LogStore, Slot, StoreError, Write};

/// Changes that a watcher may lag behind before it has to look at the objects again.
const CHANGES_MAX: usize = 4_096;

/// One entry of an application's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where in the log.
    pub offset: LogOffset,
    /// When it was appended, by the clock of the group's leader; never earlier than the one before.
    pub stamp: UnixMillis,
    /// What was appended.
    pub entry: Bytes,
}

/// The entries of applications' logs: on the disk, or on their way to it.
pub(crate) struct LogEntries<S> {
    group: GroupId,
    store: Arc<S>,
    pending: Arc<Mutex<BTreeMap<(LogId, u64), Bytes>>>,
}

impl<S> Clone for LogEntries<S> {
    fn clone(&self) -> Self {
        Self { group: self.group, store: self.store.clone(), pending: self.pending.clone() }
    }
}

/// A log's number in the store.
const fn number(log: LogId) -> u128 {
    ((log.epoch.0 as u128) << 64) | log.index.0 as u128
}

impl<S: LogStore> LogEntries<S> {
    pub(crate) fn new(group: GroupId, store: Arc<S>) -> Self {
        Self { group, store, pending: Arc::default() }
    }

    /// Entries from `from` to below `end`, as they are kept: those that fit `bytes_max`, but one at least if there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn read(
        &self,
        log: LogId,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        if from >= end {
            return Ok(Vec::new());
        }
        // Looked at first: what leaves it meanwhile is in the store by then.
        let pending: Vec<(u64, Bytes)> = {
            let pending = self.pending.lock();
            let found = pending.range((log, from)..(log, end));
            found.map(|((_, offset), entry)| (*offset, entry.clone())).collect()
        };
        let in_store = pending.first().map_or(end, |(first, _)| *first);
        if from >= in_store {
            return crate::store::fitting(pending.into_iter().map(Ok), bytes_max);
        }
        let stored = self.store.log_entries(self.group, number(log), from, in_store, bytes_max)?;
        let next = stored.last().map_or(from, |(last, _)| last + 1);
        // A page that holds all that the store has goes on with what is on its way there.
        let rest = pending.into_iter().filter(|_| next == in_store);
        crate::store::fitting(stored.into_iter().chain(rest).map(Ok), bytes_max)
    }

    /// The same, with what is kept beside an entry.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn read_entries(
        &self,
        log: LogId,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let kept = self.read(log, from, end, bytes_max)?;
        kept.into_iter().map(|(offset, kept)| open(offset, kept)).collect()
    }

    /// Writes what came of commands. Readable at once, on the disk with what is written next.
    async fn write(&self, effects: Vec<LogWrite>) -> Result<(), StoreError> {
        if effects.is_empty() {
            return Ok(());
        }
        let mut puts = Vec::new();
        let writes = effects.into_iter().map(|write| {
            if let LogWrite::Put { log, offset, stamp, entry } = write {
                let kept = seal(stamp, &entry);
                puts.push(((log, offset.0), kept.clone()));
                return Write::LogPut { log: number(log), offset: offset.0, entry: kept };
            }
            match write {
                LogWrite::Trim { log, up_to } => Write::LogTrim { log: number(log), below: up_to.0 },
                LogWrite::Put { log, .. } | LogWrite::Drop { log } => {
                    Write::LogTrim { log: number(log), below: u64::MAX }
                }
            }
        });
        let writes = writes.collect();
        let keys: Vec<_> = puts.iter().map(|(key, _)| *key).collect();
        self.pending.lock().extend(puts);
        let pending = self.pending.clone();
        let done = Box::new(move |result: Result<(), StoreError>| {
            if result.is_ok() {
                let mut pending = pending.lock();
                for key in &keys {
                    pending.remove(key);
                }
            }
        });
        self.store.write(Batch { group: self.group, writes, urgent: false, done: Some(done) }).await
    }

    /// Writes the entries among what came of commands, and nothing that removes any.
    pub(crate) async fn keep(&self, mut effects: Vec<LogWrite>) -> Result<(), StoreError> {
        effects.retain(|write| matches!(write, LogWrite::Put { .. }));
        self.write(effects).await
    }

    /// Keeps an entry that came with an image.
    pub(crate) async fn take(&self, log: LogId, offset: u64, kept: Bytes) -> Result<(), StoreError> {
        let put = Write::LogPut { log: number(log), offset, entry: kept };
        self.store.write(Batch { group: self.group, writes: vec![put], urgent: false, done: None }).await
    }
}

fn seal(stamp: UnixMillis, entry: &[u8]) -> Bytes {
    let mut kept = BytesMut::with_capacity(8 + entry.len());
    kept.put_u64(stamp.0);
    kept.put_slice(entry);
    kept.freeze()
}

fn open(offset: u64, mut kept: Bytes) -> Result<LogEntry, StoreError> {
    if kept.len() < 8 {
        return Err(StoreError::Damaged("an entry of a log without its time".into()));
    }
    let stamp = UnixMillis(kept.get_u64());
    Ok(LogEntry { offset: LogOffset(offset), stamp, entry: kept })
}

/// The objects at some place in the log.
#[derive(Clone, Debug)]
pub(crate) struct Image(Bytes);

impl Image {
    pub(crate) const fn new(objects: Bytes) -> Self {
        Self(objects)
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// What is in it.
    pub(crate) fn objects(&self) -> Result<Objects, StoreError> {
        Objects::decode(&self.0).map_err(|cause| StoreError::Damaged(Arc::from(cause.to_string())))
    }
}

/// What others may look at while commands are applied.
pub(crate) struct View {
    /// The objects, after all commands applied so far.
    pub(crate) objects: RwLock<Objects>,
    changes: broadcast::Sender<Change>,
}

impl View {
    /// All changes from now on. Who lags behind too far is told so, and looks at the objects again.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// The state machine of one group.
pub(crate) struct State<S> {
    group: GroupId,
    store: Arc<S>,
    log_entries: LogEntries<S>,
    view: Arc<View>,
    applied: Option<Position>,
    membership: StoredMembership,
}

impl<S: LogStore> State<S> {
    /// An empty one; openraft fills it from the image that is on the disk, and from the log.
    pub(crate) fn new(group: GroupId, store: Arc<S>) -> Self {
        let log_entries = LogEntries::new(group, store.clone());
        let view = View { objects: RwLock::default(), changes: broadcast::Sender::new(CHANGES_MAX) };
        let (applied, membership) = (None, StoredMembership::default());
        Self { group, store, log_entries, view: Arc::new(view), applied, membership }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    pub(crate) fn log_entries(&self) -> LogEntries<S> {
        self.log_entries.clone()
    }

    fn apply_command(&self, at: Position, proposal: Proposal, effects: &mut Effects) -> Answer {
        match Command::decode(proposal.0) {
            Ok(command) => self.view.objects.write().apply(LogIndex(at.index), command, effects),
            // Proposals are decoded before they get into the log, so this is a newer version's; nobody here can apply it.
            Err(cause) => {
                tracing::error!(%at, %cause, "a command that this version does not know");
                Answer::Done
            }
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// Removes the logs that an image does not have, and what it has trimmed.
pub(crate) fn leftovers<S: LogStore>(
    store: &S,
    group: GroupId,
    objects: &Objects,
) -> Result<Vec<Write>, StoreError> {
    let kept: BTreeMap<u128, u64> =
        objects.logs(None, usize::MAX).into_iter().map(|log| (number(log.id), log.first.0)).collect();
    let stored = store.logs(group)?;
    let below = |log: &u128| kept.get(log).copied().unwrap_or(u64::MAX);
    Ok(stored.into_iter().map(|log| Write::LogTrim { log, below: below(&log) }).collect())
}

impl<S: LogStore> RaftStateMachine<Types> for State<S> {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(&mut self) -> Result<(Option<Position>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<E>(&mut self, mut entries: E) -> Result<(), io::Error>
    where
        E: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut effects = Effects::default();
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let at = entry.log_id();
            let answer = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(proposal) => Some(self.apply_command(at, proposal, &mut effects)),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(at), membership);
                    None
                }
            };
            self.applied = Some(at);
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        self.log_entries.write(effects.writes).await?;
        for change in effects.changes {
            // Nobody watching is no error.
            let _ = self.view.changes.send(change);
        }
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S> {
        let image = Image(self.view.objects.read().encode().into());
        Builder { group: self.group, store: self.store.clone(), meta: self.meta(), image }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> Result<(), io::Error> {
        let objects = image.objects()?;
        let mut writes = leftovers(&*self.store, self.group, &objects)?;
        let kept = image_out(meta, image.into_bytes()).encode_to_vec();
        writes.push(Write::Set(Slot::Image, kept.into()));
        write_durably(&*self.store, self.group, writes).await?;
        *self.view.objects.write() = objects;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Image>>, io::Error> {
        let Some(bytes) = self.store.slot(self.group, Slot::Image)? else { return Ok(None) };
        let damaged = |cause: CodecError| StoreError::Damaged(Arc::from(cause.to_string()));
        let image: wire::RaftImage = decode(bytes).map_err(|cause| damaged(cause.into()))?;
        let (meta, objects) = image_in(image).map_err(damaged)?;
        Ok(Some(SnapshotOf::<Types, Image> { meta, snapshot: Image(objects) }))
    }
}

/// Writes an image of the objects as they were when it was made.
pub(crate) struct Builder<S> {
    group: GroupId,
    store: Arc<S>,
    meta: SnapshotMeta,
    image: Image,
}

impl<S: LogStore> RaftSnapshotBuilder<Types> for Builder<S> {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Image>, io::Error> {
        let kept = image_out(&self.meta, self.image.0.clone()).encode_to_vec();
        write_durably(&*self.store, self.group, vec![Write::Set(Slot::Image, kept.into())]).await?;
        Ok(SnapshotOf::<Types, Image> { meta: self.meta.clone(), snapshot: self.image.clone() })
    }
}
