//! The project's own tasks: `cargo xtask <task>`; `cargo xtask` alone lists them.
//!
//! ```text
//!   main ──► ci ──► command ──► tally      one step after the other, then one line that counts
//!      ├───► alone                         each crate by itself
//!      ├───► tidy ► source, metadata, …    rules that no other tool checks
//!      ├───► fuzz                          the decoders, for a given time
//!      ├───► sim                           meshes of simulated nodes
//!      ├───► bench                         between processes, beside raw QUIC
//!      ├───► chaos                         real nodes that are killed, paused, restarted
//!      └───► torture                       what they coordinate under all faults, checked
//! ```

mod alone;
mod bench;
mod chaos;
mod ci;
mod command;
mod fuzz;
mod sim;
mod tally;
mod tidy;
mod torture;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Everything a change must pass: format, tidy, clippy, check, tests, doctests, docs
    Ci {
        /// Go on after a failed step and report all failures at the end
        #[arg(long)]
        keep_going: bool,
    },
    /// Rules of this repository that no other tool checks: lengths, layers, words, names
    Tidy,
    /// Build each crate by itself, also with fewer features
    Alone,
    /// Feed mutated frames and messages to every decoder
    Fuzz {
        /// For how long, in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Simulate meshes of thousands of nodes, each run decided by its seed
    #[command(disable_help_flag = true)]
    Sim {
        /// For the simulator: `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure publishing and calling between processes, beside raw QUIC in the same run
    #[command(disable_help_flag = true)]
    Bench {
        /// For the benchmark: `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill, pause and restart real nodes; the survivors must agree on who is alive
    Chaos(chaos::Options),
    /// Elections, locks and logs of real nodes that are killed, paused, cut off and given bad disks and clocks: all checked
    #[command(disable_help_flag = true)]
    Torture {
        /// For the torture: `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = command::workspace_root();
    let outcome = match Arguments::parse().task {
        None => list_tasks(),
        Some(Task::Ci { keep_going }) => ci::run(&root, keep_going),
        Some(Task::Tidy) => tidy::run(&root),
        Some(Task::Alone) => alone::run(&root),
        Some(Task::Fuzz { seconds }) => fuzz::run(&root, seconds),
        Some(Task::Sim { arguments }) => sim::run(&root, &arguments),
        Some(Task::Bench { arguments }) => bench::run(&root, &arguments),
        Some(Task::Chaos(options)) => chaos::run(&root, options),
        Some(Task::Torture { arguments }) => torture::run(&root, &arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn list_tasks() -> Result<(), String> {
    Arguments::command().print_help().map_err(|cause| format!("the list cannot be printed: {cause}"))
}
