//! The product: one node a process, used as an application would.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use macula::{Call, LagPolicy, Message, Node, Reply, SubscribeOptions, Subscription};
use tokio::task::JoinSet;

use super::{Parent, QUIET, Stopwatch, Tally, report, say, text};
use crate::case::{Case, Load};

/// What a sink queues. Publishers wait for room, so that nothing is dropped.
const QUEUE: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
const WAIT: Duration = Duration::from_secs(5);
/// Finding each other takes at most so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages on each topic between two looks at the clock.
const BURST: usize = 64;
const PROCEDURE: &str = "bench.echo";
/// Before an idle node is watched, its mesh settles.
const SETTLING: Duration = Duration::from_secs(3);
/// And it is watched for at least so long.
const IDLE_MIN: Duration = Duration::from_secs(5);

async fn node(case: &Case, seeds: &[SocketAddr]) -> Result<Node, String> {
    let node = Node::builder().listen("127.0.0.1:0");
    let node = if case.own_thread { node } else { node.on_this_runtime() };
    seeds.iter().fold(node, |node, seed| node.seed(&seed.to_string())).start().await.map_err(text)
}

pub(super) async fn sink(case: &Case) -> Result<(), String> {
    let node = node(case, &[]).await?;
    let ready = || say(&node.listen_addrs()[0].to_string());
    match case.load {
        Load::Publish { idle_subscriptions, .. } => subscribe(&node, idle_subscriptions, ready).await,
        Load::Call { .. } => {
            let echo = |call: Call| async move { Ok(Reply::new(call.payload)) };
            let _offer = node.register(PROCEDURE, echo).await.map_err(text)?;
            ready();
            // Finding each other is not measured, but costs little beside what is.
            let mut tally = Tally::default();
            tally.add(1);
            Parent::new().go().await?;
            report(&tally.saw())
        }
        Load::Idle => {
            ready();
            Parent::new().go().await?;
            report(&Tally::default().saw())
        }
    }
}

async fn subscribe(node: &Node, idle_subscriptions: usize, ready: impl Fn()) -> Result<(), String> {
    let mut idle = Vec::new();
    for n in 0..idle_subscriptions {
        idle.push(node.subscribe(&format!("idle.{n}.*")).await.map_err(text)?);
    }
    let options =
        SubscribeOptions { lag: LagPolicy::Wait, queue_messages: QUEUE, ..SubscribeOptions::default() };
    let mut messages = node.subscribe_in(node.realm(), "bench.*", options).await.map_err(text)?;
    ready();
    let (mut tally, mut parent, mut told) = (Tally::default(), Parent::new(), false);
    let mut taken = Vec::new();
    while !told || !tally.is_quiet() {
        tokio::select! {
            biased;
            count = receive(&mut messages, &mut taken) => tally.add(count),
            go = parent.go(), if !told => {
                go?;
                told = true;
            }
            () = tokio::time::sleep(QUIET), if told => {}
        }
    }
    report(&tally.saw())
}

/// Takes all that is queued, once there is something. Messages without payload are not counted: sources find out with them
/// who is there.
async fn receive(messages: &mut Subscription, taken: &mut Vec<Message>) -> u64 {
    messages.recv_many(taken, QUEUE.get()).await;
    taken.drain(..).filter(|message| !message.payload.is_empty()).count() as u64
}

pub(super) async fn source(case: &Case, to: &[SocketAddr], span: Duration) -> Result<(), String> {
    let node = node(case, to).await?;
    let payload = Bytes::from(vec![7; case.payload]);
    match case.load {
        Load::Publish { topics, subscribers, .. } => publish(&node, topics, subscribers, payload, span).await,
        Load::Call { in_flight } => call(&node, in_flight, payload, span).await,
        Load::Idle => idle(&node, span).await,
    }
}

async fn publish(
    node: &Node,
    topics: usize,
    subscribers: usize,
    payload: Bytes,
    span: Duration,
) -> Result<(), String> {
    let topics: Vec<String> = (0..topics).map(|n| format!("bench.{n}")).collect();
    for topic in &topics {
        known(node, topic, subscribers).await?;
    }
    say("ready");
    Parent::new().go().await?;
    let publisher =
        |topic: &String| node.publisher(topic).map(|publisher| publisher.wait(WAIT)).map_err(text);
    let publishers = topics.iter().map(publisher).collect::<Result<Vec<_>, _>>()?;
    let (watch, mut sent) = (Stopwatch::start(), 0);
    while watch.began.elapsed() < span {
        // The clock is not read for each message.
        for publisher in publishers.iter().cycle().take(publishers.len() * BURST) {
            publisher.publish(payload.clone()).await.map_err(text)?;
            sent += 1;
        }
        // On the node's own runtime, nothing leaves before it has its turn.
        tokio::task::yield_now().await;
    }
    report(&watch.did(sent))?;
    // What is queued still goes out; then whoever started this process ends it.
    Parent::new().go().await
}

/// Waits until so many nodes want a topic.
async fn known(node: &Node, topic: &str, subscribers: usize) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let published = node.publish(topic, Bytes::new()).await;
        if published.is_ok_and(|published| published.peers == subscribers) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("not all of {subscribers} subscribers were found in {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn call(node: &Node, in_flight: usize, payload: Bytes, span: Duration) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = node.call(PROCEDURE, payload.clone()).await {
        if Instant::now() >= deadline {
            return Err(error.to_string());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    say("ready");
    Parent::new().go().await?;
    let mut watch = Stopwatch::start();
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        callers.spawn(call_on(node.clone(), payload.clone(), watch.began + span));
    }
    let mut answered = 0;
    while let Some(took) = callers.join_next().await {
        let took = took.map_err(text)??;
        answered += took.len();
        watch.latency += took;
    }
    report(&watch.did(answered))
}

/// Calls one after the other until `end`; says how long each took.
async fn call_on(node: Node, payload: Bytes, end: Instant) -> Result<Histogram<u64>, String> {
    let mut watch = Stopwatch::start();
    while Instant::now() < end {
        let since = Instant::now();
        node.call(PROCEDURE, payload.clone()).await.map_err(text)?;
        watch.took(since);
    }
    Ok(watch.latency)
}

/// Does nothing for a while.
async fn idle(node: &Node, span: Duration) -> Result<(), String> {
    node.joined().await.map_err(text)?;
    say("ready");
    Parent::new().go().await?;
    tokio::time::sleep(SETTLING).await;
    let watch = Stopwatch::start();
    tokio::time::sleep(span.max(IDLE_MIN)).await;
    report(&watch.did(0))
}
