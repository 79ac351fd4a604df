//! The way to one peer: its lane, and the frames that wait for it.
//!
//! ```text
//!             offer: the lane takes it
//!   ┌───────┐◀──────────────────────────┐
//!   │ ready │                           │ nothing waits any more
//!   └───┬───┘                       ┌───┴──────┐
//!       │ no lane, or it is full    │ draining │  one task sends what waits, in order;
//!       └──────────────────────────▶└──────────┘  new frames queue behind
//! ```
//!
//! The first frame to a peer dials; while that lasts, only this peer's frames wait. Frames never overtake each
//! other. What waits is bounded, and is given up when whoever published it stops waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Frame, NodeId};
use macula_transport::{LaneError, LaneId, LaneSender, Target, Transport, TransportError};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// How many messages for a queue group a peer is not picked for after it could not be reached.
const PASSES: u32 = 32;

#[derive(Debug)]
pub(crate) struct Link {
    peer: NodeId,
    state: Mutex<State>,
    limits: LinkLimits,
}

/// What bounds a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkLimits {
    pub(crate) waiting_bytes_max: usize,
    pub(crate) dial_timeout: Duration,
}

#[derive(Debug)]
struct State {
    /// Where the directory says that the peer is.
    contact: Contact,
    lane: Option<LaneSender>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    draining: bool,
    /// What is being sent waits for room in the lane.
    blocked: bool,
    /// How often the peer is passed over before it is picked for a queue group again.
    passes: u32,
}

#[derive(Debug)]
struct Waiting {
    frame: Frame,
    outcome: oneshot::Sender<Sent>,
}

/// How it ended for a frame that had to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A lane took it.
    Yes,
    /// There was no connection.
    Failed,
}

/// What a frame waits for, in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    Connection,
    Room,
}

#[derive(Debug)]
pub(crate) enum Offered {
    /// The lane took it.
    Sent,
    /// There is no room.
    Full,
    /// It waits. Dropping the receiver gives it up.
    Waits(WaitsFor, oneshot::Receiver<Sent>),
}

impl Link {
    pub(crate) fn new(contact: Contact, limits: LinkLimits) -> Self {
        let state = State {
            contact,
            lane: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            draining: false,
            blocked: false,
            passes: 0,
        };
        Self { peer: state.contact.id, state: Mutex::new(state), limits }
    }

    pub(crate) fn peer(&self) -> NodeId {
        self.peer
    }

    /// Bytes that wait here and in the lane; `None` if there is no lane.
    pub(crate) fn pending_bytes(&self) -> Option<usize> {
        let state = self.state.lock();
        Some(state.waiting_bytes + state.lane.as_ref()?.queued_bytes())
    }

    /// Whether to try others first, because this peer is being dialled or could not be reached lately. Asking counts:
    /// after [`PASSES`] times it is tried again.
    pub(crate) fn passes(&self) -> bool {
        let mut state = self.state.lock();
        let passes = state.passes > 0 || (state.lane.is_none() && state.draining);
        state.passes = state.passes.saturating_sub(1);
        passes
    }

    /// The directory's newest word on where the peer is.
    pub(crate) fn learn(&self, contact: &Contact) {
        let mut state = self.state.lock();
        if state.contact != *contact {
            state.contact = contact.clone();
        }
    }

    /// Sends a frame, or queues it behind those that wait. Never waits itself. `may_wait`: whether it may queue
    /// for room; for a connection it always may.
    pub(crate) fn offer<T: Transport>(
        self: &Arc<Self>,
        frame: Frame,
        may_wait: bool,
        transport: &T,
        tasks: &TaskTracker,
    ) -> Offered {
        let mut state = self.state.lock();
        let frame = match state.try_send(frame) {
            Attempt::Sent => return Offered::Sent,
            Attempt::Lost => return Offered::Full,
            Attempt::Back(frame) => frame,
        };
        // Behind frames that wait for nothing, it waits no longer than they do: that is no want of room.
        let waits_for = if state.lane.is_some() && (state.blocked || !state.draining) {
            WaitsFor::Room
        } else {
            WaitsFor::Connection
        };
        if waits_for == WaitsFor::Room && !may_wait {
            return Offered::Full;
        }
        let bytes = state.waiting_bytes + frame.wire_len();
        if bytes > self.limits.waiting_bytes_max && !state.waiting.is_empty() {
            return Offered::Full;
        }
        let (tell, outcome) = oneshot::channel();
        state.waiting_bytes = bytes;
        state.waiting.push_back(Waiting { frame, outcome: tell });
        if !std::mem::replace(&mut state.draining, true) {
            drop(state);
            tasks.spawn(self.clone().drain(transport.clone()));
        }
        Offered::Waits(waits_for, outcome)
    }

    /// Sends what waits, until nothing does.
    async fn drain<T: Transport>(self: Arc<Self>, transport: T) {
        while let Some(waiting) = self.next_waiting() {
            self.send(&transport, waiting).await;
        }
    }

