//! An election that can be observed.

use serde::{Deserialize, Serialize};

use super::{Model, Token};

/// An election that one candidate leads at a time. A leader that died is an [`End`](ElectionCall::End) whose outcome is not
/// known: it takes effect some time after the death.
#[derive(Clone, Copy, Debug, Default)]
pub struct Election;

/// What is asked of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElectionCall {
    /// To lead; the operation ends when the candidate does.
    Campaign {
        /// Who wants to.
        candidate: u64,
    },
    /// To lead no longer, and to wait for it no longer.
    End {
        /// Who.
        candidate: u64,
    },
    /// Who leads.
    Observe,
}

/// What an election answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElectionReturn {
    /// The candidate leads, with this token.
    Elected(Token),
    /// Ended.
    Done,
    /// Nobody leads, or who does and with which token.
    Leader(Option<(u64, Token)>),
}

/// Who leads, with which token if anybody was told, and the largest token so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ElectionState {
    leader: Option<(u64, Option<Token>)>,
    token: Token,
}

impl ElectionState {
    /// Somebody is told that `candidate` leads with `token`.
    fn told(self, candidate: u64, token: Token) -> Option<Self> {
        let now = Self { leader: Some((candidate, Some(token))), token };
        match self.leader {
            Some((leader, known)) if leader == candidate => {
                known.map_or(token > self.token, |known| known == token).then_some(now)
            }
            Some(_) | None => None,
        }
    }
}

impl Model for Election {
    type State = ElectionState;
    type Call = ElectionCall;
    type Return = ElectionReturn;

    fn start(&self) -> ElectionState {
        ElectionState::default()
    }

    fn step(
        &mut self,
        state: &ElectionState,
        call: &ElectionCall,
        result: Option<&ElectionReturn>,
    ) -> Option<ElectionState> {
        let ElectionState { leader, token } = *state;
        match (*call, result) {
            (ElectionCall::Campaign { candidate }, Some(ElectionReturn::Elected(new))) => {
                let now = ElectionState { leader: Some((candidate, Some(*new))), token: *new };
                (leader.is_none() && *new > token).then_some(now)
            }
            (ElectionCall::Campaign { candidate }, None) => {
                Some(ElectionState { leader: leader.or(Some((candidate, None))), token })
            }
            (ElectionCall::End { candidate }, Some(ElectionReturn::Done) | None) => {
                Some(ElectionState { leader: leader.filter(|leader| leader.0 != candidate), token })
            }
            (ElectionCall::Observe, Some(ElectionReturn::Leader(None))) => leader.is_none().then_some(*state),
            (ElectionCall::Observe, Some(ElectionReturn::Leader(Some((candidate, token))))) => {
                state.told(*candidate, *token)
            }
            (ElectionCall::Observe, None) => Some(*state),
            (ElectionCall::Campaign { .. } | ElectionCall::End { .. } | ElectionCall::Observe, Some(_)) => {
                None
            }
        }
    }
}
