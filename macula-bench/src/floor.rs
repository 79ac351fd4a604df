//! What a node must carry under all circumstances: so many messages and calls a second, from many peers, over lines that lose
//! packets.
//!
//! ```text
//!   peers, ten nodes a process ──► relays, which lose packets both ways ──► the node, a process
//!     publish and call at a steady pace                                       subscribes, serves
//! ```

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use macula::{Call, LagPolicy, Node, RegisterOptions, Reply, SubscribeOptions};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::child::Child;
use crate::outcome::{SinkSaw, SourceDid};
use crate::relay;
use crate::role::{Parent, Stopwatch, Tally, report, say, text};

const TOPIC: &str = "floor.messages";
const PROCEDURE: &str = "floor.echo";
const NODES_A_PROCESS: usize = 10;
const PAYLOAD_BYTES: usize = 256;
/// Everybody has found everybody by then.
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(5);
/// How often a peer looks at what is due.
const TICK: Duration = Duration::from_millis(10);
/// After the peers have ended, what was lost is still sent again.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Has peers publish to one node and call it, at a steady pace, over lines that lose packets, and says what got through.
#[derive(Args)]
pub(crate) struct Floor {
    /// Nodes that publish and call
    #[arg(long, value_name = "N", default_value_t = 50)]
    peers: usize,
    /// Share of packets that is lost, each way, in per cent
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    loss: f64,
    /// Messages a second, of all peers together
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    messages: u64,
    /// Calls a second, of all peers together
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    calls: u64,
    /// For so long
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    seconds: f64,
}

/// Some of the peers.
#[derive(Args)]
pub(crate) struct Peers {
    #[arg(long)]
    to: Vec<SocketAddr>,
    /// Of each node, a second.
    #[arg(long)]
    messages: f64,
    #[arg(long)]
    calls: f64,
    #[arg(long)]
    seconds: f64,
}

/// What the peers of one process did.
#[derive(Serialize, Deserialize)]
struct PeersDid {
    /// Messages that have left.
    published: u64,
    /// Calls, with how long those took that were answered.
    calls: SourceDid,
    failed: u64,
}

/// Runs it all, and prints what came of it.
pub(crate) fn run(floor: &Floor) -> Result<(), String> {
    if floor.peers == 0 || !(0.0..100.0).contains(&floor.loss) {
        return Err("it takes at least one peer, and a loss from 0 to below 100 per cent".into());
    }
    let mut hub = Child::start(&["floor-hub".to_owned()])?;
    let addr: SocketAddr = hub.line()?.parse().map_err(text)?;
    let (lines, packets) = relay::start(addr, floor.peers, floor.loss / 100.0).map_err(text)?;
    let each = |all: u64| (all as f64 / floor.peers as f64).to_string();
    let mut processes = Vec::new();
    for some in lines.chunks(NODES_A_PROCESS) {
        let mut arguments = vec!["floor-peers".to_owned()];
        arguments.extend(some.iter().flat_map(|line| ["--to".into(), line.to_string()]));
        arguments.extend(["--messages".into(), each(floor.messages), "--calls".into(), each(floor.calls)]);
        arguments.extend(["--seconds".into(), floor.seconds.to_string()]);
        processes.push(Child::start(&arguments)?);
    }
    for process in &mut processes {
        process.line()?;
    }
    let before = (packets.forwarded.load(Relaxed), packets.lost.load(Relaxed));
    processes.iter_mut().try_for_each(Child::go)?;
    let did = processes.iter_mut().map(Child::figures).collect::<Result<Vec<PeersDid>, _>>()?;
    std::thread::sleep(AFTERWARDS);
    hub.go()?;
    let saw: SinkSaw = hub.figures()?;
    let lost = packets.lost.load(Relaxed) - before.1;
    let came = packets.forwarded.load(Relaxed) - before.0 + lost;
    show(floor, &did, &saw, lost as f64 / came.max(1) as f64);
    processes.iter_mut().try_for_each(Child::go)
}

fn show(floor: &Floor, did: &[PeersDid], saw: &SinkSaw, lost: f64) {
    let published: u64 = did.iter().map(|did| did.published).sum();
    let answered: u64 = did.iter().map(|did| did.calls.sent).sum();
    let failed: u64 = did.iter().map(|did| did.failed).sum();
    let seconds = did.iter().map(|did| did.calls.seconds).fold(floor.seconds, f64::max);
    let worst = |of: fn(&PeersDid) -> u64| did.iter().map(of).max().unwrap_or(0) as f64 / 1e6;
    println!(
        "{} peers, {:.1} % of packets lost, {PAYLOAD_BYTES} B, {seconds:.1} s",
        floor.peers,
        lost * 100.0
    );
    println!("  published {published}, received {}: {:.0}/s", saw.received, saw.received as f64 / seconds);
    println!("  calls answered {answered}, failed {failed}: {:.0}/s", answered as f64 / seconds);
    println!(
        "  call p50 {:.1} ms, p99 {:.1} ms, of the slowest process",
        worst(|did| did.calls.latency.p50),
        worst(|did| did.calls.latency.p99)
    );
    println!("  the node: {:.2} s of CPU, {:.1} MiB", saw.cpu_seconds, saw.memory_bytes as f64 / 1048576.0);
}

