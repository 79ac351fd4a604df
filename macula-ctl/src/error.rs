//! Failures as the shell sees them: a message, what to try, an exit code.

use std::io;
use std::process::ExitCode;

use macula_console::api::{ErrorCode, ErrorInfo};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// The command line or its input is wrong.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// No node to talk to.
    #[error("{message}")]
    NoNode { message: String, hint: String },
    /// The node said no.
    #[error("{}", .0.message)]
    Node(ErrorInfo),
    /// Somebody did not take a message that was to be acknowledged.
    #[error("{0}")]
    Missed(String),
    /// The node could not be started.
    #[error("{message}")]
    Start { message: String, hint: Option<String>, in_use: bool },
    /// The connection to the node broke.
    #[error("the connection to the node broke: {0}")]
    Broken(String),
    /// The program that was to run under a lock failed, or was stopped as the lock was lost.
    #[error("{0}")]
    Program(String),
    /// Files or terminal.
    #[error("{what}: {cause}")]
    Io { what: String, cause: io::Error },
}

impl CliError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }

    /// The node ended a stream that goes on for as long as it runs.
    pub(crate) fn stopped() -> Self {
        Self::NoNode {
            message: "the node has stopped".into(),
            hint: "`macula_ctl nodes` lists what runs; start the node, then this command, again".into(),
        }
    }

    /// What to try.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::NoNode { hint, .. } => Some(hint),
            Self::Node(info) => info.hint.as_deref(),
            Self::Start { hint, .. } => hint.as_deref(),
            Self::Broken(_) => Some("see the node's log; `macula_ctl nodes` lists what runs"),
            Self::Missed(_) => Some("`macula_ctl members` lists who is there"),
            Self::Program(_) | Self::Io { .. } => None,
        }
    }

    /// The exit code that `--help` documents.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage { .. } => 2,
            Self::NoNode { .. } => 3,
            Self::Node(info) => match info.code {
                ErrorCode::Invalid => 2,
                ErrorCode::Closed => 3,
                ErrorCode::Unreachable => 10,
                ErrorCode::NotFound => 4,
                ErrorCode::Timeout => 5,
                ErrorCode::Forbidden => 6,
                ErrorCode::Handler => 7,
                ErrorCode::Overloaded => 8,
                ErrorCode::Conflict => 9,
                _ => 1,
            },
            Self::Missed(_) => 10,
            Self::Start { in_use: true, .. } => 9,
            Self::Start { .. } | Self::Broken(_) | Self::Program(_) | Self::Io { .. } => 1,
        })
    }
}
