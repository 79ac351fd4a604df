//! Errors of the node as answers: a status for HTTP, a code for programs, a message and a hint for people.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use macula::bootstrap::SeedError;
use macula::config::Origin;
use macula::{
    CallError, ConfigError, CoordinationError, DirectoryError, Error, JoinError, PublishError, RegisterError,
    RetainError, SubscribeError, TransportError,
};

use crate::api::{ErrorBody, ErrorCode, ErrorInfo};

/// A failed request.
#[derive(Debug)]
pub(crate) struct Failure(ErrorInfo);

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl ToString) -> Self {
        let message = message.to_string();
        Self(ErrorInfo { code, message, hint: None, call: None, may_have_run: None })
    }

    pub(crate) fn invalid(message: impl ToString) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    pub(crate) fn not_found(message: impl ToString) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub(crate) fn join_to_itself(addr: &str) -> Self {
        Self::invalid(format!("{addr} is this node itself")).hint(Some(OTHER_NODE_HINT))
    }

    /// What is sent.
    pub(crate) fn into_info(self) -> ErrorInfo {
        self.0
    }

    fn hint(mut self, hint: Option<&str>) -> Self {
        self.0.hint = hint.map(str::to_owned);
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::Invalid => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Unreachable => StatusCode::BAD_GATEWAY,
            ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::Handler => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::Overloaded | ErrorCode::Closed => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorBody { error: self.0 })).into_response()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Name(_) | Error::Pattern(_) => (
                ErrorCode::Invalid,
                Some("names look like be.cortexiq.home.kitchen; `*` and `#` stand in patterns"),
            ),
            Error::Filter(_) => {
                (ErrorCode::Invalid, Some("filters look like header.kind == \"order\" && json.amount > 10"))
            }
            Error::Realm(_) => (
                ErrorCode::Invalid,
                Some("realms look like be.cortexiq; `macula_ctl status` lists the node's realms"),
            ),
            Error::Codec(_) | Error::Group(_) => (ErrorCode::Invalid, None),
            Error::NotInRealm(_) => (ErrorCode::Invalid, Some("`macula_ctl status` lists the node's realms")),
            Error::Join(error) => join(error),
            Error::Publish(error) => publish(error),
            Error::Retain(error) => retain(error),
            Error::Subscribe(error) => subscribe(error),
            Error::Register(error) => register(error),
            Error::Call(error) => call(error),
            Error::Directory(error) => directory(error),
            Error::Coordination(error) => coordination(error),
            Error::Closed => (ErrorCode::Closed, None),
            _ => (ErrorCode::Internal, None),
        };
        let mut message = error.to_string();
        if let Error::Call(lost @ (CallError::Lost { .. } | CallError::Protocol { .. })) = &error {
            message.push_str(ran(lost.may_have_run()));
        }
        let mut failure = Self::new(code, message).hint(hint);
        if let Error::Call(call) = &error {
            failure.0.call = Some(call.kind().into());
            failure.0.may_have_run = Some(call.may_have_run());
        }
        failure
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Error::Call(error).into()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = match &error {
            ConfigError::Unknown { .. } => ErrorCode::NotFound,
            _ => ErrorCode::Invalid,
        };
        // That the value was meant for a running node is clear to whoever asked it.
        let message = error.to_string();
        let message = message.strip_prefix(&format!("{}: ", Origin::Runtime)).unwrap_or(&message);
        let hint = match &error {
            ConfigError::Invalid { key: "node.tags", .. } => "a tag looks like zone=eu-west",
            _ => "`macula_ctl config list` shows every key",
        };
        Self::new(code, message).hint(Some(hint))
    }
}

impl From<SeedError> for Failure {
    fn from(error: SeedError) -> Self {
        let code = if matches!(error, SeedError::Full) { ErrorCode::Overloaded } else { ErrorCode::Invalid };
        Self::new(code, &error).hint(Some(ADDRESS_HINT))
    }
}

/// What an address looks like.
const ADDRESS_HINT: &str = "an address looks like 192.168.1.10:4000";

/// When the node itself was named.
const OTHER_NODE_HINT: &str =
    "give the address of another node; `macula_ctl nodes` lists those of this machine";

/// What is known of a call whose provider was lost.
fn ran(maybe: bool) -> &'static str {
    if maybe { "; the handler may have run" } else { "; the handler did not run" }
}

