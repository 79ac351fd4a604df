//! The objects beside a model that is too simple to be wrong, under random commands, snapshots and new epochs.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, UnixMillis};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Requests with number 0 stand for a new number, ends of number 0 for something that is there.
#[derive(Clone, Debug)]
enum Op {
    Open { by: u8, nonce: u64 },
    Close { session: usize },
    Expire { sessions: Vec<usize> },
    Campaign { session: usize, election: u8, request: u64, value: u8 },
    Resign { session: usize, election: u8, campaign: u64 },
    Acquire { session: usize, lock: u8, request: u64, mode: LockMode, wait: bool },
    Release { session: usize, lock: u8, acquired: u64, waiting_only: bool },
    OpenWriter { by: u8, log: u8, nonce: u64 },
    Append { by: u8, log: u8, writer: usize, sequence: u64, entries: u8 },
    Drop { log: u8 },
    Raise { index: u64 },
    Resume { before: u64 },
    Snapshot,
}

fn op() -> impl Strategy<Value = Op> {
    let (by, session, name) = (0..3u8, 0..6usize, 0..2u8);
    // Mostly a new number or one that is there, and now and then any.
    let request = prop_oneof![5 => Just(0), 1 => 1..90u64];
    let mode = prop_oneof![Just(LockMode::Shared), Just(LockMode::Exclusive)];
    prop_oneof![
        4 => (by.clone(), 0..3u64).prop_map(|(by, nonce)| Op::Open { by, nonce }),
        1 => session.clone().prop_map(|session| Op::Close { session }),
        1 => vec(session.clone(), 0..4).prop_map(|sessions| Op::Expire { sessions }),
        8 => (session.clone(), name.clone(), request.clone(), any::<u8>()).prop_map(
            |(session, election, request, value)| Op::Campaign { session, election, request, value }),
        4 => (session.clone(), name.clone(), request.clone())
            .prop_map(|(session, election, campaign)| Op::Resign { session, election, campaign }),
        12 => (session.clone(), name.clone(), request.clone(), mode, any::<bool>()).prop_map(
            |(session, lock, request, mode, wait)| Op::Acquire { session, lock, request, mode, wait }),
        8 => (session, name.clone(), request, any::<bool>()).prop_map(
            |(session, lock, acquired, waiting_only)| Op::Release { session, lock, acquired, waiting_only }),
        3 => (by.clone(), name.clone(), 0..2u64).prop_map(|(by, log, nonce)| Op::OpenWriter { by, log, nonce }),
        8 => (by, name.clone(), 0..6usize, 1..6u64, 1..4u8).prop_map(
            |(by, log, writer, sequence, entries)| Op::Append { by, log, writer, sequence, entries }),
        1 => name.prop_map(|log| Op::Drop { log }),
        1 => (0..20u64).prop_map(|index| Op::Raise { index }),
        3 => (0..2u64).prop_map(|before| Op::Resume { before }),
        2 => Just(Op::Snapshot),
    ]
}

#[derive(Clone, Debug)]
struct Claim {
    session: SessionId,
    request: u64,
    value: u8,
    mode: LockMode,
    token: Option<FencingToken>,
}

#[derive(Clone, Debug)]
struct ModelWriter {
    id: WriterId,
    owner: u8,
    nonce: u64,
    appends: Vec<(u64, u64)>,
}

#[derive(Clone, Debug)]
struct ModelLog {
    id: LogId,
    entries: Vec<Bytes>,
    writers: Vec<ModelWriter>,
}

/// Lists, searched from the front.
#[derive(Default)]
struct Model {
    place: FencingToken,
    recovering: bool,
    sessions: Vec<(SessionId, u8, u64)>,
    /// What each session asked for, by number.
    asked: Vec<(SessionId, u64)>,
    elections: BTreeMap<u8, Vec<Claim>>,
    locks: BTreeMap<u8, Vec<Claim>>,
    logs: BTreeMap<u8, ModelLog>,
}

impl Model {
    fn highest(&self, session: SessionId) -> u64 {
        self.asked.iter().filter(|asked| asked.0 == session).map(|asked| asked.1).max().unwrap_or(0)
    }

