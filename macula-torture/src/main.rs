//! Tortures coordination: real nodes in processes of their own, with faults, and a check of everything that they did.
//!
//! ```text
//!   main ──► driver ── kill -9, SIGSTOP, commands ──► node, node, node     the product, in processes of their own
//!              │                                       │    │  workload: elections, locks, logs
//!              │  faults: what is injected             │    └── disk, clock, lines: what is injected into
//!              │                                       ▼
//!              ├── resource ◀── fenced writes ─────────┤
//!              ▼                                       ▼
//!            check ◀──────────────────────────────── record: each operation, when it began and ended
//! ```
//!
//! The run is decided by its seed as far as real processes can be: which fault comes when and to whom. At its end it says how many
//! operations, faults that took effect and changes of leaders there were; a run that lacks any of them fails, and so does
//! one in which a planted bug was not found.

mod check;
mod clock;
mod disk;
mod driver;
mod faults;
mod model;
mod node;
mod plant;
mod process;
mod record;
mod report;
mod resource;
mod simulated;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Nodes in processes of their own that are killed, paused, cut off, given other clocks and bad disks, while they use elections,
/// locks and logs; everything that they did is checked.
#[derive(Parser)]
#[command(
    name = "cargo xtask torture",
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(flatten)]
    options: driver::Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// One node and what it does
    #[command(hide = true)]
    Node(node::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Some(Role::Node(options)) => node::run(&options),
        None => driver::run(&arguments.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
