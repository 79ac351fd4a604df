//! The command line, as clap sees it.

pub(crate) mod bench;
mod groups;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use macula::config::{Kind, Raw, Value};

pub(crate) use groups::{ElectionCommand, LockCommand, LockRun, LogCommand, Named, RaftCommand};

/// What stands at the end of `--help`.
const AFTER_HELP: &str = "\
Exit codes:
  0  done                              6  forbidden by policy
  1  anything not listed here          7  the procedure's handler failed
  2  a command line, value or          8  someone has no capacity now
     configuration is wrong            9  exists already, or is in use
  3  no node to talk to               10  the node is there, but a provider or
  4  no such procedure, key or thing      other node could not be reached, or
  5  deadline passed                      was lost during the call

In tables and plain text, control characters of messages, results and errors are shown escaped; -o json and
-o ndjson carry every text whole, and `call --raw` writes a result byte for byte.

Data goes to stdout, everything else to stderr. NO_COLOR is honoured.";

/// Runs a Macula node and talks to running ones.
#[derive(Debug, Parser)]
#[command(name = "macula_ctl", version, about, after_help = AFTER_HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The node to talk to: its name, its address, or the path of its admin socket
    #[arg(long, short, global = true, env = "MACULA_NODE", value_name = "NAME|ADDR")]
    pub(crate) node: Option<String>,
    /// How data is printed
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Ndjson,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node in the foreground, until Ctrl-C or `stop`
    Start(Start),
    /// Run a mesh of several nodes in one process, to play with
    Dev(Dev),
    /// Stop a running node
    Stop,
    /// Show how a node is
    Status,
    /// List the members of the mesh, or watch them come and go
    Members(Members),
    /// List the open connections
    Peers,
    /// Show the directory's routing table
    RoutingTable,
    /// Look a directory key up, round by round
    Lookup(Lookup),
    /// List the node's subscriptions
    Subscriptions,
    /// List the trees of subscribers in which the node takes part, with its neighbours in each
    Trees,
    /// List the node's procedures
    Registrations,
    /// List who offers a procedure, in the whole mesh
    Providers(Providers),
    /// List the nodes that run on this machine
    Nodes,
    /// Join a mesh through one of its nodes
    Join(Join),
    /// Leave the mesh; the node goes on running alone
    Leave,
    /// Print what is published on matching topics, until Ctrl-C
    Subscribe(Subscribe),
    /// Publish a message
    Publish(Publish),
    /// Show the retained values of matching topics, or clear one
    Retained(Retained),
    /// Call a procedure and print its result
    Call(Call),
    /// Offer a procedure: a program that reads arguments on stdin and writes the result to stdout
    Serve(Serve),
    /// Measure how fast the mesh carries messages, calls and look-ups, with nodes of its own that join it
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Read or change the configuration of a running node
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Read or change the list of seeds
    #[command(subcommand)]
    Seeds(SeedsCommand),
    /// Read or change what the node says about itself, for every member to see
    #[command(subcommand)]
    Tags(TagsCommand),
    /// Change the log level of a running node, or use the logs that a group keeps
    Log(LogArgs),
    /// Look after the group that keeps a realm's elections, locks and logs
    #[command(subcommand)]
    Raft(RaftCommand),
    /// Elections: who leads, stand for one
    #[command(subcommand)]
    Election(ElectionCommand),
    /// Locks: who holds them, run a program under one
    #[command(subcommand)]
    Lock(LockCommand),
    /// Print the node's metrics in the OpenMetrics text format, which Prometheus reads
    Metrics,
    /// Save or show which node commands talk to
    #[command(subcommand)]
    Context(ContextCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// The directory; made if it is not there
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Name of the node on this machine: chooses its data directory and admin socket
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A node to join, as host:port; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub(crate) join: Vec<String>,
    /// UDP address to listen on; without it, the first free port from 4000 on
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address that other nodes are told; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Vec<SocketAddr>,
    /// Realm to be in; may be given several times
    #[arg(long, value_name = "REALM")]
    pub(crate) realm: Vec<String>,
    /// What the node says about itself, as name=value; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) tag: Vec<String>,
    /// Where identity and state are kept
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// How it is logged
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub(crate) log_format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) nodes: u8,
    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log_level: String,
}