/// The node.
pub(crate) async fn hub() -> Result<(), String> {
    let node = Node::builder().listen("127.0.0.1:0").start().await.map_err(text)?;
    let options = RegisterOptions { concurrency_max: 1_024, ..RegisterOptions::default() };
    let echo = |call: Call| async move { Ok(Reply::new(call.payload)) };
    let _offer = node.register_in(node.realm(), PROCEDURE, options, echo).await.map_err(text)?;
    let options = SubscribeOptions { lag: LagPolicy::Wait, ..SubscribeOptions::default() };
    let mut messages = node.subscribe_in(node.realm(), TOPIC, options).await.map_err(text)?;
    say(&node.listen_addrs()[0].to_string());
    let (mut tally, mut parent, mut taken) = (Tally::default(), Parent::new(), Vec::new());
    loop {
        tokio::select! {
            biased;
            _ = messages.recv_many(&mut taken, 1_024) => {
                // Those without payload are how peers find out who is there.
                tally.add(taken.drain(..).filter(|message| !message.payload.is_empty()).count() as u64);
            }
            go = parent.go() => {
                go?;
                return report(&tally.saw());
            }
        }
    }
}

/// Some of its peers.
pub(crate) async fn peers(peers: Peers) -> Result<(), String> {
    let mut starting = JoinSet::new();
    for line in &peers.to {
        let builder = Node::builder().listen("127.0.0.1:0").on_this_runtime().seed(&line.to_string());
        starting.spawn(async move {
            let node = builder.start().await.map_err(text)?;
            found(&node).await?;
            Ok::<_, String>(node)
        });
    }
    let nodes = starting.join_all().await.into_iter().collect::<Result<Vec<Node>, _>>()?;
    say("ready");
    let mut parent = Parent::new();
    parent.go().await?;
    let mut watch = Stopwatch::start();
    let end = watch.began + Duration::from_secs_f64(peers.seconds);
    let (mut publishing, mut calling) = (JoinSet::new(), JoinSet::new());
    for node in &nodes {
        publishing.spawn(publish(node.clone(), peers.messages, end));
        calling.spawn(call(node.clone(), peers.calls, end));
    }
    let mut published = 0;
    for done in publishing.join_all().await {
        published += done?;
    }
    let (mut answered, mut failed) = (0, 0);
    for (times, failures) in calling.join_all().await {
        answered += times.len() as u64;
        failed += failures;
        times.into_iter().for_each(|took| watch.latency.saturating_record(took.as_nanos() as u64));
    }
    report(&PeersDid { published, calls: watch.did(answered), failed })?;
    parent.go().await
}

/// Waits until the node is known as a subscriber and as a provider.
async fn found(node: &Node) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let published = node.publish(TOPIC, Bytes::new()).await.is_ok_and(|published| published.peers == 1);
        if published && node.call(PROCEDURE, Bytes::new()).await.is_ok() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("a peer has not found the node in {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How many are due by now that were not before.
struct Pace {
    began: Instant,
    a_second: f64,
    done: u64,
}

impl Pace {
    fn new(a_second: f64) -> Self {
        Self { began: Instant::now(), a_second, done: 0 }
    }

    fn due(&mut self) -> u64 {
        let all = (self.began.elapsed().as_secs_f64() * self.a_second) as u64;
        let due = all - self.done;
        self.done = all;
        due
    }
}

/// Publishes at a steady pace; says how many messages have left.
async fn publish(node: Node, a_second: f64, end: Instant) -> Result<u64, String> {
    let publisher = node.publisher(TOPIC).map_err(text)?.wait(WAIT);
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let (mut pace, mut published, mut ticks) = (Pace::new(a_second), 0, ticks());
    while Instant::now() < end {
        for _ in 0..pace.due() {
            published += publisher.publish(payload.clone()).await.map_err(text)?.peers as u64;
        }
        ticks.tick().await;
    }
    Ok(published)
}

/// Calls at a steady pace, without waiting for earlier answers; says how long each took, and how many failed.
async fn call(node: Node, a_second: f64, end: Instant) -> (Vec<Duration>, u64) {
    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let (mut pace, mut calls, mut ticks) = (Pace::new(a_second), JoinSet::new(), ticks());
    while Instant::now() < end {
        for _ in 0..pace.due() {
            let (node, payload) = (node.clone(), payload.clone());
            calls.spawn(async move {
                let began = Instant::now();
                node.call(PROCEDURE, payload).await.map(|_| began.elapsed())
            });
        }
        ticks.tick().await;
    }
    let (mut times, mut failed) = (Vec::new(), 0);
    for outcome in calls.join_all().await {
        match outcome {
            Ok(took) => times.push(took),
            Err(error) => {
                eprintln!("a call failed: {error}");
                failed += 1;
            }
        }
    }
    (times, failed)
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
