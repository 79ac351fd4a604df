//! The receiving half: check, match, keep order, queue.

use std::sync::Arc;
use std::time::Duration;
use std::vec::Drain;

use bytes::Bytes;
use macula_dht::Directory;
use macula_proto::{Access, Action, Frame, FrameKind, NodeId, wire};
use macula_transport::{LaneId, Transport};
use tokio::time::Instant;

use crate::Message;
use crate::acks::{self, Known as Acknowledged};
use crate::group::Scope;
use crate::heard::{Known, Now, Parts};
use crate::local::{Delivery, Subscriber};
use crate::message::{BadFrame, Content, Envelope, Incoming};
use crate::metrics::{DropReason, RefuseReason};
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
        self.on_known_frame(from, frame, &mut Vec::new().drain(..)).await;
    }

    /// The same for frames of one lane that arrived together: of those that follow each other on one topic, most of the work is
    /// done once.
    pub async fn on_lane_frames(&self, from: NodeId, frames: &mut Vec<Frame>) {
        let mut rest = frames.drain(..);
        while let Some(frame) = rest.next() {
            self.on_known_frame(from, frame, &mut rest).await;
        }
    }

    /// Takes a frame, and those of the rest that continue it.
    async fn on_known_frame(&self, from: NodeId, frame: Frame, rest: &mut Drain<'_, Frame>) {
        let inner = &self.inner;
        match inner.admit_known(from, frame, rest) {
            Ok(None) => {}
            Ok(Some((delivery, wait))) => {
                inner.wake_subscribers();
                inner.settle_delivery(delivery, Instant::now() + wait).await;
            }
            Err(Unknown::Refused(reason)) => inner.metrics.refuse(reason),
            Err(Unknown::New(frame)) => self.on_new_frame(from, frame).await,
        }
    }

    /// Tells subscribers of messages that came with the last frames. They are told once for many, so whoever calls
    /// [`on_lane_frame`](Self::on_lane_frame) must call this as soon as no further frame is at hand.
    pub fn on_lane_pause(&self) {
        self.inner.wake_subscribers();
    }

    async fn on_new_frame(&self, from: NodeId, frame: Frame) {
        let inner = &self.inner;
        match inner.admit(from, frame) {
            Ok(Some((delivery, wait))) => {
                inner.wake_subscribers();
                inner.settle_delivery(delivery, Instant::now() + wait).await;
            }
            Ok(None) => {}
            Err(reason) => inner.metrics.refuse(reason),
        }
    }
}

/// Why a frame is not delivered by what is known of its header.
enum Unknown {
    Refused(RefuseReason),
    New(Frame),
}

/// What is known already.
impl<T: Transport, D: Directory> Inner<T, D> {
    /// Delivers a message like others before, and those of the `rest` that differ from it in nothing but number and payload.
    /// `Some`: somebody has no room for the last of them.
    fn admit_known(
        &self,
        from: NodeId,
        frame: Frame,
        rest: &mut Drain<'_, Frame>,
    ) -> Result<Option<(Delivery, Duration)>, Unknown> {
        let known = match Parts::of(frame.header_slice()) {
            Some(parts) if frame.kind() == FrameKind::PUBLISH => {
                self.heard.find(from, &parts).map(|known| (known, parts.sequence))
            }
            _ => None,
        };
        let Some((known, sequence)) = known.filter(|(known, _)| known.generation == self.local.generation())
        else {
            return Err(Unknown::New(frame));
        };
        let Some((_, envelope)) = known.targets.first() else { return Err(Unknown::New(frame)) };
        let access = Access { peer: from, realm: &envelope.realm, action: Action::Publish(&envelope.topic) };
        self.gate.check(access).map_err(|_| Unknown::Refused(RefuseReason::Forbidden))?;

        let mut run = Run::default();
        let ended = self.deliver_run(&known, (frame, sequence), rest, &mut run);
        self.metrics.received.inc_by(run.received);
        self.metrics.duplicates.inc_by(run.duplicates);
        self.metrics.delivered.inc_by(run.taken);
        self.metrics.drop_copies(DropReason::SubscriberFull, run.lost);
        for (subscriber, _) in &known.targets {
            if run.taken > 0 && subscriber.mailbox.owe() {
                self.owed.lock().push(subscriber.mailbox.clone());
            }
        }
        Ok(ended?.map(|delivery| (delivery, known.wait)))
    }

    /// Delivers one message after the other, until something else follows or somebody has no room.
    fn deliver_run(
        &self,
        known: &Known,
        (mut frame, mut sequence): (Frame, u64),
        rest: &mut Drain<'_, Frame>,
        run: &mut Run,
    ) -> Result<Option<Delivery>, Unknown> {
        // Held until the messages have their places in every queue, as in `deliver_in_order`.
        let mut window = self.windows[shard(&known.from)].lock();
        loop {
            let Some(verdict) = window.check_at(known.place, known.epoch, sequence) else {
                return Err(Unknown::New(frame));
            };
            run.received += 1;
            let payload = frame.into_payload();
            self.metrics.message_bytes.observe(payload.len() as f64);
            if verdict == Verdict::Stale {
                run.duplicates += 1;
            } else {
                let delivery = deliver_known(known, sequence, payload);
                run.taken += delivery.taken as u64;
                run.lost += delivery.lost;
                if !delivery.is_settled() {
                    return Ok(Some(delivery));
                }
            }
            let next = rest.as_slice().first().filter(|next| {
                next.kind() == FrameKind::PUBLISH && known.generation == self.local.generation()
            });
            let Some(number) = next.and_then(|next| known.continued_by(next.header_slice())) else {
                return Ok(None);
            };
            let Some(next) = rest.next() else { return Ok(None) };
            (frame, sequence) = (next, number);
        }
    }

