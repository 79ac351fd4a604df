//! What the services are used for.

use std::sync::Arc;
use std::time::Duration;

use macula_platform::checker::Outcome;
use macula_platform::checker::model::{LogCall, LogReturn};
use macula_platform::{CoordinationError, FencedStore, FencingToken, LockMode, LogOffset, MemoryFences};
use macula_proto::{Name, Realm};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::mesh::Service;
use crate::model::{LockCall, LockReturn, ReignCall, ReignReturn};
use crate::record::{Line, Record, Relied};
use crate::resource::Visit;

const ELECTION: &str = "matchmaking";
const LOCK: &str = "inventory";
const LOG: &str = "orders";

/// How often somebody looks whether it may still rely on something.
const LOOK: Duration = Duration::from_millis(10);

/// How long one waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The resource; see [`crate::resource::Resource`]. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Desk(Arc<Mutex<(FencedStore<MemoryFences>, Vec<Visit>)>>);

impl Desk {
    fn enter(&self, name: &str, token: FencingToken, shared: bool) {
        let Ok(name) = name.parse::<Name>() else { return };
        let (fence, visits) = &mut *self.0.lock();
        let admitted = match shared {
            true => fence.admit_shared(&name, token),
            false => fence.admit(&name, token),
        };
        visits.push(Visit { name, token, shared, let_in: admitted.is_ok() });
    }

    pub(crate) fn visits(&self) -> Vec<Visit> {
        self.0.lock().1.clone()
    }
}

/// What the tasks of a node share.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) service: Service,
    pub(crate) number: u64,
    pub(crate) lives: u64,
    pub(crate) record: Record,
    pub(crate) desk: Desk,
}

impl Worker {
    const fn process(&self, task: u64) -> u64 {
        self.number * 1_000_000 + self.lives * 100 + task
    }

    fn rng(&self, task: u64) -> StdRng {
        StdRng::seed_from_u64(self.process(task))
    }

    fn relies(&self, key: String, token: FencingToken, shared: bool) {
        let now = self.record.now();
        let (node, token) = (self.number, token.into());
        self.record.write(Line::Relied(Relied { key, node, token, shared, after: now, before: now }));
    }

    /// Between seeing that it may and using the resource; now and then it is held up.
    async fn use_desk(&self, rng: &mut StdRng, name: &str, token: FencingToken, shared: bool) {
        let held_up = if rng.random_bool(0.05) { 2_000 } else { 20 };
        sleep(Duration::from_millis(rng.random_range(1..held_up))).await;
        self.desk.enter(name, token, shared);
    }
}

pub(crate) fn begin(worker: &Worker, tasks: &mut JoinSet<()>) {
    tasks.spawn(stand(worker.clone()));
    tasks.spawn(visit(worker.clone()));
    tasks.spawn(observe(worker.clone()));
    tasks.spawn(take_turns(worker.clone()));
    tasks.spawn(append(worker.clone()));
    tasks.spawn(read(worker.clone()));
    tasks.spawn(note_leaders(worker.clone()));
}

async fn stand(worker: Worker) {
    let mut rng = worker.rng(1);
    let (Ok(name), realm) = (ELECTION.parse(), Realm::default()) else { return };
    let Ok(election) = worker.service.election(&realm, name) else { return };
    loop {
        while election.campaign(worker.number.to_string().into()).await.is_err() {
            sleep(LOOK * 10).await;
        }
        let resigns = Instant::now() + Duration::from_millis(rng.random_range(500..6_000));
        while Instant::now() < resigns || !election.is_leader() {
            if let Some(token) = election.token() {
                worker.relies(format!("election {ELECTION}"), token, false);
            }
            sleep(LOOK).await;
        }
        while election.resign().await.is_err() {
            sleep(LOOK * 10).await;
        }
        sleep(Duration::from_millis(rng.random_range(20..400))).await;
    }
}

async fn visit(worker: Worker) {
    let mut rng = worker.rng(2);
    let (Ok(name), realm) = (ELECTION.parse(), Realm::default()) else { return };
    let Ok(election) = worker.service.election(&realm, name) else { return };
    loop {
        match election.token() {
            Some(token) => worker.use_desk(&mut rng, ELECTION, token, false).await,
            None => sleep(LOOK).await,
        }
    }
}

