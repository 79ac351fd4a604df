//! Logs: where they begin and end, who writes, and what may go. The entries themselves are in a store elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, UnixMillis};

use super::answer::{Answer, Ended, Refusal};
use super::change::{Change, LogWrite};
use super::codec::millis;
use super::command::Retention;
use super::limits::{Bounded, Limits};
use super::machine::Step;
use super::names::LogName;
use super::place::{Epoch, LogId, LogOffset, Nonce, WriterId, WriterSequence};
use super::recovery::{self, LogRecovery};
use super::usage::within;

/// A chunk is full when it has this part of what a bound keeps.
const CHUNKS_OF_BOUND: u64 = 16;

/// Most chunks of one log; beyond, old ones are joined. Only a log whose retention is raised many times gets there.
const CHUNKS_MAX: usize = 128;

/// All logs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Logs {
    pub(super) by_name: BTreeMap<LogName, Log>,
    /// The largest stamp that any leader gave: stamps never go back.
    pub(super) stamp: UnixMillis,
}

/// One log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Log {
    pub(super) id: LogId,
    pub(super) creator: NodeId,
    pub(super) retention: Retention,
    pub(super) first: LogOffset,
    pub(super) next: LogOffset,
    pub(super) bytes: u64,
    /// Oldest first. Entries go by whole chunks, so sizes and stamps are kept of chunks only.
    pub(super) chunks: VecDeque<Chunk>,
    pub(super) writers: BTreeMap<WriterId, Writer>,
    /// The oldest first.
    pub(super) recovered: Vec<LogRecovery>,
}

/// Entries in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) oldest: UnixMillis,
    pub(super) newest: UnixMillis,
}

/// Who appends, and its last append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Writer {
    pub(super) owner: NodeId,
    pub(super) nonce: Nonce,
    /// 0: none yet.
    pub(super) sequence: WriterSequence,
    pub(super) first: LogOffset,
    pub(super) next: LogOffset,
    /// The place of its last command: the writer with the lowest one is forgotten first.
    pub(super) used: WriterId,
}

/// An append, as asked for.
pub(super) struct Append {
    pub(super) writer: WriterId,
    pub(super) sequence: WriterSequence,
    pub(super) entries: Vec<Bytes>,
}

impl Logs {
    /// Moves the clock of all logs forward.
    pub(super) fn see(&mut self, stamp: UnixMillis) {
        self.stamp = self.stamp.max(stamp);
    }

    /// The group was recovered from a lost quorum: what was appended behind the present end is gone.
    pub(super) fn recovered(&mut self, epoch: Epoch) {
        for log in self.by_name.values_mut() {
            recovery::note(&mut log.recovered, LogRecovery { epoch, from: log.next });
        }
    }

    /// The first log whose oldest chunk gets too old, and when.
    pub(super) fn trim_due(&self) -> Option<UnixMillis> {
        self.by_name.values().filter_map(Log::old_at).min()
    }

    pub(super) fn trim(&mut self, step: &mut Step<'_>) {
        let stamp = self.stamp;
        for (name, log) in &mut self.by_name {
            if log.trim(step, stamp) {
                tell(step, name, log.id, Some(log));
            }
        }
    }

    pub(super) fn open_writer(
        &mut self,
        step: &mut Step<'_>,
        name: LogName,
        nonce: Nonce,
    ) -> Result<Answer, Refusal> {
        let known = |log: &mut Log| {
            let (id, writer) = log.writers.iter_mut().find(|(_, writer)| writer.is(step.by, nonce))?;
            writer.used = step.place();
            Some((log.id, *id))
        };
        if let Some((log, writer)) = self.by_name.get_mut(&name).and_then(known) {
            return Ok(Answer::WriterOpened { log, writer });
        }
        if !self.by_name.contains_key(&name) {
            self.create(step, name.clone())?;
        }
        let log = self.by_name.get_mut(&name).ok_or(Refusal::LogUnknown)?;
        log.make_room(step.by, step.limits);
        let (first, next, sequence) = Default::default();
        let writer = Writer { owner: step.by, nonce, sequence, first, next, used: step.place() };
        log.writers.insert(step.place(), writer);
        Ok(Answer::WriterOpened { log: log.id, writer: step.place() })
    }

