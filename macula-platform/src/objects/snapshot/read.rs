//! Records to state. Every rule that the state obeys is checked.

use std::collections::VecDeque;
use std::time::Duration;

use macula_proto::wire::object_record::Kind;
use macula_proto::{IdError, NameError, NodeId, UnixMillis, wire};

use super::super::codec::{CodecError, millis};
use super::super::command::{LockMode, Retention};
use super::super::election::{Candidate, Election};
use super::super::limits::{Limits, TTL_MAX, TTL_MIN, VALUE_BYTES_MAX};
use super::super::lock::{Hold, Lock, Wait};
use super::super::log::{Chunk, Log, Writer};
use super::super::machine::Objects;
use super::super::names::{ElectionName, LockName, LogName};
use super::super::place::{
    FencingToken, LogId, LogOffset, Nonce, RequestId, SessionId, WriterId, WriterSequence,
};
use super::super::recovery::{self, RECOVERIES_MAX};
use super::super::session::Session;
use super::super::window::RequestWindow;
use super::{SnapshotError, VERSION};

/// Reads records one by one. An object is added once all of it is there.
pub(super) struct Reader {
    objects: Objects,
    limits: Limits,
    records: usize,
    part: Part,
}

/// What the last record belongs to.
enum Part {
    Nothing,
    Sessions,
    Election(ElectionName, FencingToken, VecDeque<Candidate>),
    Lock(LockName, Lock),
    Log(LogName, Box<Log>),
    End,
}

/// Why a record is refused.
enum Wrong {
    Rule(&'static str),
    Cause(CodecError),
}

impl From<NameError> for Wrong {
    fn from(cause: NameError) -> Self {
        Self::Cause(cause.into())
    }
}

impl From<IdError> for Wrong {
    fn from(cause: IdError) -> Self {
        Self::Cause(cause.into())
    }
}

/// What was allowed when it came is not refused now.
const NO_LIMITS: Limits = Limits {
    sessions: usize::MAX,
    sessions_of_node: usize::MAX,
    places: usize::MAX,
    places_of_node: usize::MAX,
    candidates: usize::MAX,
    waiters: usize::MAX,
    value_bytes: usize::MAX,
    value_bytes_of_node: usize::MAX,
    logs: usize::MAX,
    logs_of_node: usize::MAX,
    writers: usize::MAX,
    writers_of_node: usize::MAX,
    retained_bytes: u64::MAX,
    retained_entries: u64::MAX,
};

impl Reader {
    pub(super) fn new(limits: Limits) -> Self {
        Self { objects: Objects::with_limits(limits), limits, records: 0, part: Part::Nothing }
    }

    pub(super) const fn records(&self) -> usize {
        self.records
    }

