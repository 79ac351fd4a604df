//! Objects as they should be, used by one after the other.

mod election;
mod lock;
mod log;
mod register;

use std::fmt::Debug;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

pub use election::{Election, ElectionCall, ElectionReturn};
pub use lock::{Lock, LockCall, LockReturn};
pub use log::{Log, LogCall, LogReturn};
pub use register::{Register, RegisterCall, RegisterReturn};

use crate::objects::FencingToken;

/// A fencing token in a record: epoch and index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Token(pub u64, pub u64);

impl From<FencingToken> for Token {
    fn from(token: FencingToken) -> Self {
        Self(token.epoch.0, token.index.0)
    }
}

/// An object that is used by one after the other. What an operation does follows from the state and the call; its result
/// may tell more, such as which token was drawn.
pub trait Model {
    /// What is remembered between operations. Cheap to clone: the search does so at each step.
    type State: Clone + Eq + Hash + Debug;
    /// What is asked for.
    type Call: Clone + PartialEq + Debug;
    /// What comes of it.
    type Return: Clone + Debug;

    /// The state before all operations.
    fn start(&self) -> Self::State;

    /// The state after `call` took effect with `result`, or with some result that is not known. `None`: that cannot be.
    fn step(
        &mut self,
        state: &Self::State,
        call: &Self::Call,
        result: Option<&Self::Return>,
    ) -> Option<Self::State>;
}
