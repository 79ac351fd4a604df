//! What goes in and out of a [`Node`](super::Node): time, numbers, effects.

use std::time::Duration;

use macula_proto::{Contact, Key, Timestamp, UnixMillis};

use super::super::lookup::LookupTrace;
use super::super::message::{Request, Response};
use crate::{Announced, DirectoryError, Found};

/// What time it is, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For everything within this node.
    pub at: Timestamp,
    /// For what other nodes read: when records were issued.
    pub unix: UnixMillis,
}

/// A command's number, chosen by whoever gives it; the answer bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(pub u64);

/// An incoming request's number, chosen by whoever hands it in; the reply bears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo(pub u64);

/// An outgoing request's number, chosen by the machine. None is used twice, so a late answer does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// Ask `to`; hand the answer to [`Node::on_response`](super::Node::on_response), or [`Node::on_failure`](super::Node::on_failure) if none can come. The machine
    /// gives up by itself after `timeout`.
    Send {
        /// Bears the answer back.
        id: RequestId,
        /// Whom.
        to: Contact,
        /// What.
        request: Request,
        /// For how long the answer is of use.
        timeout: Duration,
    },
    /// Answer a request that came in.
    Reply {
        /// Which.
        to: ReplyTo,
        /// With what.
        response: Response,
    },
    /// What a watch shows from now on, or why its lookup failed.
    Watched {
        /// Of which key.
        key: Key,
        /// The answer.
        found: Result<Found, DirectoryError>,
    },
    /// A command is done.
    Done {
        /// Which.
        op: Op,
        /// With what result.
        outcome: Done,
    },
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Done {
    /// Of [`Node::announce`](super::Node::announce).
    Announced(Result<Announced, DirectoryError>),
    /// Of [`Node::withdraw`](super::Node::withdraw).
    Withdrawn(Result<(), DirectoryError>),
    /// Of [`Node::find`](super::Node::find).
    Found(Result<Found, DirectoryError>),
    /// Of [`Node::find_node`](super::Node::find_node).
    Nodes(Result<LookupTrace, DirectoryError>),
    /// Of [`Node::trace`](super::Node::trace).
    Traced(Result<(LookupTrace, Found), DirectoryError>),
    /// Of [`Node::bootstrap`](super::Node::bootstrap): how many contacts the table has.
    Bootstrapped(Result<usize, DirectoryError>),
}

/// Why no answer will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer cannot be reached, or did not answer in time, or answered nonsense.
    Peer,
    /// This node was too busy to ask: the peer is not to blame.
    Local,
}
