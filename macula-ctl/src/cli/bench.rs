//! What `bench` takes.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Publish and subscribe: rates, what was lost, and how long messages took
    Pubsub(Pubsub),
    /// Call a procedure: rates, and how long calls took
    Rpc(Rpc),
    /// Look keys up in the directory: rates, questions asked, and how long it took
    Lookup(Lookup),
}

/// Where to measure.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// A node of the mesh to join, as host:port; without it, the running node that is meant
    #[arg(long, value_name = "ADDR")]
    pub(crate) join: Vec<String>,
    /// Join nobody: measure among nodes of its own
    #[arg(long, conflicts_with = "join")]
    pub(crate) alone: bool,
    /// Realm
    #[arg(long)]
    pub(crate) realm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Pubsub {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Nodes that publish, each on a thread of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) publishers: u32,
    /// Nodes that subscribe; 0 publishes to whoever subscribes already
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) subscribers: u32,
    /// Messages, shared among the publishers
    #[arg(long, default_value = "100000", value_name = "N")]
    pub(crate) messages: NonZeroU64,
    /// Bytes of one message
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) size: u32,
    /// Topic; without it, one that nobody else uses
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// How long a message may wait for room; 0 drops what finds none
    #[arg(long, value_parser = wait, value_name = "TIME", default_value = "5s")]
    pub(crate) wait: Duration,
    /// Messages a second of each publisher; without it, as many as go
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU32>,
}

#[derive(Debug, Args)]
pub(crate) struct Rpc {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Nodes that call, each on a thread of its own
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) callers: u32,
    /// Nodes that answer, by sending back what they get
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) providers: u32,
    /// Call this procedure, which somebody else offers
    #[arg(long, value_name = "NAME", conflicts_with = "providers")]
    pub(crate) procedure: Option<String>,
    /// Calls, shared among the callers
    #[arg(long, default_value = "20000", value_name = "N")]
    pub(crate) calls: NonZeroU64,
    /// Calls of one caller under way at once
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) in_flight: u32,
    /// Bytes of one request
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) size: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Lookup {
    #[command(flatten)]
    pub(crate) place: Where,
    /// Keys to look up, each another one
    #[arg(long, default_value = "1000", value_name = "N")]
    pub(crate) lookups: NonZeroU64,
    /// Look-ups under way at once
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) in_flight: u32,
}

impl Bench {
    pub(crate) const fn place(&self) -> &Where {
        match self {
            Self::Pubsub(args) => &args.place,
            Self::Rpc(args) => &args.place,
            Self::Lookup(args) => &args.place,
        }
    }
}

/// A time that may be nothing.
fn wait(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { super::duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_a_wait() {
        assert_eq!(wait("0"), Ok(Duration::ZERO));
        assert_eq!(wait("500ms"), Ok(Duration::from_millis(500)));
        assert!(wait("soon").is_err());
    }
}
