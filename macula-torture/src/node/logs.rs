//! Writers, readers and tails of logs.

use std::time::Duration;

use macula::{Log, LogOffset, LogPage};
use macula_platform::checker::Outcome;
use macula_platform::checker::model::{LogCall, LogReturn};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{sleep, timeout};

use super::Work;
use crate::record::Line;

pub(crate) const NAMES: [&str; 2] = ["orders", "events"];

/// How long a reader waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// The last reader's task.
const READ_ALL: u64 = 70;

pub(super) fn begin(work: &Work) {
    for (task, name) in (40..).zip(NAMES) {
        tokio::spawn(append(work.clone(), task, name));
        tokio::spawn(read(work.clone(), task + 10, name));
        tokio::spawn(tail(work.clone(), name));
    }
}

async fn append(work: Work, task: u64, name: &'static str) {
    let mut rng = StdRng::seed_from_u64(work.process(task));
    let Ok(log) = work.node.log(name) else { return };
    let process = work.process(task);
    for count in 0.. {
        let value = work.unique(task, count);
        work.record.log(process, name, Outcome::Invoke(LogCall::Append(value)));
        let outcome = match log.append(value.to_string()).await {
            Ok(offset) => Outcome::Ok(LogReturn::At(offset.0)),
            Err(_) => Outcome::Unknown,
        };
        work.record.log(process, name, outcome);
        sleep(Duration::from_millis(rng.random_range(1..25))).await;
    }
}

fn number(entry: &[u8]) -> u64 {
    std::str::from_utf8(entry).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// Reads one page, and records that. Returns the offset behind it, and whether the log ended there.
async fn read_page(work: &Work, log: &Log, (process, name): (u64, &str), from: u64) -> Option<(u64, bool)> {
    work.record.log(process, name, Outcome::Invoke(LogCall::Read { from }));
    let Ok(Ok(LogPage { log, entries })) = timeout(PATIENCE, log.read(LogOffset(from))).await else {
        work.record.log(process, name, Outcome::Unknown);
        return None;
    };
    let values: Vec<u64> = entries.iter().map(|entry| number(&entry.entry)).collect();
    let (until, next) = (from + values.len() as u64, log.map_or(0, |log| log.next.0));
    let end = until >= next;
    work.record.log(process, name, Outcome::Ok(LogReturn::Entries { values, end }));
    Some((until, end))
}

async fn read(work: Work, task: u64, name: &'static str) {
    let mut rng = StdRng::seed_from_u64(work.process(task));
    let Ok(log) = work.node.log(name) else { return };
    let process = work.process(task);
    let mut from = 0;
    loop {
        if let Some((until, _)) = read_page(&work, &log, (process, name), from).await {
            // Some are read again.
            from = until.saturating_sub(rng.random_range(0..4));
        }
        sleep(Duration::from_millis(rng.random_range(5..50))).await;
    }
}

async fn tail(work: Work, name: &'static str) {
    let Ok(log) = work.node.log(name) else { return };
    let mut tail = log.tail(LogOffset(0));
    loop {
        match tail.next().await {
            Ok(entry) => {
                let (key, value) = (name.to_owned(), number(&entry.entry));
                work.record.write(Line::Tailed { key, offset: entry.offset.0, value });
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Reads all logs to their ends; whether that went well.
pub(super) async fn read_all(work: &Work) -> bool {
    for (task, name) in (READ_ALL..).zip(NAMES) {
        let Ok(log) = work.node.log(name) else { return false };
        let mut from = 0;
        loop {
            match read_page(work, &log, (work.process(task), name), from).await {
                Some((_, true)) => break,
                Some((until, false)) => from = until,
                None => return false,
            }
        }
    }
    true
}
