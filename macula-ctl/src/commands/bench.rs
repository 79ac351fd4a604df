//! `bench`: how fast a mesh carries messages, calls and look-ups.
//!
//! The measuring nodes are nodes like any other, in this process, and use the API that every program uses. They join the mesh
//! through the node that is meant, and leave it in the end.

mod calls;
mod latency;
mod lookups;
mod messages;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use macula::{Node, Realm};
use macula_console::api::Status;
use tokio::task::JoinSet;

use crate::cli::Global;
use crate::cli::bench::{Bench, Where};
use crate::client::Client;
use crate::error::CliError;
use crate::{context, daemon};

/// How long the nodes of a measurement may take to find each other, and what they measure.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often what is not there yet is looked for again.
const RETRY: Duration = Duration::from_millis(50);
/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

pub(crate) async fn bench(command: Bench, global: &Global) -> Result<(), CliError> {
    let mut mesh = Mesh::find(command.place(), global).await?;
    let outcome = tokio::select! {
        outcome = measure(&command, &mut mesh, global) => outcome,
        outcome = daemon::told_to_stop() => {
            outcome.and(Err(CliError::Broken("stopped before there was anything to show".into())))
        }
    };
    mesh.leave().await;
    outcome
}

async fn measure(command: &Bench, mesh: &mut Mesh, global: &Global) -> Result<(), CliError> {
    match command {
        Bench::Pubsub(args) => messages::measure(args, mesh, global.output).await,
        Bench::Rpc(args) => calls::measure(args, mesh, global.output).await,
        Bench::Lookup(args) => lookups::measure(args, mesh, global.output).await,
    }
}

/// The nodes that measure.
struct Mesh {
    seeds: Vec<String>,
    realm: Realm,
    nodes: Vec<Node>,
}

impl Mesh {
    /// The mesh that is meant.
    async fn find(place: &Where, global: &Global) -> Result<Self, CliError> {
        let mut realm = place.realm.clone();
        let mut seeds = place.join.clone();
        if seeds.is_empty() && !place.alone {
            let client = Client::new(context::socket(global.node.as_deref()).await?);
            let status: Status = client.get("/v1/status").await?;
            realm = realm.or_else(|| status.realms.first().cloned());
            seeds = status.advertise;
        }
        let realm = realm.map_or_else(|| Ok(Realm::default()), |realm| realm.parse());
        let realm = realm.map_err(|error: macula::RealmError| CliError::Usage {
            message: error.to_string(),
            hint: "`macula_ctl status` lists the realms of a node".into(),
        })?;
        Ok(Self { seeds, realm, nodes: Vec::new() })
    }

    /// One more node, which has joined.
    async fn node(&mut self) -> Result<Node, CliError> {
        // Where there is a mesh to join, its nodes reach this one at any address of the machine.
        let listen =
            if self.seeds.iter().all(|seed| seed.starts_with("127.")) { "127.0.0.1:0" } else { "[::]:0" };
        let seeds: Vec<String> = match self.nodes.first() {
            None => self.seeds.clone(),
            Some(first) => first.listen_addrs().iter().map(loopback).collect(),
        };
        let builder = Node::builder().listen(listen).realm(self.realm.as_str());
        let builder = seeds.iter().fold(builder, |builder, seed| builder.seed(seed));
        let node = builder.start().await.map_err(|error| CliError::Start {
            message: format!("a node to measure with could not start: {error}"),
            hint: None,
            in_use: error.is_in_use(),
        })?;
        self.nodes.push(node.clone());
        if !seeds.is_empty() {
            let joined = tokio::time::timeout(PATIENCE, node.joined()).await;
            joined.map_err(|_| unreachable(&seeds))?.map_err(|error| failed(&error))?;
        }
        Ok(node)
    }

    /// Says goodbye, so that nobody is taken for dead.
    async fn leave(self) {
        let mut ends: JoinSet<()> = JoinSet::new();
        for node in self.nodes {
            ends.spawn(async move { node.shutdown().await });
        }
        ends.join_all().await;
    }
}

/// How a node that listens everywhere is reached from this machine.
fn loopback(addr: &std::net::SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("127.0.0.1:{}", addr.port()) } else { addr.to_string() }
}

fn unreachable(seeds: &[String]) -> CliError {
    CliError::NoNode {
        message: format!("nobody answers at {}", seeds.join(", ")),
        hint: "--join takes the address of a node, --alone measures among nodes of its own".into(),
    }
}

fn failed(error: &macula::Error) -> CliError {
    CliError::Broken(error.to_string())
}

/// Runs work on a thread of its own, as a program would have one, so that measuring nodes do not share theirs.
async fn on_thread<T: Send + 'static, W: Future<Output = Result<T, CliError>>>(
    work: impl FnOnce() -> W + Send + 'static,
) -> Result<T, CliError> {
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(CliError::io("a thread to measure on"))?.block_on(work())
    };
    let ended = tokio::task::spawn_blocking(body).await;
    ended.unwrap_or_else(|error| Err(CliError::Broken(format!("a measuring thread died: {error}"))))
}

/// What is done so far, as a bar on stderr. Draws nothing where stderr is no terminal.
#[derive(Clone)]
struct Progress {
    done: Arc<AtomicU64>,
    bar: ProgressBar,
}

impl Progress {
    fn new(total: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {per_sec}  {eta}");
        let style = style.expect("the template is constant");
        Self { done: Arc::default(), bar: ProgressBar::new(total).with_style(style) }
    }

    fn add(&self, count: u64) {
        self.done.fetch_add(count, Relaxed);
    }

    /// Moves the bar until the work is done.
    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut tick = tokio::time::interval(TICK);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.bar.finish_and_clear();
                    return done;
                }
                _ = tick.tick() => self.bar.set_position(self.done.load(Relaxed)),
            }
        }
    }
}

/// `total` in as equal parts as can be.
fn shares(total: u64, parts: u32) -> impl Iterator<Item = u64> {
    let parts = u64::from(parts);
    (0..parts).map(move |part| total / parts + u64::from(part < total % parts))
}

/// Thousands and millions, as people read them.
fn count(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.1} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(10, 3).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(shares(2, 3).sum::<u64>(), 2);
    }

    #[test]
    fn large_counts_are_short() {
        assert_eq!([count(12.0), count(1_234.0), count(2_500_000.0)], ["12.0 ", "1.2 k", "2.50 M"]);
    }
}
