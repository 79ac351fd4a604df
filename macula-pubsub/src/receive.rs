//! The receiving half: check, match, keep order, queue.

use std::sync::Arc;

use bytes::Bytes;
use macula_dht::Directory;
use macula_proto::{Access, Action, Frame, FrameKind, NodeId, wire};
use macula_transport::{LaneId, Transport};
use tokio::time::Instant;

use crate::acks::{self, Known};
use crate::local::{Delivery, Subscriber};
use crate::message::{BadFrame, Content, Incoming};
use crate::metrics::RefuseReason;
use crate::pubsub::{Inner, PubSub, WINDOW_SHARDS};
use crate::receipt::{Outcome, Tracker};
use crate::window::Verdict;

impl<T: Transport, D: Directory> PubSub<T, D> {
    /// Takes a frame of this service that `from` sent on a lane, and queues its message for the subscribers here.
    ///
    /// Await it before reading the lane's next frame: it waits only if a full subscriber asked for
    /// [`LagPolicy::Wait`](crate::LagPolicy::Wait) and the publisher allows it, and for at most
    /// [`wait_max`](crate::PubSubConfig::wait_max). What is wrong with a frame is counted and the frame dropped.
    pub async fn on_lane_frame(&self, from: NodeId, frame: Frame) {
        let inner = &self.inner;
        match inner.admit(from, frame) {
            Ok(Some((delivery, deadline))) => {
                inner.settle_delivery(delivery, deadline).await;
            }
            Ok(None) => {}
            Err(reason) => inner.metrics.refuse(reason),
        }
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Everything that does not wait. `None`: nobody here gets a message.
    fn admit(
        self: &Arc<Self>,
        from: NodeId,
        frame: Frame,
    ) -> Result<Option<(Delivery, Instant)>, RefuseReason> {
        match frame.kind() {
            FrameKind::PUBLISH => {}
            FrameKind::PUBLISHED => return self.on_acks(from, &frame).map(|()| None),
            _ => return Err(RefuseReason::UnknownKind),
        }
        let incoming = Incoming::from_frame(from, frame).map_err(|bad| match bad {
            BadFrame::Malformed => RefuseReason::Malformed,
            BadFrame::Publisher => RefuseReason::Publisher,
        })?;
        let content = &incoming.content;
        if let Err(reason) = self.may_come(content) {
            self.answer(&incoming, Outcome::Refused);
            return Err(reason);
        }
        self.metrics.received.inc();
        self.metrics.message_bytes.observe(content.payload.bytes.len() as f64);
        if self.came_before(&incoming) {
            self.metrics.duplicates.inc();
            return Ok(None);
        }
        let subscribers = self.local.matching(&content.realm, &content.topic);
        if subscribers.is_empty() {
            self.metrics.unwanted.inc();
            self.metrics.group_missed.inc_by(incoming.scope.groups.len() as u64);
            self.answer(&incoming, Outcome::Nobody);
            return Ok(None);
        }
        let wait = incoming.wait.min(self.config.wait_max);
        let delivery = if incoming.scope.handed_over {
            // It comes once, but late: the order is that of those who could not take it.
            self.deliver(&subscribers, &incoming, !wait.is_zero())
        } else {
            self.deliver_in_order(&subscribers, &incoming, !wait.is_zero())
        };
        let Some(delivery) = delivery else {
            self.metrics.duplicates.inc();
            return Ok(None);
        };
        self.count_delivery(&Delivery::default(), &delivery);
        let groups_missed = incoming.scope.groups.len().saturating_sub(delivery.groups);
        self.metrics.group_missed.inc_by(groups_missed as u64);
        Ok(Some((delivery, Instant::now() + wait)))
    }

    fn may_come(&self, content: &Content) -> Result<(), RefuseReason> {
        if !self.config.realms.contains(&content.realm) {
            return Err(RefuseReason::Realm);
        }
        let action = Action::Publish(&content.topic);
        let access = Access { peer: content.publisher, realm: &content.realm, action };
        self.gate.check(access).map_err(|_| RefuseReason::Forbidden)
    }

    /// Queues a message for its subscribers; `None` if it came before, or a later one did.
    fn deliver_in_order(
        self: &Arc<Self>,
        subscribers: &[Arc<Subscriber>],
        incoming: &Incoming,
        may_wait: bool,
    ) -> Option<Delivery> {
        // Held until the message has its place in every queue: two connections of one publisher must not mix.
        let shard = usize::from(incoming.content.publisher.as_bytes()[0]) % WINDOW_SHARDS;
        let mut window = self.windows[shard].lock();
        if window.check(&incoming.content) == Verdict::Stale {
            // It may be on its way by another connection of the publisher.
            if !self.came_before(incoming) {
                self.answer(incoming, Outcome::Forgotten);
            }
            return None;
        }
        self.deliver(subscribers, incoming, may_wait)
    }

    /// Queues a message for its subscribers; `None` if it is to be acknowledged and came before.
    fn deliver(
        self: &Arc<Self>,
        subscribers: &[Arc<Subscriber>],
        incoming: &Incoming,
        may_wait: bool,
    ) -> Option<Delivery> {
        let Incoming { content, scope, .. } = incoming;
        let (publisher, epoch) = (content.publisher, content.epoch);
        let tracker = match incoming.number {
            None => None,
            Some(number) if self.remembered.open(publisher, epoch, number) => {
                let remembered = self.remembered.clone();
                Some(Tracker::new(move |outcome| remembered.settle(publisher, epoch, number, outcome)))
            }
            Some(_) => return None,
        };
        Some(Delivery::offer_tracked(subscribers, content, may_wait, scope, tracker))
    }
}

/// Acknowledgements.
impl<T: Transport, D: Directory> Inner<T, D> {
    /// Whether a message that is to be acknowledged came before. If it is settled, that is said again.
    fn came_before(&self, incoming: &Incoming) -> bool {
        let Some(number) = incoming.number else { return false };
        let Content { publisher, epoch, .. } = incoming.content;
        match self.remembered.know(publisher, epoch, number) {
            Known::New => false,
            Known::Open => true,
            Known::Settled(outcome) => {
                self.remembered.settle(publisher, epoch, number, outcome);
                true
            }
        }
    }

