//! An event log: a keeper writes down what is published on matching topics; followers read it from any point on, over a
//! streamed call, and go on live.
//!
//! ```text
//!   publish ── acknowledged ──► keeper: file ── log.read (streamed call) ──► follow, from any offset
//! ```
//!
//! See this folder's README for how to run it, and for what it promises.

mod file;
mod follower;
mod keeper;
mod publisher;
#[path = "../shared/typed.rs"]
mod typed;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use macula::Node;
use serde::{Deserialize, Serialize};

/// How long to look for the mesh before beginning alone.
const JOINING: Duration = Duration::from_secs(10);

/// Keeps, follows or writes an event log.
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
    /// Write down what is published
    Keep {
        /// Which topics; `*` is one segment, `#` zero or more
        #[arg(long, default_value = "events.#")]
        topics: String,
        /// Where; made if it is not there
        #[arg(long)]
        file: PathBuf,
    },
    /// Print the log, and what is added to it
    Follow {
        /// Begin with this event
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Publish each line of stdin, and wait until it is kept
    Publish {
        /// The topic
        #[arg(long, default_value = "events.test")]
        topic: String,
    },
}

/// One event, as it stands in the file and goes to followers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Event {
    /// Its place in the log, from zero, without gaps.
    offset: u64,
    topic: String,
    /// The publisher's own number for it: who sends it again uses the same.
    id: String,
    text: String,
}

/// The header with an event's id.
const ID_HEADER: &str = "event-id";

/// The procedure that reads the log.
const READ: &str = "log.read";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let builder = Node::builder().name("event-log").listen(&args.listen);
    let node = args.join.iter().fold(builder, |builder, seed| builder.seed(seed)).start().await?;
    println!("listening on port {}", node.listen_addrs()[0].port());
    if !args.join.is_empty() && tokio::time::timeout(JOINING, node.joined()).await.is_err() {
        println!("nobody answers yet; they are tried until somebody does");
    }
    let work = async {
        match &args.role {
            Role::Keep { topics, file } => keeper::keep(&node, topics, file).await,
            Role::Follow { from } => follower::follow(&node, *from).await,
            Role::Publish { topic } => publisher::publish(&node, topic).await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    node.shutdown().await;
    outcome
}
