//! Keep-alives and their answers.

use bytes::Bytes;
use macula_proto::{decode, wire};
use prost::Message;

use crate::objects::{CodecError, SessionId};

/// A node says that its session lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeepAlive {
    /// The session.
    pub session: SessionId,
    /// Counted by the holder; no number comes twice for one session.
    pub number: u64,
}

/// The answer to a [`KeepAlive`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeptAlive {
    /// What it answers.
    pub to: KeepAlive,
    /// What came of it.
    pub outcome: Kept,
}

/// What came of a keep-alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kept {
    /// The session lives for its full time from the arrival of the keep-alive.
    Alive,
    /// The session is over, or is about to be.
    Ended,
    /// Whoever was asked does not lead the group, or cannot tell. Another one may.
    NotLeader,
    /// Too many keep-alives at once.
    Busy,
}

impl KeepAlive {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::SessionKeepAlive { session: Some(self.session.to_wire()), number: self.number }.encode_to_vec()
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`CodecError`] if it is none.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        let message: wire::SessionKeepAlive = decode(bytes)?;
        Ok(Self { session: SessionId::from_wire(message.session), number: message.number })
    }
}

impl KeptAlive {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let outcome = self.outcome.to_wire();
        let (session, number) = (Some(self.to.session.to_wire()), self.to.number);
        wire::SessionKept { session, number, outcome }.encode_to_vec()
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`CodecError`] if it is none.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        let message: wire::SessionKept = decode(bytes)?;
        let to = KeepAlive { session: SessionId::from_wire(message.session), number: message.number };
        Ok(Self { to, outcome: Kept::from_wire(message.outcome)? })
    }
}

impl Kept {
    const fn to_wire(self) -> u32 {
        match self {
            Self::Alive => 1,
            Self::Ended => 2,
            Self::NotLeader => 3,
            Self::Busy => 4,
        }
    }

    fn from_wire(outcome: u32) -> Result<Self, CodecError> {
        let all = [Self::Alive, Self::Ended, Self::NotLeader, Self::Busy];
        all.into_iter().find(|kept| kept.to_wire() == outcome).ok_or(CodecError::Kind("an outcome"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::objects::{Epoch, LogIndex};

    #[test]
    fn messages_round_trip() {
        let to = KeepAlive { session: SessionId::new(Epoch(1), LogIndex(70)), number: 9 };
        assert_eq!(KeepAlive::decode(to.encode().into()), Ok(to));
        for outcome in [Kept::Alive, Kept::Ended, Kept::NotLeader, Kept::Busy] {
            let kept = KeptAlive { to, outcome };
            assert_eq!(KeptAlive::decode(kept.encode().into()), Ok(kept));
        }
        assert_eq!(KeptAlive::decode(Bytes::new()), Err(CodecError::Kind("an outcome")));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in vec(any::<u8>(), 0..60)) {
            let bytes = Bytes::from(bytes);
            let _ = (KeepAlive::decode(bytes.clone()), KeptAlive::decode(bytes));
        }
    }
}
