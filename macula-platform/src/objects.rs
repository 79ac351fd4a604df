//! The objects that a group replicates: sessions, elections, locks and logs.

mod answer;
mod change;
pub(crate) mod codec;
mod command;
mod election;
pub mod limits;
mod lock;
mod log;
mod machine;
#[cfg(test)]
mod model_test;
mod names;
mod place;
mod query;
pub(crate) mod recovery;
mod session;
mod snapshot;
mod usage;
mod window;

pub use answer::{Answer, Ended, Refusal, Standing};
pub use change::{Change, Effects, Leader, LockChange, LogWrite, SessionChange};
pub use codec::CodecError;
pub use command::{Command, LockMode, Request, Retention};
pub use machine::Objects;
pub use names::{ElectionName, LockName, LogName};
pub use place::{
    Epoch, FencingToken, LogId, LogIndex, LogOffset, Nonce, PlaceError, RequestId, SessionId, WriterId,
    WriterSequence,
};
pub use query::{CandidateInfo, Counts, ElectionInfo, LockInfo, LogInfo, RequestInfo, SessionInfo};
pub use recovery::LogRecovery;
pub use snapshot::SnapshotError;
