//! An append-only log.

use serde::{Deserialize, Serialize};

use super::Model;

/// A log of numbers. States share what they have in common: each is the last entry, which knows the one before.
#[derive(Clone, Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    value: u64,
    before: LogState,
}

/// What is asked of a log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogCall {
    /// To append this.
    Append(u64),
    /// The entries from this offset on, up to its end or a bound of the reader's.
    Read {
        /// The offset of the first.
        from: u64,
    },
    /// The offset that the next entry gets.
    End,
}

/// What a log answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogReturn {
    /// Appended, at this offset.
    At(u64),
    /// These entries; `end`: there were no more.
    Entries {
        /// In order.
        values: Vec<u64>,
        /// Whether the log ended behind them.
        end: bool,
    },
    /// The next offset.
    End(u64),
}

/// A log's content, by its length, a hash, and where its last entry is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogState {
    length: u64,
    hash: u64,
    /// In the model's table; meaningless where the log is empty.
    last: usize,
}

impl PartialEq for LogState {
    fn eq(&self, other: &Self) -> bool {
        (self.length, self.hash) == (other.length, other.hash)
    }
}

impl Eq for LogState {}

impl std::hash::Hash for LogState {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        (self.length, self.hash).hash(hasher);
    }
}

impl Log {
    fn append(&mut self, before: LogState, value: u64) -> LogState {
        self.entries.push(Entry { value, before });
        // FNV-1a over whole numbers, with a final mix.
        let mut hash = (before.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).wrapping_add(0x9e37_79b9);
        hash ^= hash >> 29;
        LogState { length: before.length + 1, hash, last: self.entries.len() - 1 }
    }

    /// Whether `values` are the entries from `from` on.
    fn holds(&self, state: LogState, from: u64, values: &[u64], end: bool) -> bool {
        let until = from.saturating_add(values.len() as u64);
        if until > state.length {
            // Beyond the end there is nothing.
            return values.is_empty() && end;
        }
        if end && until != state.length {
            return false;
        }
        let mut state = state;
        while state.length > until {
            state = self.entries[state.last].before;
        }
        values.iter().rev().all(|value| {
            let entry = self.entries[state.last];
            state = entry.before;
            entry.value == *value
        })
    }
}

impl Model for Log {
    type State = LogState;
    type Call = LogCall;
    type Return = LogReturn;

    fn start(&self) -> LogState {
        LogState::default()
    }

    fn step(&mut self, state: &LogState, call: &LogCall, result: Option<&LogReturn>) -> Option<LogState> {
        match (call, result) {
            (LogCall::Append(value), Some(LogReturn::At(offset))) => {
                (*offset == state.length).then(|| self.append(*state, *value))
            }
            (LogCall::Append(value), None) => Some(self.append(*state, *value)),
            (LogCall::Read { from }, Some(LogReturn::Entries { values, end })) => {
                self.holds(*state, *from, values, *end).then_some(*state)
            }
            (LogCall::End, Some(LogReturn::End(offset))) => (*offset == state.length).then_some(*state),
            (LogCall::Read { .. } | LogCall::End, None) => Some(*state),
            (LogCall::Append(_) | LogCall::Read { .. } | LogCall::End, Some(_)) => None,
        }
    }
}
