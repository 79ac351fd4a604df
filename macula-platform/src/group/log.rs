//! Logs, as applications use them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_transport::Transport;
use tokio::sync::{Mutex, watch};

use super::client::{Bounds, Client};
use super::election::PATIENCE;
use super::error::CoordinationError;
use super::seen::{Look, Seen};
use crate::LogStore;
use crate::objects::{
    Answer, Epoch, LogInfo, LogName, LogOffset, Nonce, Refusal, Request, Retention, WriterId, WriterSequence,
};
use crate::raft::LogEntry;

/// A tail asks so often whether there is more, should it have missed what it was told.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A log of a realm: entries in one order, each appended once, kept as its [`Retention`] says.
///
/// Clones share one writer: their appends go one after the other. Two logs opened by the same name append side by side.
pub struct Log<T: Transport, S: LogStore> {
    name: LogName,
    client: Arc<Client<T, S>>,
    writer: Arc<Mutex<Option<Writer>>>,
}

/// This node as a writer of the log.
#[derive(Clone, Copy, Debug)]
struct Writer {
    id: WriterId,
    sequence: WriterSequence,
}

impl<T: Transport, S: LogStore> Clone for Log<T, S> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), client: self.client.clone(), writer: self.writer.clone() }
    }
}

/// What was read of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The log; `None` if there is none of that name.
    pub log: Option<LogInfo>,
    /// Entries, in order: as many as fit half a MiB, at most 256.
    pub entries: Vec<LogEntry>,
}

impl<T: Transport, S: LogStore> Log<T, S> {
    pub(crate) fn new(client: Arc<Client<T, S>>, name: LogName) -> Self {
        Self { name, client, writer: Arc::default() }
    }

    /// Its name.
    pub const fn name(&self) -> &LogName {
        &self.name
    }

    /// Appends one entry, and returns its offset. See [`append_all`](Self::append_all).
    ///
    /// # Errors
    /// The same.
    pub async fn append(&self, entry: impl Into<Bytes>) -> Result<LogOffset, CoordinationError> {
        self.append_all(vec![entry.into()]).await
    }

    /// Appends entries one behind the other, all or none, and returns the offset of the first. The log is created if it is not
    /// there.
    ///
    /// Each call appends once, however often the group had to be asked. A call whose future is dropped may have appended.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`]: it may have appended, or not. [`CoordinationError::Refused`] past a limit, or if the log
    /// was dropped meanwhile.
    pub async fn append_all(&self, entries: Vec<Bytes>) -> Result<LogOffset, CoordinationError> {
        let mut slot = self.writer.lock().await;
        match self.append_as(&mut slot, entries.clone()).await {
            // The group was recovered from a lost quorum, and some of this writer's appends were lost: so this one is certainly
            // not there, and goes on as another writer's.
            Err(CoordinationError::Refused(Refusal::SequenceGap { .. })) => {
                self.append_as(&mut slot, entries).await
            }
            other => other,
        }
    }

    async fn append_as(
        &self,
        slot: &mut Option<Writer>,
        entries: Vec<Bytes>,
    ) -> Result<LogOffset, CoordinationError> {
        // Taken, so that an append whose outcome is not known is followed by a new writer, not by a gap in the numbers.
        let mut writer = match slot.take() {
            Some(writer) => writer,
            None => self.open_writer().await?,
        };
        writer.sequence.0 += 1;
        let append =
            Request::Append { log: self.name.clone(), writer: writer.id, sequence: writer.sequence, entries };
        match self.client.seat.request(append, PATIENCE).await {
            Ok(Answer::Appended { first, .. }) => {
                *slot = Some(writer);
                Ok(first)
            }
            Ok(other) => Err(CoordinationError::Protocol(format!("{other:?}"))),
            Err(CoordinationError::Refused(refusal)) => {
                if !is_of_another_history(&refusal) {
                    // Nothing was appended, so the number is free.
                    writer.sequence.0 -= 1;
                    *slot = Some(writer);
                }
                Err(refusal.into())
            }
            Err(other) => Err(other),
        }
    }

    async fn open_writer(&self) -> Result<Writer, CoordinationError> {
        let open = Request::OpenWriter { log: self.name.clone(), nonce: Nonce(self.client.seat.draw()) };
        match self.client.seat.request(open, PATIENCE).await? {
            Answer::WriterOpened { writer, .. } => Ok(Writer { id: writer, sequence: WriterSequence(0) }),
            other => Err(CoordinationError::Protocol(format!("{other:?}"))),
        }
    }

