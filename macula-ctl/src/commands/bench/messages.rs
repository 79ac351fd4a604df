//! `bench pubsub`.

use std::time::{Duration, Instant};

use macula::{LagPolicy, Message, Node, Publish, SubscribeOptions, Subscription};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::latency::{Latencies, Latency};
use super::{Mesh, PATIENCE, Progress, RETRY, count, failed, on_thread, shares};
use crate::cli::Format;
use crate::cli::bench::Pubsub;
use crate::error::CliError;
use crate::output;

/// Once all is published, a subscriber that hears nothing for so long has all that it will get.
const QUIET: Duration = Duration::from_secs(1);
/// A message begins with its run and the moment it was published; shorter ones are not counted.
const STAMP_BYTES: usize = 16;
/// A publisher lets others run after so many messages.
const TURN: u64 = 64;
/// So many messages wait for a subscriber.
const QUEUE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(8192).expect("not zero");

/// The outcome.
#[derive(Debug, Serialize)]
struct Report {
    publishers: u32,
    subscribers: u32,
    message_bytes: u32,
    /// Messages published.
    published: u64,
    /// Copies that left for a node.
    copies: u64,
    /// Copies that found no room, or no connection.
    dropped: u64,
    /// Copies that reached a subscriber of this run.
    delivered: u64,
    /// Copies that left for a subscriber of this run and did not reach it.
    lost: u64,
    published_per_second: f64,
    delivered_per_second: f64,
    delivered_bytes_per_second: f64,
    /// From `publish` to the subscriber, in microseconds.
    latency_us: Option<Latency>,
}

/// What one message carries, and when the run began.
#[derive(Clone, Copy)]
struct Stamp {
    run: u64,
    began: Instant,
}

/// What one publisher did.
#[derive(Default)]
struct Sent {
    published: u64,
    copies: u64,
    dropped: u64,
    took: Duration,
}

/// What one subscriber got.
struct Received {
    received: u64,
    latencies: Latencies,
    /// From the first to the last.
    took: Duration,
}

pub(super) async fn measure(args: &Pubsub, mesh: &mut Mesh, format: Format) -> Result<(), CliError> {
    if args.publishers + args.subscribers == 0 {
        return Err(CliError::Usage {
            message: "neither publishers nor subscribers".into(),
            hint: "leave --publishers or --subscribers away, or give one of them".into(),
        });
    }
    let stamp = Stamp { run: std::process::id().into(), began: Instant::now() };
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench.run-{}", stamp.run));
    let total = args.messages.get();
    let copies = total * u64::from(args.subscribers.max(1));
    let progress = Progress::new(if args.publishers == 0 { total } else { copies });
    let published_all = CancellationToken::new();

    let mut receiving = JoinSet::new();
    for _ in 0..args.subscribers {
        let node = mesh.node().await?;
        let messages = subscribe(&node, args, &topic).await?;
        let (progress, done) = (progress.clone(), published_all.clone());
        let alone = (args.publishers == 0).then_some(total);
        receiving.spawn(on_thread(move || receive(messages, stamp, progress, done, alone)));
    }
    let mut publishers = Vec::new();
    for _ in 0..args.publishers {
        let node = mesh.node().await?;
        find(&node, &topic, args.subscribers as usize).await?;
        publishers.push(node);
    }
    let mut sending = JoinSet::new();
    for (node, messages) in publishers.into_iter().zip(shares(total, args.publishers.max(1))) {
        let plan = Plan { topic: topic.clone(), messages, size: args.size as usize, wait: args.wait, stamp };
        let (rate, counts) = (args.rate.map(u32::from), (args.subscribers == 0).then(|| progress.clone()));
        sending.spawn(on_thread(move || publish(node, plan, rate, counts)));
    }
    let work = async {
        let sent = all(&mut sending).await?;
        if args.publishers > 0 {
            published_all.cancel();
        }
        Ok::<_, CliError>((sent, all(&mut receiving).await?))
    };
    let (sent, received) = progress.during(work).await?;
    let report = Report::of(args, &sent, &received);
    output::one(format, &report, || report.table())
}

async fn all<T: 'static>(tasks: &mut JoinSet<Result<T, CliError>>) -> Result<Vec<T>, CliError> {
    let mut done = Vec::new();
    while let Some(task) = tasks.join_next().await {
        done.push(task.map_err(|error| CliError::Broken(error.to_string()))??);
    }
    Ok(done)
}

async fn subscribe(node: &Node, args: &Pubsub, topic: &str) -> Result<Subscription, CliError> {
    let lag = if args.wait.is_zero() { LagPolicy::DropOldest } else { LagPolicy::Wait };
    let options = SubscribeOptions { lag, queue_messages: QUEUE, ..SubscribeOptions::default() };
    node.subscribe_in(node.realm(), topic, options).await.map_err(|error| failed(&error))
}

