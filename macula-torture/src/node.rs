//! One node in a process of its own: what it is started with, and what it is told.

mod elections;
mod locks;
mod logs;
pub(crate) mod orders;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use macula::testing::{Injected, LineFaults, RedbStore};
use macula::{Node, Realm};
use tokio::sync::mpsc;

use crate::clock::JumpingClock;
use crate::disk::Disk;
use crate::node::orders::Order;
use crate::plant::Plant;
use crate::record::{Line, Record};

/// Orders that wait, at most; the driver waits for the answer to each.
const ORDERS_MAX: usize = 16;

/// How often a node notes who leads the group.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// One node and what it does.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Its number among the nodes.
    #[arg(long)]
    number: u64,
    /// How often it was started before.
    #[arg(long)]
    life: u64,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Through whom it joins.
    #[arg(long)]
    join: Option<SocketAddr>,
    /// Where it keeps what it has.
    #[arg(long)]
    dir: PathBuf,
    /// Where it records what it does.
    #[arg(long)]
    record: PathBuf,
    /// Where the resource is.
    #[arg(long)]
    resource: PathBuf,
    /// A planted bug.
    #[arg(long)]
    plant: Option<Plant>,
}

/// What the tasks of a node share.
#[derive(Clone)]
struct Work {
    options: Options,
    node: Node,
    record: Record,
}

impl Work {
    /// The number of a process in the records: one for each task of each life.
    const fn process(&self, task: u64) -> u64 {
        self.options.number * 1_000_000 + self.options.life * 100 + task
    }

    /// A number that nobody else draws: `drawn` counts in one task.
    const fn unique(&self, task: u64, drawn: u64) -> u64 {
        self.process(task) * 1_000_000 + drawn
    }
}

/// What the driver may change.
struct Faulty {
    lines: LineFaults,
    clock: JumpingClock,
    disk: Disk,
}

/// Runs a node until it is told to stop.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| format!("no event loop: {cause}"))?;
    let outcome = runtime.block_on(live(options));
    runtime.shutdown_background();
    outcome
}

async fn live(options: &Options) -> Result<(), String> {
    let failed = |cause: &dyn std::fmt::Display| format!("node {}: {cause}", options.number);
    std::fs::create_dir_all(&options.dir).map_err(|cause| failed(&cause))?;
    let lies = options.plant == Some(Plant::SkipFsync);
    let disk = Disk::open(&options.dir.join("torture.redb"), lies).map_err(|cause| failed(&cause))?;
    let faulty = Faulty { lines: LineFaults::default(), clock: JumpingClock::default(), disk };
    let node = start(options, &faulty).await.map_err(|cause| failed(&cause))?;
    let record = Record::create(&options.record).map_err(|cause| failed(&cause))?;
    println!("ready");
    let work = Work { options: options.clone(), node: node.clone(), record };
    elections::begin(&work);
    locks::begin(&work);
    logs::begin(&work);
    tokio::spawn(note_leaders(work.clone()));
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        if order == Order::Stop {
            break;
        }
        println!("{}", order.carry_out(&work, &faulty).await);
    }
    let _ = node.shutdown().await;
    println!("stopped");
    Ok(())
}

async fn start(options: &Options, faulty: &Faulty) -> Result<Node, macula::StartError> {
    let disk = faulty.disk.clone();
    let injected = Injected {
        line_faults: Some(faulty.lines.clone()),
        boot_clock: Some(std::sync::Arc::new(faulty.clock.clone())),
        store: Some(Box::new(move |options, metrics| RedbStore::on_backend(disk, options, metrics))),
        plant: options.plant.and_then(Plant::in_product),
    };
    let mut builder = Node::builder()
        .name(&format!("torture-{}", options.number))
        .listen(&options.listen.to_string())
        .data_dir(&options.dir)
        .set("admin.socket", options.dir.join("admin").display().to_string())
        .set("membership.protocol_period", "250ms")
        .set("membership.suspect_timeout", "1s")
        .injected(injected);
    if let Some(join) = options.join {
        builder = builder.seed(&join.to_string());
    }
    builder.start().await
}

/// Reads orders from standard input, one a line; ends with it.
fn orders() -> mpsc::Receiver<Order> {
    let (given, orders) = mpsc::channel(ORDERS_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line);
            if order.is_ok_and(|order| given.blocking_send(order).is_ok()) {
                continue;
            }
            return;
        }
    });
    orders
}

/// Records each new leader of the group.
async fn note_leaders(work: Work) {
    let mut known = None;
    let mut ticks = tokio::time::interval(LOOK_PERIOD);
    loop {
        ticks.tick().await;
        let groups = work.node.groups();
        let Some(member) = groups.into_iter().find_map(|group| group.member) else { continue };
        let seen = member.leader.map(|leader| (member.term, leader.node.to_string()));
        if seen != known
            && let Some((term, leader)) = seen.clone()
        {
            work.record.write(Line::Leads { term, leader });
        }
        known = seen;
    }
}

/// Whether this node votes in its group.
fn votes(node: &Node) -> bool {
    let groups = node.groups();
    let member =
        groups.into_iter().find(|group| group.realm == Realm::default()).and_then(|group| group.member);
    member.is_some_and(|member| member.voters.contains(&member.me) && !member.is_changing)
}
