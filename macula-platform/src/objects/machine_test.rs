use std::time::Duration;

use bytes::Bytes;
use macula_proto::{NodeId, UnixMillis};

use super::super::limits::{Bounded, Limits};
use super::super::*;

/// Objects, the index of the last command, and the effects of the last command.
struct Bench {
    objects: Objects,
    index: u64,
    stamp: u64,
    effects: Effects,
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn token(text: &str) -> FencingToken {
    text.parse().unwrap()
}

fn election() -> ElectionName {
    "match.making".parse().unwrap()
}

fn lock() -> LockName {
    "inventory".parse().unwrap()
}

fn log() -> LogName {
    "orders".parse().unwrap()
}

impl Default for Bench {
    fn default() -> Self {
        Self::with_limits(Limits::ALL)
    }
}

impl Bench {
    fn with_limits(limits: Limits) -> Self {
        Self { objects: Objects::with_limits(limits), index: 0, stamp: 0, effects: Effects::default() }
    }

    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        self.effects = Effects::default();
        self.objects.apply(LogIndex(self.index), command, &mut self.effects)
    }

    fn ask(&mut self, by: u8, request: Request) -> Answer {
        self.apply(Command::Asked { by: node(by), stamp: UnixMillis(self.stamp), request })
    }

    fn open(&mut self, by: u8, nonce: u64) -> SessionId {
        let ttl = Duration::from_secs(1);
        let answer = self.ask(by, Request::OpenSession { nonce: Nonce(nonce), ttl });
        let Answer::SessionOpened { session, .. } = answer else { panic!("{answer:?}") };
        session
    }

    fn campaign(&mut self, by: u8, session: SessionId, request: u64, value: &'static str) -> Answer {
        let (election, request, value) =
            (election(), RequestId(request), Bytes::from_static(value.as_bytes()));
        self.ask(by, Request::Campaign { session, election, request, value })
    }

    fn acquire(&mut self, by: u8, session: SessionId, request: u64, mode: LockMode, wait: bool) -> Answer {
        let (lock, request) = (lock(), RequestId(request));
        self.ask(by, Request::Acquire { session, lock, request, mode, wait })
    }

    fn release(&mut self, by: u8, session: SessionId, acquired: u64) -> Answer {
        let (lock, acquired) = (lock(), RequestId(acquired));
        self.ask(by, Request::Release { session, lock, acquired })
    }

    fn writer(&mut self, by: u8, nonce: u64) -> WriterId {
        let answer = self.ask(by, Request::OpenWriter { log: log(), nonce: Nonce(nonce) });
        let Answer::WriterOpened { writer, .. } = answer else { panic!("{answer:?}") };
        writer
    }