    /// Entries from an offset on, or from the oldest that is kept if that is later: one page, empty at the end.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn read(&self, from: LogOffset) -> Result<LogPage, CoordinationError> {
        let look = Look::LogEntries { log: self.name.clone(), from };
        let Seen { logs, entries, .. } = self.client.seat.look(look, PATIENCE).await?;
        Ok(LogPage { log: logs.into_iter().next(), entries })
    }

    /// Entries from an offset on, one after the other, also those that will be appended.
    pub fn tail(&self, from: LogOffset) -> LogTail<T, S> {
        let bounds = self.client.watch_log(&self.name);
        LogTail { log: self.clone(), next: from, page: VecDeque::new(), bounds, epoch: None }
    }

    /// The log's bounds and settings; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn info(&self) -> Result<Option<LogInfo>, CoordinationError> {
        let seen = self.client.seat.look(Look::Log(self.name.clone()), PATIENCE).await?;
        Ok(seen.logs.into_iter().next())
    }

    /// Says how much of the log is kept.
    ///
    /// # Errors
    /// [`CoordinationError::Refused`] if there is no such log, or nothing would be kept.
    pub async fn retain(&self, retention: Retention) -> Result<(), CoordinationError> {
        let retain = Request::Retain { log: self.name.clone(), retention };
        self.client.seat.request(retain, PATIENCE).await.map(drop)
    }

    /// Deletes the log with all its entries. Whoever appends to it then creates a new one, with offsets from 0.
    ///
    /// # Errors
    /// [`CoordinationError`] if the group does not answer.
    pub async fn delete(&self) -> Result<(), CoordinationError> {
        self.client.seat.request(Request::DropLog { log: self.name.clone() }, PATIENCE).await.map(drop)
    }
}

/// A log's entries as they come, see [`Log::tail`].
pub struct LogTail<T: Transport, S: LogStore> {
    log: Log<T, S>,
    next: LogOffset,
    page: VecDeque<LogEntry>,
    bounds: watch::Receiver<Bounds>,
    /// Of the last recovery that this tail knows of.
    epoch: Option<Epoch>,
}

impl<T: Transport, S: LogStore> LogTail<T, S> {
    /// The offset of the next entry: keep it to go on after a crash.
    pub const fn position(&self) -> LogOffset {
        self.next
    }

    /// Waits for the next entry. Entries that retention removed before they were read are passed over: offsets tell.
    ///
    /// # Errors
    /// [`CoordinationError::LogRewound`] once for each recovery from a lost quorum that took back entries which this tail has
    /// given: it goes on at the first offset that may hold another entry than before. [`CoordinationError`] if the group does not
    /// answer for ten seconds; the tail goes on where it was.
    pub async fn next(&mut self) -> Result<LogEntry, CoordinationError> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                self.next = LogOffset(entry.offset.0 + 1);
                return Ok(entry);
            }
            self.bounds.borrow_and_update();
            let LogPage { log, entries } = self.log.read(self.next).await?;
            self.look_back(log.as_ref())?;
            self.page = entries.into();
            if self.page.is_empty() {
                self.more().await;
            }
        }
    }

    /// Whether what this tail has given is still there.
    fn look_back(&mut self, log: Option<&LogInfo>) -> Result<(), CoordinationError> {
        let Some(log) = log else { return Ok(()) };
        let newest = log.recovered.last().map_or(Epoch(0), |recovery| recovery.epoch);
        let known = self.epoch.replace(newest);
        let Some(known) = known else { return Ok(()) };
        let since = log.recovered.iter().filter(|recovery| recovery.epoch > known);
        match since.map(|recovery| recovery.from).min() {
            Some(from) if from < self.next => {
                self.next = from;
                Err(CoordinationError::LogRewound { log: log.log.clone(), epoch: newest, from })
            }
            _ => Ok(()),
        }
    }

    /// Waits until there may be more.
    async fn more(&mut self) {
        let next = self.next;
        let told = self.bounds.wait_for(|bounds| bounds.is_some_and(|(_, _, end)| end > next));
        let _ = tokio::time::timeout(ASK_AGAIN, told).await;
    }
}

/// Whether the log knows nothing of what the writer did: it was dropped, or what it had was lost in a recovery.
const fn is_of_another_history(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::WriterUnknown(_)
            | Refusal::WriterForeign(_)
            | Refusal::SequenceGap { .. }
            | Refusal::SequenceOver { .. }
    )
}
