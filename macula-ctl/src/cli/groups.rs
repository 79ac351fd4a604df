//! The commands for groups, elections, locks and logs, as clap sees them.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

/// Something of a realm, by its name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name
    pub(crate) name: String,
    /// Realm; the node's first one if absent
    #[arg(long)]
    pub(crate) realm: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// List the logs
    List {
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Append entries, all or none; without any, the lines of stdin
    Append {
        #[command(flatten)]
        named: Named,
        /// The entries
        entries: Vec<String>,
    },
    /// Print entries: one page
    Read {
        #[command(flatten)]
        named: Named,
        /// From this offset on
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Print entries, and those to come, until Ctrl-C
    Tail {
        #[command(flatten)]
        named: Named,
        /// From this offset on
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RaftCommand {
    /// Show what the node has to do with the groups of its realms
    Status,
    /// List the members of a group
    Members {
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Have a node become a voter, once it has caught up
    Add {
        /// Its id
        id: String,
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Have a node be a member no more
    Remove {
        /// Its id
        id: String,
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Hand the leadership over
    Transfer {
        /// The id of the voter that shall lead; any other than the one that does, if absent
        id: Option<String>,
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Make a new group of what this node has, after a majority of the voters was lost for good. All that had reached this
    /// node is kept; what had reached only the lost ones is lost. Choose the member that has applied most, and be sure
    /// that the others are down. Elections and locks are granted again a minute later, logs take entries at once
    Recover {
        /// The group that is meant, as `raft status` shows it: nothing is done if it is another
        #[arg(long, value_name = "ID")]
        group: Option<String>,
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
        /// Ask no question
        #[arg(long)]
        yes: bool,
        /// Also if the group seems to be well
        #[arg(long)]
        force: bool,
    },
    /// Give up this node's part in a group, with all that is in its store: the way out where two groups were founded in one
    /// realm
    Abandon {
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ElectionCommand {
    /// List the elections that somebody leads
    List {
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Print who leads, and each change, until Ctrl-C
    Observe(Named),
    /// Stand for an election until Ctrl-C, and print how it goes
    Campaign {
        #[command(flatten)]
        named: Named,
        /// What observers see of this node, such as an address
        #[arg(long, default_value = "")]
        value: String,
    },
    /// Have the node stand for an election no more
    Resign(Named),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// List the locks that somebody holds
    List {
        /// Realm; the node's first one if absent
        #[arg(long)]
        realm: Option<String>,
    },
    /// Run a program while a lock is held. It finds the fencing token in MACULA_LOCK_TOKEN, and is killed if the lock is lost
    Run(LockRun),
}

#[derive(Debug, Args)]
pub(crate) struct LockRun {
    /// The lock's name
    pub(crate) name: String,
    /// Together with others who share it
    #[arg(long)]
    pub(crate) shared: bool,
    /// Take it now or not at all
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) at_once: bool,
    /// How long to wait for it, as in 500ms or 10s; for an hour, if absent
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Option<Duration>,
    /// Realm; the node's first one if absent
    #[arg(long)]
    pub(crate) realm: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}