    /// Remembers the header of a plain message that was just delivered.
    fn remember(&self, header: &[u8], incoming: &Incoming, generation: u64, subscribers: &[Arc<Subscriber>]) {
        let plain = |subscriber: &Arc<Subscriber>| {
            subscriber.want.filter.is_none() && subscriber.want.group.is_none()
        };
        let is_plain =
            incoming.number.is_none() && incoming.places.is_empty() && incoming.scope == Scope::default();
        if !is_plain || !subscribers.iter().all(plain) {
            return;
        }
        let content = &incoming.content;
        let place = self.windows[shard(&content.publisher)].lock().place(content);
        if let (Some(place), Some(parts)) = (place, Parts::of(header)) {
            let wait = incoming.wait.min(self.config.wait_max);
            let now = Now { wait, generation, place, subscribers };
            self.heard.remember(&parts, content, now, |generation| generation == self.local.generation());
        }
    }

    fn wake_subscribers(&self) {
        let owed = std::mem::take(&mut *self.owed.lock());
        owed.iter().for_each(|mailbox| mailbox.wake());
    }
}

/// What became of messages that followed each other.
#[derive(Default)]
struct Run {
    received: u64,
    duplicates: u64,
    taken: u64,
    lost: u64,
}

/// Queues one message for each who gets it. The subscribers are not woken up.
fn deliver_known(known: &Known, sequence: u64, payload: Bytes) -> Delivery {
    let may_wait = !known.wait.is_zero();
    let mut delivery = Delivery::default();
    let mut give = |(subscriber, envelope): &(Arc<Subscriber>, Arc<Envelope>), payload| {
        let envelope = envelope.clone();
        let message =
            Message { payload, sequence, envelope, is_retained: false, retained_as: 0, receipt: None };
        delivery.add(subscriber.mailbox.offer_quietly(message, may_wait));
    };
    if let Some((last, others)) = known.targets.split_last() {
        others.iter().for_each(|target| give(target, payload.clone()));
        give(last, payload);
    }
    delivery
}

/// Which of the windows a publisher is in.
fn shard(publisher: &NodeId) -> usize {
    usize::from(publisher.as_bytes()[0]) % WINDOW_SHARDS
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Everything that does not wait. `None`: nobody here gets a message.
    fn admit(
        self: &Arc<Self>,
        from: NodeId,
        frame: Frame,
    ) -> Result<Option<(Delivery, Duration)>, RefuseReason> {
        match frame.kind() {
            FrameKind::PUBLISH => {}
            FrameKind::PUBLISHED => return self.on_acks(from, &frame).map(|()| None),
            FrameKind::TREE_MESSAGE | FrameKind::TREE_HAVE | FrameKind::TREE_WANT | FrameKind::TREE_LINK => {
                return self.on_tree_frame(from, frame).map(|()| None);
            }
            _ => return Err(RefuseReason::UnknownKind),
        }
        let header = frame.header_bytes();
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
        let Some(incoming) = self.stage(incoming) else { return Ok(None) };
        let content = &incoming.content;
        let generation = self.local.generation();
        let subscribers = self.local.matching(&content.realm, &content.topic);
        if subscribers.is_empty() {
            self.metrics.unwanted.inc();
            self.metrics.group_missed.inc_by(incoming.scope.groups.len() as u64);
            self.answer(&incoming, Outcome::Nobody);
            return Ok(None);
        }
        let wait = incoming.wait.min(self.config.wait_max);
        let delivery = if incoming.scope.handed_over || incoming.scope.apart {
            // It comes once, but late, or in an order of its own.
            self.deliver(&subscribers, &incoming, !wait.is_zero())
        } else {
            self.deliver_in_order(&subscribers, &incoming, !wait.is_zero())
        };
        let Some(delivery) = delivery else {
            self.metrics.duplicates.inc();
            return Ok(None);
        };
        self.count_delivery(&Delivery::default(), &delivery);
        self.remember(&header, &incoming, generation, &subscribers);
        let groups_missed = incoming.scope.groups.len().saturating_sub(delivery.groups);
        self.metrics.group_missed.inc_by(groups_missed as u64);
        Ok(Some((delivery, wait)))
    }

    pub(crate) fn may_come(&self, content: &Content) -> Result<(), RefuseReason> {
        if !self.config.realms.contains(&content.realm) {
            return Err(RefuseReason::Realm);
        }
        let action = Action::Publish(&content.topic);
        let access = Access { peer: content.publisher, realm: &content.realm, action };
        self.gate.check(access).map_err(|_| RefuseReason::Forbidden)
    }

    /// Queues a message for its subscribers; `None` if it came before, or a later one did.
    pub(crate) fn deliver_in_order(
        self: &Arc<Self>,
        subscribers: &[Arc<Subscriber>],
        incoming: &Incoming,
        may_wait: bool,
    ) -> Option<Delivery> {
        // Held until the message has its place in every queue: two connections of one publisher must not mix.
        let mut window = self.windows[shard(&incoming.content.publisher)].lock();
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
            Acknowledged::New => false,
            Acknowledged::Open => true,
            Acknowledged::Settled(outcome) => {
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