    /// Notes a request. `None`: the session is not open; else whether it is new, or why not.
    fn note(&mut self, session: SessionId, request: u64) -> Option<Result<(), Refusal>> {
        self.sessions.iter().find(|(id, _, _)| *id == session)?;
        let noted = match self.asked.contains(&(session, request)) {
            true => Err(Refusal::RequestOver(RequestId(request))),
            false => Ok(()),
        };
        self.asked.push((session, request));
        Some(noted)
    }

    /// Grants whatever can be granted, from the front.
    fn settle(&mut self) {
        for claims in self.elections.values_mut() {
            if let Some(first) = claims.first_mut() {
                first.token.get_or_insert(self.place);
            }
        }
        for claims in self.locks.values_mut() {
            for at in 0..claims.len() {
                let before = &claims[..at];
                let alone = at == 0;
                let together = claims[at].mode == LockMode::Shared
                    && before.iter().all(|claim| claim.token.is_some() && claim.mode == LockMode::Shared);
                if alone || together {
                    claims[at].token.get_or_insert(self.place);
                }
            }
        }
    }

    fn end(&mut self, gone: &[SessionId]) {
        self.sessions.retain(|(id, _, _)| !gone.contains(id));
        for claims in self.elections.values_mut().chain(self.locks.values_mut()) {
            claims.retain(|claim| !gone.contains(&claim.session));
        }
    }

    fn open(&mut self, by: u8, nonce: u64) -> Answer {
        let ttl = Duration::from_secs(1);
        let known = self.sessions.iter().find(|session| (session.1, session.2) == (by, nonce));
        if let Some((session, _, _)) = known {
            return Answer::SessionOpened { session: *session, ttl };
        }
        let session = SessionId::new(self.place.epoch, self.place.index);
        self.sessions.push((session, by, nonce));
        Answer::SessionOpened { session, ttl }
    }

    fn campaign(&mut self, session: SessionId, election: u8, request: u64, value: u8) -> Answer {
        let Some(new) = self.note(session, request) else { return unknown(session) };
        let claims = self.elections.entry(election).or_default();
        match claims.iter_mut().find(|claim| claim.session == session) {
            Some(claim) if new.is_ok() => (claim.value, claim.request) = (value, claim.request.max(request)),
            Some(_) => {}
            None => {
                if let Err(refusal) = new {
                    return refusal.into();
                }
                let mode = LockMode::Exclusive;
                claims.push(Claim { session, request, value, mode, token: None });
            }
        }
        self.settle();
        standing(&self.elections[&election], |claim| claim.session == session)
    }

    fn resign(&mut self, session: SessionId, election: u8, campaign: u64) -> Answer {
        if self.note(session, campaign).is_none() {
            return unknown(session);
        }
        let claims = self.elections.entry(election).or_default();
        take(claims, |claim| claim.session == session && claim.request <= campaign)
    }

    fn acquire(&mut self, session: SessionId, lock: u8, request: u64, mode: LockMode, wait: bool) -> Answer {
        let Some(new) = self.note(session, request) else { return unknown(session) };
        let this = |claim: &Claim| (claim.session, claim.request) == (session, request);
        let claims = self.locks.entry(lock).or_default();
        if !claims.iter().any(this) {
            if let Err(refusal) = new {
                return refusal.into();
            }
            claims.push(Claim { session, request, value: 0, mode, token: None });
        }
        self.settle();
        let claims = self.locks.entry(lock).or_default();
        let answer = standing(claims, this);
        if new.is_ok() && !wait && answer != Answer::Standing(Standing::Granted(self.place)) {
            claims.retain(|claim| !this(claim));
            return Answer::Standing(Standing::Busy);
        }
        answer
    }

    fn release(&mut self, session: SessionId, lock: u8, acquired: u64, waiting_only: bool) -> Answer {
        if self.note(session, acquired).is_none() {
            return unknown(session);
        }
        let this = |claim: &Claim| (claim.session, claim.request) == (session, acquired);
        let claims = self.locks.entry(lock).or_default();
        let held = claims.iter().find(|claim| this(claim)).and_then(|claim| claim.token);
        match held.filter(|_| waiting_only) {
            Some(token) => Answer::Standing(Standing::Granted(token)),
            None => take(claims, this),
        }
    }

