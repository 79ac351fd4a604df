//! Clients, a network, and the objects behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use macula_platform::checker::Outcome;
use macula_platform::checker::model::{LockCall, LockReturn, LogCall, LogReturn};
use macula_platform::{
    Answer, Command, Effects, Ended, LockMode, LogIndex, LogWrite, Nonce, Objects, Refusal, Request,
    RequestId, SessionId, Standing, WriterId, WriterSequence,
};
use macula_proto::{NodeId, UnixMillis};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::record::Records;

const CLIENTS: usize = 5;
/// In steps of the clock.
const RUN: u64 = 40_000;
const DELAY_MAX: u64 = 60;
/// How long a client waits for an answer, and how often it asks.
const AGAIN: u64 = 70;
const ATTEMPTS: u32 = 5;

/// A bug that is planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    Nothing,
    /// An append that is made again has another writer.
    FreshAppends,
    /// An acquisition that arrives again has another number.
    FreshAcquisitions,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) again: u64,
    pub(crate) doubled: u64,
    pub(crate) refused_late: u64,
    pub(crate) repeated: u64,
    pub(crate) expired: u64,
}

impl Counts {
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            again: self.again + other.again,
            doubled: self.doubled + other.doubled,
            refused_late: self.refused_late + other.refused_late,
            repeated: self.repeated + other.repeated,
            expired: self.expired + other.expired,
        }
    }
}

/// What a client does now.
#[derive(Clone, Debug)]
enum Doing {
    Nothing,
    Acquire {
        wait: bool,
    },
    /// Has the lock until then.
    Hold {
        until: u64,
    },
    /// `recorded`: as an operation; else it cleans up after an acquisition that it gave up.
    Release {
        recorded: bool,
    },
    Append {
        value: u64,
    },
    Read,
}

struct Client {
    process: u64,
    session: SessionId,
    /// Its number in the histories: one a session.
    name: u64,
    request: u64,
    writer: WriterId,
    sequence: u64,
    nonce: u64,
    doing: Doing,
    /// Counts what it did, so that answers to something else are known as such.
    task: u64,
    attempts: u32,
}

enum Event {
    Ask { client: usize, task: u64, request: Request },
    ReadLog { client: usize, task: u64 },
    Answered { client: usize, task: u64, answer: Answer },
    Entries { client: usize, task: u64, values: Vec<u64> },
    Tick { client: usize, task: u64 },
    Expire,
}

pub(crate) struct World {
    plant: Plant,
    rng: StdRng,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    objects: Objects,
    index: u64,
    stored: BTreeMap<u64, u64>,
    clients: Vec<Client>,
    /// Requests that arrived, by client and task.
    arrived: BTreeSet<(usize, u64)>,
    records: Records,
    counts: Counts,
    names: u64,
}

impl World {
    pub(crate) fn new(plant: Plant, seed: u64) -> Self {
        let mut world = Self {
            plant,
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            events: BTreeMap::new(),
            sequence: 0,
            objects: Objects::default(),
            index: 0,
            stored: BTreeMap::new(),
            clients: Vec::new(),
            arrived: BTreeSet::new(),
            records: Records::default(),
            counts: Counts::default(),
            names: 0,
        };
        for client in 0..CLIENTS {
            let process = world.records.process();
            let (session, writer) = Default::default();
            world.clients.push(Client {
                process,
                session,
                name: 0,
                request: 0,
                writer,
                sequence: 0,
                nonce: 0,
                doing: Doing::Nothing,
                task: 0,
                attempts: 0,
            });
            world.begin_session(client);
            world.begin_writer(client);
            world.after(1, Event::Tick { client, task: 0 });
        }
        world.after(500, Event::Expire);
        world
    }

