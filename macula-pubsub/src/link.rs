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

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Frame, NodeId};
use macula_transport::{LaneError, LaneId, LaneSender, Target, Transport, TransportError};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::acks::Number;

/// How many messages for a queue group a peer is not picked for after it could not be reached.
const PASSES: u32 = 32;

#[derive(Debug)]
pub(crate) struct Link {
    peer: NodeId,
    state: Mutex<State>,
    limits: LinkLimits,
    /// Counts frames that are sent again.
    resent: Counter,
}

/// What bounds a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkLimits {
    pub(crate) waiting_bytes_max: usize,
    pub(crate) unacked_bytes_max: usize,
    pub(crate) dial_timeout: Duration,
}

#[derive(Debug)]
struct State {
    /// Where the directory says that the peer is.
    contact: Contact,
    lane: Option<LaneSender>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Frames that are sent again on each new connection, until they are forgotten.
    unacked: BTreeMap<Number, Unacked>,
    unacked_bytes: usize,
    draining: bool,
    /// What is being sent waits for room in the lane.
    blocked: bool,
    /// How often the peer is passed over before it is picked for a queue group again.
    passes: u32,
}

#[derive(Debug)]
struct Waiting {
    frame: Frame,
    whose: Whose,
}

/// Who wants to know what became of a frame.
#[derive(Debug)]
enum Whose {
    /// Somebody who waits for it to be sent.
    Plain(oneshot::Sender<Sent>),
    /// Somebody who waits for more than that; see [`State::unacked`].
    Entrusted(Number),
}

#[derive(Debug)]
struct Unacked {
    frame: Frame,
    /// It is among those that wait.
    waits: bool,
    /// A lane took it at least once.
    was_sent: bool,
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
    pub(crate) fn new(contact: Contact, limits: LinkLimits, resent: Counter) -> Self {
        let state = State {
            contact,
            lane: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unacked: BTreeMap::new(),
            unacked_bytes: 0,
            draining: false,
            blocked: false,
            passes: 0,
        };
        Self { peer: state.contact.id, state: Mutex::new(state), limits, resent }
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
        state.wait(frame, Whose::Plain(tell));
        if !std::mem::replace(&mut state.draining, true) {
            drop(state);
            tasks.spawn(self.clone().drain(transport.clone()));
        }
        Offered::Waits(waits_for, outcome)
    }

    /// Sends a frame, and sends it again on each new connection, before all that is newer, until it is
    /// [forgotten](Self::forget). `false`: too much is unacknowledged.
    pub(crate) fn entrust<T: Transport>(
        self: &Arc<Self>,
        number: Number,
        frame: Frame,
        transport: &T,
        tasks: &TaskTracker,
    ) -> bool {
        let mut state = self.state.lock();
        let bytes = state.unacked_bytes + frame.wire_len();
        if bytes > self.limits.unacked_bytes_max && !state.unacked.is_empty() {
            return false;
        }
        state.unacked_bytes = bytes;
        let mut unacked = Unacked { frame: frame.clone(), waits: false, was_sent: false };
        match state.try_send(frame) {
            Attempt::Sent => unacked.was_sent = true,
            Attempt::Lost => {}
            Attempt::Back(frame) => {
                state.wait(frame, Whose::Entrusted(number));
                unacked.waits = true;
            }
        }
        let waits = unacked.waits;
        state.unacked.insert(number, unacked);
        if waits && !std::mem::replace(&mut state.draining, true) {
            drop(state);
            tasks.spawn(self.clone().drain(transport.clone()));
        }
        true
    }

    /// Nobody waits for this one any more. Returns whether a lane took it at least once.
    pub(crate) fn forget(&self, number: Number) -> bool {
        let mut state = self.state.lock();
        let Some(unacked) = state.unacked.remove(&number) else { return false };
        state.unacked_bytes -= unacked.frame.wire_len();
        unacked.was_sent
    }

    /// Dials if the connection is gone and something is unacknowledged.
    pub(crate) fn resume<T: Transport>(self: &Arc<Self>, transport: &T, tasks: &TaskTracker) {
        let mut state = self.state.lock();
        let stands = state.lane.as_ref().is_some_and(|lane| !lane.is_closed());
        if stands || state.draining || state.unacked.is_empty() {
            return;
        }
        state.lane = None;
        state.draining = true;
        drop(state);
        tasks.spawn(self.clone().drain(transport.clone()));
    }

    /// Sends what is unacknowledged and what waits, until nothing does.
    async fn drain<T: Transport>(self: Arc<Self>, transport: T) {
        if self.state.lock().owes() && self.lane(&transport).await.is_none() {
            self.fail_all();
        }
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
                        () = waiting.whose.gives_up() => None,
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
                    self.tell(waiting.whose, Sent::Yes);
                    return;
                }
                Err(LaneError::Closed(back) | LaneError::Full(back)) => waiting.frame = back,
                Err(_) => break,
            }
            self.state.lock().lane = None;
        }
        self.tell(waiting.whose, Sent::Failed);
        self.fail_all();
    }

    fn tell(&self, whose: Whose, sent: Sent) {
        self.state.lock().tell(whose, sent);
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
                self.send_again(&lane).await.ok()?;
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
            if !state.is_given_up(&waiting.whose) {
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
        for waiting in std::mem::take(&mut state.waiting) {
            state.tell(waiting.whose, Sent::Failed);
        }
    }

    /// On a new lane: first what older ones may have lost.
    async fn send_again(&self, lane: &LaneSender) -> Result<(), LaneError> {
        let unacked: Vec<(Number, Frame)> = {
            let state = self.state.lock();
            let lost = state.unacked.iter().filter(|(_, unacked)| !unacked.waits);
            lost.map(|(number, unacked)| (*number, unacked.frame.clone())).collect()
        };
        for (number, frame) in unacked {
            lane.send(frame).await?;
            if let Some(unacked) = self.state.lock().unacked.get_mut(&number)
                && std::mem::replace(&mut unacked.was_sent, true)
            {
                self.resent.inc();
            }
        }
        Ok(())
    }
}

enum Attempt {
    Sent,
    Back(Frame),
    Lost,
}

impl Whose {
    /// Waits until nobody waits for the frame to be sent.
    async fn gives_up(&mut self) {
        match self {
            Self::Plain(outcome) => outcome.closed().await,
            Self::Entrusted(_) => std::future::pending().await,
        }
    }
}

impl State {
    fn wait(&mut self, frame: Frame, whose: Whose) {
        self.waiting_bytes += frame.wire_len();
        self.waiting.push_back(Waiting { frame, whose });
    }

    fn is_given_up(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Plain(outcome) => outcome.is_closed(),
            Whose::Entrusted(number) => !self.unacked.contains_key(number),
        }
    }

    fn tell(&mut self, whose: Whose, sent: Sent) {
        match whose {
            // Whoever offered it may have stopped waiting.
            Whose::Plain(outcome) => drop(outcome.send(sent)),
            Whose::Entrusted(number) => {
                if let Some(unacked) = self.unacked.get_mut(&number) {
                    unacked.waits = false;
                    unacked.was_sent |= sent == Sent::Yes;
                }
            }
        }
    }

    /// Whether a new lane has to carry something again.
    fn owes(&self) -> bool {
        self.lane.is_none() && self.unacked.values().any(|unacked| !unacked.waits)
    }

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
        let limits = LinkLimits {
            waiting_bytes_max: 1_000,
            unacked_bytes_max: 1_000,
            dial_timeout: Duration::from_secs(1),
        };
        let link = Arc::new(Link::new(transport.local(), limits, Counter::default()));
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