    fn open_writer(&mut self, by: u8, log: u8, nonce: u64) -> Answer {
        let (epoch, index) = (self.place.epoch, self.place.index);
        let new = ModelLog { id: LogId::new(epoch, index), entries: Vec::new(), writers: Vec::new() };
        let log = self.logs.entry(log).or_insert(new);
        let id = WriterId::new(epoch, index);
        if !log.writers.iter().any(|writer| (writer.owner, writer.nonce) == (by, nonce)) {
            log.writers.push(ModelWriter { id, owner: by, nonce, appends: Vec::new() });
        }
        let known = log.writers.iter().find(|writer| (writer.owner, writer.nonce) == (by, nonce));
        Answer::WriterOpened { log: log.id, writer: known.map_or(id, |writer| writer.id) }
    }

    fn append(&mut self, by: u8, log: u8, writer: WriterId, sequence: u64, entries: Vec<Bytes>) -> Answer {
        let Some(log) = self.logs.get_mut(&log) else { return Refusal::LogUnknown.into() };
        let Some(found) = log.writers.iter_mut().find(|known| known.id == writer) else {
            return Refusal::WriterUnknown(writer).into();
        };
        if found.owner != by {
            return Refusal::WriterForeign(writer).into();
        }
        let made = found.appends.len() as u64;
        if sequence == made {
            let (first, next) = found.appends[made as usize - 1];
            return Answer::Appended { first: LogOffset(first), next: LogOffset(next), repeated: true };
        }
        if sequence < made {
            return Refusal::SequenceOver { last: WriterSequence(made) }.into();
        }
        if sequence > made + 1 {
            return Refusal::SequenceGap { expected: WriterSequence(made + 1) }.into();
        }
        let first = log.entries.len() as u64;
        log.entries.extend(entries);
        let next = log.entries.len() as u64;
        found.appends.push((first, next));
        Answer::Appended { first: LogOffset(first), next: LogOffset(next), repeated: false }
    }
}

fn unknown(session: SessionId) -> Answer {
    Refusal::SessionUnknown(session).into()
}

fn standing(claims: &[Claim], this: impl Fn(&Claim) -> bool) -> Answer {
    let at = claims.iter().position(this).expect("it was put there");
    Answer::Standing(match claims[at].token {
        Some(token) => Standing::Granted(token),
        None => Standing::Waiting {
            ahead: claims[..at].iter().filter(|claim| claim.token.is_none()).count() as u64,
        },
    })
}

/// In an election nobody holds together, but the leader does not count as waiting either.
fn take(claims: &mut Vec<Claim>, this: impl Fn(&Claim) -> bool) -> Answer {
    let Some(at) = claims.iter().position(this) else { return Answer::Ended(Ended::Nothing) };
    let claim = claims.remove(at);
    Answer::Ended(if claim.token.is_some() { Ended::Held } else { Ended::Waited })
}

/// Both, side by side, and what a watcher and a store make of the effects.
#[derive(Default)]
struct Pair {
    objects: Objects,
    model: Model,
    sessions: Vec<(SessionId, u8)>,
    writers: Vec<WriterId>,
    leaders: BTreeMap<ElectionName, Leader>,
    holders: BTreeMap<(LockName, SessionId, RequestId), FencingToken>,
    stored: BTreeMap<(LogId, u64), Bytes>,
    /// The largest token of each name so far.
    tokens: BTreeMap<String, FencingToken>,
}

fn name(n: u8) -> String {
    format!("name.{n}")
}

fn named<N: From<macula_proto::Name>>(n: u8) -> N {
    N::from(name(n).parse().expect("a name"))
}

impl Pair {
    fn session(&self, at: usize) -> (SessionId, u8) {
        self.sessions.get(at).copied().unwrap_or_default()
    }

