//! The JSON that goes over the admin API. Server and client share these types.
//!
//! Every answer is one JSON document, except `GET /v1/subscribe`, `GET /v1/members/events`, `GET /v1/serve`, `POST /v1/call-stream`,
//! `GET /v1/elections/observe` and `/campaign`, `GET /v1/locks/hold` and `GET /v1/logs/tail`, which
//! stream one JSON document a line until the client goes away. Every failure is an [`ErrorBody`].

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod calls;
mod groups;
mod topics;

pub use calls::{
    Call, CallEvent, CallPart, CallResult, Provider, Registration, ServeEvent, ServePart, ServeReply,
    Strategy,
};
pub use groups::{
    Abandoned, Append, Appended, Election, ElectionEvent, Foreign, Group, InRealm, Lock, LockEvent, Log,
    LogEntry, Manage, Recover, Recovered,
};
pub use topics::*;

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node's name on this machine.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Software version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Sockets that are listened on.
    pub listen: Vec<String>,
    /// Addresses that other nodes are told.
    pub advertise: Vec<String>,
    /// Realms.
    pub realms: Vec<String>,
    /// `healthy`, or what is wrong.
    pub health: String,
    /// Whether it is in a mesh.
    pub mesh: Mesh,
    /// Live members, this node included.
    pub members: usize,
    /// Open connections.
    pub connections: usize,
    /// Contacts in the routing table.
    pub routing_contacts: usize,
    /// Local subscriptions.
    pub subscriptions: usize,
    /// Local procedures.
    pub registrations: usize,
    /// The supervised tasks.
    pub tasks: Vec<Task>,
}

/// Whether a node is in a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mesh {
    /// It knows other members.
    Joined,
    /// It knows no other member, and joins when one is found.
    Alone,
    /// It was told to leave, and stays out until it is told to join.
    Left,
}

/// One supervised task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// `running`, `restarting`, `failed` or `stopped`.
    pub state: String,
    /// How often it was restarted.
    pub restarts: u64,
    /// What its last failure said.
    pub last_failure: Option<String>,
}

/// One row of `GET /v1/members`; with `?all=true` the dead and those who left are there too, until they are forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Node id.
    pub id: String,
    /// Addresses, best first.
    pub addrs: Vec<String>,
    /// `alive`, `suspect`, `dead` or `left`.
    pub state: String,
    /// The member's own count of its statements.
    pub incarnation: u64,
    /// The member's tags.
    pub tags: BTreeMap<String, String>,
    /// Whether this is the node that answers.
    pub is_self: bool,
    /// Seconds since the state last changed here.
    pub since_s: u64,
}

/// One line of `GET /v1/members/events`. The first line has the members; what changes from then on follows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "event")]
pub enum MemberEvent {
    /// All members, as `GET /v1/members` lists them: at the beginning, and after events were lost.
    Members {
        /// One row each.
        members: Vec<Member>,
    },
    /// A member is there that was not: new, restarted, or back from the dead.
    Joined(Member),
    /// A member is suspected to be dead.
    Suspected(Member),
    /// A suspected member proved that it is alive.
    Refuted(Member),
    /// A suspected member did not refute in time: it counts as dead.
    Confirmed(Member),
    /// A member said goodbye.
    Left(Member),
    /// A member's addresses or tags changed.
    Updated(Member),
    /// So many events were lost since the last line, because this client reads too slowly.
    Lagged {
        /// How many.
        lost: u64,
    },
}

/// Body of `PATCH /v1/tags`, which like `GET /v1/tags` answers with all tags, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ChangeTags {
    /// Tags to set, by name.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Names of tags to remove; each must be there.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// One row of `GET /v1/peers`: an open connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Node id.
    pub id: String,
    /// Where its packets come from.
    pub remote: String,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u64,
    /// `out` if this node dialled, else `in`.
    pub direction: String,
    /// Frames sent over this connection.
    pub frames_sent: u64,
    /// Frames received over this connection.
    pub frames_received: u64,
    /// The peer's software.
    pub agent: String,
}

/// One row of `GET /v1/routing-table`: a bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// How many leading bits its contacts share with the node (at least so many in the last bucket).
    pub shared_bits: usize,
    /// Contacts, most recently seen last.
    pub contacts: Vec<BucketContact>,
    /// Contacts waiting for a place.
    pub waiting: usize,
}

/// A contact in a bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BucketContact {
    /// Node id.
    pub id: String,
    /// Addresses.
    pub addrs: Vec<String>,
    /// Seconds since it last answered.
    pub seen_s: u64,
    /// Round-trip time in microseconds, if measured.
    pub rtt_us: Option<u64>,
}

/// `GET /v1/lookup`: what a lookup did and found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// The key that was looked up.
    pub key: String,
    /// Every question, in the order they were asked.
    pub questions: Vec<LookupQuestion>,
    /// The records found.
    pub records: Vec<LookupRecord>,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "outcome")]
pub enum LookupAnswer {
    /// It was answered.
    Answered {
        /// Nodes that were named.
        contacts: usize,
        /// Records that were handed out.
        records: usize,
    },
    /// There was no answer.
    Failed,
    /// The lookup ended before an answer came.
    Unanswered,
}

