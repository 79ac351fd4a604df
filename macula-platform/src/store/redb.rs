//! The store on disk: one redb file, and one thread that writes to it.
//!
//! Whatever waits when the thread gets to it goes into one transaction and one fsync, of whichever group it is. redb writes
//! copies of the pages it changes and then switches over, so a torn write damages nothing that was there before.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{
    Builder, Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend, Table,
    TableDefinition, WriteTransaction,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::{open, seal};
use super::{Batch, Done, GroupId, LogStore, Slot, StoreError, StoreMetrics, Write, fitting};

type Entries = TableDefinition<'static, (u128, u64), &'static [u8]>;
type LogEntries = TableDefinition<'static, (u128, u128, u64), &'static [u8]>;

const SLOTS: TableDefinition<'static, (u128, u8), &'static [u8]> = TableDefinition::new("slots");
const ENTRIES: Entries = TableDefinition::new("raft_log");
const LOG_ENTRIES: LogEntries = TableDefinition::new("log_entries");

/// Batches that are not urgent are written after this time at the latest.
const LINGER: Duration = Duration::from_millis(50);

/// Batches in one transaction, at most; what waits behind them goes into the next.
const BATCHES_MAX: usize = 4_096;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Pages of the file that are kept in memory, in bytes.
    pub cache_bytes: usize,
    /// What may wait to be written, in bytes; who brings more waits.
    pub waiting_bytes_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 4 << 20, waiting_bytes_max: 16 << 20 }
    }
}

/// A store in a file.
///
/// See [`LogStore`] for what it guarantees. A second process that opens the same file gets [`StoreError::Open`]. A file that is
/// not there yet, and the memory that goes with it, is made when there is something to keep.
pub struct RedbStore {
    opened: OnceLock<Opened>,
    /// How it is opened, until it is.
    open: Mutex<Option<Opening>>,
}

type Opening = Box<dyn Fn() -> Result<Opened, StoreError> + Send>;

#[derive(Debug)]
struct Opened {
    database: Arc<Database>,
    /// `None` once closed.
    queue: Mutex<Option<Sender<Waiting>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    room: Arc<Semaphore>,
    room_bytes: u32,
    failed: Arc<OnceLock<StoreError>>,
}

/// A batch on its way to the writer, and the room that it takes meanwhile.
#[derive(Debug)]
struct Waiting {
    batch: Batch,
    _room: OwnedSemaphorePermit,
}

impl RedbStore {
    /// Opens the file, or makes it once there is something to keep.
    ///
    /// # Errors
    /// [`StoreError::Open`] if it cannot be opened, is no such file, or another process has it open.
    pub fn open(path: &Path, options: StoreOptions, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let (path, is_there) = (path.to_owned(), path.exists());
        let store = Self::later(Box::new(move || {
            let refused = |cause: redb::DatabaseError| StoreError::Open {
                path: path.display().to_string(),
                cause: cause.to_string(),
            };
            let database = builder(options).create(&path).map_err(refused)?;
            Opened::start(database, options, metrics.clone())
        }));
        if is_there {
            store.opened()?;
        }
        Ok(store)
    }

    fn later(open: Opening) -> Self {
        Self { opened: OnceLock::new(), open: Mutex::new(Some(open)) }
    }

    fn opened(&self) -> Result<&Opened, StoreError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let mut open = self.open.lock();
        if let Some(how) = &*open {
            // Nobody else can have set it: that takes the lock.
            let _ = self.opened.set(how()?);
            *open = None;
        }
        self.opened.get().ok_or(StoreError::Closed)
    }

    /// Writes what waits, and takes nothing more.
    pub fn close(&self) {
        *self.open.lock() = None;
        if let Some(opened) = self.opened.get() {
            opened.close();
        }
    }

    /// One that is gone with the process: for nodes that keep nothing.
    pub fn in_memory(options: StoreOptions, metrics: StoreMetrics) -> Self {
        Self::later(Box::new(move || {
            Opened::on_backend(redb::backends::InMemoryBackend::new(), options, metrics.clone())
        }))
    }

    /// The same on something else than a file.
    ///
    /// # Errors
    /// The same.
    pub fn on_backend(
        backend: impl StorageBackend,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<Self, StoreError> {
        let opened = Opened::on_backend(backend, options, metrics)?;
        Ok(Self { opened: OnceLock::from(opened), open: Mutex::new(None) })
    }
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore").field("opened", &self.opened).finish_non_exhaustive()
    }
}

