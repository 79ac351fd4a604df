//! A lock with fencing tokens.

use serde::{Deserialize, Serialize};

use super::{Model, Token};

/// A lock that one client holds at a time. A lock that is lost because its holder died is a
/// [`Release`](LockCall::Release) whose outcome is not known: it takes effect some time after the death.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lock;

/// What is asked of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockCall {
    /// To get it; the operation may wait.
    Acquire {
        /// Who wants it.
        client: u64,
    },
    /// To give it back.
    Release {
        /// Who had it.
        client: u64,
    },
}

/// What a lock answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockReturn {
    /// Granted, with this token.
    Granted(Token),
    /// Somebody has it, and the client did not wait.
    Busy,
    /// Given back.
    Released,
    /// The client did not have it.
    NotHeld,
}

/// Who holds the lock, and the largest token so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LockState {
    holder: Option<u64>,
    token: Token,
}

impl Model for Lock {
    type State = LockState;
    type Call = LockCall;
    type Return = LockReturn;

    fn start(&self) -> LockState {
        LockState::default()
    }

    fn step(&mut self, state: &LockState, call: &LockCall, result: Option<&LockReturn>) -> Option<LockState> {
        let LockState { holder, token } = *state;
        match (*call, result) {
            (LockCall::Acquire { client }, Some(LockReturn::Granted(new))) => {
                let free = holder.is_none() && *new > token;
                free.then_some(LockState { holder: Some(client), token: *new })
            }
            (LockCall::Acquire { .. }, Some(LockReturn::Busy)) => holder.is_some().then_some(*state),
            // A grant that nobody heard of: its token is larger than all before, and smaller than all after.
            (LockCall::Acquire { client }, None) => {
                Some(LockState { holder: Some(holder.unwrap_or(client)), token })
            }
            (LockCall::Release { client }, Some(LockReturn::Released)) => {
                (holder == Some(client)).then_some(LockState { holder: None, token })
            }
            (LockCall::Release { client }, Some(LockReturn::NotHeld)) => {
                (holder != Some(client)).then_some(*state)
            }
            (LockCall::Release { client }, None) => {
                Some(LockState { holder: holder.filter(|holder| *holder != client), token })
            }
            (LockCall::Acquire { .. }, Some(LockReturn::Released | LockReturn::NotHeld))
            | (LockCall::Release { .. }, Some(LockReturn::Granted(_) | LockReturn::Busy)) => None,
        }
    }
}
