//! One call at one provider, as the roster sees it.

use std::sync::Arc;

use macula_proto::{Clock, NodeId};
use tokio::time::Instant;

use crate::answers::Ended;
use crate::providers::Entry;
use crate::roster::Penalty;
use crate::{Attempt, CallError, Cause};

/// Counts a call as under way at a provider until dropped, and notes how the provider did.
pub(crate) struct Tracked {
    provider: NodeId,
    /// `None` for this node itself, or if nothing is remembered about the procedure's providers.
    roster: Option<Remembered>,
}

struct Remembered {
    entry: Arc<Entry>,
    sequence: u64,
    penalty: Penalty,
    clock: Arc<dyn Clock>,
    deadline: Instant,
    answered: bool,
}

impl Tracked {
    pub(crate) const fn untracked(provider: NodeId) -> Self {
        Self { provider, roster: None }
    }

    pub(crate) fn new(
        provider: NodeId,
        entry: Arc<Entry>,
        sequence: u64,
        penalty: Penalty,
        clock: Arc<dyn Clock>,
        deadline: Instant,
    ) -> Self {
        entry.roster.lock().sent(provider);
        Self {
            provider,
            roster: Some(Remembered { entry, sequence, penalty, clock, deadline, answered: false }),
        }
    }

    /// The provider spoke; perhaps it said how many calls it runs.
    pub(crate) fn answered(&mut self, load: Option<u32>) {
        let Some(known) = &mut self.roster else { return };
        known.answered = true;
        if let Some(load) = load {
            known.entry.roster.lock().answered(self.provider, load, known.clock.now());
        }
    }

    /// The provider did not take the call for this reason.
    pub(crate) fn refused(&mut self, cause: &Cause) {
        match cause {
            // It is there, and says what it has to say.
            Cause::Overloaded | Cause::Forbidden(_) => self.answered(None),
            _ => self.failed(),
        }
    }

    /// The provider could not be reached, or was lost.
    pub(crate) fn failed(&mut self) {
        let Some(known) = &mut self.roster else { return };
        known.answered = true;
        known.entry.roster.lock().failed(self.provider, known.sequence, known.clock.now(), known.penalty);
    }

    /// The error for a call that ends here, with no other provider to try.
    pub(crate) fn error(&mut self, ended: Ended) -> CallError {
        match ended {
            Ended::Error(error) => error,
            Ended::Lost(cause) => {
                self.failed();
                CallError::Lost { provider: self.provider, cause }
            }
            // The handler was said to run before, so this contradicts it.
            Ended::NotRun(cause) => CallError::Protocol {
                provider: self.provider,
                cause: format!("it refused a call that it had accepted: {cause}"),
                maybe_ran: true,
            },
        }
    }

    pub(crate) const fn attempt(&self, cause: Cause) -> Attempt {
        Attempt { provider: self.provider, cause }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let Some(known) = &self.roster else { return };
        let silent = !known.answered && Instant::now() >= known.deadline;
        if silent {
            // It let the deadline pass without a word: others first, for a while.
            self.failed();
        }
        if let Some(known) = &self.roster {
            known.entry.roster.lock().over(self.provider);
        }
    }
}