    /// Says what became of a message that no subscription here gets, if its publisher wants to know.
    fn answer(&self, incoming: &Incoming, outcome: Outcome) {
        let Some(number) = incoming.number else { return };
        let Content { publisher, epoch, .. } = incoming.content;
        if self.remembered.open(publisher, epoch, number) {
            self.remembered.settle(publisher, epoch, number, outcome);
        }
    }

    /// A subscriber's node says what became of this node's messages.
    fn on_acks(&self, from: NodeId, frame: &Frame) -> Result<(), RefuseReason> {
        let acks: wire::PublishAcks = frame.header().map_err(|_| RefuseReason::Malformed)?;
        if acks.epoch == self.epoch {
            for (number, outcome) in acks::read(&acks) {
                self.awaited.settle(from, number, outcome);
            }
        }
        Ok(())
    }

    /// Tells publishers what became of their messages, for ever.
    pub(crate) async fn tell_publishers(self: &Arc<Self>) {
        loop {
            let publisher = self.remembered.next_to_tell().await;
            self.tasks.spawn(self.clone().tell(publisher));
        }
    }

    /// Tells those for whom there is something now.
    pub(crate) fn tell_waiting_publishers(self: &Arc<Self>) {
        while let Some(publisher) = self.remembered.try_next_to_tell() {
            self.tasks.spawn(self.clone().tell(publisher));
        }
    }

    async fn tell(self: Arc<Self>, publisher: NodeId) {
        while let Some(acks) = self.remembered.next_batch(publisher) {
            let frame = Frame::new(FrameKind::PUBLISHED, &acks, Bytes::new());
            let told = async {
                let lane = self.transport.lane(publisher, LaneId::CONTROL).await.ok()?;
                lane.send(frame.ok()?).await.ok()
            };
            if tokio::time::timeout(self.config.dial_timeout, told).await.ok().flatten().is_none() {
                // It asks again over its next connection.
                tracing::debug!(peer = %publisher.short(), "an acknowledgement could not be sent");
                return self.remembered.give_up(publisher);
            }
        }
    }
}