    async fn send<T: Transport>(&self, transport: &T, mut waiting: Waiting) {
        // A lane may have ended since it was last used: then one new connection is due.
        for _ in 0..2 {
            let Some(lane) = self.lane(transport).await else { break };
            let sent = match lane.try_send(waiting.frame) {
                Err(LaneError::Full(frame)) => {
                    self.state.lock().blocked = true;
                    let sent = tokio::select! {
                        biased;
                        sent = lane.send(frame) => Some(sent),
                        // Nobody waits for it any more.
                        () = waiting.outcome.closed() => None,
                    };
                    self.state.lock().blocked = false;
                    let Some(sent) = sent else { return };
                    sent
                }
                sent => sent,
            };
            match sent {
                Ok(()) => {
                    self.state.lock().passes = 0;
                    let _ = waiting.outcome.send(Sent::Yes);
                    return;
                }
                Err(LaneError::Closed(back) | LaneError::Full(back)) => waiting.frame = back,
                Err(_) => break,
            }
            self.state.lock().lane = None;
        }
        let _ = waiting.outcome.send(Sent::Failed);
        self.fail_all();
    }

    async fn lane<T: Transport>(&self, transport: &T) -> Option<LaneSender> {
        let (lane, contact) = {
            let state = self.state.lock();
            (state.lane.clone(), state.contact.clone())
        };
        if lane.is_some() {
            return lane;
        }
        match tokio::time::timeout(self.limits.dial_timeout, dial(transport, contact)).await {
            Ok(Ok(lane)) => {
                self.state.lock().lane = Some(lane.clone());
                Some(lane)
            }
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer.short(), %error, "no lane to a subscriber");
                None
            }
            Err(_) => {
                tracing::debug!(peer = %self.peer.short(), "no lane to a subscriber in time");
                None
            }
        }
    }

    fn next_waiting(&self) -> Option<Waiting> {
        let mut state = self.state.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            state.waiting_bytes -= waiting.frame.wire_len();
            if !waiting.outcome.is_closed() {
                return Some(waiting);
            }
        }
        state.draining = false;
        None
    }

    fn fail_all(&self) {
        let mut state = self.state.lock();
        state.waiting_bytes = 0;
        state.passes = PASSES;
        for waiting in state.waiting.drain(..) {
            let _ = waiting.outcome.send(Sent::Failed);
        }
    }
}

enum Attempt {
    Sent,
    Back(Frame),
    Lost,
}

impl State {
    /// Hands the frame to the lane if nothing is before it.
    fn try_send(&mut self, frame: Frame) -> Attempt {
        let Some(lane) = self.lane.as_ref().filter(|_| !self.draining) else { return Attempt::Back(frame) };
        match lane.try_send(frame) {
            Ok(()) => Attempt::Sent,
            Err(LaneError::Full(back)) => Attempt::Back(back),
            Err(LaneError::Closed(back)) => {
                self.lane = None;
                Attempt::Back(back)
            }
            Err(_) => Attempt::Lost,
        }
    }
}

async fn dial<T: Transport>(transport: &T, contact: Contact) -> Result<LaneSender, TransportError> {
    use TransportError::{NoAddress, Unreachable, WrongPeer};
    let peer = contact.id;
    match transport.lane(peer, LaneId::DATA).await {
        // The address book knows nothing, or nothing that is still true: take the record's word.
        Err(NoAddress(_) | Unreachable { .. } | WrongPeer { .. }) if !contact.addrs.is_empty() => {
            transport.connect(Target::Contact(contact)).await?;
            transport.lane(peer, LaneId::DATA).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use macula_proto::{FrameKind, wire};
    use macula_transport::lane_queue;
    use macula_transport::memory::MemoryNetwork;

    use super::*;

    #[tokio::test]
    async fn only_a_full_lane_wants_room() {
        let transport = MemoryNetwork::new(1).node(1);
        let limits = LinkLimits { waiting_bytes_max: 1_000, dial_timeout: Duration::from_secs(1) };
        let link = Arc::new(Link::new(transport.local(), limits));
        let frame = || Frame::new(FrameKind::PUBLISH, &wire::Publish::default(), Bytes::new()).unwrap();
        let offer = || link.offer(frame(), false, &transport, &TaskTracker::new());
        let (lane, mut queue) = lane_queue(10_000);
        // The task that sends what waits has just sent the last frame, and has not said so yet.
        link.state.lock().lane = Some(lane);
        link.state.lock().draining = true;
        assert!(matches!(offer(), Offered::Waits(WaitsFor::Connection, _)));
        link.state.lock().blocked = true;
        assert!(matches!(offer(), Offered::Full));
        // It is done: the lane takes frames directly.
        (link.state.lock().blocked, link.state.lock().draining) = (false, false);
        assert!(matches!(offer(), Offered::Sent));
        queue.close();
    }
}