impl Opened {
    fn on_backend(
        backend: impl StorageBackend,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<Self, StoreError> {
        let refused = |cause: redb::DatabaseError| StoreError::Open {
            path: "the backend".into(),
            cause: cause.to_string(),
        };
        let database = builder(options).create_with_backend(backend).map_err(refused)?;
        Self::start(database, options, metrics)
    }

    fn start(database: Database, options: StoreOptions, metrics: StoreMetrics) -> Result<Self, StoreError> {
        create_tables(&database)?;
        let database = Arc::new(database);
        let failed = Arc::new(OnceLock::new());
        let (queue, batches) = channel();
        let writer = Writer { database: database.clone(), failed: failed.clone(), metrics };
        let thread = std::thread::Builder::new().name("macula-store".into());
        let writer = thread.spawn(move || writer.run(&batches)).map_err(failure)?;
        let room_bytes = u32::try_from(options.waiting_bytes_max).unwrap_or(u32::MAX).max(1);
        Ok(Self {
            database,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
            room: Arc::new(Semaphore::new(room_bytes as usize)),
            room_bytes,
            failed,
        })
    }

    fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.close();
    }
}

fn builder(options: StoreOptions) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    builder
}

/// So that nobody who reads has to expect that a table is missing.
fn create_tables(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failure)?;
    transaction.open_table(SLOTS).map_err(failure)?;
    transaction.open_table(ENTRIES).map_err(failure)?;
    transaction.open_table(LOG_ENTRIES).map_err(failure)?;
    transaction.commit().map_err(failure)
}

fn failure(cause: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(Arc::from(cause.to_string()))
}

