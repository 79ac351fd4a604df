//! A lock that may be shared, and who reigns: what the checker holds the records against.

use std::collections::BTreeSet;

use macula_platform::checker::model::{Model, Token};
use serde::{Deserialize, Serialize};

/// A lock that one client holds alone, or several together. A grant that is lost with its session is a release whose outcome
/// is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SharedLock;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LockCall {
    Acquire { client: u64, shared: bool },
    Release { client: u64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LockReturn {
    Granted(Token),
    Busy,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct LockState {
    holders: BTreeSet<u64>,
    /// They hold it together.
    shared: bool,
    /// The largest token so far, and the largest of one who had it alone.
    token: Token,
    alone: Token,
}

impl LockState {
    fn admits(&self, shared: bool) -> bool {
        self.holders.is_empty() || (shared && self.shared)
    }

    fn with(&self, client: u64, shared: bool) -> Self {
        let mut holders = self.holders.clone();
        holders.insert(client);
        Self { holders, shared, ..*self }
    }
}

impl Model for SharedLock {
    type State = LockState;
    type Call = LockCall;
    type Return = LockReturn;

    fn start(&self) -> LockState {
        LockState::default()
    }

    fn step(&mut self, state: &LockState, call: &LockCall, result: Option<&LockReturn>) -> Option<LockState> {
        match (*call, result) {
            (LockCall::Acquire { client, shared }, Some(LockReturn::Granted(token))) => {
                // Those who were let in together have one token.
                let grows = *token > state.token || (shared && *token == state.token && *token > state.alone);
                let alone = if shared { state.alone } else { *token };
                let held = LockState { token: *token, alone, ..state.with(client, shared) };
                (grows && state.admits(shared)).then_some(held)
            }
            (LockCall::Acquire { .. }, Some(LockReturn::Busy)) => {
                (!state.holders.is_empty()).then(|| state.clone())
            }
            (LockCall::Acquire { client, shared }, None) => Some(match state.admits(shared) {
                true => state.with(client, shared),
                false => state.clone(),
            }),
            (LockCall::Release { client }, None) => {
                let holders = state.holders.iter().copied().filter(|holder| *holder != client).collect();
                Some(LockState { holders, ..*state })
            }
            (LockCall::Release { .. }, Some(_)) => None,
        }
    }
}

/// Who leads an election, as those see it who ask the group: tokens only grow, and each has one bearer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reign;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReignCall {
    Observe,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReignReturn {
    /// Nobody, or which node with which token.
    Leader(Option<(u64, Token)>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct ReignState {
    token: Token,
    /// Who bears it; `None`: it is over.
    bearer: Option<u64>,
}

impl Model for Reign {
    type State = ReignState;
    type Call = ReignCall;
    type Return = ReignReturn;

    fn start(&self) -> ReignState {
        ReignState::default()
    }

    fn step(
        &mut self,
        state: &ReignState,
        _call: &ReignCall,
        result: Option<&ReignReturn>,
    ) -> Option<ReignState> {
        match result {
            None => Some(*state),
            Some(ReignReturn::Leader(None)) => Some(ReignState { bearer: None, ..*state }),
            Some(ReignReturn::Leader(Some((bearer, token)))) => {
                let same = *token == state.token && state.bearer == Some(*bearer);
                (same || *token > state.token).then_some(ReignState { token: *token, bearer: Some(*bearer) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquired(state: &LockState, client: u64, shared: bool, token: u64) -> Option<LockState> {
        let granted = LockReturn::Granted(Token(0, token));
        SharedLock.step(state, &LockCall::Acquire { client, shared }, Some(&granted))
    }

    #[test]
    fn sharers_hold_together_and_nobody_beside_who_holds_alone() {
        let free = LockState::default();
        let one = acquired(&free, 1, true, 5).unwrap();
        let two = acquired(&one, 2, true, 5).unwrap();
        assert_eq!(acquired(&two, 3, false, 6), None);
        let released =
            |state: &LockState, client| SharedLock.step(state, &LockCall::Release { client }, None);
        let free = released(&released(&two, 1).unwrap(), 2).unwrap();
        assert_eq!(acquired(&free, 3, false, 5), None, "the token does not grow");
        let alone = acquired(&free, 3, false, 6).unwrap();
        assert_eq!(acquired(&alone, 4, true, 7), None);
        let free = released(&alone, 3).unwrap();
        assert_eq!(acquired(&free, 4, true, 6), None, "the token of one who had it alone");
    }

    #[test]
    fn a_reign_that_is_over_does_not_come_back() {
        let told = |state: &ReignState, leader: Option<(u64, u64)>| {
            let leader = leader.map(|(node, token)| (node, Token(0, token)));
            Reign.step(state, &ReignCall::Observe, Some(&ReignReturn::Leader(leader)))
        };
        let first = told(&ReignState::default(), Some((1, 5))).unwrap();
        assert!(told(&first, Some((1, 5))).is_some());
        assert_eq!(told(&first, Some((2, 5))), None, "one bearer");
        let over = told(&first, None).unwrap();
        assert_eq!(told(&over, Some((1, 5))), None);
        let second = told(&over, Some((2, 8))).unwrap();
        assert_eq!(told(&second, Some((1, 5))), None);
    }
}
