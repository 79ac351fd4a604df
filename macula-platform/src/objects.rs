//! The objects that a group replicates: sessions, elections, locks and logs.

mod answer;
mod change;
mod codec;
mod command;
pub mod limits;
mod names;
mod place;

pub use answer::{Answer, Ended, Refusal, Standing};
pub use change::{Change, Effects, Leader, LockChange, LogWrite, SessionChange};
pub use codec::CodecError;
pub use command::{Command, LockMode, Request, Retention};
pub use names::{ElectionName, LockName, LogName};
pub use place::{
    Epoch, FencingToken, LogId, LogIndex, LogOffset, Nonce, PlaceError, RequestId, SessionId, WriterId,
    WriterSequence,
};