impl LogStore for RedbStore {
    async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes: usize = batch.writes.iter().map(Write::bytes).sum();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.opened()?.room_bytes);
        let opened = self.opened()?;
        let room = opened.room.clone().acquire_many_owned(permits).await.map_err(|_| StoreError::Closed)?;
        if let Some(error) = opened.failed.get() {
            return Err(error.clone());
        }
        let waiting = Waiting { batch, _room: room };
        let queue = opened.queue.lock();
        queue.as_ref().ok_or(StoreError::Closed)?.send(waiting).map_err(|_| StoreError::Closed)
    }

    fn slot(&self, group: GroupId, slot: Slot) -> Result<Option<Bytes>, StoreError> {
        let transaction = self.opened()?.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(SLOTS).map_err(failure)?;
        let value = table.get((group.0, slot as u8)).map_err(failure)?;
        value.map(|value| open(&slot_place(slot), value.value())).transpose()
    }

    fn bounds(&self, group: GroupId) -> Result<Option<(u64, u64)>, StoreError> {
        let transaction = self.opened()?.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(ENTRIES).map_err(failure)?;
        let mut range = table.range((group.0, 0)..=(group.0, u64::MAX)).map_err(failure)?;
        let Some(first) = range.next() else { return Ok(None) };
        let first = first.map_err(failure)?.0.value().1;
        let last = range.next_back().transpose().map_err(failure)?.map_or(first, |last| last.0.value().1);
        Ok(Some((first, last)))
    }

    fn entries(
        &self,
        group: GroupId,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let transaction = self.opened()?.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(ENTRIES).map_err(failure)?;
        let found = table.range((group.0, from)..(group.0, end.max(from))).map_err(failure)?;
        let opened = found.map(|item| {
            let (key, value) = item.map_err(failure)?;
            let index = key.value().1;
            Ok((index, open(&[index], value.value())?))
        });
        fitting(opened, bytes_max)
    }

    fn log_entries(
        &self,
        group: GroupId,
        log: u128,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let transaction = self.opened()?.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(LOG_ENTRIES).map_err(failure)?;
        let found = table.range((group.0, log, from)..(group.0, log, end.max(from))).map_err(failure)?;
        let opened = found.map(|item| {
            let (key, value) = item.map_err(failure)?;
            let offset = key.value().2;
            Ok((offset, open(&log_place(log, offset), value.value())?))
        });
        fitting(opened, bytes_max)
    }

    fn logs(&self, group: GroupId) -> Result<Vec<u128>, StoreError> {
        let transaction = self.opened()?.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(LOG_ENTRIES).map_err(failure)?;
        let mut logs = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let mut range =
                table.range((group.0, from, 0)..=(group.0, u128::MAX, u64::MAX)).map_err(failure)?;
            let found = range.next().transpose().map_err(failure)?.map(|(key, _)| key.value().1);
            logs.extend(found);
            next = found.and_then(|log| log.checked_add(1));
        }
        Ok(logs)
    }

    fn groups(&self) -> Result<Vec<(GroupId, Bytes)>, StoreError> {
        if self.opened.get().is_none() {
            return Ok(Vec::new());
        }
        let transaction = self.opened()?.database.begin_read().map_err(failure)?;
        let table = transaction.open_table(SLOTS).map_err(failure)?;
        let mut groups = Vec::new();
        for item in table.iter().map_err(failure)? {
            let (key, value) = item.map_err(failure)?;
            let (group, slot) = key.value();
            if slot == Slot::Part as u8 {
                groups.push((GroupId(group), open(&slot_place(Slot::Part), value.value())?));
            }
        }
        Ok(groups)
    }
}

const fn log_place(log: u128, offset: u64) -> [u64; 3] {
    [(log >> 64) as u64, log as u64, offset]
}

const fn slot_place(slot: Slot) -> [u64; 1] {
    [slot as u64]
}

/// The thread that writes.
struct Writer {
    database: Arc<Database>,
    failed: Arc<OnceLock<StoreError>>,
    metrics: StoreMetrics,
}