    /// What an operation with number 0 stands for.
    fn numbered(&self, op: Op) -> Op {
        let new = |session| self.model.highest(self.session(session).0) + 1;
        // The claim `at` in a list, as its session and number.
        let there = |claims: Option<&Vec<Claim>>, at: usize| {
            let claims = claims.filter(|claims| !claims.is_empty())?;
            let claim = &claims[at % claims.len()];
            let session = self.sessions.iter().position(|known| known.0 == claim.session)?;
            Some((session, claim.request))
        };
        match op {
            Op::Campaign { session, election, request: 0, value } => {
                Op::Campaign { session, election, request: new(session), value }
            }
            Op::Acquire { session, lock, request: 0, mode, wait } => {
                Op::Acquire { session, lock, request: new(session), mode, wait }
            }
            Op::Resign { session: at, election, campaign: 0 } => {
                let (session, campaign) =
                    there(self.model.elections.get(&election), at).unwrap_or((at, new(at)));
                Op::Resign { session, election, campaign }
            }
            Op::Release { session: at, lock, acquired: 0, waiting_only } => {
                let (session, acquired) = there(self.model.locks.get(&lock), at).unwrap_or((at, new(at)));
                Op::Release { session, lock, acquired, waiting_only }
            }
            other => other,
        }
    }

    fn step(&mut self, op: Op) {
        let op = self.numbered(op);
        let mut index = LogIndex(self.model.place.index.0 + 1);
        let (command, expected) = match op {
            Op::Snapshot => return self.restore(),
            Op::Raise { index: at } => {
                index = LogIndex(at);
                let epoch = Epoch(self.model.place.epoch.0 + 1);
                self.model.place = FencingToken::new(epoch, index);
                let all: Vec<SessionId> = self.model.sessions.iter().map(|session| session.0).collect();
                self.model.end(&all);
                self.model.recovering = true;
                (Command::RaiseEpoch { epoch }, Answer::Done)
            }
            Op::Resume { before } => {
                self.model.place.index = index;
                let epoch = Epoch(self.model.place.epoch.0.saturating_sub(before));
                self.model.recovering &= epoch != self.model.place.epoch;
                (Command::Resume { epoch }, Answer::Done)
            }
            Op::Expire { sessions } => {
                self.model.place.index = index;
                let sessions: Vec<SessionId> = sessions.into_iter().map(|at| self.session(at).0).collect();
                self.model.end(&sessions);
                (Command::Expire { sessions }, Answer::Done)
            }
            asked => {
                self.model.place.index = index;
                let (by, request, expected) = self.ask(asked);
                let (by, stamp) = (NodeId::from_bytes([by; 32]), UnixMillis(1));
                (Command::Asked { by, stamp, request }, expected)
            }
        };
        self.model.settle();
        let mut effects = Effects::default();
        let answer = self.objects.apply(index, command.clone(), &mut effects);
        assert_eq!(answer, expected, "{command:?}");
        match answer {
            Answer::SessionOpened { session, .. } => {
                let owner = self.model.sessions.iter().find(|known| known.0 == session).expect("open").1;
                self.sessions.push((session, owner));
            }
            Answer::WriterOpened { writer, .. } => self.writers.push(writer),
            _ => {}
        }
        self.watch(effects);
        self.compare();
    }

    fn ask(&mut self, op: Op) -> (u8, Request, Answer) {
        match op {
            Op::Open { by, nonce } => {
                let request = Request::OpenSession { nonce: Nonce(nonce), ttl: Duration::from_secs(1) };
                let refused = self.model.recovering.then_some(Answer::Refused(Refusal::Recovering));
                (by, request, refused.unwrap_or_else(|| self.model.open(by, nonce)))
            }
            Op::Close { session } => {
                let (session, by) = self.session(session);
                let open = self.model.sessions.iter().any(|known| known.0 == session);
                self.model.end(&[session]);
                let ended = Answer::Ended(if open { Ended::Held } else { Ended::Nothing });
                (by, Request::CloseSession { session }, ended)
            }
            Op::Campaign { .. } | Op::Resign { .. } => self.ask_election(op),
            Op::Acquire { .. } | Op::Release { .. } => self.ask_lock(op),
            other => self.ask_log(other),
        }
    }