    pub(super) fn read(&mut self, kind: Kind) -> Result<(), SnapshotError> {
        if let Kind::Head(head) = &kind
            && head.version != VERSION
        {
            return Err(SnapshotError::Version(head.version));
        }
        let record = self.records;
        self.record(kind).map_err(|wrong| match wrong {
            Wrong::Rule(rule) => SnapshotError::Rule { record, rule },
            Wrong::Cause(cause) => SnapshotError::Record { record, cause },
        })?;
        self.records += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Objects, SnapshotError> {
        match self.part {
            Part::End => Ok(Objects { limits: self.limits, ..self.objects }),
            Part::Nothing | Part::Sessions | Part::Election(..) | Part::Lock(..) | Part::Log(..) => {
                Err(SnapshotError::CutShort)
            }
        }
    }

    fn record(&mut self, kind: Kind) -> Result<(), Wrong> {
        match (kind, &mut self.part) {
            (Kind::Head(head), Part::Nothing) => {
                self.objects.last = FencingToken::from_wire(head.last);
                self.objects.logs.stamp = UnixMillis(head.stamp_ms);
                self.objects.recovering = head.recovering;
                self.part = Part::Sessions;
                Ok(())
            }
            (_, Part::Nothing) => Err(Wrong::Rule("the head comes first")),
            (Kind::Head(_), _) => Err(Wrong::Rule("there is one head")),
            (_, Part::End) => Err(Wrong::Rule("nothing follows the end")),
            (Kind::Session(session), Part::Sessions) => self.session(&session),
            (Kind::Session(_), _) => Err(Wrong::Rule("sessions follow the head")),
            (Kind::Candidate(candidate), Part::Election(_, _, candidates)) => {
                candidates.push_back(read_candidate(&candidate)?);
                Ok(())
            }
            (Kind::Candidate(_), _) => Err(Wrong::Rule("candidates follow an election")),
            (Kind::Hold(hold), Part::Lock(_, lock)) => add_hold(lock, &hold),
            (Kind::Hold(_), _) => Err(Wrong::Rule("holders follow a lock")),
            (Kind::Chunk(chunk), Part::Log(_, log)) => add_chunk(log, &chunk),
            (Kind::Chunk(_), _) => Err(Wrong::Rule("chunks follow a log")),
            (Kind::Writer(writer), Part::Log(_, log)) => add_writer(log, &writer),
            (Kind::Writer(_), _) => Err(Wrong::Rule("writers follow a log")),
            (kind @ (Kind::Election(_) | Kind::Lock(_) | Kind::Log(_) | Kind::End(_)), _) => self.begin(kind),
        }
    }

    /// Ends the object before, and begins the next one.
    fn begin(&mut self, kind: Kind) -> Result<(), Wrong> {
        match std::mem::replace(&mut self.part, Part::Sessions) {
            Part::Nothing | Part::Sessions | Part::End => {}
            Part::Election(name, token, candidates) => self.end_election(name, token, candidates)?,
            Part::Lock(name, lock) => self.end_lock(name, lock)?,
            Part::Log(name, log) => self.end_log(name, *log)?,
        }
        let objects = &self.objects;
        self.part = match kind {
            Kind::Election(election) => {
                let none_after = objects.locks.by_name.is_empty() && objects.logs.by_name.is_empty();
                rule(none_after, "elections come before locks and logs")?;
                Part::Election(
                    election.name.parse()?,
                    FencingToken::from_wire(election.token),
                    VecDeque::new(),
                )
            }
            Kind::Lock(lock) => {
                rule(objects.logs.by_name.is_empty(), "locks come before logs")?;
                Part::Lock(lock.name.parse()?, Lock::default())
            }
            Kind::Log(log) => Part::Log(log.name.parse()?, Box::new(read_log(&log)?)),
            Kind::End(end) => {
                rule(end.records == self.records as u64, "the end counts the records before it")?;
                Part::End
            }
            Kind::Head(_)
            | Kind::Session(_)
            | Kind::Candidate(_)
            | Kind::Hold(_)
            | Kind::Chunk(_)
            | Kind::Writer(_) => return Err(Wrong::Rule("an object begins here")),
        };
        Ok(())
    }

    fn session(&mut self, record: &wire::RecordSession) -> Result<(), Wrong> {
        let id = SessionId::from_wire(record.session);
        let (owner, nonce) = (NodeId::try_from(record.owner.as_ref())?, Nonce(record.nonce));
        let ttl = Duration::from_millis(record.ttl_ms);
        let sessions = &mut self.objects.sessions;
        let last = SessionId::new(self.objects.last.epoch, self.objects.last.index);
        let ordered = sessions.open.last_key_value().is_none_or(|(before, _)| *before < id);
        rule(ordered && id <= last, "sessions are in order, and not after the last command")?;
        rule((TTL_MIN..=TTL_MAX).contains(&ttl), "a session's time to live is within the limits")?;
        rule(sessions.opened(owner, nonce).is_none(), "a node uses a nonce for one session")?;
        let window = RequestWindow::from_parts(record.from, record.late, &record.seen);
        let window = window.ok_or(Wrong::Rule("a session's requests are in whole words"))?;
        let (elections, locks) = Default::default();
        let session = Session { owner, nonce, ttl_ms: record.ttl_ms, window, elections, locks };
        sessions.open(id, session, &NO_LIMITS).map_err(|refusal| Wrong::Cause(refusal.into()))
    }

    fn end_election(
        &mut self,
        name: ElectionName,
        token: FencingToken,
        mut candidates: VecDeque<Candidate>,
    ) -> Result<(), Wrong> {
        let ordered =
            self.objects.elections.by_name.last_key_value().is_none_or(|(before, _)| *before < name);
        rule(ordered, "elections are in order")?;
        rule(token <= self.objects.last, "a token is not after the last command")?;
        for candidate in &candidates {
            let bytes = candidate.value.len();
            self.take_place(candidate.session, bytes)?;
            let session = self.objects.sessions.open.get_mut(&candidate.session);
            let once = session.is_some_and(|session| session.elections.insert(name.clone()));
            rule(once, "a session is in an election once")?;
        }
        let leader = candidates.pop_front().ok_or(Wrong::Rule("an election has a candidate"))?;
        let line = Election::line_of(candidates);
        self.objects.elections.by_name.insert(name, Box::new(Election { token, leader, line }));
        Ok(())
    }

    fn end_lock(&mut self, name: LockName, lock: Lock) -> Result<(), Wrong> {
        let ordered = self.objects.locks.by_name.last_key_value().is_none_or(|(before, _)| *before < name);
        rule(ordered, "locks are in order")?;
        rule(!lock.holders.is_empty(), "a lock has a holder")?;
        rule(
            lock.is_settled(),
            "a lock has one holder or several that share, and who waits cannot join them",
        )?;
        for hold in &lock.holders {
            rule(hold.token <= self.objects.last, "a token is not after the last command")?;
        }
        for wait in lock.holders.iter().map(|hold| &hold.wait).chain(&lock.waiting) {
            self.take_place(wait.session, 0)?;
            let session = self.objects.sessions.open.get_mut(&wait.session);
            let once = session.is_some_and(|session| session.locks.insert((name.clone(), wait.request)));
            rule(once, "a request for a lock is there once")?;
        }
        self.objects.locks.by_name.insert(name, lock);
        Ok(())
    }

    fn end_log(&mut self, name: LogName, log: Log) -> Result<(), Wrong> {
        let last = self.objects.last;
        let ordered = self.objects.logs.by_name.last_key_value().is_none_or(|(before, _)| *before < name);
        rule(ordered, "logs are in order")?;
        let last = WriterId::new(last.epoch, last.index);
        rule(WriterId::new(log.id.epoch, log.id.index) <= last, "a log is not after the last command")?;
        for (id, writer) in &log.writers {
            rule(*id <= writer.used && writer.used <= last, "a writer is not after the last command")?;
            rule(writer.first <= writer.next && writer.next <= log.next, "an append is within its log")?;
        }
        let epochs = || log.recovered.iter().map(|recovery| recovery.epoch);
        let in_order = epochs().is_sorted_by(|a, b| a < b) && epochs().all(|epoch| epoch <= last.epoch);
        rule(in_order && log.recovered.len() <= RECOVERIES_MAX, "recoveries are few, in order, and over")?;
        let within = log.recovered.iter().all(|recovery| recovery.from <= log.next);
        rule(within, "a recovery kept a part of its log")?;
        let newest = log.chunks.back().is_none_or(|chunk| chunk.newest <= self.objects.logs.stamp);
        rule(newest, "entries are not after the last stamp")?;
        let usage = &mut self.objects.sessions.usage;
        usage.take_log(log.creator, &NO_LIMITS).map_err(|refusal| Wrong::Cause(refusal.into()))?;
        let all = self.objects.logs.by_name.values().map(|log| log.retention.bytes);
        let all = all.chain([log.retention.bytes]).try_fold(0u64, u64::checked_add);
        rule(all.is_some(), "retentions add up")?;
        self.objects.logs.by_name.insert(name, log);
        Ok(())
    }

    fn take_place(&mut self, session: SessionId, value_bytes: usize) -> Result<(), Wrong> {
        let sessions = &mut self.objects.sessions;
        let owner = sessions.owner(session).ok_or(Wrong::Rule("who has a place has a session"))?;
        let taken = sessions.usage.take_place(owner, value_bytes, &NO_LIMITS);
        taken.map_err(|refusal| Wrong::Cause(refusal.into()))
    }
}

fn rule(kept: bool, rule: &'static str) -> Result<(), Wrong> {
    if kept { Ok(()) } else { Err(Wrong::Rule(rule)) }
}

fn read_candidate(record: &wire::RecordCandidate) -> Result<Candidate, Wrong> {
    rule(record.value.len() <= VALUE_BYTES_MAX, "a value is within its limit")?;
    Ok(Candidate {
        session: SessionId::from_wire(record.session),
        request: RequestId(record.request),
        value: record.value[..].into(),
    })
}

fn add_hold(lock: &mut Lock, record: &wire::RecordHold) -> Result<(), Wrong> {
    let wait = Wait {
        session: SessionId::from_wire(record.session),
        request: RequestId(record.request),
        mode: if record.shared { LockMode::Shared } else { LockMode::Exclusive },
    };
    match &record.token {
        Some(token) => {
            rule(lock.waiting.is_empty(), "holders come before those who wait")?;
            let token = FencingToken::from_wire(Some(*token));
            lock.holders.push(Hold { wait, token });
        }
        None => lock.waiting.push_back(wait),
    }
    Ok(())
}

fn read_log(record: &wire::RecordLog) -> Result<Log, Wrong> {
    let age = record.age_ms.map(Duration::from_millis);
    let retention = Retention { entries: record.entries, bytes: record.bytes, age };
    let keeps = retention.entries > 0 && retention.bytes > 0 && age.is_none_or(|age| millis(age) > 0);
    rule(keeps, "a log keeps something")?;
    let (chunks, writers) = Default::default();
    Ok(Log {
        id: LogId::from_wire(record.log),
        creator: NodeId::try_from(record.creator.as_ref())?,
        retention,
        first: LogOffset(record.first),
        next: LogOffset(record.first),
        bytes: 0,
        chunks,
        writers,
        recovered: recovery::unpack(&record.recovered).map_err(Wrong::Cause)?,
    })
}

fn add_chunk(log: &mut Log, record: &wire::RecordChunk) -> Result<(), Wrong> {
    rule(log.writers.is_empty(), "chunks come before writers")?;
    let (oldest, newest) = (UnixMillis(record.oldest_ms), UnixMillis(record.newest_ms));
    let after = log.chunks.back().is_none_or(|before| before.newest <= oldest);
    rule(record.entries > 0 && oldest <= newest && after, "chunks hold entries, in order of their stamps")?;
    let next = log.next.0.checked_add(record.entries).ok_or(Wrong::Rule("offsets add up"))?;
    log.bytes = log.bytes.checked_add(record.bytes).ok_or(Wrong::Rule("bytes add up"))?;
    log.next = LogOffset(next);
    log.chunks.push_back(Chunk { entries: record.entries, bytes: record.bytes, oldest, newest });
    Ok(())
}

fn add_writer(log: &mut Log, record: &wire::RecordWriter) -> Result<(), Wrong> {
    let id = WriterId::from_wire(record.writer);
    rule(log.writers.last_key_value().is_none_or(|(before, _)| *before < id), "writers are in order")?;
    let writer = Writer {
        owner: NodeId::try_from(record.owner.as_ref())?,
        nonce: Nonce(record.nonce),
        sequence: WriterSequence(record.sequence),
        first: LogOffset(record.first),
        next: LogOffset(record.next),
        used: WriterId::from_wire(record.used),
    };
    log.writers.insert(id, writer);
    Ok(())
}