    fn create(&mut self, step: &mut Step<'_>, name: LogName) -> Result<(), Refusal> {
        let retention = Retention::default();
        within(Bounded::Logs, self.by_name.len() + 1, step.limits.logs)?;
        self.within_retained(retention.bytes, 0, step.limits)?;
        step.sessions.usage.take_log(step.by, step.limits)?;
        let id = LogId::new(step.token.epoch, step.token.index);
        let (first, next, bytes) = Default::default();
        let (chunks, writers, recovered) = Default::default();
        let log = Log { id, creator: step.by, retention, first, next, bytes, chunks, writers, recovered };
        tell(step, &name, id, Some(&log));
        self.by_name.insert(name, log);
        Ok(())
    }

    fn within_retained(&self, bytes: u64, instead_of: u64, limits: &Limits) -> Result<(), Refusal> {
        let all: u64 = self.by_name.values().map(|log| log.retention.bytes).sum();
        let wanted = (all - instead_of).checked_add(bytes);
        match wanted.is_some_and(|wanted| wanted <= limits.retained_bytes) {
            true => Ok(()),
            false => Err(Refusal::Full { of: Bounded::RetainedBytes, bound: limits.retained_bytes }),
        }
    }

    pub(super) fn append(
        &mut self,
        step: &mut Step<'_>,
        name: &LogName,
        append: Append,
    ) -> Result<Answer, Refusal> {
        let log = self.by_name.get_mut(name).ok_or(Refusal::LogUnknown)?;
        let writer = log.writers.get_mut(&append.writer).ok_or(Refusal::WriterUnknown(append.writer))?;
        if writer.owner != step.by {
            return Err(Refusal::WriterForeign(append.writer));
        }
        let expected = WriterSequence(writer.sequence.0.saturating_add(1));
        if append.sequence == writer.sequence && append.sequence != WriterSequence(0) {
            writer.used = step.place();
            return Ok(Answer::Appended { first: writer.first, next: writer.next, repeated: true });
        }
        if append.sequence < expected {
            return Err(Refusal::SequenceOver { last: writer.sequence });
        }
        if append.sequence > expected {
            return Err(Refusal::SequenceGap { expected });
        }
        let (first, next) = (log.next, LogOffset(log.next.0 + append.entries.len() as u64));
        *writer = Writer { sequence: expected, first, next, used: step.place(), ..*writer };
        for entry in append.entries {
            log.push(step, entry, self.stamp);
        }
        log.trim(step, self.stamp);
        tell(step, name, log.id, Some(log));
        Ok(Answer::Appended { first, next, repeated: false })
    }

    pub(super) fn retain(
        &mut self,
        step: &mut Step<'_>,
        name: &LogName,
        retention: Retention,
    ) -> Result<Answer, Refusal> {
        let present = self.by_name.get(name).ok_or(Refusal::LogUnknown)?.retention;
        let bound = step.limits.retained_entries;
        if retention.entries > bound {
            return Err(Refusal::TooLarge { of: Bounded::RetainedEntries, given: retention.entries, bound });
        }
        self.within_retained(retention.bytes, present.bytes, step.limits)?;
        let log = self.by_name.get_mut(name).ok_or(Refusal::LogUnknown)?;
        // Whole milliseconds, as whoever reads the command back has them.
        log.retention = Retention { age: retention.age.map(millis).map(Duration::from_millis), ..retention };
        if log.trim(step, self.stamp) {
            tell(step, name, log.id, Some(log));
        }
        Ok(Answer::Done)
    }

