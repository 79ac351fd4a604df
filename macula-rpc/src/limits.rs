//! How long a caller waits, and what it can be sure of when it stops waiting.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{CallError, CallRequest};

/// The end of a call's patience.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) patience: Patience,
    /// The whole time, for the error.
    pub(crate) after: Duration,
    pub(crate) delivery: Delivery,
}

/// Until when a call is waited for, wherever its caller waits.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    pub(crate) deadline: Instant,
    cancel: Option<CancellationToken>,
}

/// Whether a handler may have been started for a call.
#[derive(Debug, Default)]
pub(crate) struct Delivery(AtomicU8);

const CERTAINLY_NOT: u8 = 0;
/// Handed to a provider that has not answered.
const UNDER_WAY: u8 = 1;
/// Lost at one provider; what others say does not change that.
const LOST: u8 = 2;

impl Limits {
    pub(crate) fn new(request: &CallRequest, timeout: Duration) -> Self {
        let patience = Patience { deadline: Instant::now() + timeout, cancel: request.cancel.clone() };
        Self { patience, after: timeout, delivery: Delivery::default() }
    }

    /// Time that is left.
    pub(crate) fn remaining(&self) -> Duration {
        self.patience.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for `work`, but no longer than the deadline or the cancellation.
    pub(crate) async fn within<R>(
        &self,
        work: impl Future<Output = Result<R, CallError>>,
    ) -> Result<R, CallError> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.patience.cancelled() => Err(CallError::Cancelled { maybe_ran: self.delivery.maybe_ran() }),
            () = sleep_until(self.patience.deadline) => Err(self.out_of_time()),
        }
    }

    pub(crate) fn out_of_time(&self) -> CallError {
        CallError::Deadline { after: self.after, maybe_ran: self.delivery.maybe_ran() }
    }
}

impl Patience {
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline || self.cancel.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Waits until the call was cancelled or its time is up.
    pub(crate) async fn ends(&self) {
        tokio::select! {
            biased;
            () = self.cancelled() => {}
            () = sleep_until(self.deadline) => {}
        }
    }

    async fn cancelled(&self) {
        match &self.cancel {
            Some(cancel) => cancel.cancelled().await,
            None => pending().await,
        }
    }
}

impl Delivery {
    /// From now on the call may run.
    pub(crate) fn begins(&self) {
        self.0.fetch_max(UNDER_WAY, Ordering::Relaxed);
    }

    /// The provider certainly has not run it.
    pub(crate) fn was_refused(&self) {
        let _ = self.0.compare_exchange(UNDER_WAY, CERTAINLY_NOT, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Nobody will ever know.
    pub(crate) fn was_lost(&self) {
        self.0.store(LOST, Ordering::Relaxed);
    }

    pub(crate) fn maybe_ran(&self) -> bool {
        self.0.load(Ordering::Relaxed) != CERTAINLY_NOT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_refusal_does_not_undo_an_earlier_loss() {
        let delivery = Delivery::default();
        assert!(!delivery.maybe_ran());
        delivery.begins();
        assert!(delivery.maybe_ran());
        delivery.was_refused();
        assert!(!delivery.maybe_ran());
        delivery.begins();
        delivery.was_lost();
        delivery.begins();
        delivery.was_refused();
        assert!(delivery.maybe_ran());
    }
}
