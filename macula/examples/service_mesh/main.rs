//! A small web shop as services that find and call each other without a proxy, a registry or a load balancer.
//!
//! ```text
//!   orders ──► shop.order ──► prices.of         nearest, answers kept for a second
//!              (several)      (several)
//!                       └───► payments.charge   least loaded, never run twice
//!                             (several)
//!   watch ──► mesh.health of every instance
//! ```
//!
//! See this folder's README for how to run it.

mod instance;
mod orders;
mod services;
#[path = "../shared/typed.rs"]
mod typed;
mod watch;

use std::error::Error;
use std::time::Duration;

use clap::{Parser, Subcommand};
use macula::Node;

/// How long to look for the mesh before beginning alone.
const JOINING: Duration = Duration::from_secs(10);

/// Runs one instance of a service of a shop, orders from it, or watches it.
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
    /// Says what things cost
    Prices,
    /// Charges orders, each at most once
    Payments,
    /// Takes orders: asks for the price and has it charged
    Shop,
    /// Orders things and prints how that went
    Orders {
        /// How many
        #[arg(long, default_value_t = 100)]
        count: u64,
        /// How many a second
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        rate: u32,
    },
    /// Prints the health of every instance, again and again
    Watch,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let builder = Node::builder().name("service").listen(&args.listen);
    let node = args.join.iter().fold(builder, |builder, seed| builder.seed(seed)).start().await?;
    println!("listening on port {}", node.listen_addrs()[0].port());
    if !args.join.is_empty() && tokio::time::timeout(JOINING, node.joined()).await.is_err() {
        println!("nobody answers yet; they are tried until somebody does");
    }
    let work = async {
        match args.role {
            Role::Prices => services::prices(&node).await,
            Role::Payments => services::payments(&node).await,
            Role::Shop => services::shop(&node).await,
            Role::Orders { count, rate } => orders::place(&node, count, rate).await,
            Role::Watch => watch::watch(&node).await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // Calls that run here are finished first; their callers do not notice that this instance goes.
    node.shutdown().await;
    outcome
}
