//! Was it linearizable? Checks recorded histories of registers, locks, elections and logs.
//!
//! A history says when each operation was begun, and when it ended with what. It is linearizable if every operation can be
//! given one instant between the two at which it takes effect, such that the results are those of a plain object used by
//! one after the other (Herlihy & Wing 1990). An operation whose outcome is not known – its process was killed, or stopped
//! waiting – may have taken effect at any time since it began, or may do so later, or never.
//!
//! ```
//! use macula_platform::checker::{Event, History, Outcome, check};
//! use macula_platform::checker::model::{Register, RegisterCall, RegisterReturn};
//!
//! let event = |process, time, what| Event { process, time, key: "x".to_owned(), what };
//! let read = |value| Outcome::Ok(RegisterReturn::Value(value));
//! let history = History::from_events(vec![
//!     event(1, 10, Outcome::Invoke(RegisterCall::Write(7))),
//!     event(2, 15, Outcome::Invoke(RegisterCall::Read)),
//!     event(2, 20, read(Some(7))),
//!     event(2, 25, Outcome::Invoke(RegisterCall::Read)),
//!     event(1, 30, Outcome::Ok(RegisterReturn::Done)),
//!     event(2, 35, read(None)),
//! ])?;
//! let failure = check(&history, |_| Register::default()).unwrap_err();
//! assert!(failure.to_string().contains("key \"x\""), "what was read once cannot be unwritten: {failure}");
//! # Ok::<(), macula_platform::checker::HistoryError>(())
//! ```
//!
//! Keys are independent objects, and are checked one by one. The search is Wing and Gong's (1993) with Lowe's memory of what
//! was tried (2017). [`overlaps`] checks the stronger claim for leases: at no instant do two nodes rely on the same thing.

mod failure;
mod history;
mod interval;
pub mod model;
mod search;

pub use failure::{Failure, Stuck};
pub use history::{Event, History, HistoryError, Operation, Outcome, Recorder, Returned};
pub use interval::{Interval, Overlap, overlaps};

use std::fmt::Debug;

use model::Model;

/// What a check looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Keys.
    pub keys: usize,
    /// Operations that were done, and those whose outcome is not known.
    pub operations: usize,
    /// Operations whose outcome is not known.
    pub unknown: usize,
    /// Steps of the search.
    pub steps: u64,
}

/// Steps of the search for one key, after which [`check`] gives up.
pub const STEPS_MAX: u64 = 50_000_000;

/// Checks each key of a history against a model of its own.
///
/// # Errors
/// [`Failure`] for the first key that is not linearizable, or that could not be decided within [`STEPS_MAX`] steps.
pub fn check<K, M>(
    history: &History<K, M::Call, M::Return>,
    mut model: impl FnMut(&K) -> M,
) -> Result<Checked, Box<Failure<K, M>>>
where
    K: Ord + Clone + Debug,
    M: Model,
{
    let mut checked = Checked::default();
    for (key, operations) in history.keys() {
        checked.keys += 1;
        checked.operations += operations.len();
        checked.unknown += operations.iter().filter(|operation| operation.returned.is_none()).count();
        let searched = search::search(operations, model(key), STEPS_MAX);
        checked.steps += searched.map_err(|stuck| Box::new(Failure::new(key.clone(), operations, stuck)))?;
    }
    Ok(checked)
}

#[cfg(test)]
#[path = "checker/checker_test.rs"]
mod tests;
