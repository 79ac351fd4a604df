//! Coordination: sessions, elections, locks and logs that a group of nodes replicates.
//!
//! ```text
//!   Request ──▶ leader ── Command ──▶ replicated log ──▶ Objects::apply ──▶ Answer
//!                 ▲                                            └──────────▶ Effects: changes for watchers,
//!                 │ expiry of sessions                                      writes for the store of log entries
//!               Keeper ◀── keep-alives ── Holder (at the node that has the session)
//! ```
//!
//! Everything in [`objects`] is pure: no time, no chance, no input or output. The same commands at the same places give the
//! same state and the same answers everywhere.
//!
//! A lease ends by the clock, but a process may be stopped between looking at the clock and acting. So each grant has a
//! [`FencingToken`], and the resource refuses older ones ([`FencedStore`]).
//!
//! This crate must not know about sockets, QUIC, pub/sub or rpc.

#[cfg(feature = "testing")]
pub mod checker;
#[cfg(feature = "testing")]
pub mod decoders;
mod fence;
mod group;
pub mod lease;
pub mod objects;
mod raft;
mod store;

pub use fence::{
    Damage, FENCES_MAX, FenceError, FencedStore, Fences, FileFences, FileFencesError, MemoryFences, Seen,
};
#[cfg(feature = "testing")]
pub use group::Plant;
pub use group::{
    CallbackId, Coordination, CoordinationConfig, CoordinationEnvironment, CoordinationError, Election,
    ElectionChanges, ElectionView, Foreign, Founding, Kinship, Lock, LockGuard, Log, LogPage, LogTail,
    Manage, Peers, RealmStatus, Recovered,
};
pub use objects::{
    Answer, CandidateInfo, Change, CodecError, Command, Counts, Effects, ElectionInfo, ElectionName, Ended,
    Epoch, FencingToken, Leader, LockChange, LockInfo, LockMode, LockName, LogId, LogIndex, LogInfo, LogName,
    LogOffset, LogRecovery, LogWrite, Nonce, Objects, PlaceError, Refusal, Request, RequestId, RequestInfo,
    Retention, SessionChange, SessionId, SessionInfo, SnapshotError, Standing, WriterId, WriterSequence,
};
pub use raft::{Group, GroupError, GroupStatus, LogEntry, Roles, Timing, VoterId};
pub use store::{
    Batch, Done, GroupId, LogStore, MemoryFaults, MemoryStore, RedbStore, Slot, StoreError, StoreMetrics,
    StoreOptions, Write,
};
