//! The Arcade: players on different nodes are matched into games of two by one elected coordinator. It may be killed in the
//! middle of anything: no player is lost, and none is matched twice.
//!
//! ```text
//!   play ── arcade.enter, to whoever leads the election ──► coordinator ── Enter, Match ──► ledger (a log of three hosts)
//!     ▲                                                                                       │
//!     └──────────────────────── everybody reads who plays whom ───────────────────────────────┘
//! ```
//!
//! See this folder's README for how to run it, and for why it holds.

mod check;
mod host;
mod ledger;
mod player;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use macula::Node;

/// How long to look for the mesh before beginning alone.
const JOINING: Duration = Duration::from_secs(10);

/// Runs a host or players of an arcade, or checks what the hosts have written down.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
    /// UDP address to listen on
    #[arg(long, global = true, default_value = "[::]:0")]
    listen: String,
    /// Somebody of the mesh, as host:port; may be given several times
    #[arg(long, global = true)]
    join: Vec<String>,
}

#[derive(Subcommand)]
enum Role {
    /// Keep the ledger with two others, and match players while this host coordinates
    Host {
        /// Where its part of the ledger is kept
        #[arg(long)]
        data: PathBuf,
    },
    /// Bring players, and wait until each has a game
    Play {
        /// Their name; each gets a number behind it
        #[arg(long)]
        name: String,
        /// How many
        #[arg(long, default_value_t = 1)]
        players: u32,
        /// Milliseconds between one and the next
        #[arg(long, default_value_t = 100)]
        every: u64,
    },
    /// Read the ledger, and fail if a player is in two games
    Check,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let builder = Node::builder().name("arcade").listen(&args.listen);
    let builder = match &args.role {
        Role::Host { data } => builder.data_dir(data),
        Role::Play { .. } | Role::Check => builder,
    };
    let node = args.join.iter().fold(builder, |builder, seed| builder.seed(seed)).start().await?;
    println!("listening on port {}", node.listen_addrs()[0].port());
    if !args.join.is_empty() && tokio::time::timeout(JOINING, node.joined()).await.is_err() {
        println!("nobody answers yet; they are tried until somebody does");
    }
    let work = async {
        match &args.role {
            Role::Host { .. } => host::host(&node).await,
            Role::Play { name, players, every } => {
                player::play(&node, name, *players, Duration::from_millis(*every)).await
            }
            Role::Check => check::check(&node).await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    node.shutdown().await;
    outcome
}