    fn ask_election(&mut self, op: Op) -> (u8, Request, Answer) {
        match op {
            Op::Campaign { session, election, request, value } => {
                let (session, by) = self.session(session);
                let expected = self.model.campaign(session, election, request, value);
                let (request, value) = (RequestId(request), Bytes::copy_from_slice(&[value]));
                (by, Request::Campaign { session, election: named(election), request, value }, expected)
            }
            Op::Resign { session, election, campaign } => {
                let (session, by) = self.session(session);
                let expected = self.model.resign(session, election, campaign);
                let campaign = RequestId(campaign);
                (by, Request::Resign { session, election: named(election), campaign }, expected)
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn ask_lock(&mut self, op: Op) -> (u8, Request, Answer) {
        match op {
            Op::Acquire { session, lock, request, mode, wait } => {
                let (session, by) = self.session(session);
                let expected = self.model.acquire(session, lock, request, mode, wait);
                let (lock, request) = (named(lock), RequestId(request));
                (by, Request::Acquire { session, lock, request, mode, wait }, expected)
            }
            Op::Release { session, lock, acquired, waiting_only } => {
                let (session, by) = self.session(session);
                let expected = self.model.release(session, lock, acquired, waiting_only);
                let (lock, acquired) = (named(lock), RequestId(acquired));
                let request = match waiting_only {
                    true => Request::Withdraw { session, lock, acquired },
                    false => Request::Release { session, lock, acquired },
                };
                (by, request, expected)
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn ask_log(&mut self, op: Op) -> (u8, Request, Answer) {
        match op {
            Op::OpenWriter { by, log, nonce } => {
                let expected = self.model.open_writer(by, log, nonce);
                (by, Request::OpenWriter { log: named(log), nonce: Nonce(nonce) }, expected)
            }
            Op::Append { by, log, writer, sequence, entries } => {
                let writer = self.writers.get(writer).copied().unwrap_or_default();
                let at = self.model.place.to_string();
                let entries: Vec<Bytes> = (0..entries).map(|n| format!("{at}:{n}").into()).collect();
                let expected = self.model.append(by, log, writer, sequence, entries.clone());
                let sequence = WriterSequence(sequence);
                (by, Request::Append { log: named(log), writer, sequence, entries }, expected)
            }
            Op::Drop { log } => {
                let there = self.model.logs.remove(&log).is_some();
                let ended = if there { Ended::Held } else { Ended::Nothing };
                (0, Request::DropLog { log: named(log) }, Answer::Ended(ended))
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn restore(&mut self) {
        let bytes = self.objects.encode();
        let restored = Objects::decode(&bytes).expect("own bytes");
        assert_eq!(restored, self.objects);
        assert_eq!(restored.digest(), self.objects.digest());
        self.objects = restored;
    }

    fn watch(&mut self, effects: Effects) {
        for change in effects.changes {
            match change {
                Change::Election { election, leader: Some(leader), .. } => {
                    let before = self.leaders.insert(election.clone(), leader.clone());
                    let same = before.is_some_and(|before| before.session == leader.session);
                    self.check_token(&format!("election {election}"), leader.token, same);
                }
                Change::Election { election, leader: None, .. } => {
                    self.leaders.remove(&election).expect("it had a leader");
                }
                Change::Lock {
                    lock, session, request, change: LockChange::Granted { token, .. }, ..
                } => {
                    self.check_token(&format!("lock {lock}"), token, true);
                    self.holders.insert((lock, session, request), token);
                }
                Change::Lock { lock, session, request, change: LockChange::Released, .. } => {
                    self.holders.remove(&(lock, session, request)).expect("it was held");
                }
                Change::Lock { .. } | Change::Session { .. } | Change::Log { .. } => {}
            }
        }
        for write in effects.writes {
            match write {
                LogWrite::Put { log, offset, entry, .. } => {
                    assert!(self.stored.insert((log, offset.0), entry).is_none(), "an offset is used once");
                }
                LogWrite::Trim { log, up_to } => {
                    self.stored.retain(|(id, offset), _| *id != log || *offset >= up_to.0);
                }
                LogWrite::Drop { log } => self.stored.retain(|(id, _), _| *id != log),
            }
        }
    }

    fn check_token(&mut self, name: &str, token: FencingToken, may_be_equal: bool) {
        let before = self.tokens.insert(name.to_owned(), token);
        let grows = before.is_none_or(|before| token > before || (may_be_equal && token == before));
        assert!(grows, "{name}: {token} after {before:?}");
    }

    /// The state, by all queries, is the model's, and so is what the watcher made of the changes.
    fn compare(&self) {
        for n in 0..2 {
            let claims = self.model.elections.get(&n).map_or(&[][..], Vec::as_slice);
            let candidates = self.objects.candidates(&named(n), 0, 99);
            let seen: Vec<_> = candidates.iter().map(|info| (info.session, info.value[0])).collect();
            assert_eq!(seen, claims.iter().map(|claim| (claim.session, claim.value)).collect::<Vec<_>>());
            let leader = self.objects.leader(&named(n));
            assert_eq!(
                leader.as_ref().map(|leader| leader.token),
                claims.first().and_then(|claim| claim.token)
            );
            assert_eq!(leader.as_ref(), self.leaders.get(&named::<ElectionName>(n)));

            let claims = self.model.locks.get(&n).map_or(&[][..], Vec::as_slice);
            let seen = self.objects.lock_requests(&named(n), 0, 99);
            let seen: Vec<_> = seen.iter().map(|info| (info.session, info.request.0, info.token)).collect();
            let expected = claims.iter().map(|claim| (claim.session, claim.request, claim.token));
            assert_eq!(seen, expected.collect::<Vec<_>>());
            let held = claims.iter().filter_map(|claim| {
                Some(((named(n), claim.session, RequestId(claim.request)), claim.token?))
            });
            let watched = self.holders.iter().filter(|((lock, _, _), _)| *lock == named(n));
            let watched: BTreeMap<_, _> = watched.map(|(key, token)| (key.clone(), *token)).collect();
            assert_eq!(watched, held.collect::<BTreeMap<_, _>>());
            self.compare_log(n);
        }
    }

    fn compare_log(&self, n: u8) {
        let (info, model) = (self.objects.log(&named(n)), self.model.logs.get(&n));
        assert_eq!(info.is_some(), model.is_some());
        let (Some(info), Some(model)) = (info, model) else { return };
        let stored: Vec<&Bytes> =
            self.stored.range((info.id, 0)..=(info.id, u64::MAX)).map(|(_, entry)| entry).collect();
        assert_eq!(stored, model.entries[info.first.0 as usize..].iter().collect::<Vec<_>>());
        assert_eq!(info.next.0, model.entries.len() as u64);
        assert_eq!(info.bytes, stored.iter().map(|entry| entry.len() as u64).sum::<u64>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_objects_do_what_the_model_does(ops in vec(op(), 0..120)) {
        let mut pair = Pair::default();
        for op in ops {
            pair.step(op);
        }
    }

    #[test]
    fn a_restored_state_goes_on_as_the_original(ops in vec(op(), 1..80), cut: prop::sample::Index) {
        let cut = cut.index(ops.len());
        let (mut straight, mut broken) = (Pair::default(), Pair::default());
        for (at, op) in ops.into_iter().enumerate() {
            straight.step(op.clone());
            broken.step(op);
            if at == cut {
                broken.restore();
            }
        }
        prop_assert_eq!(straight.objects.encode(), broken.objects.encode());
    }

    #[test]
    fn damaged_snapshots_are_refused_or_whole(
        ops in vec(op(), 1..60), at: prop::sample::Index, to: u8, cut: Option<prop::sample::Index>,
    ) {
        let mut pair = Pair::default();
        ops.into_iter().for_each(|op| pair.step(op));
        let mut bytes = pair.objects.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(read) = Objects::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn garbage_is_no_snapshot(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(Objects::decode(&bytes).is_err());
    }
}