    pub(super) fn drop_log(&mut self, step: &mut Step<'_>, name: &LogName) -> Answer {
        let Some(log) = self.by_name.remove(name) else { return Answer::Ended(Ended::Nothing) };
        step.sessions.usage.free_log(log.creator);
        step.out.writes.push(LogWrite::Drop { log: log.id });
        tell(step, name, log.id, None);
        Answer::Ended(Ended::Held)
    }
}

impl Writer {
    fn is(&self, owner: NodeId, nonce: Nonce) -> bool {
        (self.owner, self.nonce) == (owner, nonce)
    }
}

impl Log {
    fn push(&mut self, step: &mut Step<'_>, entry: Bytes, stamp: UnixMillis) {
        let bytes = entry.len() as u64;
        step.out.writes.push(LogWrite::Put { log: self.id, offset: self.next, stamp, entry });
        self.next.0 += 1;
        self.bytes += bytes;
        match self.chunks.back_mut().filter(|chunk| !chunk.is_full(self.retention, stamp)) {
            Some(chunk) => {
                chunk.entries += 1;
                chunk.bytes += bytes;
                chunk.newest = stamp;
            }
            None => self.chunks.push_back(Chunk { entries: 1, bytes, oldest: stamp, newest: stamp }),
        }
        if self.chunks.len() > CHUNKS_MAX {
            self.join_oldest();
        }
    }

    fn join_oldest(&mut self) {
        if let (Some(older), Some(newer)) = (self.chunks.pop_front(), self.chunks.front_mut()) {
            newer.entries += older.entries;
            newer.bytes += older.bytes;
            newer.oldest = older.oldest;
        }
    }

    /// Drops the chunks that some bound does not keep. Says whether there were any.
    fn trim(&mut self, step: &mut Step<'_>, now: UnixMillis) -> bool {
        let before = self.first;
        while let Some(chunk) = self.chunks.front().copied() {
            let entries_left = self.next.0 - self.first.0 - chunk.entries;
            let bytes_left = self.bytes - chunk.bytes;
            let many = entries_left >= self.retention.entries || bytes_left >= self.retention.bytes;
            let old = self.old_at().is_some_and(|at| at <= now);
            if !many && !old {
                break;
            }
            self.first.0 += chunk.entries;
            self.bytes = bytes_left;
            self.chunks.pop_front();
        }
        let trimmed = self.first != before;
        if trimmed {
            step.out.writes.push(LogWrite::Trim { log: self.id, up_to: self.first });
        }
        trimmed
    }

    /// When the oldest chunk is too old as a whole.
    fn old_at(&self) -> Option<UnixMillis> {
        let age = millis(self.retention.age?);
        Some(UnixMillis(self.chunks.front()?.newest.0.saturating_add(age)))
    }

    /// Forgets the writer that was idle for longest, if one more has no room: of the same node, if that has many.
    fn make_room(&mut self, owner: NodeId, limits: &Limits) {
        let own = self.writers.values().filter(|writer| writer.owner == owner).count();
        let own_only = own >= limits.writers_of_node;
        if !own_only && self.writers.len() < limits.writers {
            return;
        }
        let candidates = self.writers.iter().filter(|(_, writer)| !own_only || writer.owner == owner);
        if let Some(id) = candidates.min_by_key(|(_, writer)| writer.used).map(|(id, _)| *id) {
            self.writers.remove(&id);
        }
    }
}

impl Chunk {
    fn is_full(&self, retention: Retention, now: UnixMillis) -> bool {
        let part = |bound: u64| (bound / CHUNKS_OF_BOUND).max(1);
        let old = |age| now.0 - self.oldest.0 >= part(millis(age));
        self.entries >= part(retention.entries)
            || self.bytes >= part(retention.bytes)
            || retention.age.is_some_and(old)
    }
}

fn tell(step: &mut Step<'_>, name: &LogName, id: LogId, log: Option<&Log>) {
    let bounds = log.map(|log| (log.first, log.next));
    step.out.changes.push(Change::Log { at: step.token.index, log: name.clone(), id, bounds });
}