#[derive(Debug, Args)]
pub(crate) struct Members {
    /// List also the dead and those who left, until they are forgotten
    #[arg(long)]
    pub(crate) all: bool,
    /// Go on with a line for each change, until Ctrl-C: joined, suspected, refuted, confirmed dead, left, updated
    #[arg(long, conflicts_with = "all")]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["key", "topic", "procedure"])))]
pub(crate) struct Lookup {
    /// The key: 52 base32 characters, as `lookup --topic` and `--procedure` print it
    pub(crate) key: Option<String>,
    /// Look up where this topic is announced
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// Look up where this procedure is announced
    #[arg(long)]
    pub(crate) procedure: Option<String>,
    /// Show each question: who was asked in which round, who answered what, how long it took
    #[arg(long)]
    pub(crate) trace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// A node of the mesh, as host:port
    #[arg(value_name = "ADDR")]
    pub(crate) addr: String,
}

#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// Topic, or pattern: `*` is one segment, `#` zero or more
    pub(crate) pattern: String,
    /// Only messages that this lets through, as in 'header.kind == "order" && json.amount > 10'
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// What happens to a message when the queue is full; `wait`: it waits for as long as its publisher allows
    #[arg(long, value_enum, default_value_t = Lag::DropOldest)]
    pub(crate) lag: Lag,
    /// Most messages that wait to be printed, besides those on their way to this command
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) queue: u32,
    /// Share the messages with all others in this queue group: one of them gets each
    #[arg(long, value_name = "NAME", conflicts_with = "retained")]
    pub(crate) group: Option<String>,
    /// Begin with the retained values: the last ones published with `--retain`
    #[arg(long)]
    pub(crate) retained: bool,
    /// Realm; the node's first one if not given
    #[arg(long)]
    pub(crate) realm: Option<String>,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

/// What happens to a message for a full queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lag {
    /// The oldest messages go
    DropOldest,
    /// It waits
    Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Topic
    pub(crate) topic: String,
    /// Message: JSON, or any text; `-` reads it from stdin
    pub(crate) message: String,
    /// Realm; the node's first one if not given
    #[arg(long)]
    pub(crate) realm: Option<String>,
    /// Header, as key=value; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) header: Vec<(String, String)>,
    /// How long the message may wait for room on its way and at subscribers with `--lag wait`, as in 500ms, 5s
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Option<Duration>,
    /// Wait until everybody who subscribes took it, and say who did; exit code 10 if somebody did not
    #[arg(long)]
    pub(crate) ack: bool,
    /// Have it kept as the node's last value of the topic, for those who `subscribe --retained` later
    #[arg(long, conflicts_with = "ack")]
    pub(crate) retain: bool,
    /// How long to wait for that, as in 500ms, 5s, 1m
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "10s", requires = "ack")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Retained {
    /// Topic, or pattern: `*` is one segment, `#` zero or more
    pub(crate) pattern: String,
    /// Clear this node's own value of the topic instead
    #[arg(long)]
    pub(crate) clear: bool,
    /// Realm; the node's first one if not given
    #[arg(long)]
    pub(crate) realm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// Procedure
    pub(crate) procedure: String,
    /// Arguments: JSON, or any text; `-` reads them from stdin
    #[arg(default_value = "null")]
    pub(crate) arguments: String,
    /// Realm; the node's first one if not given
    #[arg(long)]
    pub(crate) realm: Option<String>,
    /// How long to wait, as in 500ms, 5s, 1m, 1h; a bare number is seconds
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// The call may be tried again elsewhere even if it may have run
    #[arg(long)]
    pub(crate) idempotent: bool,
    /// Write the result to stdout byte for byte, with nothing added
    #[arg(long)]
    pub(crate) raw: bool,
    /// Call this node and no other: its id
    #[arg(long, value_name = "ID")]
    pub(crate) to: Option<String>,
    /// Call whoever leads this election: its name
    #[arg(long, value_name = "ELECTION", conflicts_with_all = ["to", "strategy", "stream", "parts"])]
    pub(crate) leader_of: Option<String>,
    /// How to choose among several providers; the node's `rpc.routing_strategy` if not given
    #[arg(long, value_enum, value_name = "STRATEGY")]
    pub(crate) strategy: Option<Strategy>,
    /// Ask a provider even if the node keeps an answer that is still good
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Header, as key=value; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) header: Vec<(String, String)>,
    /// Print the parts of a result as they come, one a line, then its end
    #[arg(long, conflicts_with = "raw")]
    pub(crate) stream: bool,
    /// Send each line of stdin as a part of the request, as they come; the result is printed as with --stream
    #[arg(long, conflicts_with = "raw")]
    pub(crate) parts: bool,
}

