//! The receiving half: check, match, keep order, queue.

use std::sync::Arc;

use macula_dht::Directory;
use macula_proto::{Access, Action, Frame, FrameKind, NodeId};
use macula_transport::Transport;
use tokio::time::Instant;

use crate::group::Scope;
use crate::local::{Delivery, Subscriber};
use crate::message::{BadFrame, Content, Incoming};
use crate::metrics::RefuseReason;
use crate::pubsub::{Inner, PubSub, WINDOW_SHARDS};
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
    /// Everything that does not wait. `None`: nobody here gets the message.
    fn admit(&self, from: NodeId, frame: Frame) -> Result<Option<(Delivery, Instant)>, RefuseReason> {
        if frame.kind() != FrameKind::PUBLISH {
            return Err(RefuseReason::UnknownKind);
        }
        let Incoming { content, wait, scope } =
            Incoming::from_frame(from, frame).map_err(|bad| match bad {
                BadFrame::Malformed => RefuseReason::Malformed,
                BadFrame::Publisher => RefuseReason::Publisher,
            })?;
        if !self.config.realms.contains(&content.realm) {
            return Err(RefuseReason::Realm);
        }
        let access = Access { peer: from, realm: &content.realm, action: Action::Publish(&content.topic) };
        self.gate.check(access).map_err(|_| RefuseReason::Forbidden)?;
        self.metrics.received.inc();
        self.metrics.message_bytes.observe(content.payload.bytes.len() as f64);

        let subscribers = self.local.matching(&content.realm, &content.topic);
        if subscribers.is_empty() {
            self.metrics.unwanted.inc();
            self.metrics.group_missed.inc_by(scope.groups.len() as u64);
            return Ok(None);
        }
        let wait = wait.min(self.config.wait_max);
        let delivery = if scope.handed_over {
            // It comes once, but late: the order is that of those who could not take it.
            Delivery::offer(&subscribers, &content, !wait.is_zero(), &scope)
        } else {
            match self.deliver_in_order(&subscribers, &content, !wait.is_zero(), &scope) {
                Some(delivery) => delivery,
                None => return Ok(None),
            }
        };
        self.count_delivery(&Delivery::default(), &delivery);
        self.metrics.group_missed.inc_by(scope.groups.len().saturating_sub(delivery.groups) as u64);
        Ok(Some((delivery, Instant::now() + wait)))
    }

    /// Queues a message for its subscribers; `None` if it came before, or a later one did.
    fn deliver_in_order(
        &self,
        subscribers: &[Arc<Subscriber>],
        content: &Content,
        may_wait: bool,
        scope: &Scope,
    ) -> Option<Delivery> {
        // Held until the message has its place in every queue: two connections of one publisher must not mix.
        let shard = usize::from(content.publisher.as_bytes()[0]) % WINDOW_SHARDS;
        let mut window = self.windows[shard].lock();
        if window.check(content) == Verdict::Stale {
            self.metrics.duplicates.inc();
            return None;
        }
        Some(Delivery::offer(subscribers, content, may_wait, scope))
    }
}