/// Waits until a publisher knows, and is connected with, so many subscribers.
async fn find(node: &Node, topic: &str, subscribers: usize) -> Result<(), CliError> {
    let found = async {
        loop {
            // Without a stamp: nobody counts it.
            let published = node.publish(topic, "").await;
            if published.is_ok_and(|published| published.peers >= subscribers) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    let none =
        |_| CliError::Broken(format!("a publisher did not find {subscribers} subscribers of `{topic}`"));
    timeout(PATIENCE, found).await.map_err(none)
}

/// What one publisher is to do.
struct Plan {
    topic: String,
    messages: u64,
    size: usize,
    wait: Duration,
    stamp: Stamp,
}

async fn publish(
    node: Node,
    plan: Plan,
    rate: Option<u32>,
    progress: Option<Progress>,
) -> Result<Sent, CliError> {
    let (mut sent, began) = (Sent::default(), Instant::now());
    for nth in 0..plan.messages {
        if let Some(rate) = rate {
            tokio::time::sleep_until((began + Duration::from_secs_f64(nth as f64 / f64::from(rate))).into())
                .await;
        } else if nth % TURN == 0 {
            tokio::task::yield_now().await;
        }
        let message =
            Publish::new(&plan.topic, plan.stamp.payload(plan.size)).map_err(|error| failed(&error))?;
        let published = node.publish_with(message.wait(plan.wait)).await.map_err(|error| failed(&error))?;
        sent.published += 1;
        sent.copies += (published.peers + published.local) as u64;
        sent.dropped += (published.dropped + published.failed) as u64;
        if let Some(progress) = &progress {
            progress.add(1);
        }
    }
    sent.took = began.elapsed();
    Ok(sent)
}

/// Takes messages until nothing comes any more, or so many have come.
async fn receive(
    mut messages: Subscription,
    stamp: Stamp,
    progress: Progress,
    published_all: CancellationToken,
    until: Option<u64>,
) -> Result<Received, CliError> {
    let mut latencies = Latencies::new();
    let mut span: Option<(Instant, Instant)> = None;
    let mut received = 0;
    while until.is_none_or(|until| received < until) {
        let next = tokio::select! {
            biased;
            message = messages.recv() => message,
            () = quiet(&published_all) => None,
        };
        let Some(message) = next else { break };
        let Some(at) = stamp.of(&message) else { continue };
        let now = Instant::now();
        span = Some((span.map_or(now, |(first, _)| first), now));
        received += 1;
        // Another process's clock began elsewhere.
        if let Some(at) = at {
            latencies.record(now.saturating_duration_since(at));
        }
        progress.add(1);
    }
    Ok(Received { latencies, received, took: span.map_or(Duration::ZERO, |(first, last)| last - first) })
}

async fn quiet(published_all: &CancellationToken) {
    published_all.cancelled().await;
    tokio::time::sleep(QUIET).await;
}

impl Stamp {
    /// A message that says when it was published.
    fn payload(self, size: usize) -> Vec<u8> {
        let mut payload = vec![0; size.max(STAMP_BYTES)];
        payload[..8].copy_from_slice(&self.run.to_be_bytes());
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        payload[8..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
        payload
    }

    /// `None` for what is not to be counted; else when it was published, if that was in this run.
    fn of(self, message: &Message) -> Option<Option<Instant>> {
        let run = message.payload.first_chunk::<8>()?;
        let nanos = message.payload.get(8..)?.first_chunk::<8>()?;
        let mine = u64::from_be_bytes(*run) == self.run;
        Some(mine.then(|| self.began + Duration::from_nanos(u64::from_be_bytes(*nanos))))
    }
}

impl Report {
    fn of(args: &Pubsub, sent: &[Sent], received: &[Received]) -> Self {
        let mut latencies = Latencies::new();
        received.iter().for_each(|one| latencies.add(&one.latencies));
        let sum = |of: fn(&Sent) -> u64| sent.iter().map(of).sum::<u64>();
        let delivered: u64 = received.iter().map(|one| one.received).sum();
        let rate =
            |count: u64, took: Duration| if took.is_zero() { 0.0 } else { count as f64 / took.as_secs_f64() };
        let delivered_per_second = received.iter().map(|one| rate(one.received, one.took)).sum();
        // With subscribers elsewhere, nobody here knows what they got.
        let expected = if args.publishers == 0 {
            delivered
        } else {
            sum(|one| one.published) * u64::from(args.subscribers)
        };
        Self {
            publishers: args.publishers,
            subscribers: args.subscribers,
            message_bytes: args.size,
            published: sum(|one| one.published),
            copies: sum(|one| one.copies),
            dropped: sum(|one| one.dropped),
            delivered,
            lost: expected.saturating_sub(delivered),
            published_per_second: sent.iter().map(|one| rate(one.published, one.took)).sum(),
            delivered_per_second,
            delivered_bytes_per_second: delivered_per_second * f64::from(args.size),
            latency_us: latencies.summary(),
        }
    }

    fn table(&self) -> String {
        let mut facts = Vec::new();
        if self.publishers > 0 {
            let published = format!(
                "{} messages of {} bytes by {} publishers, {}/s",
                self.published,
                self.message_bytes,
                self.publishers,
                count(self.published_per_second)
            );
            facts.push(("published", published));
            facts.push(("dropped", format!("{} of {} copies", self.dropped, self.copies + self.dropped)));
        }
        if self.subscribers > 0 {
            let rate = count(self.delivered_per_second);
            let bytes = count(self.delivered_bytes_per_second);
            let delivered = format!(
                "{} copies to {} subscribers, {rate}/s, {bytes}B/s",
                self.delivered, self.subscribers
            );
            facts.push(("delivered", delivered));
            facts.push(("lost", format!("{} copies", self.lost)));
        }
        if let Some(latency) = &self.latency_us {
            facts.push(("latency", latency.line()));
        }
        output::facts(&facts)
    }
}
