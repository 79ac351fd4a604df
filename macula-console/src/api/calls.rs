//! Procedures and calls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ErrorInfo, Payload};

/// One row of `GET /v1/registrations`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// Procedure.
    pub procedure: String,
    /// Realm.
    pub realm: String,
    /// Calls being handled now.
    pub in_flight: u64,
    /// Most calls handled at once.
    pub concurrency_max: u64,
    /// Calls so far.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// For how long callers may keep an answer, in milliseconds; absent if they may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_ms: Option<u64>,
}

/// One row of `GET /v1/providers`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Provider {
    /// Node id.
    pub id: String,
    /// Addresses, best first.
    pub addrs: Vec<String>,
    /// Whether this is the node that answers.
    pub is_self: bool,
    /// What it says about the procedure.
    pub description: String,
    /// Most calls handled at once, by its own word; zero if it does not say.
    pub concurrency_max: u32,
    /// Calls that run there, as far as this node knows.
    pub load: u32,
    /// It failed lately: others are chosen first.
    pub penalised: bool,
    /// For how long an answer may be kept, in milliseconds; absent if it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_ms: Option<u64>,
}

/// How a provider is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// This node, if it offers the procedure; else any.
    LocalFirst,
    /// Each in turn.
    RoundRobin,
    /// Any.
    Random,
    /// The smallest round-trip time.
    Nearest,
    /// The fewest calls running.
    LeastLoaded,
}

impl From<Strategy> for macula::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::LocalFirst => Self::LocalFirst,
            Strategy::RoundRobin => Self::RoundRobin,
            Strategy::Random => Self::Random,
            Strategy::Nearest => Self::Nearest,
            Strategy::LeastLoaded => Self::LeastLoaded,
        }
    }
}

/// Body of `POST /v1/call` and `POST /v1/call-stream`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Procedure.
    pub procedure: String,
    /// Realm; the node's first one if absent.
    #[serde(default)]
    pub realm: Option<String>,
    /// Arguments.
    #[serde(flatten)]
    pub payload: Payload,
    /// Deadline in milliseconds; the node's default if absent.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Whether the call may be tried again elsewhere although it may have run.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether the result is wanted in base64, byte for byte, whatever it is.
    #[serde(default)]
    pub exact: bool,
    /// The node to call, and no other.
    #[serde(default)]
    pub to: Option<String>,
    /// The election whose leader to call; not with `call-stream`.
    #[serde(default)]
    pub leader_of: Option<String>,
    /// How to choose among providers; the node's default if absent.
    #[serde(default)]
    pub strategy: Option<Strategy>,
    /// Whether an answer that the node keeps will not do.
    #[serde(default)]
    pub fresh: bool,
    /// Headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// With `call-stream`: parts of the request follow, each a `POST /v1/call-stream/{id}`.
    #[serde(default)]
    pub parts: bool,
}

/// Body of `POST /v1/call-stream/{id}`. The answer comes once the provider has room for more.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallPart {
    /// One part of the request, in base64; absent: there are no more.
    pub part: Option<String>,
}

/// Answer to `POST /v1/call`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallResult {
    /// The result.
    #[serde(flatten)]
    pub payload: Payload,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// How long ago its call began, in milliseconds, if it is an answer that the node kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// One line of `POST /v1/call-stream`. The last one is a result or a failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum CallEvent {
    /// The call has begun, and takes parts. It comes first, if they were announced.
    Started {
        /// Number of the call: goes into `POST /v1/call-stream/{id}`.
        id: u64,
    },
    /// A part of the results, ahead of the last.
    Part(Payload),
    /// What the handler returned at its end.
    Result(CallResult),
    /// The call failed after it had begun.
    Failed(ErrorInfo),
}

/// One line of `GET /v1/serve`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum ServeEvent {
    /// The procedure is registered.
    Registered {
        /// Number of this serving client: goes into `POST /v1/serve/{id}`.
        id: u64,
        /// Procedure.
        procedure: String,
    },
    /// A call to be answered.
    Call {
        /// Number of the call: goes into the [`ServeReply`].
        call: u64,
        /// Who calls.
        caller: String,
        /// Milliseconds left until the caller's deadline.
        timeout_ms: u64,
        /// Arguments, in base64.
        arguments: String,
        /// The caller takes parts of the result ahead of its end.
        #[serde(default)]
        streamed: bool,
        /// Parts of the request are to be had from `GET /v1/serve/{id}/{call}/part`.
        #[serde(default)]
        parts: bool,
    },
    /// The caller has given up on a call: stop working on it.
    Cancelled {
        /// Number of the call.
        call: u64,
    },
}

/// Answer to `GET /v1/serve/{id}/{call}/part`, which comes when the caller has sent one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServePart {
    /// The next part of the request, in base64; absent: there are no more.
    pub part: Option<String>,
}

/// Body of `POST /v1/serve/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServeReply {
    /// Number of the call.
    pub call: u64,
    /// A part of the result in base64, ahead of its end. The answer to the request comes once the caller has room for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// The result in base64, if it went well.
    pub result: Option<String>,
    /// What went wrong, if it did not.
    pub error: Option<String>,
}
