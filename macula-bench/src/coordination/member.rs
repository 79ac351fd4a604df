//! One node in a process of its own, and what it is told to do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use macula::{GroupStatus, Node, Realm};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{PAYLOAD_BYTES, Wrote};
use crate::role::{report, say, text};

const LOG: &str = "bench";
const ELECTION: &str = "bench";

/// Writers of one log.
const WRITERS_A_LOG: usize = 32;

/// Longest latency that the histogram holds, in microseconds.
pub(crate) const LATENCY_MAX_US: u64 = 60_000_000;

/// Times that are kept of what one writer was answered, at most.
const ANSWERS_MAX: usize = 1 << 20;

/// One node of the group.
#[derive(Args)]
pub(crate) struct Member {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    join: Option<SocketAddr>,
    /// It votes.
    #[arg(long)]
    voter: bool,
}

/// What a node can be told. Each is answered with one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Status,
    /// So many writers for so many seconds.
    Write(usize, f64),
    /// One writer from now on.
    Begin,
    /// Answered with the longest time without an answer to the one writer that ended after this instant.
    Gap(u64),
    /// Stands for the election, and notes when it leads.
    Campaign,
    /// Answered with when it was told that it leads.
    Elected,
    /// Answered with when it resigned.
    Resign,
    /// Ends in order.
    Stop,
}

/// How a node is. Times are nanoseconds of the machine's clock.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) votes: bool,
    pub(crate) leads: bool,
    pub(crate) voters: usize,
    pub(crate) syncs: u64,
}

/// A time without answers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// Nanoseconds of the clock that all processes share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}

/// Runs one node until it is told to stop.
pub(crate) async fn run(member: Member) -> Result<(), String> {
    let mut builder = Node::builder()
        .name("bench")
        .listen(&member.listen.to_string())
        .data_dir(&member.dir)
        .set("platform.eligible", member.voter)
        .set("admin.socket", member.dir.join("admin").display().to_string());
    if let Some(join) = member.join {
        builder = builder.seed(&join.to_string());
    }
    let node = builder.start().await.map_err(text)?;
    say("ready");
    let (answers, elected) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Mutex<Option<u64>>>::default());
    let mut orders = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = orders.next_line().await {
        match serde_json::from_str::<Order>(&line).map_err(text)? {
            Order::Status => report(&status(&node))?,
            Order::Write(clients, seconds) => report(&write(&node, clients, seconds).await?)?,
            Order::Begin => {
                tokio::spawn(append(node.clone(), answers.clone()));
                report(&now())?;
            }
            Order::Gap(after) => report(&gap(&answers, after).await)?,
            Order::Campaign => {
                campaign(&node, elected.clone()).await?;
                report(&now())?;
            }
            Order::Elected => report(&when(&elected).await)?,
            Order::Resign => {
                let begun = now();
                node.election(ELECTION).map_err(text)?.resign().await.map_err(text)?;
                *elected.lock() = None;
                report(&begun)?;
            }
            Order::Stop => {
                node.shutdown().await;
                return report(&now());
            }
        }
    }
    Ok(())
}

fn status(node: &Node) -> Status {
    let group = node.groups().into_iter().find(|group| group.realm == Realm::default());
    let member: Option<GroupStatus> = group.and_then(|group| group.member);
    let metrics = node.metrics();
    let syncs = metrics.lines().find_map(|line| line.strip_prefix("macula_group_store_syncs_total "));
    Status {
        votes: member
            .as_ref()
            .is_some_and(|member| member.voters.contains(&member.me) && !member.is_changing),
        leads: member.as_ref().is_some_and(GroupStatus::is_leader),
        voters: member.map_or(0, |member| member.voters.len()),
        syncs: syncs.and_then(|syncs| syncs.parse::<f64>().ok()).unwrap_or(0.0) as u64,
    }
}

/// Each writer waits for the answer to one before it writes the next.
async fn write(node: &Node, clients: usize, seconds: f64) -> Result<Wrote, String> {
    let mut writers = JoinSet::new();
    let (begun, span) = (Instant::now(), Duration::from_secs_f64(seconds));
    // A node has few writers of one log, and other ones for each measurement.
    let part = now();
    for client in 0..clients {
        let log = node.log(&format!("{LOG}-{part}-{}", client / WRITERS_A_LOG)).map_err(text)?;
        writers.spawn(async move {
            let entry = Bytes::from(vec![7; PAYLOAD_BYTES]);
            let mut took = Vec::new();
            // Once at least.
            while took.is_empty() || begun.elapsed() < span {
                let sent = Instant::now();
                log.append(entry.clone()).await?;
                took.push(sent.elapsed());
            }
            Ok::<_, macula::Error>(took)
        });
    }
    let mut latency = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3).map_err(text)?;
    while let Some(took) = writers.join_next().await {
        let took = took.map_err(text)?.map_err(text)?;
        took.iter()
            .for_each(|took| latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
    }
    let (p50_us, p99_us) = (latency.value_at_quantile(0.5), latency.value_at_quantile(0.99));
    Ok(Wrote { writes: latency.len(), seconds: begun.elapsed().as_secs_f64(), p50_us, p99_us })
}

/// Notes when each of its writes was acknowledged.
async fn append(node: Node, answers: Arc<Mutex<Vec<u64>>>) {
    let Ok(log) = node.log(LOG) else { return };
    let entry = Bytes::from(vec![7; PAYLOAD_BYTES]);
    loop {
        if log.append(entry.clone()).await.is_ok() {
            let mut answers = answers.lock();
            if answers.len() >= ANSWERS_MAX {
                answers.drain(..ANSWERS_MAX / 2);
            }
            answers.push(now());
        }
    }
}

/// The longest time between two answers, of which the later came after `after`; looks for two seconds after that one.
async fn gap(answers: &Mutex<Vec<u64>>, after: u64) -> Gap {
    let pairs = |since: u64| -> Vec<Gap> {
        let answers = answers.lock();
        let first = answers.partition_point(|answer| *answer < since).saturating_sub(1);
        answers[first..].windows(2).map(|pair| Gap { from: pair[0], until: pair[1] }).collect()
    };
    while now() < after + 2_000_000_000 || pairs(after).len() < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    pairs(after).into_iter().max_by_key(|gap| gap.until - gap.from).unwrap_or_default()
}

async fn campaign(node: &Node, elected: Arc<Mutex<Option<u64>>>) -> Result<(), String> {
    let election = node.election(ELECTION).map_err(text)?;
    *elected.lock() = None;
    election.register_callback(move |view| {
        if view.is_leader {
            elected.lock().get_or_insert_with(now);
        }
    });
    election.campaign(Bytes::new()).await.map_err(text).map(drop)
}

async fn when(elected: &Mutex<Option<u64>>) -> u64 {
    loop {
        if let Some(when) = *elected.lock() {
            return when;
        }
        sleep(Duration::from_millis(1)).await;
    }
}
