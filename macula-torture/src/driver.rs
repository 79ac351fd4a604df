//! Runs: nodes, mischief, and the check at the end.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum as _};

use crate::check;
use crate::faults::{Fault, Mischief};
use crate::node::orders::Order;
use crate::plant::Plant;
use crate::process::NodeProcess;
use crate::report::Report;
use crate::resource::Resource;
use crate::simulated;

/// How long nodes may take to have a group of three voters, and to have one again after all is mended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seeds that are tried, at most, until a planted bug is found.
const SEEDS_A_PLANT: u64 = 5;

/// How much longer things go wrong if some fault has had no effect yet.
const MORE: Duration = Duration::from_secs(40);

/// Without faults, before and after.
const CALM: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Options {
    /// How long things go wrong
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// What decides which fault comes when, and to whom
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes: three of them vote, the others are clients
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: u64,
    /// What goes wrong [default: all of it; with a planted bug, what it takes to see it]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Plants a bug, which must be found, or one after the other: `all`
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
    /// Runs these seeds in one process in place of real ones, on a simulated network and under paused time: `1..2001`
    #[arg(long, value_name = "A..B", value_parser = simulated::seeds)]
    simulated: Option<Range<u64>>,
    /// Seeds that are simulated at the same time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Keeps the records and what the nodes say in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Says what goes wrong as it does
    #[arg(long, short)]
    verbose: bool,
}

/// Runs with these options; an error if something was wrong with what the nodes did, or too little happened.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    if let Some(seeds) = &options.simulated {
        let plant = options.plant.as_deref().map(|name| Plant::from_str(name, true)).transpose()?;
        return simulated::run(seeds.clone(), options.jobs, plant.and_then(Plant::in_product));
    }
    let Some(plant) = &options.plant else {
        let report = run_once(options, options.seed, None)?;
        println!("{report}");
        return report.verdict();
    };
    let plants = match plant.as_str() {
        "all" => Plant::ALL.to_vec(),
        name => vec![Plant::from_str(name, true)?],
    };
    let mut missed = Vec::new();
    for plant in plants {
        let mut found = false;
        for seed in (options.seed..).take(SEEDS_A_PLANT as usize) {
            let report = run_once(options, seed, Some(plant))?;
            found = !report.problems.is_empty();
            println!("{}: {}", plant.name(), if found { "found" } else { "not found yet" });
            println!("{report}");
            if found {
                break;
            }
        }
        if !found {
            missed.push(plant.name());
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("bugs that were not found: {}", missed.join(", "))) }
}

fn run_once(options: &Options, seed: u64, plant: Option<Plant>) -> Result<Report, String> {
    let temporary =
        tempfile::Builder::new().prefix("torture").tempdir().map_err(|cause| cause.to_string())?;
    let dir = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir).map_err(|cause| format!("{}: {cause}", dir.display()))?;
    let socket = dir.join("resource");
    let resource = Resource::serve(&socket, plant == Some(Plant::IgnoreFence))
        .map_err(|cause| format!("{}: {cause}", socket.display()))?;
    let addrs = free_addrs(options.nodes)?;
    let join = |number: u64| (number > 0).then(|| addrs[0]);
    let mut nodes: Vec<NodeProcess> = (0..)
        .zip(&addrs)
        .map(|(number, addr)| NodeProcess::new(number, *addr, join(number), &dir, plant))
        .collect();
    nodes.iter_mut().try_for_each(NodeProcess::start)?;
    wait_for(&mut nodes, "three voters", |nodes| {
        Ok(nodes.iter_mut().map(|node| node.order(&Order::Report)).filter(votes).count() == 3)
    })?;
    sleep(CALM);
    let faults = match (options.faults.is_empty(), plant) {
        (false, _) => options.faults.clone(),
        (true, Some(plant)) => vec![plant.seen_with()],
        (true, None) => Fault::ALL.to_vec(),
    };
    let mut mischief = Mischief::new(seed, faults.clone(), options.verbose);
    let until = Instant::now() + Duration::from_secs_f64(options.minutes.clamp(0.05, 600.0) * 60.0);
    // Each takes effect once at least, if there is any way.
    let troubled = (|| {
        while Instant::now() < until || (mischief.is_missing() && Instant::now() < until + MORE) {
            mischief.next(&mut nodes)?;
        }
        sleep(CALM);
        wait_for(&mut nodes, "logs that all nodes can read", |nodes| {
            nodes.iter_mut().try_fold(true, |all, node| Ok(node.order(&Order::ReadAll)?.done && all))
        })?;
        nodes.iter_mut().try_for_each(NodeProcess::stop)
    })();
    let mut records = Vec::new();
    for path in nodes.iter().flat_map(NodeProcess::records) {
        records.extend(crate::record::read(&path)?);
    }
    let mut checked = check::all(records, &resource.visits());
    // A group that does not come back is as bad as one that does wrong.
    checked.problems.extend(troubled.err());
    Ok(Report::new(seed, faults, mischief.took_effect, checked))
}

fn votes(report: &Result<crate::node::orders::Report, String>) -> bool {
    report.as_ref().is_ok_and(|report| report.votes)
}

fn wait_for(
    nodes: &mut [NodeProcess],
    what: &str,
    mut is_so: impl FnMut(&mut [NodeProcess]) -> Result<bool, String>,
) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    while !is_so(nodes)? {
        if Instant::now() > until {
            return Err(format!("no {what} within {PATIENCE:?}"));
        }
        // tidy: allow(sleep): polling other processes
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Addresses that nobody listens at now.
fn free_addrs(count: u64) -> Result<Vec<SocketAddr>, String> {
    let bound = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
    let bound = bound.map_err(|cause| cause.to_string())?;
    bound.iter().map(|socket| socket.local_addr().map_err(|cause| cause.to_string())).collect()
}
