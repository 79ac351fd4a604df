//! What can go wrong, grouped by whose fault it is.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use macula_dht::DirectoryError;
use macula_proto::{Forbidden, Name, NodeId, Realm};
use macula_transport::TransportError;

use crate::{CallRequest, HeadersError};

/// Why a call has no result. [`may_have_run`](Self::may_have_run) says whether a handler may have started.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    // The caller's doing.
    /// Nobody offers the procedure.
    #[error("nobody offers procedure `{procedure}` in realm `{realm}`")]
    UnknownProcedure {
        /// In which realm.
        realm: Realm,
        /// Which one.
        procedure: Name,
    },
    /// The provider's policy does not let this node call the procedure.
    #[error("forbidden by node {}: {text}", provider.short())]
    Forbidden {
        /// Who said so.
        provider: NodeId,
        /// What it said.
        text: String,
    },
    /// The request does not fit a frame.
    #[error("a request of {bytes} bytes: at most {bytes_max} are allowed")]
    PayloadTooLarge {
        /// The request's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The request's headers or content type break a limit.
    #[error("{0}")]
    Headers(HeadersError),
    /// The request's cancellation token was cancelled, or the provider stopped the handler.
    #[error("the call was cancelled{}", ran(*maybe_ran))]
    Cancelled {
        /// Whether the handler may have started.
        maybe_ran: bool,
    },

    // The handler's doing.
    /// The handler returned an error.
    #[error("the handler failed: {0}")]
    Handler(HandlerError),
    /// The handler panicked.
    #[error("the handler panicked: {text}")]
    HandlerPanic {
        /// The panic's message.
        text: String,
    },
    /// The handler's answer does not fit a frame.
    #[error("the handler's reply breaks a limit: {text}")]
    ReplyTooLarge {
        /// Which one.
        text: String,
    },

    // The peer's doing, and the network's.
    /// No provider took the call, and it certainly ran nowhere unless one of the causes says so.
    #[error("no provider of `{procedure}` could be reached: {}", list(causes))]
    NoProviderReachable {
        /// Which procedure.
        procedure: Name,
        /// Whom it was tried with and why it failed there, in order.
        causes: Vec<Attempt>,
    },
    /// The connection or stream was lost after the request may have been delivered.
    #[error("node {} was lost during the call: {cause}", provider.short())]
    Lost {
        /// Who had the call.
        provider: NodeId,
        /// What the transport said.
        cause: String,
    },
    /// The provider answered with something that is no answer, or refused the request as malformed.
    #[error("node {} broke the protocol: {cause}", provider.short())]
    Protocol {
        /// Who.
        provider: NodeId,
        /// How.
        cause: String,
        /// Whether the handler may have started.
        maybe_ran: bool,
    },
    /// Providers could not be looked up.
    #[error("providers of `{procedure}` could not be looked up: {cause}")]
    Directory {
        /// Which procedure.
        procedure: Name,
        /// Why not.
        cause: DirectoryError,
    },
    /// The time was up.
    #[error("no result within {after:?}{}", ran(*maybe_ran))]
    Deadline {
        /// How long it was waited.
        after: Duration,
        /// Whether the handler may have started.
        maybe_ran: bool,
    },

    // Overload.
    /// At least one provider was reached, but none has room.
    #[error("no provider of `{procedure}` has room: {}", list(causes))]
    Overloaded {
        /// Which procedure.
        procedure: Name,
        /// Whom it was tried with and why it failed there, in order.
        causes: Vec<Attempt>,
    },
}

impl CallError {
    /// Whether a handler may have started (and perhaps finished). If not, calling again is safe for any handler.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::UnknownProcedure { .. }
            | Self::Forbidden { .. }
            | Self::PayloadTooLarge { .. }
            | Self::Headers(_)
            | Self::Directory { .. } => false,
            Self::Handler(_) | Self::HandlerPanic { .. } | Self::ReplyTooLarge { .. } | Self::Lost { .. } => {
                true
            }
            Self::Cancelled { maybe_ran }
            | Self::Deadline { maybe_ran, .. }
            | Self::Protocol { maybe_ran, .. } => *maybe_ran,
            Self::NoProviderReachable { causes, .. } | Self::Overloaded { causes, .. } => {
                causes.iter().any(|attempt| attempt.cause.may_have_run())
            }
        }
    }

    /// One word for each kind, for programs and as the label of metrics: `deadline`, `handler_panic`, …
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::UnknownProcedure { .. } => "unknown_procedure",
            Self::Forbidden { .. } => "forbidden",
            Self::PayloadTooLarge { .. } | Self::Headers(_) => "too_large",
            Self::Cancelled { .. } => "cancelled",
            Self::Handler(_) => "handler_error",
            Self::HandlerPanic { .. } => "handler_panic",
            Self::ReplyTooLarge { .. } => "reply_too_large",
            Self::NoProviderReachable { .. } => "unreachable",
            Self::Lost { .. } => "lost",
            Self::Protocol { .. } => "protocol",
            Self::Directory { .. } => "directory",
            Self::Deadline { .. } => "deadline",
            Self::Overloaded { .. } => "overloaded",
        }
    }
}

