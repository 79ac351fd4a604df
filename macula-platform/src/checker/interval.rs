//! Leases as they were relied on: never two at once.

use serde::{Deserialize, Serialize};

use super::model::Token;

/// A node relied on something: it led an election, or held a lock. Times are nanoseconds of one clock that never goes
/// back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// On what.
    pub key: String,
    /// Who.
    pub node: String,
    /// With which fencing token.
    pub token: Token,
    /// The first instant at which it saw that it may.
    pub from: u64,
    /// The last instant at which it saw that it may.
    pub until: u64,
}

/// Two intervals that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Overlap {
    /// Two nodes relied on the same thing at once.
    #[error("two at once: {0:?} and {1:?}")]
    Both(Interval, Interval),
    /// A later one has a token that is not larger.
    #[error("the token does not grow: {0:?}, and then {1:?}")]
    Token(Interval, Interval),
}

/// All pairs of neighbours that overlap, or whose tokens do not grow. An interval of the same node and token goes on with
/// the one before.
pub fn overlaps(mut intervals: Vec<Interval>) -> Vec<Overlap> {
    intervals.sort_by(|a, b| (&a.key, a.from, a.until).cmp(&(&b.key, b.from, b.until)));
    let mut found = Vec::new();
    let mut last: Option<Interval> = None;
    for interval in intervals {
        let Some(before) = last.take_if(|before| before.key == interval.key) else {
            last = Some(interval);
            continue;
        };
        let same = (&before.node, before.token) == (&interval.node, interval.token);
        if !same && interval.from <= before.until {
            found.push(Overlap::Both(before.clone(), interval.clone()));
        }
        if !same && interval.token <= before.token {
            found.push(Overlap::Token(before.clone(), interval.clone()));
        }
        // The one that lasts longer is what the next one may overlap with.
        last = Some(if before.until > interval.until { before } else { interval });
    }
    found
}
