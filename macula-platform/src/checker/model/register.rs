//! A register with compare-and-set.

use serde::{Deserialize, Serialize};

use super::Model;

/// A register that holds a number, or nothing at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// What is asked of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterCall {
    /// What it holds.
    Read,
    /// To hold this.
    Write(u64),
    /// To hold the second, if it holds the first.
    CompareAndSet(Option<u64>, u64),
}

/// What a register answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterReturn {
    /// It holds this.
    Value(Option<u64>),
    /// Written.
    Done,
    /// Whether it held what was expected, and so was set.
    Set(bool),
}

impl Model for Register {
    type State = Option<u64>;
    type Call = RegisterCall;
    type Return = RegisterReturn;

    fn start(&self) -> Option<u64> {
        None
    }

    fn step(
        &mut self,
        state: &Option<u64>,
        call: &RegisterCall,
        result: Option<&RegisterReturn>,
    ) -> Option<Option<u64>> {
        let (after, expected) = match *call {
            RegisterCall::Read => (*state, RegisterReturn::Value(*state)),
            RegisterCall::Write(value) => (Some(value), RegisterReturn::Done),
            RegisterCall::CompareAndSet(from, to) if from == *state => (Some(to), RegisterReturn::Set(true)),
            RegisterCall::CompareAndSet(_, _) => (*state, RegisterReturn::Set(false)),
        };
        result.is_none_or(|result| *result == expected).then_some(after)
    }
}