async fn observe(worker: Worker) {
    let (mut rng, process) = (worker.rng(3), worker.process(3));
    let (Ok(name), realm) = (ELECTION.parse(), Realm::default()) else { return };
    let Ok(election) = worker.service.election(&realm, name) else { return };
    loop {
        worker.record.reign(process, ELECTION, Outcome::Invoke(ReignCall::Observe));
        let outcome = match timeout(PATIENCE, election.get_leader()).await {
            Ok(Ok(leader)) => {
                let leader = leader.map(|leader| (number(&leader.value), leader.token.into()));
                Outcome::Ok(ReignReturn::Leader(leader))
            }
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        worker.record.reign(process, ELECTION, outcome);
        sleep(Duration::from_millis(rng.random_range(20..200))).await;
    }
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

async fn take_turns(worker: Worker) {
    let (mut rng, process) = (worker.rng(4), worker.process(4));
    let (Ok(name), realm) = (LOCK.parse(), Realm::default()) else { return };
    let Ok(lock) = worker.service.lock(&realm, name) else { return };
    for turn in 0.. {
        let client = process * 1_000_000 + turn;
        let (shared, tries) = (rng.random_bool(0.3), rng.random_bool(0.2));
        let mode = if shared { LockMode::Shared } else { LockMode::Exclusive };
        worker.record.lock(process, LOCK, Outcome::Invoke(LockCall::Acquire { client, shared }));
        let acquired = match (tries, shared) {
            (true, _) => lock.try_lock(mode).await,
            (false, true) => lock.acquire_shared(PATIENCE).await,
            (false, false) => lock.acquire(PATIENCE).await,
        };
        let outcome = match &acquired {
            Ok(guard) => Outcome::Ok(LockReturn::Granted(guard.token().into())),
            Err(CoordinationError::Busy) => Outcome::Ok(LockReturn::Busy),
            Err(_) => Outcome::Unknown,
        };
        worker.record.lock(process, LOCK, outcome);
        if let Ok(guard) = acquired {
            let (token, until) =
                (guard.token(), Instant::now() + Duration::from_millis(rng.random_range(5..80)));
            while guard.is_held() && Instant::now() < until {
                worker.relies(format!("lock {LOCK}"), token, shared);
                sleep(LOOK).await;
            }
            worker.use_desk(&mut rng, LOCK, token, shared).await;
            // A grant without this record may have been lost at any time.
            if guard.is_held() {
                worker.record.lock(process, LOCK, Outcome::Invoke(LockCall::Release { client }));
                let _ = guard.release().await;
                worker.record.lock(process, LOCK, Outcome::Unknown);
            }
        }
        sleep(Duration::from_millis(rng.random_range(5..60))).await;
    }
}

async fn append(worker: Worker) {
    let (mut rng, process) = (worker.rng(5), worker.process(5));
    let (Ok(name), realm) = (LOG.parse(), Realm::default()) else { return };
    let Ok(log) = worker.service.log(&realm, name) else { return };
    for count in 0.. {
        let value = process * 1_000_000 + count;
        worker.record.log(process, LOG, Outcome::Invoke(LogCall::Append(value)));
        let outcome = match log.append(value.to_string()).await {
            Ok(offset) => Outcome::Ok(LogReturn::At(offset.0)),
            Err(_) => Outcome::Unknown,
        };
        worker.record.log(process, LOG, outcome);
        sleep(Duration::from_millis(rng.random_range(5..80))).await;
    }
}

/// Reads one page. Returns the offset behind it, and whether the log ended there.
async fn read_page(service: &Service, record: &Record, process: u64, from: u64) -> Option<(u64, bool)> {
    let log = service.log(&Realm::default(), LOG.parse().ok()?).ok()?;
    record.log(process, LOG, Outcome::Invoke(LogCall::Read { from }));
    let Ok(Ok(page)) = timeout(PATIENCE, log.read(LogOffset(from))).await else {
        record.log(process, LOG, Outcome::Unknown);
        return None;
    };
    let values: Vec<u64> = page.entries.iter().map(|entry| number(&entry.entry)).collect();
    let (until, next) = (from + values.len() as u64, page.log.map_or(0, |log| log.next.0));
    let end = until >= next;
    record.log(process, LOG, Outcome::Ok(LogReturn::Entries { values, end }));
    Some((until, end))
}

async fn read(worker: Worker) {
    let mut rng = worker.rng(6);
    let mut from = 0;
    loop {
        if let Some((until, _)) = read_page(&worker.service, &worker.record, worker.process(6), from).await {
            from = until.saturating_sub(rng.random_range(0..4));
        }
        sleep(Duration::from_millis(rng.random_range(20..200))).await;
    }
}

async fn note_leaders(worker: Worker) {
    let mut known = None;
    loop {
        let member = worker.service.status().pop().and_then(|group| group.member);
        let seen = member.and_then(|member| Some((member.term, member.leader?.node.to_string())));
        if let Some((term, leader)) = seen.clone().filter(|_| seen != known) {
            worker.record.write(Line::Leads { term, leader });
        }
        known = seen;
        sleep(LOOK * 5).await;
    }
}

/// Reads the log to its end, however long that takes.
pub(crate) async fn read_all(service: &Service, record: &Record, number: u64) {
    let (process, mut from) = (number * 1_000_000 + 99, 0);
    loop {
        match read_page(service, record, process, from).await {
            Some((_, true)) => return,
            Some((until, false)) => from = until,
            None => sleep(LOOK).await,
        }
    }
}
