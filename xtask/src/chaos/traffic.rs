//! What the nodes do for a living while they are maltreated: publish, deliver, call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::admin::{Admin, Lines};

const PROCEDURE: &str = "chaos.echo";

/// How long a publication or a call may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(8);

/// Between two publications with a call each.
const PACE: Duration = Duration::from_millis(100);

/// Counts of the whole run.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) published: AtomicU64,
    /// Remote copies that a lane took.
    pub(super) sent: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) called: AtomicU64,
    pub(super) answered: AtomicU64,
    /// How often each kind of failure was met, and what the last one said.
    pub(super) failures: Mutex<BTreeMap<String, (u64, String)>>,
    /// The slowest publication and call that succeeded.
    pub(super) slowest: Mutex<[Duration; 2]>,
}

impl Counts {
    fn took(&self, which: usize, begun: Instant) {
        let slowest = &mut lock(&self.slowest)[which];
        *slowest = begun.elapsed().max(*slowest);
    }

    fn failed(&self, what: &str, error: &str) {
        let kind = error.split(':').next().unwrap_or_default();
        let mut failures = lock(&self.failures);
        let (count, last) = failures.entry(format!("{what}: {kind}")).or_default();
        *count += 1;
        error.clone_into(last);
    }
}

/// The application: it subscribes and serves at each node that runs, and talks to those that are free to answer.
pub(super) struct Traffic {
    pub(super) counts: Arc<Counts>,
    /// Nodes that run and are not paused.
    nodes: Arc<Mutex<Vec<Admin>>>,
    stop: Arc<AtomicBool>,
    talker: Option<thread::JoinHandle<()>>,
}

impl Traffic {
    pub(super) fn start() -> Self {
        let (counts, nodes, stop) =
            (Arc::<Counts>::default(), Arc::<Mutex<Vec<Admin>>>::default(), Arc::default());
        let talker = thread::spawn({
            let (counts, nodes, stop) = (counts.clone(), nodes.clone(), Arc::clone(&stop));
            move || talk(&counts, &nodes, &stop)
        });
        Self { counts, nodes, stop, talker: Some(talker) }
    }

    /// These nodes are free to answer.
    pub(super) fn among(&self, nodes: Vec<Admin>) {
        *lock(&self.nodes) = nodes;
    }

    /// The application of a node that was just started: it ends with the node. The number of the latest
    /// [`probe`] that reached it can be read from what this returns.
    pub(super) fn attach(&self, node: &Admin) -> Result<Arc<AtomicU64>, String> {
        let messages = node.lines("/v1/subscribe?pattern=chaos.*", Duration::from_secs(30))?;
        let calls =
            node.lines(&format!("/v1/serve?procedure={PROCEDURE}&concurrency=8"), Duration::from_secs(30))?;
        let (counts, heard) = (self.counts.clone(), Arc::<AtomicU64>::default());
        let latest = heard.clone();
        thread::spawn(move || {
            each(messages, |event| match event["topic"].as_str() {
                Some("chaos.traffic") => _ = counts.delivered.fetch_add(1, Ordering::Relaxed),
                Some(_) => _ = latest.fetch_max(event["payload"].as_u64().unwrap_or(0), Ordering::Relaxed),
                None => {}
            });
        });
        let node = node.clone();
        thread::spawn(move || serve(&node, calls));
        Ok(heard)
    }

    /// Ends the talking, not the applications of the nodes.
    pub(super) fn hush(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(talker) = self.talker.take() {
            // It panics nowhere; and what it counted so far counts.
            let _ = talker.join();
        }
    }
}

/// Publishes a number that every application takes note of.
pub(super) fn probe(node: &Admin, number: u64) -> Result<u64, String> {
    publish(node, "chaos.probe", number)
}

/// Publishes once; returns how many remote nodes took a copy.
fn publish(node: &Admin, topic: &str, number: u64) -> Result<u64, String> {
    let body = format!(r#"{{"topic":"{topic}","encoding":"json","payload":{number}}}"#);
    let published = node.ask("POST", "/v1/publish", &body, PATIENCE)?;
    Ok(published["peers"].as_u64().unwrap_or(0))
}

/// Calls once.
pub(super) fn call(node: &Admin) -> Result<(), String> {
    let body = format!(r#"{{"procedure":"{PROCEDURE}","encoding":"json","payload":2,"timeout_ms":3000}}"#);
    let answer = node.ask("POST", "/v1/call", &body, PATIENCE)?;
    if answer["payload"] == 2 { Ok(()) } else { Err(format!("a wrong answer: {answer}")) }
}

fn talk(counts: &Counts, nodes: &Mutex<Vec<Admin>>, stop: &AtomicBool) {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PACE);
        let now = lock(nodes).clone();
        let Some(node) = now.get(turn % now.len().max(1)) else { continue };
        turn += 1;
        counts.published.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        match publish(node, "chaos.traffic", 1) {
            Ok(peers) => {
                counts.sent.fetch_add(peers, Ordering::Relaxed);
                counts.took(0, begun);
            }
            Err(error) => counts.failed("publish", &error),
        }
        counts.called.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        match call(node) {
            Ok(()) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                counts.took(1, begun);
            }
            Err(error) => counts.failed("call", &error),
        }
    }
}

fn serve(node: &Admin, calls: Lines) {
    let mut number = None;
    each(calls, |event| match event["event"].as_str() {
        Some("registered") => number = event["id"].as_u64(),
        Some("call") => {
            let (Some(id), Some(call), Some(arguments)) =
                (number, event["call"].as_u64(), event["arguments"].as_str())
            else {
                return;
            };
            let reply = format!(r#"{{"call":{call},"result":"{arguments}","error":null}}"#);
            // The caller may have given up, the node may be dead: both are counted where the call was made.
            let _ = node.ask("POST", &format!("/v1/serve/{id}"), &reply, PATIENCE);
        }
        _ => {}
    });
}

/// Reads until the node ends the stream.
fn each(mut lines: Lines, mut on: impl FnMut(&serde_json::Value)) {
    let mut line = String::new();
    loop {
        match lines.next(&mut line) {
            Ok(Some(event)) => on(&event),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
