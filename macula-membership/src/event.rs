//! Changes, and the queue on which a subscriber receives them.

use tokio::sync::broadcast;

use crate::Member;

/// A change of what this node believes about the members.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A member is there that was not: new, restarted, or back from the dead.
    Joined(Member),
    /// A member is suspected to be dead.
    Suspected(Member),
    /// A suspected member proved that it is alive.
    Refuted(Member),
    /// A suspected member did not refute in time: it counts as dead.
    Confirmed(Member),
    /// A member said goodbye.
    Left(Member),
    /// A member's contact or tags changed.
    Updated(Member),
}

impl Event {
    /// Whom it is about.
    pub const fn member(&self) -> &Member {
        match self {
            Self::Joined(member)
            | Self::Suspected(member)
            | Self::Refuted(member)
            | Self::Confirmed(member)
            | Self::Left(member)
            | Self::Updated(member) => member,
        }
    }
}

/// A subscriber's queue of events. It is bounded: whoever is too slow is told how much was lost.
#[derive(Debug)]
pub struct EventReceiver(broadcast::Receiver<Event>);

/// Why there is no next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The queue overflowed; take a snapshot to catch up. The next call goes on with what is still queued.
    #[error("{0} membership events were lost because the subscriber was too slow")]
    Lagged(u64),
    /// The membership is gone.
    #[error("the membership is gone")]
    Closed,
}

/// For implementations of [`Membership`](crate::Membership).
impl From<broadcast::Receiver<Event>> for EventReceiver {
    fn from(receiver: broadcast::Receiver<Event>) -> Self {
        Self(receiver)
    }
}

impl EventReceiver {
    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// [`EventError`]; after [`EventError::Lagged`] more events may follow.
    pub async fn recv(&mut self) -> Result<Event, EventError> {
        self.0.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(lost) => EventError::Lagged(lost),
            broadcast::error::RecvError::Closed => EventError::Closed,
        })
    }

    /// The next event if there is one already.
    ///
    /// # Errors
    /// [`EventError`], as for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Event>, EventError> {
        match self.0.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(broadcast::error::TryRecvError::Empty) => Ok(None),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => Err(EventError::Lagged(lost)),
            Err(broadcast::error::TryRecvError::Closed) => Err(EventError::Closed),
        }
    }
}
