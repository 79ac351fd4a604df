//! State to records.

use bytes::Bytes;
use macula_proto::wire;
use macula_proto::wire::object_record::Kind;

use super::super::codec::{id_out, millis};
use super::super::command::LockMode;
use super::super::election::{Candidate, Election};
use super::super::lock::{Lock, Wait};
use super::super::log::{Log, Writer as LogWriter};
use super::super::machine::Objects;
use super::super::names::{ElectionName, LockName, LogName};
use super::super::place::{FencingToken, SessionId, WriterId};
use super::super::recovery;
use super::super::session::Session;
use super::{VERSION, put_record};

#[derive(Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    records: u64,
}

impl Writer {
    pub(super) fn write(mut self, objects: &Objects) -> Vec<u8> {
        let (last, stamp_ms) = (Some(objects.last.to_wire()), objects.logs.stamp.0);
        let recovering = objects.recovering;
        self.put(Kind::Head(wire::RecordHead { version: VERSION, last, stamp_ms, recovering }));
        objects.sessions.open.iter().for_each(|(id, session)| self.session(*id, session));
        objects.elections.by_name.iter().for_each(|(name, election)| self.election(name, election));
        objects.locks.by_name.iter().for_each(|(name, lock)| self.lock(name, lock));
        objects.logs.by_name.iter().for_each(|(name, log)| self.log(name, log));
        let records = self.records;
        self.put(Kind::End(wire::RecordEnd { records }));
        self.out
    }

    fn put(&mut self, kind: Kind) {
        put_record(&mut self.out, kind);
        self.records += 1;
    }

    fn session(&mut self, id: SessionId, session: &Session) {
        let (from, late, seen) = session.window.parts();
        self.put(Kind::Session(wire::RecordSession {
            session: Some(id.to_wire()),
            owner: id_out(&session.owner),
            nonce: session.nonce.0,
            ttl_ms: session.ttl_ms,
            from,
            late,
            seen: seen.into(),
        }));
    }

    fn election(&mut self, name: &ElectionName, election: &Election) {
        let (name, token) = (name.as_str().into(), Some(election.token.to_wire()));
        self.put(Kind::Election(wire::RecordElection { name, token }));
        for Candidate { session, request, value } in
            std::iter::once(&election.leader).chain(election.waiting())
        {
            self.put(Kind::Candidate(wire::RecordCandidate {
                session: Some(session.to_wire()),
                request: request.0,
                value: Bytes::copy_from_slice(value),
            }));
        }
    }

    fn lock(&mut self, name: &LockName, lock: &Lock) {
        self.put(Kind::Lock(wire::RecordLock { name: name.as_str().into() }));
        lock.holders.iter().for_each(|hold| self.request(&hold.wait, Some(hold.token)));
        lock.waiting.iter().for_each(|wait| self.request(wait, None));
    }

    fn request(&mut self, wait: &Wait, token: Option<FencingToken>) {
        self.put(Kind::Hold(wire::RecordHold {
            session: Some(wait.session.to_wire()),
            request: wait.request.0,
            shared: wait.mode == LockMode::Shared,
            token: token.map(FencingToken::to_wire),
        }));
    }

    fn log(&mut self, name: &LogName, log: &Log) {
        self.put(Kind::Log(wire::RecordLog {
            name: name.as_str().into(),
            log: Some(log.id.to_wire()),
            creator: id_out(&log.creator),
            entries: log.retention.entries,
            bytes: log.retention.bytes,
            age_ms: log.retention.age.map(millis),
            first: log.first.0,
            recovered: recovery::pack(&log.recovered),
        }));
        for chunk in &log.chunks {
            self.put(Kind::Chunk(wire::RecordChunk {
                entries: chunk.entries,
                bytes: chunk.bytes,
                oldest_ms: chunk.oldest.0,
                newest_ms: chunk.newest.0,
            }));
        }
        log.writers.iter().for_each(|(id, writer)| self.writer(*id, writer));
    }

    fn writer(&mut self, id: WriterId, writer: &LogWriter) {
        self.put(Kind::Writer(wire::RecordWriter {
            writer: Some(id.to_wire()),
            owner: id_out(&writer.owner),
            nonce: writer.nonce.0,
            sequence: writer.sequence.0,
            first: writer.first.0,
            next: writer.next.0,
            used: Some(writer.used.to_wire()),
        }));
    }
}
