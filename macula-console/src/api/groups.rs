//! Groups, elections, locks and logs.

use serde::{Deserialize, Serialize};

use super::{ErrorInfo, Payload};

/// One element of `GET /v1/groups`: what the node has to do with the group of a realm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// The realm.
    pub realm: String,
    /// The group; absent while none is known.
    pub group: Option<String>,
    /// Who leads it.
    pub leader: Option<String>,
    /// Who votes.
    pub voters: Vec<String>,
    /// Who follows without a vote, as far as this node knows as a member.
    pub learners: Vec<String>,
    /// `leader`, `voter`, `learner`, or `client` for a node that is no member.
    pub role: String,
    /// The term, for members.
    pub term: Option<u64>,
    /// The last command in this member's log.
    pub last: Option<u64>,
    /// The last command that it has applied.
    pub applied: Option<u64>,
    /// Another group of the same realm, and who belongs to it: one of the two has to be abandoned.
    pub foreign: Option<Foreign>,
    /// The group was recovered, and grants no election and no lock before all leases of before are over. Only members know.
    pub recovering: bool,
    /// Why this member takes no part any more.
    pub stopped: Option<String>,
}

/// See [`Group::foreign`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Foreign {
    /// The other group.
    pub group: String,
    /// A node that belongs to it.
    pub node: String,
    /// `stranger`: both were founded; `older`: it is what this group was before it was recovered; `newer`: this group became
    /// it when it was recovered without this node.
    pub kinship: String,
}

/// Body of `POST /v1/groups/manage`: exactly one change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manage {
    /// Realm; the node's first one if absent.
    #[serde(default)]
    pub realm: Option<String>,
    /// This node shall have a vote.
    #[serde(default)]
    pub add: Option<String>,
    /// This node shall be a member no more.
    #[serde(default)]
    pub remove: Option<String>,
    /// This voter shall lead; `any`: any other than the one that does.
    #[serde(default)]
    pub transfer: Option<String>,
}

/// Body of requests that name nothing but a realm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InRealm {
    /// Realm; the node's first one if absent.
    #[serde(default)]
    pub realm: Option<String>,
}

/// Answer to `POST /v1/groups/abandon`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Abandoned {
    /// The group that was given up.
    pub group: String,
}

/// Body of `POST /v1/groups/recover`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recover {
    /// Realm; the node's first one if absent.
    #[serde(default)]
    pub realm: Option<String>,
    /// Also where the group seems to be well.
    #[serde(default)]
    pub force: bool,
}

/// Answer to `POST /v1/groups/recover`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovered {
    /// The group that is no more.
    pub replaced: String,
    /// The group that the node is the only member of.
    pub group: String,
    /// Its epoch: the first number of its fencing tokens.
    pub epoch: u64,
    /// The last command that the node had.
    pub last: u64,
    /// So many of its commands were not known to be committed, and are kept all the same.
    pub uncertain: u64,
    /// The voters that the old group had beside this node.
    pub lost: Vec<String>,
}

/// One element of `GET /v1/elections`, and what its observers see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Election {
    /// Its name.
    pub election: String,
    /// Who leads.
    pub leader: String,
    /// What it says of itself.
    pub value: Payload,
    /// The fencing token.
    pub token: String,
    /// How many wait.
    pub waiting: usize,
}

/// One line of `GET /v1/elections/observe` and `GET /v1/elections/campaign`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ElectionEvent {
    /// How it looks from this node now.
    View {
        /// Whether this node leads, and may rely on it.
        is_leader: bool,
        /// Who leads, as last heard.
        leader: Option<String>,
        /// What it says of itself.
        value: Option<Payload>,
        /// Its fencing token.
        token: Option<String>,
    },
    /// It did not work; nothing follows.
    Failed(ErrorInfo),
}

/// One element of `GET /v1/locks`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Its name.
    pub lock: String,
    /// `exclusive` or `shared`.
    pub mode: String,
    /// How many hold it.
    pub holders: usize,
    /// How many wait.
    pub waiting: usize,
}

/// One line of `GET /v1/locks/hold`, which holds the lock until the client goes away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LockEvent {
    /// It is held.
    Held {
        /// The fencing token.
        token: String,
    },
    /// It is lost: the node's session ended, or its lease ran out. Nothing follows.
    Lost,
    /// It did not work; nothing follows.
    Failed(ErrorInfo),
}

/// Body of `POST /v1/logs/append`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Append {
    /// The log.
    pub log: String,
    /// Realm; the node's first one if absent.
    #[serde(default)]
    pub realm: Option<String>,
    /// The entries, one behind the other.
    pub entries: Vec<Payload>,
}

/// Answer to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Appended {
    /// The offset of the first entry.
    pub first: u64,
    /// How many were appended.
    pub count: usize,
}

/// One element of `GET /v1/logs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log {
    /// Its name.
    pub log: String,
    /// The oldest offset that is kept.
    pub first: u64,
    /// The offset that the next entry gets.
    pub next: u64,
    /// Bytes of all entries that are kept.
    pub bytes: u64,
}

/// One element of `GET /v1/logs/read`, and one line of `GET /v1/logs/tail`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Where in the log.
    pub offset: u64,
    /// When it was appended, in milliseconds since 1970, by the clock of the group's leader.
    pub at_ms: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: Payload,
}