    pub(crate) fn run(mut self) -> (Records, Counts) {
        while let Some(((at, _), event)) = self.events.pop_first().filter(|((at, _), _)| *at < RUN) {
            self.now = at;
            self.handle(event);
        }
        (self.records, self.counts)
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn delay(&mut self) -> u64 {
        // Now and then something is very late.
        let late = if self.rng.random_range(0..20) == 0 { 6 } else { 1 };
        1 + self.rng.random_range(0..DELAY_MAX * late)
    }

    fn lost(&mut self) -> bool {
        self.rng.random_range(0..10) == 0
    }

    fn apply(&mut self, command: Command) -> Answer {
        self.index += 1;
        let mut effects = Effects::default();
        let answer = self.objects.apply(LogIndex(self.index), command, &mut effects);
        for write in effects.writes {
            if let LogWrite::Put { offset, entry, .. } = write {
                let value = std::str::from_utf8(&entry).ok().and_then(|text| text.parse().ok());
                self.stored.insert(offset.0, value.expect("a number"));
            }
        }
        answer
    }

    fn asked(&mut self, client: usize, request: Request) -> Answer {
        let by = NodeId::from_bytes([client as u8 + 1; 32]);
        self.apply(Command::Asked { by, stamp: UnixMillis(self.now), request })
    }

    fn begin_session(&mut self, client: usize) {
        self.clients[client].nonce += 1;
        let (nonce, ttl) = (Nonce(self.clients[client].nonce), Duration::from_secs(1));
        let answer = self.asked(client, Request::OpenSession { nonce, ttl });
        let Answer::SessionOpened { session, .. } = answer else { panic!("{answer:?}") };
        self.names += 1;
        let client = &mut self.clients[client];
        (client.session, client.name, client.request) = (session, self.names, 0);
    }

    fn begin_writer(&mut self, client: usize) {
        self.clients[client].nonce += 1;
        let nonce = Nonce(self.clients[client].nonce);
        let answer = self.asked(client, Request::OpenWriter { log: "log".parse().expect("a name"), nonce });
        let Answer::WriterOpened { writer, .. } = answer else { panic!("{answer:?}") };
        (self.clients[client].writer, self.clients[client].sequence) = (writer, 0);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Ask { client, task, request } => self.arrive(client, task, request),
            Event::ReadLog { client, task } => {
                let values = self.stored.values().copied().collect();
                let delay = self.delay();
                self.after(delay, Event::Entries { client, task, values });
            }
            Event::Answered { client, task, answer } if task == self.clients[client].task => {
                self.answered(client, &answer);
            }
            Event::Entries { client, task, values } if task == self.clients[client].task => {
                let result = LogReturn::Entries { values, end: true };
                self.records.log(self.clients[client].process, self.now, Outcome::Ok(result));
                self.go_on(client, Doing::Nothing);
            }
            Event::Tick { client, task } if task == self.clients[client].task => self.tick(client),
            Event::Answered { .. } | Event::Entries { .. } | Event::Tick { .. } => {}
            Event::Expire => self.expire(),
        }
    }

    fn arrive(&mut self, client: usize, task: u64, mut request: Request) {
        if !self.arrived.insert((client, task)) {
            self.counts.doubled += 1;
            if let (Plant::FreshAcquisitions, Request::Acquire { request, .. }) = (self.plant, &mut request) {
                request.0 += 32;
            }
        }
        let answer = self.asked(client, request);
        let late = matches!(answer, Answer::Refused(Refusal::RequestOver(_) | Refusal::RequestLate(_)));
        self.counts.refused_late += u64::from(late);
        self.counts.repeated += u64::from(matches!(answer, Answer::Appended { repeated: true, .. }));
        if !self.lost() {
            let delay = self.delay();
            self.after(delay, Event::Answered { client, task, answer });
        }
    }

    /// The client does something else now.
    fn go_on(&mut self, client: usize, doing: Doing) {
        self.clients[client].doing = doing;
        self.clients[client].task += 1;
        self.clients[client].attempts = 0;
        let pause = self.rng.random_range(1..30);
        self.after(pause, Event::Tick { client, task: self.clients[client].task });
    }

    fn tick(&mut self, client: usize) {
        match self.clients[client].doing.clone() {
            Doing::Nothing => return self.choose(client),
            Doing::Hold { until } if self.now < until => {
                return self.after(until - self.now, Event::Tick { client, task: self.clients[client].task });
            }
            Doing::Hold { .. } => {
                let name = self.clients[client].name;
                let call = Outcome::Invoke(LockCall::Release { client: name });
                self.records.lock(self.clients[client].process, self.now, call);
                return self.go_on(client, Doing::Release { recorded: true });
            }
            Doing::Acquire { .. } | Doing::Append { .. } | Doing::Release { .. } | Doing::Read => {}
        }
        if self.clients[client].attempts == ATTEMPTS {
            return self.give_up(client);
        }
        self.counts.again += u64::from(self.clients[client].attempts > 0);
        self.clients[client].attempts += 1;
        self.send(client);
        self.after(AGAIN, Event::Tick { client, task: self.clients[client].task });
    }

    fn choose(&mut self, client: usize) {
        let (process, now) = (self.clients[client].process, self.now);
        match self.rng.random_range(0..4) {
            0 | 1 => {
                self.clients[client].request += 1;
                let call = LockCall::Acquire { client: self.clients[client].name };
                self.records.lock(process, now, Outcome::Invoke(call));
                let wait = self.rng.random_range(0..2) == 0;
                self.go_on(client, Doing::Acquire { wait });
            }
            2 => {
                self.clients[client].sequence += 1;
                self.names += 1;
                self.records.log(process, now, Outcome::Invoke(LogCall::Append(self.names)));
                self.go_on(client, Doing::Append { value: self.names });
            }
            _ => {
                self.records.log(process, now, Outcome::Invoke(LogCall::Read { from: 0 }));
                self.go_on(client, Doing::Read);
            }
        }
    }