impl Writer {
    fn run(&self, queue: &Receiver<Waiting>) {
        let mut waiting = Vec::new();
        // When the oldest of those that are not urgent came.
        let mut since = None;
        loop {
            let patience =
                since.map_or(Duration::MAX, |since: Instant| LINGER.saturating_sub(since.elapsed()));
            let closed = match receive(queue, patience) {
                Ok(batch) => {
                    waiting.push(batch);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            while waiting.len() < BATCHES_MAX
                && let Ok(batch) = queue.try_recv()
            {
                waiting.push(batch);
            }
            since = since.or_else(|| (!waiting.is_empty()).then(now));
            let is_due = closed
                || waiting.len() >= BATCHES_MAX
                || since.is_some_and(|since| since.elapsed() >= LINGER)
                || waiting.iter().any(|waiting| waiting.batch.urgent);
            if is_due {
                self.write(std::mem::take(&mut waiting));
                since = None;
            }
            if closed {
                return;
            }
        }
    }

    /// Writes batches in one transaction, and tells those who wait for them.
    fn write(&self, waiting: Vec<Waiting>) {
        if waiting.is_empty() {
            return;
        }
        let result = match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => self.commit(&waiting),
        };
        if let Err(error) = &result {
            self.metrics.failures.inc();
            if self.failed.set(error.clone()).is_ok() {
                tracing::error!(%error, "the store takes no more writes");
            }
        }
        let told: Vec<Done> = waiting.into_iter().filter_map(|waiting| waiting.batch.done).collect();
        for done in told {
            done(result.clone());
        }
    }

    fn commit(&self, waiting: &[Waiting]) -> Result<(), StoreError> {
        let started = now();
        let mut transaction = self.database.begin_write().map_err(failure)?;
        transaction.set_durability(Durability::Immediate).map_err(failure)?;
        // Opens after a crash without reading the whole file.
        transaction.set_quick_repair(true);
        let mut bytes = 0;
        put_all(&transaction, waiting, &mut bytes)?;
        transaction.commit().map_err(failure)?;
        self.metrics.batches.inc_by(waiting.len() as u64);
        self.metrics.bytes.inc_by(bytes as u64);
        self.metrics.syncs.inc();
        self.metrics.sync_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// The writer has a thread of its own, and nothing it decides depends on what time it is.
#[allow(clippy::disallowed_methods, reason = "it measures, and puts off writes that nobody waits for")]
fn now() -> Instant {
    Instant::now()
}

/// `recv_timeout` that may wait for ever.
fn receive(queue: &Receiver<Waiting>, patience: Duration) -> Result<Waiting, RecvTimeoutError> {
    if patience == Duration::MAX {
        return queue.recv().map_err(|_| RecvTimeoutError::Disconnected);
    }
    queue.recv_timeout(patience)
}

type SlotTable<'t> = Table<'t, (u128, u8), &'static [u8]>;
type EntryTable<'t> = Table<'t, (u128, u64), &'static [u8]>;
type LogEntryTable<'t> = Table<'t, (u128, u128, u64), &'static [u8]>;

fn put_all(transaction: &WriteTransaction, waiting: &[Waiting], bytes: &mut usize) -> Result<(), StoreError> {
    let mut slots = transaction.open_table(SLOTS).map_err(failure)?;
    let mut entries = transaction.open_table(ENTRIES).map_err(failure)?;
    let mut logs = transaction.open_table(LOG_ENTRIES).map_err(failure)?;
    for Waiting { batch, .. } in waiting {
        for write in &batch.writes {
            *bytes += write.bytes();
            put(batch.group.0, write, &mut slots, &mut entries, &mut logs)?;
        }
    }
    Ok(())
}

fn put(
    group: u128,
    write: &Write,
    slots: &mut SlotTable<'_>,
    entries: &mut EntryTable<'_>,
    logs: &mut LogEntryTable<'_>,
) -> Result<(), StoreError> {
    match write {
        Write::Set(slot, value) => {
            let sealed = seal(&slot_place(*slot), value);
            slots.insert((group, *slot as u8), sealed.as_slice()).map_err(failure)?;
        }
        Write::Append(index, entry) => {
            let sealed = seal(&[*index], entry);
            entries.insert((group, *index), sealed.as_slice()).map_err(failure)?;
        }
        Write::Truncate(from) => {
            entries.retain_in((group, *from)..=(group, u64::MAX), |_, _| false).map_err(failure)?;
        }
        Write::Purge(through) => {
            entries.retain_in((group, 0)..=(group, *through), |_, _| false).map_err(failure)?;
        }
        Write::LogPut { log, offset, entry } => {
            let sealed = seal(&log_place(*log, *offset), entry);
            logs.insert((group, *log, *offset), sealed.as_slice()).map_err(failure)?;
        }
        Write::LogTrim { log, below } => {
            logs.retain_in((group, *log, 0)..(group, *log, *below), |_, _| false).map_err(failure)?;
        }
        Write::Forget => {
            slots.retain_in((group, 0)..=(group, u8::MAX), |_, _| false).map_err(failure)?;
            entries.retain_in((group, 0)..=(group, u64::MAX), |_, _| false).map_err(failure)?;
            logs.retain_in((group, 0, 0)..=(group, u128::MAX, u64::MAX), |_, _| false).map_err(failure)?;
        }
    }
    Ok(())
}
