//! Receipts: whether the subscriptions of one node took a message that is to be acknowledged.
//!
//! ```text
//!   tracker ─┬─ receipt in a queue ── received ── dropped by the application ──▶ taken
//!            └─ receipt in a queue ── pushed out, or its subscription ended ───▶ lost
//!                     when the last is gone, whoever tracks the message is told once
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What became of a message at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All who wanted it took it.
    Taken,
    /// Some who wanted it lost it.
    Lagged,
    /// No subscription there is for this topic, or this group, any more.
    Nobody,
    /// Subscriptions there are for the topic; no filter of theirs let it through.
    Unwanted,
    /// Policy there says no.
    Refused,
    /// It came there once, so long ago that nobody remembers what became of it.
    Forgotten,
}

type Tell = Box<dyn FnOnce(Outcome) + Send>;

/// Hands out the receipts of one message.
#[derive(Debug)]
pub(crate) struct Tracker(Arc<Shared>);

/// Goes with one subscription's copy. All clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Receipt(Arc<Copy>);

struct Copy {
    received: AtomicBool,
    message: Arc<Shared>,
}

struct Shared {
    lost: AtomicBool,
    tell: Mutex<Option<(Outcome, Tell)>>,
}

impl Tracker {
    /// `tell` is called once, when all receipts are gone.
    pub(crate) fn new(tell: impl FnOnce(Outcome) + Send + 'static) -> Self {
        let tell: Tell = Box::new(tell);
        Self(Arc::new(Shared {
            lost: AtomicBool::new(false),
            tell: Mutex::new(Some((Outcome::Taken, tell))),
        }))
    }

    /// Tells a receiver.
    pub(crate) fn with_outcome() -> (Self, oneshot::Receiver<Outcome>) {
        let (tell, outcome) = oneshot::channel();
        let tell = move |outcome| {
            // Nobody may wait any more.
            let _ = tell.send(outcome);
        };
        (Self::new(tell), outcome)
    }

    /// For one more copy.
    pub(crate) fn receipt(&self) -> Receipt {
        Receipt(Arc::new(Copy { received: AtomicBool::new(false), message: self.0.clone() }))
    }

    /// There are no copies, for this reason.
    pub(crate) fn none(self, outcome: Outcome) {
        if let Some((kept, _)) = self.0.tell.lock().as_mut() {
            *kept = outcome;
        }
    }
}

impl Receipt {
    /// The application has the copy: from now on, dropping it means that it was taken.
    pub(crate) fn received(&self) {
        self.0.received.store(true, Ordering::Release);
    }

    /// The application could not do with it what it should.
    pub(crate) fn lost(&self) {
        self.0.message.lost.store(true, Ordering::Release);
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if !self.received.load(Ordering::Acquire) || std::thread::panicking() {
            self.message.lost.store(true, Ordering::Release);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((outcome, tell)) = self.tell.get_mut().take() {
            tell(if *self.lost.get_mut() { Outcome::Lagged } else { outcome });
        }
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Copy(received: {})", self.received.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared(lost: {})", self.lost.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn tracker() -> (Tracker, mpsc::Receiver<Outcome>) {
        let (tell, told) = mpsc::sync_channel(1);
        (Tracker::new(move |outcome| tell.send(outcome).unwrap()), told)
    }

    #[test]
    fn a_message_is_taken_when_every_copy_was_received_and_dropped() {
        let (tracker, told) = tracker();
        let (first, second) = (tracker.receipt(), tracker.receipt());
        drop(tracker);
        first.received();
        let clone = first.clone();
        drop(first);
        second.received();
        drop(second);
        assert!(told.try_recv().is_err(), "a clone of the first is still in use");
        drop(clone);
        assert_eq!(told.try_recv(), Ok(Outcome::Taken));
    }

    #[test]
    fn a_copy_that_nobody_received_or_whose_handler_panicked_is_lost() {
        let (lost, told) = tracker();
        let (first, second) = (lost.receipt(), lost.receipt());
        drop((lost, first));
        second.received();
        drop(second);
        assert_eq!(told.try_recv(), Ok(Outcome::Lagged));

        let (panics, told) = tracker();
        let receipt = panics.receipt();
        drop(panics);
        receipt.received();
        let handler = std::panic::AssertUnwindSafe(move || {
            let _kept = receipt;
            panic!("the handler fails, as it should in this test");
        });
        assert!(std::panic::catch_unwind(handler).is_err());
        assert_eq!(told.try_recv(), Ok(Outcome::Lagged));
    }

    #[test]
    fn no_copies_at_all_have_their_reason() {
        let (tracker, told) = tracker();
        tracker.none(Outcome::Nobody);
        assert_eq!(told.try_recv(), Ok(Outcome::Nobody));
    }
}
