//! `macula_ctl`: runs a Macula node and talks to running ones.
//!
//! ```text
//!   cli      what can be typed            commands   one module a group of commands
//!   context  which node is meant          client     HTTP over the node's Unix socket
//!   output   tables and JSON on stdout    error      messages, hints, exit codes
//!   logging  the daemon's log             daemon     a node with its admin socket, until told to stop
//! ```
//!
//! Daemon and client share one API: that of `macula-console`. This crate must not know protocol internals.

mod cli;
mod client;
mod commands;
mod context;
mod daemon;
mod error;
mod logging;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Global};
use crate::client::Client;
use crate::commands::{
    bench, calls, dev, generate, groups, inspect, manage, members, messages, retained, serve, start,
};
use crate::error::CliError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(&format!("error: no event loop: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli));
    // A reader of stdin or a program of `serve` that still hangs must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("error: {error}"));
            if let Some(hint) = error.hint() {
                output::say(&format!("  try: {hint}"));
            }
            error.exit_code()
        }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Start(args) => start::start(args, cli.global.output).await,
        Command::Dev(args) => dev::dev(args, cli.global.output).await,
        Command::Bench(command) => bench::bench(command, &cli.global).await,
        Command::Nodes => inspect::nodes(cli.global.output).await,
        Command::Context(command) => manage::context(cli.global.output, &command).await,
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { directory } => generate::man(&directory),
        command => on_node(command, &cli.global).await,
    }
}

/// Commands that talk to a running node.
async fn on_node(command: Command, global: &Global) -> Result<(), CliError> {
    let client = &Client::new(context::socket(global.node.as_deref()).await?);
    let format = global.output;
    match command {
        Command::Stop => manage::stop(client).await,
        Command::Status => inspect::status(client, format).await,
        Command::Members(args) => members::members(client, format, &args).await,
        Command::Peers => inspect::list::<macula_console::api::Peer>(client, format, "/v1/peers").await,
        Command::RoutingTable => {
            inspect::list::<macula_console::api::Bucket>(client, format, "/v1/routing-table").await
        }
        Command::Lookup(args) => inspect::lookup(client, format, &args).await,
        Command::Subscriptions => {
            inspect::list::<macula_console::api::Subscription>(client, format, "/v1/subscriptions").await
        }
        Command::Trees => inspect::list::<macula_console::api::Tree>(client, format, "/v1/trees").await,
        Command::Registrations => {
            inspect::list::<macula_console::api::Registration>(client, format, "/v1/registrations").await
        }
        Command::Join(args) => manage::join(client, format, &args.addr).await,
        Command::Leave => manage::leave(client).await,
        Command::Subscribe(args) => messages::subscribe(client, format, &args).await,
        Command::Publish(args) => messages::publish(client, format, &args).await,
        Command::Retained(args) => retained::retained(client, format, &args).await,
        Command::Call(args) => calls::call(client, format, &args).await,
        Command::Providers(args) => calls::providers(client, format, &args).await,
        Command::Serve(args) => serve::serve(client, args).await,
        Command::Config(command) => manage::config(client, format, &command).await,
        Command::Seeds(command) => manage::seeds(client, format, &command).await,
        Command::Tags(command) => manage::tags(client, format, command).await,
        Command::Log(args) => match (args.command, args.level) {
            (Some(command), _) => groups::log(client, format, command).await,
            (None, level) => manage::log(client, &level.unwrap_or_default()).await,
        },
        Command::Raft(command) => groups::raft(client, format, command).await,
        Command::Election(command) => groups::election(client, format, command).await,
        Command::Lock(command) => groups::lock(client, format, command).await,
        Command::Metrics => inspect::metrics(client, format).await,
        Command::Start(_)
        | Command::Dev(_)
        | Command::Bench(_)
        | Command::Nodes
        | Command::Context(_)
        | Command::Completions { .. }
        | Command::Man { .. } => unreachable!("these need no running node and are handled before"),
    }
}