impl CallError {
    /// The error for a call that nobody took. One provider that was reached says more than those that were not.
    pub(crate) fn no_taker(request: &CallRequest, causes: Vec<Attempt>) -> Self {
        let procedure = request.procedure.clone();
        if causes.iter().any(|attempt| matches!(attempt.cause, Cause::Overloaded)) {
            return Self::Overloaded { procedure, causes };
        }
        if causes.iter().any(|attempt| attempt.cause.may_have_run()) {
            return Self::NoProviderReachable { procedure, causes };
        }
        for attempt in &causes {
            if let Cause::Forbidden(text) = &attempt.cause {
                return Self::Forbidden { provider: attempt.provider, text: text.clone() };
            }
        }
        if causes.iter().all(|attempt| matches!(attempt.cause, Cause::UnknownProcedure)) {
            return Self::UnknownProcedure { realm: request.realm.clone(), procedure };
        }
        Self::NoProviderReachable { procedure, causes }
    }
}

/// One provider that did not take a call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("node {}: {cause}", provider.short())]
pub struct Attempt {
    /// Whom it was tried with.
    pub provider: NodeId,
    /// Why it failed there.
    pub cause: Cause,
}

/// Why one provider did not take a call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// There is no connection to it.
    #[error("{0}")]
    Unreachable(TransportError),
    /// Connecting took longer than one provider is given.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// It does not offer the procedure (any more).
    #[error("it does not offer the procedure")]
    UnknownProcedure,
    /// Its policy says no.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// It has no room for another call.
    #[error("it has no room for another call")]
    Overloaded,
    /// It is shutting down.
    #[error("it is shutting down")]
    Closing,
    /// An idempotent call was lost there, perhaps after it ran.
    #[error("lost, perhaps after it ran: {0}")]
    Lost(String),
}

impl Cause {
    /// Whether there was a connection to the provider.
    pub const fn was_reached(&self) -> bool {
        !matches!(self, Self::Unreachable(_) | Self::ConnectTimeout(_))
    }

    /// Whether the handler may have started there.
    pub const fn may_have_run(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

/// What a handler says when it fails. Text and code reach the caller as they are (text cut at 4 KiB).
///
/// Any error converts into one, so `?` works in a handler. (Which is why it is no [`Error`] itself.)
///
/// ```
/// use macula_rpc::HandlerError;
///
/// fn parse(text: &str) -> Result<u32, HandlerError> {
///     let n: u32 = text.parse()?;
///     if n > 9 { Err(HandlerError::new("only one digit").code(422)) } else { Ok(n) }
/// }
/// assert_eq!(parse("x").unwrap_err().text, "invalid digit found in string");
/// assert_eq!(parse("10").unwrap_err().code, Some(422));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerError {
    /// What went wrong, for people.
    pub text: String,
    /// The application's own number, if it uses any.
    pub code: Option<u32>,
}

impl HandlerError {
    /// An error with a text and no code.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: None }
    }

    /// With this code.
    #[must_use]
    pub const fn code(mut self, code: u32) -> Self {
        self.code = Some(code);
        self
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (code {code})", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl<E: Error> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// Why a procedure could not be registered. Nothing is left behind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// This node already offers it.
    #[error("procedure `{procedure}` is already registered in realm `{realm}` on this node")]
    AlreadyRegistered {
        /// In which realm.
        realm: Realm,
        /// Which one.
        procedure: Name,
    },
    /// The node's own policy does not let it offer the procedure.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The description is longer than 256 bytes.
    #[error("a procedure's description has at most 256 bytes, not {0}")]
    DescriptionTooLong(usize),
    /// The directory did not take the announcement.
    #[error("the registration could not be announced: {0}")]
    Directory(#[from] DirectoryError),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Closing,
}

fn ran(maybe: bool) -> &'static str {
    if maybe { " (the handler may have run)" } else { " (the handler did not run)" }
}

fn list(causes: &[Attempt]) -> String {
    causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
