//! How much of everything there may be. All voters of a group must agree on these numbers, as on everything else that
//! decides what a command does.

use std::fmt;
use std::time::Duration;

/// The shortest time that a session may live without a keep-alive.
pub const TTL_MIN: Duration = Duration::from_millis(100);

/// The longest time that a session may live without a keep-alive. Who recovers a group has to wait for as long.
pub const TTL_MAX: Duration = Duration::from_secs(60);

/// Longest value of a candidate, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024;

/// Most entries in one append.
pub const APPEND_ENTRIES_MAX: usize = 1024;

/// Most bytes of all entries in one append. With their frame they fit into one of the mesh's frames.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024 - 64 * 1024;

/// Most sessions in one [`Command::Expire`](super::Command::Expire).
pub const EXPIRE_MAX: usize = 4096;

/// What is bounded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
#[repr(u32)]
pub enum Bounded {
    /// Sessions of the group.
    Sessions = 1,
    /// Sessions of one node.
    SessionsOfNode = 2,
    /// Candidacies and requests for locks, of the group.
    Places = 3,
    /// Candidacies and requests for locks, of one node.
    PlacesOfNode = 4,
    /// Candidates of one election.
    Candidates = 5,
    /// Holders of one lock, and who waits for it.
    Waiters = 6,
    /// Bytes of a candidate's value.
    ValueBytes = 7,
    /// Bytes of all values of one node's candidates.
    ValueBytesOfNode = 8,
    /// Logs of the group.
    Logs = 9,
    /// Logs that one node created.
    LogsOfNode = 10,
    /// Entries in one append.
    AppendEntries = 11,
    /// Bytes in one append.
    AppendBytes = 12,
    /// Bytes that the logs of the group may take by their retentions, together.
    RetainedBytes = 13,
    /// Entries that a log may be told to keep.
    RetainedEntries = 14,
    /// Sessions in one command.
    Expired = 15,
    /// Bytes of all values of the group's candidates.
    ValueBytesOfAll = 16,
}

impl Bounded {
    const ALL: [Self; 16] = [
        Self::Sessions,
        Self::SessionsOfNode,
        Self::Places,
        Self::PlacesOfNode,
        Self::Candidates,
        Self::Waiters,
        Self::ValueBytes,
        Self::ValueBytesOfNode,
        Self::Logs,
        Self::LogsOfNode,
        Self::AppendEntries,
        Self::AppendBytes,
        Self::RetainedBytes,
        Self::RetainedEntries,
        Self::Expired,
        Self::ValueBytesOfAll,
    ];

    pub(crate) const fn to_wire(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_wire(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|bounded| bounded.to_wire() == number)
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sessions => "sessions in the realm",
            Self::SessionsOfNode => "sessions of this node",
            Self::Places => "candidates and requests for locks in the realm",
            Self::PlacesOfNode => "candidates and requests for locks of this node",
            Self::Candidates => "candidates in this election",
            Self::Waiters => "holders of this lock and waiters for it",
            Self::ValueBytes => "bytes in a candidate's value",
            Self::ValueBytesOfNode => "bytes in the values of this node's candidates",
            Self::Logs => "logs in the realm",
            Self::LogsOfNode => "logs of this node",
            Self::AppendEntries => "entries in one append",
            Self::AppendBytes => "bytes in one append",
            Self::RetainedBytes => "bytes kept by the logs of the realm",
            Self::RetainedEntries => "entries kept by one log",
            Self::Expired => "sessions in one command",
            Self::ValueBytesOfAll => "bytes in the values of all candidates of the realm",
        })
    }
}

/// The bounds on what the objects hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sessions of the group.
    pub sessions: usize,
    /// Sessions of one node.
    pub sessions_of_node: usize,
    /// Candidacies and requests for locks, of the group.
    pub places: usize,
    /// Candidacies and requests for locks, of one node.
    pub places_of_node: usize,
    /// Candidates of one election.
    pub candidates: usize,
    /// Holders of one lock, and who waits for it.
    pub waiters: usize,
    /// Bytes of all values of the group's candidates.
    pub value_bytes: usize,
    /// Bytes of all values of one node's candidates.
    pub value_bytes_of_node: usize,
    /// Logs of the group.
    pub logs: usize,
    /// Logs that one node created.
    pub logs_of_node: usize,
    /// Writers that one log remembers.
    pub writers: usize,
    /// Writers of one node that one log remembers.
    pub writers_of_node: usize,
    /// Bytes that all logs together may be told to keep.
    pub retained_bytes: u64,
    /// Entries that one log may be told to keep.
    pub retained_entries: u64,
}

impl Limits {
    /// The numbers that all groups use.
    ///
    /// Some 160 MB of memory, at worst: 200,000 places at 250 bytes, their values, 20,000 sessions at 300 bytes, 1,000 logs with
    /// 256 writers at 150 bytes each.
    pub const ALL: Self = Self {
        sessions: 20_000,
        sessions_of_node: 1_024,
        places: 200_000,
        places_of_node: 50_000,
        candidates: 10_000,
        waiters: 10_000,
        value_bytes: 64 * 1024 * 1024,
        value_bytes_of_node: 8 * 1024 * 1024,
        logs: 1_000,
        logs_of_node: 200,
        writers: 256,
        writers_of_node: 64,
        retained_bytes: 64 * 1024 * 1024 * 1024,
        retained_entries: 100_000_000,
    };
}
