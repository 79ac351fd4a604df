//! Commands, requests and answers as bytes: the same on the wire and on disk.
//!
//! What comes from another node ([`Request::decode`]) is held to all limits. What comes from the replicated log
//! ([`Command::decode`]) must be readable by all voters or by none, so only its form is looked at there; what exceeds a
//! limit is refused by the objects themselves, with an answer.

mod answer;
mod command;
mod request;

use std::time::Duration;

use bytes::Bytes;
use macula_proto::{IdError, MessageError, NameError, NodeId, decode};
use prost::Message;

use super::answer::{Answer, Refusal};
use super::command::{Command, Request};

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Not the message it should be.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message of a kind that is not known here, or of none.
    #[error("{0} of an unknown kind")]
    Kind(&'static str),
    /// A name that breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A node id that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A list that ends in the middle of an element.
    #[error("{0} that end in the middle of one")]
    CutShort(&'static str),
    /// More than a limit allows.
    #[error(transparent)]
    Limit(#[from] Refusal),
}

impl Request {
    /// The request as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads a request that another node sent.
    ///
    /// # Errors
    /// [`CodecError`] if it is none, or exceeds a limit.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        let request = Self::from_wire(decode(bytes)?)?;
        request.check()?;
        Ok(request)
    }
}

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads a command from the replicated log.
    ///
    /// # Errors
    /// [`CodecError`] if it is none.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        Self::from_wire(decode(bytes)?)
    }
}

impl Answer {
    /// The answer as bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`CodecError`] if it is none.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        Self::from_wire(decode(bytes)?)
    }
}

/// Whole milliseconds, as all times are kept and sent.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A node id, as it is kept and sent.
pub(crate) fn id_out(id: &NodeId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