/// One question of a lookup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LookupQuestion {
    /// Round, from 1: how many nodes were asked one after the other to get to this one.
    pub round: u32,
    /// When it was asked, in microseconds since the lookup's start.
    pub asked_us: u64,
    /// Who was asked.
    pub asked: String,
    /// How many leading bits its id shares with the key.
    pub shared_bits: u32,
    /// What came back.
    pub answer: LookupAnswer,
    /// How long it took, in microseconds; absent if nothing came back.
    pub took_us: Option<u64>,
}

/// One record that a lookup found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LookupRecord {
    /// Who announced it.
    pub announcer: String,
    /// Where the announcer can be reached.
    pub addrs: Vec<String>,
    /// The announcer's count.
    pub sequence: u64,
    /// Size of the value in bytes.
    pub value_bytes: usize,
}

/// One row of `GET /v1/subscriptions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// Number of the subscription in this node.
    pub id: u64,
    /// Realm.
    pub realm: String,
    /// Pattern.
    pub pattern: String,
    /// Filter, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// Queue group, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// What happens when its queue is full.
    pub lag: Lag,
    /// Messages waiting to be taken.
    pub queued: u64,
    /// Messages it has received.
    pub delivered: u64,
    /// Messages lost because the queue was full.
    pub dropped: u64,
}

/// One row of `GET /v1/config`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Key, as in `membership.protocol_period`.
    pub key: String,
    /// Value in force: a string, a number or a list of strings; `null` if nobody set it and it has no default.
    pub value: Value,
    /// Where it was set.
    pub source: String,
    /// Whether it can be changed while the node runs.
    pub runtime: bool,
}

/// Body of `PUT /v1/config/{key}` and `PUT /v1/log`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetValue {
    /// The new value, in the form of the configuration file.
    pub value: String,
}

/// Body of `POST /v1/join`, `POST /v1/seeds` and `DELETE /v1/seeds`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Address {
    /// `host:port`.
    pub addr: String,
}

/// Answer to `POST /v1/join`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// Who answered at the address.
    pub seed: String,
    /// Live members known after the join, this node included.
    pub members: usize,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What a message or call carries, as far as JSON can show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// `json`, `text` or `base64`: how `payload` is to be read.
    pub encoding: Encoding,
    /// The value: any JSON, or a string.
    pub payload: Value,
}

/// See [`Payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Any JSON value.
    Json,
    /// A string, sent as UTF-8.
    Text,
    /// A string of base64, sent as the bytes it stands for.
    Base64,
}

/// Why a payload could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a payload with encoding `{0:?}` must be a string of that encoding")]
pub struct PayloadError(Encoding);

/// Content type of JSON payloads.
pub const JSON: &str = "application/json";

impl Payload {
    /// Shows bytes: as JSON if they say so and are, else as text if they are, else as base64.
    pub fn show(bytes: &[u8], content_type: &str) -> Self {
        if content_type == JSON
            && let Ok(payload) = serde_json::from_slice(bytes)
        {
            return Self { encoding: Encoding::Json, payload };
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { encoding: Encoding::Text, payload: text.into() },
            Err(_) => Self::exact(bytes),
        }
    }

    /// Shows bytes as base64, whatever they are: nothing about them is lost.
    pub fn exact(bytes: &[u8]) -> Self {
        Self { encoding: Encoding::Base64, payload: BASE64.encode(bytes).into() }
    }

    /// What a user typed: JSON if it is JSON, else text.
    pub fn from_input(bytes: Vec<u8>) -> Self {
        if let Ok(payload) = serde_json::from_slice(&bytes) {
            return Self { encoding: Encoding::Json, payload };
        }
        Self::show(&bytes, "")
    }

    /// The bytes and their content type.
    ///
    /// # Errors
    /// [`PayloadError`] if text or base64 is announced and something else is there.
    pub fn to_bytes(&self) -> Result<(Bytes, &'static str), PayloadError> {
        let wrong = || PayloadError(self.encoding);
        match self.encoding {
            Encoding::Json => Ok((Bytes::from(self.payload.to_string()), JSON)),
            Encoding::Text => {
                let text = self.payload.as_str().ok_or_else(wrong)?;
                Ok((Bytes::copy_from_slice(text.as_bytes()), "text/plain"))
            }
            Encoding::Base64 => {
                let text = self.payload.as_str().ok_or_else(wrong)?;
                let bytes = BASE64.decode(text.as_bytes()).map_err(|_| wrong())?;
                Ok((Bytes::from(bytes), "application/octet-stream"))
            }
        }
    }
}

/// Every failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorInfo,
}

/// See [`ErrorBody`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what and why.
    pub message: String,
    /// What to try.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Which failure of a call it is, of those that share a code: `deadline`, `handler_panic`, …
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub call: Option<String>,
    /// Whether the handler of a failed call may have run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub may_have_run: Option<bool>,
}

/// Kinds of failures. `macula_ctl` has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request itself is wrong.
    Invalid,
    /// No such thing: procedure, key, subscription.
    NotFound,
    /// The node itself is up, and someone else in the mesh could not be reached.
    Unreachable,
    /// The node is shutting down.
    Closed,
    /// The deadline passed.
    Timeout,
    /// Policy says no.
    Forbidden,
    /// The procedure's handler failed.
    Handler,
    /// Someone has no capacity now.
    Overloaded,
    /// It exists already, or is in use.
    Conflict,
    /// Anything else.
    Internal,
}

#[cfg(test)]
#[path = "api_test.rs"]
mod tests;