/// How a provider is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// This node, if it offers the procedure; else any
    LocalFirst,
    /// Each in turn
    RoundRobin,
    /// Any
    Random,
    /// The smallest round-trip time
    Nearest,
    /// The fewest calls running
    LeastLoaded,
}

#[derive(Debug, Args)]
pub(crate) struct Providers {
    /// Procedure
    pub(crate) procedure: String,
    /// Realm; the node's first one if not given
    #[arg(long)]
    pub(crate) realm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Procedure
    pub(crate) procedure: String,
    /// Program to run for each call
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) exec: PathBuf,
    /// Arguments of the program
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
    /// Realm; the node's first one if not given
    #[arg(long)]
    pub(crate) realm: Option<String>,
    /// Most programs that run at once; more calls are refused as overload
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) concurrency: u32,
    /// Callers may keep an answer for so long and give it again to the same request, as in 500ms, 10s, 5m
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) cache: Option<Duration>,
    /// Send each line of output at once, as a part of the result, to callers that take parts (`call --stream`); others get
    /// all of it at the end. Of callers that send parts (`call --parts`), the program reads the arguments on the first
    /// line, and each part on a line of its own
    #[arg(long)]
    pub(crate) stream: bool,
    /// What the procedure does, for `macula_ctl providers`; at most 256 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) description: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// List every key, its value and where it was set
    List,
    /// Print one value
    Get {
        /// Key, as in membership.protocol_period
        key: String,
    },
    /// Change one value while the node runs
    Set {
        /// Key, as in membership.protocol_period
        key: String,
        /// New value, as in the configuration file
        value: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SeedsCommand {
    /// List the seeds
    List,
    /// Add a seed
    Add {
        /// host:port
        addr: String,
    },
    /// Remove a seed
    Remove {
        /// host:port
        addr: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TagsCommand {
    /// List this node's tags
    List,
    /// Set tags; the others stay
    Set {
        /// As in zone=eu-west
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = tag)]
        tags: Vec<(String, String)>,
    },
    /// Remove tags
    Remove {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct LogArgs {
    /// error, warn, info, debug, trace, or a tracing filter such as `info,macula_dht=debug`
    pub(crate) level: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<LogCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Show the saved node
    Show,
    /// Save the node that commands talk to
    Set {
        /// Name, address or socket path
        node: String,
    },
    /// Forget it
    Clear,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a header is written as key=value")?;
    Ok((key.into(), value.into()))
}

/// The node knows the rules; here it only matters where the value begins.
fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a tag is written as name=value")?;
    Ok((name.into(), value.into()))
}

/// What a time on the command line may be.
const TIME: Kind = Kind::Duration { min: Duration::from_millis(1), max: Duration::from_secs(24 * 60 * 60) };

/// Reads `500ms`, `5s`, `2m` as the configuration does; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let with_unit = if is_number { format!("{text}s") } else { text.to_owned() };
    match TIME.read(&Raw::Text(with_unit))? {
        Value::Duration(duration) => Ok(duration),
        other => Err(format!("{other} is no time")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3_600)));
        assert!(duration("0s").is_err());
        assert!(duration("0").is_err());
        assert!(duration("").is_err());
        assert!(duration("fast").is_err());
        assert!(duration("5 weeks").is_err());
        assert!(duration("25h").is_err());
        assert!(duration("99999999999999999999s").is_err());
    }
}