    fn send(&mut self, client: usize) {
        let (lock, log) = ("lock".parse().expect("a name"), "log".parse().expect("a name"));
        let Client { session, request, task, attempts, .. } = self.clients[client];
        let request = RequestId(request);
        let request = match self.clients[client].doing.clone() {
            Doing::Acquire { wait } => {
                Request::Acquire { session, lock, request, mode: LockMode::Exclusive, wait }
            }
            Doing::Release { .. } => Request::Release { session, lock, acquired: request },
            Doing::Append { value } => {
                if self.plant == Plant::FreshAppends && attempts > 1 {
                    self.begin_writer(client);
                    self.clients[client].sequence = 1;
                }
                let Client { writer, sequence, .. } = self.clients[client];
                let entries = vec![Bytes::from(value.to_string())];
                Request::Append { log, writer, sequence: WriterSequence(sequence), entries }
            }
            Doing::Read => {
                let delay = self.delay();
                return self.after(delay, Event::ReadLog { client, task });
            }
            Doing::Nothing | Doing::Hold { .. } => return,
        };
        for _ in 0..if self.rng.random_range(0..10) == 0 { 2 } else { 1 } {
            if !self.lost() {
                let delay = self.delay();
                self.after(delay, Event::Ask { client, task, request: request.clone() });
            }
        }
    }

    fn answered(&mut self, client: usize, answer: &Answer) {
        let (process, now) = (self.clients[client].process, self.now);
        let lock = |result| Outcome::Ok(result);
        match (self.clients[client].doing.clone(), answer) {
            (Doing::Acquire { .. }, Answer::Standing(Standing::Granted(token))) => {
                self.records.lock(process, now, lock(LockReturn::Granted((*token).into())));
                let until = now + self.rng.random_range(1..80);
                self.go_on(client, Doing::Hold { until });
            }
            (Doing::Acquire { .. }, Answer::Standing(Standing::Busy)) => {
                self.records.lock(process, now, lock(LockReturn::Busy));
                self.go_on(client, Doing::Nothing);
            }
            // Its turn will come; it asks again.
            (Doing::Acquire { .. }, Answer::Standing(Standing::Waiting { .. })) => {
                self.clients[client].attempts = 1;
            }
            // An answer to an earlier copy got lost, and this one knows only that it is over.
            (Doing::Acquire { .. }, Answer::Refused(Refusal::RequestOver(_))) => self.give_up(client),
            (Doing::Release { recorded }, Answer::Ended(was)) => {
                if recorded {
                    let result = match was {
                        // The first copy did it, or the session is another one.
                        Ended::Nothing => Outcome::Unknown,
                        Ended::Waited | Ended::Held => lock(LockReturn::Released),
                    };
                    self.records.lock(process, now, result);
                }
                self.go_on(client, Doing::Nothing);
            }
            (Doing::Append { .. }, Answer::Appended { first, .. }) => {
                self.records.log(process, now, Outcome::Ok(LogReturn::At(first.0)));
                self.go_on(client, Doing::Nothing);
            }
            (_, Answer::Refused(Refusal::SessionUnknown(_))) => self.lose_session(client),
            _ => {}
        }
    }

    /// No answer came. What was asked for may happen, or not.
    fn give_up(&mut self, client: usize) {
        let (process, now) = (self.clients[client].process, self.now);
        match self.clients[client].doing.clone() {
            Doing::Acquire { .. } => {
                self.records.lock(process, now, Outcome::Unknown);
                // Whatever becomes of it: it is given back.
                let call = LockCall::Release { client: self.clients[client].name };
                self.records.lock(process, now, Outcome::Invoke(call));
                self.records.lock(process, now, Outcome::Unknown);
                self.go_on(client, Doing::Release { recorded: false });
            }
            Doing::Release { recorded } => {
                if recorded {
                    self.records.lock(process, now, Outcome::Unknown);
                }
                // It must not go on as if it had been given back.
                self.clients[client].attempts = 0;
                let doing = Doing::Release { recorded: false };
                self.go_on(client, doing);
            }
            Doing::Append { .. } => {
                self.records.log(process, now, Outcome::Unknown);
                self.begin_writer(client);
                self.go_on(client, Doing::Nothing);
            }
            Doing::Read => {
                self.records.log(process, now, Outcome::Unknown);
                self.go_on(client, Doing::Nothing);
            }
            Doing::Nothing | Doing::Hold { .. } => {}
        }
    }

    /// The session is over, and what it held with it.
    fn lose_session(&mut self, client: usize) {
        let (process, now) = (self.clients[client].process, self.now);
        match self.clients[client].doing {
            Doing::Acquire { .. } | Doing::Release { recorded: true } => {
                self.records.lock(process, now, Outcome::Unknown);
            }
            Doing::Release { recorded: false } | Doing::Nothing | Doing::Hold { .. } => {}
            Doing::Append { .. } | Doing::Read => return,
        }
        self.begin_session(client);
        self.go_on(client, Doing::Nothing);
    }

    /// A session ends although its client is alive.
    fn expire(&mut self) {
        self.counts.expired += 1;
        let client = self.rng.random_range(0..CLIENTS);
        let process = self.records.process();
        let name = self.clients[client].name;
        self.records.lock(process, self.now, Outcome::Invoke(LockCall::Release { client: name }));
        self.apply(Command::Expire { sessions: vec![self.clients[client].session] });
        self.records.lock(process, self.now, Outcome::Unknown);
        let next = self.rng.random_range(300..2_000);
        self.after(next, Event::Expire);
    }
}
