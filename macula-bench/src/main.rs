//! Measures Macula between processes, beside raw QUIC with the same settings in the same run.
//!
//! ```text
//!   main ──► case     what is measured          run ──► child     one source and its sinks, each a process
//!      ├───► report   medians, ratios, table     role ─► raw      quinn with the product's own settings
//!      ├───► plot     how it scales                 └──► mesh     the product
//!      ├───► floor    one node, many peers, lossy lines ──► relay
//!      └───► coordination   writes beside etcd's, and what deaths cost
//! ```
//!
//! A *source* publishes or calls for a given time, a *sink* subscribes or serves; both are processes of this program, over
//! loopback UDP, encrypted. Each case runs with Macula and with raw QUIC in turns, so that a busy machine slows both.
//! Rates count what arrived at the sinks.

// Writes through the facade are futures within futures.
#![recursion_limit = "256"]

mod case;
mod child;
mod coordination;
mod floor;
mod outcome;
mod plot;
mod relay;
mod report;
mod role;
mod run;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Macula between processes, beside raw QUIC with the same TLS provider, MTU, windows and congestion control.
#[derive(Parser)]
#[command(name = "cargo xtask bench", disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(clap::Args)]
struct Options {
    /// Every case, the curves too, and long enough for figures to be quoted (some ten minutes)
    #[arg(long)]
    full: bool,
    /// Only cases whose name contains this; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Runs of each case and stack; the median counts [default: 3, with --full 5]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// How long one run lasts [default: 1, with --full 2]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Where table, CSV and plots go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum Role {
    /// A node that many peers publish to and call, over lines that lose packets
    Floor(floor::Floor),
    /// Writes to a group of three processes, beside etcd's, and how long deaths are felt
    Coordination(coordination::Options),
    /// One process of that
    #[command(hide = true)]
    CoordinationMember(coordination::Member),
    /// The node of the floor
    #[command(hide = true)]
    FloorHub,
    /// Some of its peers
    #[command(hide = true)]
    FloorPeers(floor::Peers),
    /// One process of a measurement
    #[command(hide = true)]
    Sink(role::Sink),
    /// The other one
    #[command(hide = true)]
    Source(role::Source),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Some(Role::Floor(floor)) => floor::run(&floor),
        Some(Role::Coordination(options)) => coordination::run(&options),
        Some(Role::CoordinationMember(options)) => role::run(coordination::member(options)),
        Some(Role::FloorHub) => role::run(floor::hub()),
        Some(Role::FloorPeers(peers)) => role::run(floor::peers(peers)),
        Some(Role::Sink(sink)) => role::sink(&sink),
        Some(Role::Source(source)) => role::source(&source),
        None => bench(&arguments.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<(), String> {
    let plan = run::Plan {
        runs: options.runs.unwrap_or(if options.full { 5 } else { 3 }).max(1),
        seconds: options.seconds.unwrap_or(if options.full { 2.0 } else { 1.0 }).clamp(0.1, 60.0),
    };
    let all = case::all(options.full);
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|part| name.contains(part));
    let cases: Vec<_> = all.into_iter().filter(|case| wanted(&case.name())).collect();
    if cases.is_empty() {
        return Err("no case has such a name; `cargo xtask bench --full` lists them as it goes".into());
    }
    let mut lines = Vec::new();
    for case in cases {
        eprintln!("{} …", case.name());
        let line = report::Line::of(case.clone(), &run::measure(&case, &plan)?);
        eprintln!("  {line}");
        lines.push(line);
    }
    let table = report::table(&lines, &plan);
    println!("{table}");
    let failed = |cause: std::io::Error| format!("{}: {cause}", options.out.display());
    std::fs::create_dir_all(&options.out).map_err(failed)?;
    std::fs::write(options.out.join("bench.md"), &table).map_err(failed)?;
    std::fs::write(options.out.join("bench.csv"), report::csv(&lines)).map_err(failed)?;
    plot::curves(&lines, &options.out)?;
    eprintln!("written to {}", options.out.display());
    Ok(())
}
