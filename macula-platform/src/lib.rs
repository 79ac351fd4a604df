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
//! This crate must not know about sockets, QUIC, pub/sub or rpc.

pub mod objects;

pub use objects::{
    Answer, Change, CodecError, Command, Effects, ElectionName, Ended, Epoch, FencingToken, Leader,
    LockChange, LockMode, LockName, LogId, LogIndex, LogName, LogOffset, LogWrite, Nonce, PlaceError,
    Refusal, Request, RequestId, Retention, SessionChange, SessionId, Standing, WriterId, WriterSequence,
};
