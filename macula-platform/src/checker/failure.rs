//! What is wrong with a history, in as few words as possible.

use std::fmt;

use super::history::Operation;
use super::model::Model;

/// Where the search for an order got stuck. Operations are given by their place in the key's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck<M: Model> {
    /// The operation that ended before it could have taken effect.
    pub at: usize,
    /// How many operations the longest order that is allowed has.
    pub done: usize,
    /// The last of them.
    pub last_done: Vec<usize>,
    /// The state after them.
    pub state: M::State,
    /// Those that had begun and could come next, the one at which it got stuck among them.
    pub window: Vec<usize>,
    /// Whether the search gave up before it had tried all orders.
    pub undecided: bool,
}

/// A key whose history is not linearizable, or could not be decided.
pub struct Failure<K, M: Model> {
    /// The key.
    pub key: K,
    /// Its operations, by the time at which they ended.
    pub operations: Vec<Operation<M::Call, M::Return>>,
    /// Where the search got stuck.
    pub stuck: Stuck<M>,
}

impl<K, M: Model> Failure<K, M> {
    pub(super) fn new(key: K, operations: &[Operation<M::Call, M::Return>], stuck: Stuck<M>) -> Self {
        Self { key, operations: operations.to_vec(), stuck }
    }

    fn list(&self, f: &mut fmt::Formatter<'_>, title: &str, which: &[usize]) -> fmt::Result {
        writeln!(f, "{title}")?;
        for index in which {
            let Operation { process, call, invoked, returned } = &self.operations[*index];
            let mark = if *index == self.stuck.at { "▶" } else { " " };
            write!(f, "  {mark} process {process} at {invoked}: {call:?}")?;
            match returned {
                Some(returned) => writeln!(f, " → {:?} at {}", returned.value, returned.time)?,
                None => writeln!(f, " → not known")?,
            }
        }
        Ok(())
    }
}

impl<K: fmt::Debug, M: Model> fmt::Display for Failure<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stuck { done, state, window, last_done, undecided, .. } = &self.stuck;
        let verdict = if *undecided { "not decided" } else { "not linearizable" };
        let all = self.operations.len();
        writeln!(
            f,
            "key {:?} is {verdict}: an order of {done} of {all} operations is the longest",
            self.key
        )?;
        self.list(f, "its end:", last_done)?;
        writeln!(f, "the state then: {state:?}")?;
        self.list(f, "none of these can be next:", window)
    }
}

impl<K: fmt::Debug, M: Model> fmt::Debug for Failure<K, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K: fmt::Debug, M: Model> std::error::Error for Failure<K, M> {}
