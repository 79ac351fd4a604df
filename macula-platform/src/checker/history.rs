//! What happened, as the processes that did it saw it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One line of a record. Times are nanoseconds of one clock that all processes share and that never goes back, such as
/// `CLOCK_MONOTONIC` of one machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event<K, C, R> {
    /// Who does it. A process does one thing at a time; after an outcome that is not known it may go on.
    pub process: u64,
    /// When, in nanoseconds. Of a beginning: a moment before it; of an end: a moment after it.
    pub time: u64,
    /// To which object.
    pub key: K,
    /// What.
    #[serde(flatten)]
    pub what: Outcome<C, R>,
}

/// Something begins or ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<C, R> {
    /// It begins.
    Invoke(C),
    /// It ended, with this result.
    Ok(R),
    /// It certainly did not and will not take effect.
    Fail,
    /// It may have taken effect, or may do so later.
    Unknown,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation<C, R> {
    /// Who did it.
    pub process: u64,
    /// What was asked for.
    pub call: C,
    /// When it began.
    pub invoked: u64,
    /// How it ended; `None`: not known.
    pub returned: Option<Returned<R>>,
}

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Returned<R> {
    /// When.
    pub time: u64,
    /// With what.
    pub value: R,
}

/// Why records are no history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// A process began something while it did something else.
    #[error("process {process} begins something at {time} before what it does has ended")]
    Busy {
        /// Which process.
        process: u64,
        /// When.
        time: u64,
    },
    /// A process ended what it had not begun, or under another key.
    #[error("process {process} ends something at {time} that it has not begun")]
    NotBegun {
        /// Which process.
        process: u64,
        /// When.
        time: u64,
    },
    /// A line that is not an event.
    #[error("line {line}: {cause}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        cause: serde_json::Error,
    },
    /// The record cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// All operations, by key; those that certainly did not happen are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History<K, C, R> {
    keys: BTreeMap<K, Vec<Operation<C, R>>>,
}

impl<K: Ord + Clone, C, R> History<K, C, R> {
    /// Pairs beginnings with ends. What never ended has an outcome that is not known.
    ///
    /// # Errors
    /// [`HistoryError::Busy`], [`HistoryError::NotBegun`].
    pub fn from_events(mut events: Vec<Event<K, C, R>>) -> Result<Self, HistoryError> {
        // Events of one instant stay in the order in which their process recorded them.
        events.sort_by_key(|event| event.time);
        let mut keys: BTreeMap<K, Vec<Operation<C, R>>> = BTreeMap::new();
        let mut open: BTreeMap<u64, (K, C, u64)> = BTreeMap::new();
        for Event { process, time, key, what } in events {
            let not_begun = || HistoryError::NotBegun { process, time };
            let value = match what {
                Outcome::Invoke(call) => {
                    if open.insert(process, (key, call, time)).is_some() {
                        return Err(HistoryError::Busy { process, time });
                    }
                    continue;
                }
                Outcome::Ok(value) => Some(value),
                Outcome::Unknown => None,
                Outcome::Fail => {
                    open.remove(&process).ok_or_else(not_begun)?;
                    continue;
                }
            };
            let (begun, call, invoked) =
                open.remove(&process).filter(|open| open.0 == key).ok_or_else(not_begun)?;
            let returned = value.map(|value| Returned { time, value });
            keys.entry(begun).or_default().push(Operation { process, call, invoked, returned });
        }
        for (process, (key, call, invoked)) in open {
            keys.entry(key).or_default().push(Operation { process, call, invoked, returned: None });
        }
        Ok(Self { keys })
    }

    /// Each key and its operations.
    pub fn keys(&self) -> impl Iterator<Item = (&K, &[Operation<C, R>])> {
        self.keys.iter().map(|(key, operations)| (key, operations.as_slice()))
    }
}

impl<K, C, R> Event<K, C, R>
where
    K: DeserializeOwned,
    C: DeserializeOwned,
    R: DeserializeOwned,
{
    /// Reads a record: one event in JSON a line. A last line that was not written to its end – its process was killed – is
    /// left out. Records of several processes may be put together in any order.
    ///
    /// # Errors
    /// [`HistoryError::Line`], [`HistoryError::Io`].
    pub fn read_lines(mut record: impl BufRead) -> Result<Vec<Self>, HistoryError> {
        let (mut events, mut text, mut line) = (Vec::new(), String::new(), 0);
        while record.read_line(&mut text)? > 0 {
            line += 1;
            match serde_json::from_str(&text) {
                Ok(event) => events.push(event),
                Err(_) if !text.ends_with('\n') => break,
                Err(cause) => return Err(HistoryError::Line { line, cause }),
            }
            text.clear();
        }
        Ok(events)
    }
}

/// Writes a record, each event at once, so that what a killed process did until then is there.
#[derive(Debug)]
pub struct Recorder<W, K, C, R> {
    out: W,
    process: u64,
    of: PhantomData<fn(K, C, R)>,
}

impl<W: Write, K: Serialize, C: Serialize, R: Serialize> Recorder<W, K, C, R> {
    /// Records what `process` does.
    pub fn new(process: u64, out: W) -> Self {
        Self { out, process, of: PhantomData }
    }

    /// Records that something begins or ends.
    ///
    /// # Errors
    /// What the writer says.
    pub fn record(&mut self, time: u64, key: K, what: Outcome<C, R>) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Event { process: self.process, time, key, what })?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}
