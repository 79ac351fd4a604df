//! Those who use a lock, alone or together, and the resource under it.

use std::time::Duration;

use macula::{CoordinationError, Error, Lock, LockGuard, LockMode};
use macula_platform::checker::Outcome;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::Work;
use crate::model::{LockCall, LockReturn};
use crate::record::{Line, Relied};
use crate::resource::Door;

const NAME: &str = "inventory";

/// How often a holder looks whether it holds the lock still.
const LOOK: Duration = Duration::from_millis(4);

/// How long one waits in line.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn begin(work: &Work) {
    for task in 30..32 {
        tokio::spawn(take_turns(work.clone(), task));
    }
}

async fn take_turns(work: Work, task: u64) {
    let mut rng = StdRng::seed_from_u64(work.process(task));
    let (Ok(lock), Ok(mut door)) = (work.node.lock(NAME), Door::open(&work.options.resource).await) else {
        return;
    };
    for turn in 0.. {
        let client = work.unique(task, turn);
        let (shared, tries) = (rng.random_bool(0.3), rng.random_bool(0.2));
        if let Some(guard) = acquire(&work, task, &lock, (client, shared, tries)).await {
            let holds = Duration::from_millis(rng.random_range(5..80));
            if hold(&work, guard, &mut door, (client, shared, task), holds).await.is_err() {
                return;
            }
        }
        sleep(Duration::from_millis(rng.random_range(1..30))).await;
    }
}

/// Acquires the lock, and records that.
async fn acquire(
    work: &Work,
    task: u64,
    lock: &Lock,
    (client, shared, tries): (u64, bool, bool),
) -> Option<LockGuard> {
    let process = work.process(task);
    work.record.lock(process, NAME, Outcome::Invoke(LockCall::Acquire { client, shared }));
    let mode = if shared { LockMode::Shared } else { LockMode::Exclusive };
    let acquired = match (tries, shared) {
        (true, _) => lock.try_lock(mode).await,
        (false, true) => lock.acquire_shared(PATIENCE).await,
        (false, false) => lock.acquire(PATIENCE).await,
    };
    match acquired {
        Ok(guard) => {
            let granted = LockReturn::Granted(guard.token().into());
            work.record.lock(process, NAME, Outcome::Ok(granted));
            Some(guard)
        }
        Err(Error::Coordination(CoordinationError::Busy)) => {
            work.record.lock(process, NAME, Outcome::Ok(LockReturn::Busy));
            None
        }
        Err(_) => {
            work.record.lock(process, NAME, Outcome::Unknown);
            None
        }
    }
}

/// Holds the lock for a while, uses the resource under it, and gives it back.
async fn hold(
    work: &Work,
    guard: LockGuard,
    door: &mut Door,
    (client, shared, task): (u64, bool, u64),
    holds: Duration,
) -> std::io::Result<()> {
    let (until, token, key) = (Instant::now() + holds, guard.token(), format!("lock {NAME}"));
    let is_held = || {
        let after = work.record.now();
        let held = guard.is_held();
        if held {
            let (node, key) = (work.options.number, key.clone());
            let relied = Relied { key, node, token: token.into(), shared, after, before: work.record.now() };
            work.record.write(Line::Relied(relied));
        }
        held
    };
    let mut held = is_held();
    while held && Instant::now() < until {
        sleep(LOOK).await;
        held = is_held();
    }
    // What it does now takes a while, and it may be paused meanwhile.
    sleep(LOOK).await;
    if held {
        door.enter(NAME, token, shared).await?;
    }
    // Recorded before it looks whether it has anything to give back: what it says then is true of a moment after that. A
    // grant without such a record may have been lost at any time.
    let begins = work.record.now();
    if guard.is_held() {
        let (process, what) = (work.process(task), Outcome::Invoke(LockCall::Release { client }));
        let release = |time, what| {
            let key = NAME.to_owned();
            work.record.write(Line::Lock(macula_platform::checker::Event { process, time, key, what }));
        };
        release(begins, what);
        let _ = guard.release().await;
        release(work.record.now(), Outcome::Unknown);
    }
    Ok(())
}