type Verdict = (ErrorCode, Option<&'static str>);

fn coordination(error: &CoordinationError) -> Verdict {
    use CoordinationError as E;
    match error {
        E::NoGroup { .. } => (
            ErrorCode::Unreachable,
            Some(
                "a node that was started without seeds founds one; `macula_ctl raft status` shows what this node knows",
            ),
        ),
        E::Unavailable { .. } => (ErrorCode::Timeout, Some("`macula_ctl raft status` shows the voters")),
        E::Timeout(_) => (ErrorCode::Timeout, None),
        E::Refused(_) | E::Unwilling(_) => (ErrorCode::Invalid, None),
        E::NotInRealm(_) => (ErrorCode::Invalid, Some("`macula_ctl status` lists the node's realms")),
        E::Busy | E::SessionLost => (ErrorCode::Conflict, None),
        E::Forbidden(_) => (ErrorCode::Forbidden, None),
        E::NoMember(_) => (ErrorCode::NotFound, None),
        E::NoLeader { .. } => (ErrorCode::NotFound, Some("`macula_ctl election list` shows who leads what")),
        E::Stopped(_) => (ErrorCode::Closed, None),
        _ => (ErrorCode::Internal, None),
    }
}

fn join(error: &JoinError) -> Verdict {
    match error {
        JoinError::Address { .. } => (ErrorCode::Invalid, Some(ADDRESS_HINT)),
        JoinError::Connect { cause: TransportError::Myself, .. } => {
            (ErrorCode::Invalid, Some(OTHER_NODE_HINT))
        }
        _ => (
            ErrorCode::Unreachable,
            Some("check that a node runs there, that UDP reaches it, and that both are in a common realm"),
        ),
    }
}

fn directory(error: &DirectoryError) -> Verdict {
    match error {
        DirectoryError::NoPeers => {
            (ErrorCode::Unreachable, Some("join a mesh first: `macula_ctl join ADDR`"))
        }
        DirectoryError::ValueTooLarge { .. } => (ErrorCode::Invalid, None),
        DirectoryError::Refused(_) => (ErrorCode::Overloaded, None),
        _ => (ErrorCode::Unreachable, Some("the nodes that should know do not answer; try again")),
    }
}

fn publish(error: &PublishError) -> Verdict {
    match error {
        PublishError::Forbidden(_) => (ErrorCode::Forbidden, None),
        PublishError::Closed => (ErrorCode::Closed, None),
        PublishError::Payload(_) | PublishError::NotInRealm(_) => (ErrorCode::Invalid, None),
        PublishError::Unresolved { .. } => {
            (ErrorCode::Timeout, Some("part of the directory does not answer; try again"))
        }
        _ => (ErrorCode::Internal, None),
    }
}

fn retain(error: &RetainError) -> Verdict {
    match error {
        RetainError::Publish(error) => publish(error),
        RetainError::Directory { error, .. } => directory(error),
        RetainError::Full => (ErrorCode::Overloaded, None),
        _ => (ErrorCode::Invalid, None),
    }
}

fn subscribe(error: &SubscribeError) -> Verdict {
    match error {
        SubscribeError::Forbidden(_) => (ErrorCode::Forbidden, None),
        SubscribeError::Closed => (ErrorCode::Closed, None),
        SubscribeError::NotInRealm(_) | SubscribeError::RetainedInGroup => (ErrorCode::Invalid, None),
        SubscribeError::Directory(error) => directory(error),
        SubscribeError::Full(_) | SubscribeError::Groups | SubscribeError::GroupsAnnounced(_) => {
            (ErrorCode::Overloaded, None)
        }
        _ => (ErrorCode::Internal, None),
    }
}

fn register(error: &RegisterError) -> Verdict {
    match error {
        RegisterError::AlreadyRegistered { .. } => {
            (ErrorCode::Conflict, Some("`macula_ctl registrations` lists what this node offers"))
        }
        RegisterError::Forbidden(_) => (ErrorCode::Forbidden, None),
        RegisterError::DescriptionTooLong(_) => (ErrorCode::Invalid, None),
        RegisterError::Directory(error) => directory(error),
        _ => (ErrorCode::Internal, None),
    }
}

fn call(error: &CallError) -> Verdict {
    match error {
        CallError::UnknownProcedure { .. } => (
            ErrorCode::NotFound,
            Some("nobody in this mesh offers it; check the name, and that its provider has joined"),
        ),
        CallError::Forbidden { .. } => (ErrorCode::Forbidden, None),
        CallError::PayloadTooLarge { .. } | CallError::Headers(_) => (ErrorCode::Invalid, None),
        CallError::Handler(_) | CallError::HandlerPanic { .. } | CallError::ReplyTooLarge { .. } => {
            (ErrorCode::Handler, None)
        }
        CallError::Deadline { .. } => (ErrorCode::Timeout, Some("--timeout gives it longer")),
        CallError::Cancelled { .. } => {
            (ErrorCode::Unreachable, Some("its provider has stopped the handler, as when it is shut down"))
        }
        CallError::Overloaded { .. } => (ErrorCode::Overloaded, Some("try again a little later")),
        CallError::NoProviderReachable { .. } => (ErrorCode::Unreachable, None),
        CallError::Lost { .. } | CallError::Protocol { .. } => (
            ErrorCode::Unreachable,
            Some("--idempotent lets a call that may run twice be tried again elsewhere"),
        ),
        CallError::Directory { cause, .. } => directory(cause),
        _ => (ErrorCode::Internal, None),
    }
}
