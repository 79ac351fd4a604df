//! The sending half: number, encode once, hand to every link, say what became of it.

use std::sync::Arc;

use macula_dht::Directory;
use macula_proto::{Action, Name, Realm};
use macula_transport::Transport;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::link::{Link, Offered, Sent, WaitsFor};
use crate::local::{Delivery, Subscriber};
use crate::message::Content;
use crate::metrics::{DropReason, FilterPlace};
use crate::pubsub::{Inner, PubSub};
use crate::route::Order;
use crate::{Payload, PayloadError, PublishError, PublishOptions};

/// Whom a message reached, as far as this node can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Published {
    /// Remote nodes whose connection took the message. It arrives unless the connection breaks; whether its
    /// subscribers then lag is theirs to count.
    pub peers: usize,
    /// Subscriptions of this node that have it.
    pub local: usize,
    /// Copies dropped because a peer's queue, or the queue of a subscription of this node, was full.
    pub dropped: usize,
    /// Remote nodes to which there was no connection in time.
    pub failed: usize,
    /// Remote nodes that the directory knows of but did not name, so that they got nothing: its answers are samples
    /// past a certain size. An estimate, and at most so many: some of them may not want this topic.
    pub unnamed: usize,
}

/// A message on its way.
struct Departure {
    published: Published,
    delivery: Delivery,
    waiting: Vec<(WaitsFor, oneshot::Receiver<Sent>)>,
}

impl<T: Transport, D: Directory> PubSub<T, D> {
    /// Publishes one message: directly to every remote node that wants it, and to this node's own subscribers.
    ///
    /// The first message on a topic waits until it is known who subscribes
    /// ([`lookup_timeout`](crate::PubSubConfig::lookup_timeout)). A node that has met no other reaches nobody
    /// remote, which is no error. Messages on one topic leave in the order in which they pass this point; a peer
    /// that is slow, or not connected yet, delays this call, not the other peers.
    ///
    /// # Errors
    /// [`PublishError`]. Only with [`Unresolved`](PublishError::Unresolved) has anything been sent.
    pub async fn publish_with(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        let inner = &self.inner;
        inner.may_publish(realm, topic, &payload)?;
        let started = Instant::now();
        let (departure, unresolved) = inner.send(realm, topic, payload, options, started).await?;
        let published = inner.settle(departure, options).await;
        if unresolved > 0 {
            inner.metrics.unresolved.inc();
            let waited = inner.config.lookup_timeout;
            return Err(PublishError::Unresolved { unresolved, waited, published });
        }
        Ok(published)
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    fn may_publish(&self, realm: &Realm, topic: &Name, payload: &Payload) -> Result<(), PublishError> {
        if self.local.is_closed() {
            return Err(PublishError::Closed);
        }
        if !self.config.realms.contains(realm) {
            return Err(PublishError::NotInRealm(realm.clone()));
        }
        self.check(realm, Action::Publish(topic))?;
        payload.check()?;
        Ok(())
    }

    /// Finds out who wants the message and hands it over. Returns also how many look-ups did not succeed.
    async fn send(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
        started: Instant,
    ) -> Result<(Departure, usize), PublishError> {
        let content = Content {
            realm: realm.clone(),
            topic: topic.clone(),
            payload,
            publisher: self.me,
            epoch: self.epoch,
            sequence: 0,
        };
        loop {
            let route = self.routes.get(realm, topic, self.clock.now(), &self.metrics);
            let unresolved = route.ready(started + self.config.lookup_timeout).await;
            let reading = self.routes.read(&route, self.gate.as_ref(), &self.metrics);
            let some: Vec<Arc<Link>>;
            let links = if reading.choosy.is_empty() {
                &reading.links
            } else {
                some =
                    [reading.links.clone(), reading.choosy_links(&content.payload, &self.metrics)].concat();
                &some
            };
            let subscribers = self.local.matching(realm, topic);
            let Some(mut order) = route.order() else {
                // Given up just now, because the cache was full.
                self.routes.forget(&route);
                continue;
            };
            let mut departure = self.depart(content, &mut order, links, &subscribers, options)?;
            departure.published.unnamed = reading.unnamed;
            return Ok((departure, unresolved));
        }
    }

    /// Gives the message its number and its place in every queue, while holding the topic's order. Never waits.
    fn depart(
        &self,
        mut content: Content,
        order: &mut Order,
        links: &[Arc<Link>],
        subscribers: &[Arc<Subscriber>],
        options: PublishOptions,
    ) -> Result<Departure, PayloadError> {
        content.sequence = order.last_sequence + 1;
        let frame = if links.is_empty() { None } else { Some(content.to_frame(options.wait)?) };
        order.last_sequence = content.sequence;
        self.metrics.published.inc();
        self.metrics.message_bytes.observe(content.payload.bytes.len() as f64);

        let may_wait = !options.wait.is_zero();
        let mut published = Published::default();
        let mut waiting = Vec::new();
        for (link, frame) in links.iter().zip(frame.iter().cycle()) {
            match link.offer(frame.clone(), may_wait, &self.transport, &self.tasks) {
                Offered::Sent => published.peers += 1,
                Offered::Full => published.dropped += 1,
                Offered::Waits(what_for, outcome) => waiting.push((what_for, outcome)),
            }
        }
        self.count_copies(&Published::default(), &published);
        let delivery = Delivery::offer(subscribers, &content, may_wait);
        self.count_delivery(&Delivery::default(), &delivery);
        Ok(Departure { published, delivery, waiting })
    }

    /// Waits for what had to wait, and counts.
    async fn settle(&self, departure: Departure, options: PublishOptions) -> Published {
        let Departure { mut published, delivery, waiting } = departure;
        let (before, now) = (published, Instant::now());
        for (what_for, outcome) in waiting {
            let patience = if what_for == WaitsFor::Room { options.wait } else { options.connect };
            match tokio::time::timeout_at(now + patience, outcome).await {
                Ok(Ok(Sent::Yes)) => published.peers += 1,
                Err(_) if what_for == WaitsFor::Room => published.dropped += 1,
                Ok(Ok(Sent::Failed) | Err(_)) | Err(_) => published.failed += 1,
            }
        }
        self.count_copies(&before, &published);
        let delivery = self.settle_delivery(delivery, now + options.wait).await;
        published.local = delivery.taken;
        published.dropped += delivery.refused;
        published
    }

    /// Waits for this node's subscribers that had no room, and counts.
    pub(crate) async fn settle_delivery(&self, delivery: Delivery, deadline: Instant) -> Delivery {
        let before = delivery.tally();
        let delivery = delivery.settle(deadline).await;
        self.count_delivery(&before, &delivery);
        delivery
    }

    /// Counts what became of copies to peers since `before`.
    fn count_copies(&self, before: &Published, now: &Published) {
        self.metrics.sent.inc_by((now.peers - before.peers) as u64);
        self.metrics.drop_copies(DropReason::PeerFull, (now.dropped - before.dropped) as u64);
        self.metrics.drop_copies(DropReason::PeerFailed, (now.failed - before.failed) as u64);
    }

    /// Counts what became of copies to subscribers here since `before`.
    pub(crate) fn count_delivery(&self, before: &Delivery, now: &Delivery) {
        self.metrics.delivered.inc_by((now.taken - before.taken) as u64);
        self.metrics.drop_copies(DropReason::SubscriberFull, now.lost - before.lost);
        self.metrics.filter(FilterPlace::Subscriber, now.filtered - before.filtered);
    }
}