    fn append(&mut self, by: u8, writer: WriterId, sequence: u64, entries: &[&'static str]) -> Answer {
        let entries = entries.iter().map(|entry| Bytes::from_static(entry.as_bytes())).collect();
        let (log, sequence) = (log(), WriterSequence(sequence));
        self.ask(by, Request::Append { log, writer, sequence, entries })
    }

    fn retain(&mut self, retention: Retention) -> Answer {
        self.ask(1, Request::Retain { log: log(), retention })
    }

    fn bounds(&self) -> (u64, u64) {
        let info = self.objects.log(&log()).expect("the log is there");
        (info.first.0, info.next.0)
    }
}

fn granted(text: &str) -> Answer {
    Answer::Standing(Standing::Granted(token(text)))
}

fn waiting(ahead: u64) -> Answer {
    Answer::Standing(Standing::Waiting { ahead })
}

fn appended(first: u64, next: u64, repeated: bool) -> Answer {
    Answer::Appended { first: LogOffset(first), next: LogOffset(next), repeated }
}

const ANNA: u8 = 1;
const BERT: u8 = 2;

#[test]
fn the_same_nonce_is_the_same_session_until_it_ends() {
    let mut bench = Bench::default();
    let first = bench.open(ANNA, 7);
    assert_eq!(bench.open(ANNA, 7), first);
    assert!(bench.effects.changes.is_empty(), "nothing new was opened");
    assert_ne!(bench.open(BERT, 7), first, "each node draws for itself");
    assert_eq!(bench.ask(ANNA, Request::CloseSession { session: first }), Answer::Ended(Ended::Held));
    assert_eq!(bench.ask(ANNA, Request::CloseSession { session: first }), Answer::Ended(Ended::Nothing));
    assert_ne!(bench.open(ANNA, 7), first);
}

#[test]
fn a_session_serves_its_owner_only() {
    let mut bench = Bench::default();
    let session = bench.open(ANNA, 1);
    let foreign = Answer::Refused(Refusal::SessionForeign(session));
    assert_eq!(bench.campaign(BERT, session, 1, "b"), foreign);
    assert_eq!(bench.acquire(BERT, session, 1, LockMode::Exclusive, true), foreign);
    assert_eq!(bench.ask(BERT, Request::CloseSession { session }), foreign);
    assert_eq!(bench.objects.counts().places, 0);
}

#[test]
fn the_first_candidate_leads_and_the_others_follow_in_order() {
    let mut bench = Bench::default();
    let sessions: Vec<SessionId> = (1..=3).map(|n| bench.open(n, 1)).collect();
    assert_eq!(bench.campaign(1, sessions[0], 1, "a"), granted("0.4"));
    assert_eq!(bench.campaign(2, sessions[1], 1, "b"), waiting(0));
    assert_eq!(bench.campaign(3, sessions[2], 1, "c"), waiting(1));
    let resign = Request::Resign { session: sessions[0], election: election(), campaign: RequestId(1) };
    assert_eq!(bench.ask(1, resign), Answer::Ended(Ended::Held));
    let leader = Leader { session: sessions[1], owner: node(2), value: "b".into(), token: token("0.7") };
    assert_eq!(bench.objects.leader(&election()), Some(leader.clone()));
    let told = Change::Election { at: LogIndex(7), election: election(), leader: Some(leader) };
    assert_eq!(bench.effects.changes, [told]);
    assert_eq!(bench.campaign(3, sessions[2], 1, "c"), waiting(0), "the same request tells how things stand");
}

#[test]
fn expiry_grants_the_next_one_that_is_alive_in_the_same_command() {
    let mut bench = Bench::default();
    let sessions: Vec<SessionId> = (1..=3).map(|n| bench.open(n, 1)).collect();
    for (n, session) in (1..).zip(&sessions) {
        bench.campaign(n, *session, 1, "x");
    }
    let gone = vec![sessions[0], sessions[1], SessionId::default()];
    assert_eq!(bench.apply(Command::Expire { sessions: gone }), Answer::Done);
    let leader = bench.objects.leader(&election()).expect("somebody leads");
    assert_eq!((leader.session, leader.token), (sessions[2], token("0.7")));
    assert_eq!(bench.effects.changes.len(), 3, "one new leader, two sessions: {:?}", bench.effects.changes);
    bench.apply(Command::Expire { sessions: vec![sessions[2]] });
    assert_eq!(bench.objects.counts(), Counts::default(), "an election that nobody is in costs nothing");
}

#[test]
fn a_candidate_changes_its_value_in_its_place() {
    let mut bench = Bench::default();
    let (anna, bert) = (bench.open(ANNA, 1), bench.open(BERT, 1));
    bench.campaign(ANNA, anna, 1, "a");
    bench.campaign(BERT, bert, 1, "b");
    assert_eq!(bench.campaign(ANNA, anna, 2, "a2"), granted("0.3"), "the token stays");
    assert_eq!(bench.effects.changes.len(), 1);
    assert_eq!(bench.campaign(ANNA, anna, 3, "a2"), granted("0.3"));
    assert!(bench.effects.changes.is_empty(), "nobody needs to hear of the same value");
    assert_eq!(bench.campaign(BERT, bert, 2, "b2"), waiting(0));
    let values: Vec<Bytes> =
        bench.objects.candidates(&election(), 0, 9).into_iter().map(|candidate| candidate.value).collect();
    assert_eq!(values, ["a2", "b2"]);
    assert_eq!(bench.objects.candidates(&election(), 1, 9).len(), 1, "from the second on");
}

#[test]
fn late_requests_do_not_bring_back_what_is_over() {
    let mut bench = Bench::default();
    let anna = bench.open(ANNA, 1);
    bench.campaign(ANNA, anna, 1, "a");
    let resign = Request::Resign { session: anna, election: election(), campaign: RequestId(1) };
    bench.ask(ANNA, resign.clone());
    let over = |number| Answer::Refused(Refusal::RequestOver(RequestId(number)));
    assert_eq!(bench.campaign(ANNA, anna, 1, "a"), over(1));
    assert_eq!(bench.campaign(ANNA, anna, 2, "a"), granted("0.5"));
    assert_eq!(
        bench.ask(ANNA, resign),
        Answer::Ended(Ended::Nothing),
        "a late resignation means the first one"
    );
    assert!(bench.objects.leader(&election()).is_some());
    assert_eq!(bench.release(ANNA, anna, 3), Answer::Ended(Ended::Nothing));
    assert_eq!(bench.acquire(ANNA, anna, 3, LockMode::Exclusive, true), over(3), "the release overtook it");
    bench.acquire(ANNA, anna, 5_000, LockMode::Exclusive, true);
    let late = Answer::Refused(Refusal::RequestLate(RequestId(4)));
    assert_eq!(bench.acquire(ANNA, anna, 4, LockMode::Exclusive, true), late);
}

#[test]
fn a_lock_is_fair_and_shared_ones_are_granted_together() {
    use LockMode::{Exclusive, Shared};
    let mut bench = Bench::default();
    let anna = bench.open(ANNA, 1);
    assert_eq!(bench.acquire(ANNA, anna, 1, Shared, true), granted("0.2"));
    assert_eq!(bench.acquire(ANNA, anna, 2, Shared, true), granted("0.3"));
    assert_eq!(bench.acquire(ANNA, anna, 3, Exclusive, true), waiting(0));
    assert_eq!(bench.acquire(ANNA, anna, 4, Shared, true), waiting(1), "nobody overtakes");
    assert_eq!(bench.acquire(ANNA, anna, 5, Shared, false), Answer::Standing(Standing::Busy));
    assert_eq!(bench.acquire(ANNA, anna, 6, Shared, true), waiting(2));
    assert_eq!(bench.release(ANNA, anna, 1), Answer::Ended(Ended::Held));
    assert_eq!(bench.acquire(ANNA, anna, 3, Exclusive, true), waiting(0), "the other one still shares it");
    assert_eq!(bench.release(ANNA, anna, 2), Answer::Ended(Ended::Held));
    assert_eq!(bench.acquire(ANNA, anna, 3, Exclusive, true), granted("0.10"));
    assert_eq!(bench.release(ANNA, anna, 3), Answer::Ended(Ended::Held));
    assert_eq!(bench.acquire(ANNA, anna, 4, Shared, true), granted("0.12"));
    assert_eq!(bench.acquire(ANNA, anna, 6, Shared, true), granted("0.12"), "granted together");
    bench.release(ANNA, anna, 4);
    bench.release(ANNA, anna, 6);
    assert_eq!(bench.objects.lock(&lock()), None);
}

#[test]
fn who_leaves_the_line_wakes_those_behind() {
    use LockMode::{Exclusive, Shared};
    let mut bench = Bench::default();
    let (anna, bert) = (bench.open(ANNA, 1), bench.open(BERT, 1));
    bench.acquire(ANNA, anna, 1, Shared, true);
    bench.acquire(BERT, bert, 1, Exclusive, true);
    bench.acquire(ANNA, anna, 2, Shared, true);
    let withdraw =
        |session, acquired| Request::Withdraw { session, lock: lock(), acquired: RequestId(acquired) };
    assert_eq!(bench.ask(BERT, withdraw(bert, 1)), Answer::Ended(Ended::Waited));
    assert_eq!(bench.acquire(ANNA, anna, 2, Shared, true), granted("0.6"));
    assert_eq!(bench.ask(ANNA, withdraw(anna, 2)), granted("0.6"), "what was granted meanwhile is kept");
    let held = bench.objects.lock_requests(&lock(), 0, 9);
    assert_eq!(held.iter().map(|held| held.request.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_session_that_asks_again_for_what_it_holds_waits_for_itself() {
    let mut bench = Bench::default();
    let anna = bench.open(ANNA, 1);
    bench.acquire(ANNA, anna, 1, LockMode::Exclusive, true);
    assert_eq!(bench.acquire(ANNA, anna, 2, LockMode::Exclusive, false), Answer::Standing(Standing::Busy));
    assert_eq!(bench.acquire(ANNA, anna, 3, LockMode::Shared, true), waiting(0));
}

#[test]
fn each_append_is_made_once() {
    let mut bench = Bench::default();
    let writer = bench.writer(ANNA, 1);
    assert_eq!(bench.writer(ANNA, 1), writer);
    assert_eq!(bench.append(ANNA, writer, 1, &["a", "b"]), appended(0, 2, false));
    assert_eq!(bench.append(ANNA, writer, 1, &["a", "b"]), appended(0, 2, true));
    assert!(bench.effects.writes.is_empty(), "{:?}", bench.effects);
    let gap = Refusal::SequenceGap { expected: WriterSequence(2) };
    assert_eq!(bench.append(ANNA, writer, 3, &["d"]), Answer::Refused(gap));
    assert_eq!(bench.append(ANNA, writer, 2, &["c"]), appended(2, 3, false));
    let over = Refusal::SequenceOver { last: WriterSequence(2) };
    assert_eq!(bench.append(ANNA, writer, 1, &["a", "b"]), Answer::Refused(over));
    assert_eq!(bench.append(BERT, writer, 3, &["x"]), Answer::Refused(Refusal::WriterForeign(writer)));
    assert_eq!(
        bench.append(ANNA, writer, 0, &["x"]),
        Answer::Refused(Refusal::SequenceOver { last: WriterSequence(2) })
    );
    assert_eq!(bench.bounds(), (0, 3));
}

#[test]
fn a_writer_that_had_to_be_forgotten_is_told_so() {
    let mut bench = Bench::with_limits(Limits { writers: 3, writers_of_node: 2, ..Limits::ALL });
    let (first, second) = (bench.writer(ANNA, 1), bench.writer(ANNA, 2));
    bench.append(ANNA, first, 1, &["a"]);
    // The node has many: it forgets the one of its own that was idle for longest.
    let third = bench.writer(ANNA, 3);
    assert_eq!(bench.append(ANNA, second, 1, &["b"]), Answer::Refused(Refusal::WriterUnknown(second)));
    assert_eq!(bench.append(ANNA, first, 1, &["a"]), appended(0, 1, true));
    // The log has many: of all, the one that was idle for longest goes.
    let (fourth, fifth) = (bench.writer(BERT, 1), bench.writer(3, 1));
    assert_eq!(bench.append(ANNA, third, 1, &["c"]), Answer::Refused(Refusal::WriterUnknown(third)));
    for (by, writer, first) in [(BERT, fourth, 1), (3, fifth, 2)] {
        assert_eq!(bench.append(by, writer, 1, &["d"]), appended(first, first + 1, false));
    }
}

#[test]
fn retention_keeps_at_least_what_it_says_and_little_more() {
    let mut bench = Bench::default();
    let writer = bench.writer(ANNA, 1);
    bench.retain(Retention { entries: 32, ..Retention::default() });
    for sequence in 1..=100 {
        bench.append(ANNA, writer, sequence, &["entry"]);
        let (first, next) = bench.bounds();
        assert!((32.min(next)..=34).contains(&(next - first)), "{first} to {next}");
    }
    bench.retain(Retention { bytes: 50, ..Retention::default() });
    let kept = bench.objects.log(&log()).unwrap().bytes;
    assert!((50..=60).contains(&kept), "{kept} bytes");
    let (first, _) = bench.bounds();
    let id = bench.objects.log(&log()).unwrap().id;
    assert_eq!(bench.effects.writes, [LogWrite::Trim { log: id, up_to: LogOffset(first) }]);
}

#[test]
fn entries_age_by_stamps_that_never_go_back() {
    let mut bench = Bench::default();
    let writer = bench.writer(ANNA, 1);
    bench.retain(Retention { age: Some(Duration::from_secs(16)), ..Retention::default() });
    assert_eq!(bench.objects.trim_due(), None);
    for (sequence, stamp) in [(1, 10_000), (2, 5_000), (3, 12_000)] {
        bench.stamp = stamp;
        bench.append(ANNA, writer, sequence, &["x"]);
    }
    assert_eq!(bench.objects.trim_due(), Some(UnixMillis(26_000)), "the second one is as old as the first");
    bench.apply(Command::Trim { stamp: UnixMillis(25_999) });
    assert_eq!(bench.bounds(), (0, 3));
    bench.apply(Command::Trim { stamp: UnixMillis(26_000) });
    assert_eq!(bench.bounds(), (2, 3));
    bench.apply(Command::Trim { stamp: UnixMillis(1) });
    assert_eq!(bench.objects.trim_due(), Some(UnixMillis(28_000)));
    bench.apply(Command::Trim { stamp: UnixMillis(60_000) });
    assert_eq!((bench.bounds(), bench.objects.trim_due()), ((3, 3), None));
    bench.stamp = 61_000;
    assert_eq!(bench.append(ANNA, writer, 4, &["y"]), appended(3, 4, false), "offsets go on");
}

#[test]
fn a_log_that_was_dropped_begins_anew() {
    let mut bench = Bench::default();
    let writer = bench.writer(ANNA, 1);
    bench.append(ANNA, writer, 1, &["a"]);
    let id = bench.objects.log(&log()).unwrap().id;
    assert_eq!(bench.ask(BERT, Request::DropLog { log: log() }), Answer::Ended(Ended::Held));
    assert_eq!(bench.effects.writes, [LogWrite::Drop { log: id }]);
    assert_eq!(bench.append(ANNA, writer, 2, &["b"]), Answer::Refused(Refusal::LogUnknown));
    let again = bench.writer(ANNA, 1);
    assert_ne!(bench.objects.log(&log()).unwrap().id, id);
    assert_eq!(bench.append(ANNA, writer, 2, &["b"]), Answer::Refused(Refusal::WriterUnknown(writer)));
    assert_eq!(bench.append(ANNA, again, 1, &["b"]), appended(0, 1, false));
}

#[test]
fn a_new_epoch_ends_all_sessions_and_its_tokens_are_larger() {
    let mut bench = Bench::default();
    let (anna, bert) = (bench.open(ANNA, 1), bench.open(BERT, 1));
    bench.campaign(ANNA, anna, 1, "a");
    bench.acquire(BERT, bert, 1, LockMode::Exclusive, true);
    let writer = bench.writer(ANNA, 1);
    // The recovered group begins at a lower index.
    bench.index = 1;
    let refused = bench.apply(Command::Trim { stamp: UnixMillis(0) });
    assert_eq!(refused, Answer::Refused(Refusal::IndexPast { given: LogIndex(2), last: LogIndex(5) }));
    assert_eq!(bench.apply(Command::RaiseEpoch { epoch: Epoch(1) }), Answer::Done);
    let counts = bench.objects.counts();
    assert_eq!((counts.sessions, counts.elections, counts.locks, counts.logs), (0, 0, 0, 1));
    assert_eq!(
        bench.apply(Command::RaiseEpoch { epoch: Epoch(1) }),
        Answer::Refused(Refusal::EpochPast(Epoch(1)))
    );
    assert_eq!(bench.campaign(ANNA, anna, 2, "a"), Answer::Refused(Refusal::SessionUnknown(anna)));
    let open = Request::OpenSession { nonce: Nonce(1), ttl: Duration::from_secs(1) };
    assert_eq!(bench.ask(ANNA, open.clone()), Answer::Refused(Refusal::Recovering));
    assert_eq!(bench.apply(Command::Resume { epoch: Epoch(0) }), Answer::Done);
    assert_eq!(bench.ask(ANNA, open), Answer::Refused(Refusal::Recovering), "another recovery is over");
    assert_eq!(bench.apply(Command::Resume { epoch: Epoch(1) }), Answer::Done);
    let again = bench.open(ANNA, 1);
    assert_eq!(bench.campaign(ANNA, again, 1, "a"), granted("1.11"));
    assert!(token("1.11") > token("0.3"));
    assert_eq!(bench.append(ANNA, writer, 1, &["a"]), appended(0, 1, false), "logs and their writers stay");
}

#[test]
fn each_bound_has_its_own_refusal() {
    let small = Limits {
        sessions: 3,
        sessions_of_node: 2,
        places: 4,
        places_of_node: 3,
        candidates: 2,
        waiters: 2,
        value_bytes_of_node: 4,
        logs: 2,
        logs_of_node: 1,
        retained_entries: 2_000_000,
        ..Limits::ALL
    };
    let mut bench = Bench::with_limits(small);
    let full = |of, bound| Answer::Refused(Refusal::Full { of, bound });
    let open = |nonce| Request::OpenSession { nonce: Nonce(nonce), ttl: Duration::from_secs(1) };
    let (anna, other) = (bench.open(ANNA, 1), bench.open(ANNA, 2));
    assert_eq!(bench.ask(ANNA, open(3)), full(Bounded::SessionsOfNode, 2));
    let bert = bench.open(BERT, 1);
    assert_eq!(bench.ask(3, open(1)), full(Bounded::Sessions, 3));
    bench.campaign(ANNA, anna, 1, "1234");
    bench.ask(ANNA, Request::CloseSession { session: other });
    assert!(matches!(bench.ask(ANNA, open(4)), Answer::SessionOpened { .. }), "there is room again");
    assert_eq!(bench.campaign(ANNA, anna, 2, "12345"), full(Bounded::ValueBytesOfNode, 4));
    let all = Limits { value_bytes: 4, ..small };
    bench.objects.limits = all;
    assert_eq!(bench.campaign(BERT, bert, 8, "b"), full(Bounded::ValueBytesOfAll, 4));
    bench.objects.limits = small;
    bench.campaign(BERT, bert, 1, "b");
    let third = bench.objects.sessions(None, 9).last().unwrap().session;
    assert_eq!(bench.campaign(ANNA, third, 1, ""), full(Bounded::Candidates, 2));
    bench.acquire(ANNA, anna, 3, LockMode::Exclusive, true);
    bench.acquire(ANNA, anna, 4, LockMode::Exclusive, true);
    assert_eq!(bench.acquire(ANNA, anna, 5, LockMode::Exclusive, true), full(Bounded::Waiters, 2));
    let elsewhere = |session, request| Request::Acquire {
        session,
        lock: "other".parse().unwrap(),
        request: RequestId(request),
        mode: LockMode::Shared,
        wait: true,
    };
    assert_eq!(bench.ask(BERT, elsewhere(bert, 9)), full(Bounded::Places, 4));
    bench.release(ANNA, anna, 4);
    assert!(matches!(bench.ask(ANNA, elsewhere(anna, 6)), Answer::Standing(Standing::Granted(_))));
    let resign = Request::Resign { session: bert, election: election(), campaign: RequestId(1) };
    bench.ask(BERT, resign);
    assert_eq!(bench.ask(ANNA, elsewhere(anna, 7)), full(Bounded::PlacesOfNode, 3));
    bench.writer(ANNA, 1);
    let create = |name: &str| Request::OpenWriter { log: name.parse().unwrap(), nonce: Nonce(1) };
    assert_eq!(bench.ask(ANNA, create("a")), full(Bounded::LogsOfNode, 1));
    bench.ask(BERT, create("b"));
    assert_eq!(bench.ask(3, create("c")), full(Bounded::Logs, 2));
    let entries = Retention { entries: 2_000_001, ..Retention::default() };
    let (given, bound) = (2_000_001, 2_000_000);
    let too_large = Refusal::TooLarge { of: Bounded::RetainedEntries, given, bound };
    assert_eq!(bench.retain(entries), Answer::Refused(too_large));
    let bytes = Retention { bytes: u64::MAX, ..Retention::default() };
    assert_eq!(bench.retain(bytes), full(Bounded::RetainedBytes, small.retained_bytes));
}

#[test]
fn a_command_does_the_same_as_proposed_and_as_read_back() {
    let odd = Duration::from_micros(1_234_567);
    let retention = Retention { age: Some(odd), ..Retention::default() };
    let requests = [
        Request::OpenSession { nonce: Nonce(1), ttl: odd },
        Request::OpenSession { nonce: Nonce(2), ttl: Duration::from_micros(99_999) },
        Request::OpenWriter { log: log(), nonce: Nonce(1) },
        Request::Retain { log: log(), retention },
        Request::Retain {
            log: log(),
            retention: Retention { age: Some(Duration::from_nanos(1)), ..retention },
        },
        Request::Retain { log: log(), retention: Retention { age: Some(Duration::MAX), ..retention } },
    ];
    let (mut proposed, mut read) = (Bench::default(), Bench::default());
    for request in requests {
        let command = Command::Asked { by: node(ANNA), stamp: UnixMillis(5), request };
        let again = Command::decode(command.encode().into()).unwrap();
        assert_eq!(proposed.apply(command), read.apply(again));
        assert_eq!(proposed.objects, read.objects);
    }
}

#[test]
fn lists_come_in_pages() {
    let mut bench = Bench::default();
    let anna = bench.open(ANNA, 1);
    let name = |n: u32| format!("e.{n}").parse::<ElectionName>().unwrap();
    for n in 0..5 {
        let request = RequestId(u64::from(n) + 1);
        bench.ask(ANNA, Request::Campaign { session: anna, election: name(n), request, value: Bytes::new() });
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = bench.objects.elections(after.as_ref(), 2);
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some(last.election.clone());
        seen.extend(page.into_iter().map(|info| info.election));
    }
    assert_eq!(seen, (0..5).map(name).collect::<Vec<_>>());
    assert_eq!(bench.objects.session(anna).unwrap().elections, 5);
}
