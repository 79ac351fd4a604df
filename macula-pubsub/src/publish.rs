//! The sending half: number, encode once, hand to every link, say what became of it.

use std::sync::Arc;

use macula_dht::Directory;
use macula_proto::{Action, Frame, Name, Realm};
use macula_transport::Transport;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::group::{self, Addressed, Member, Pick, Scope};
use crate::link::{Link, Offered, Sent, WaitsFor};
use crate::local::{Delivery, LocalTable, Subscriber};
use crate::message::Content;
use crate::metrics::{DropReason, FilterPlace};
use crate::pubsub::{Inner, PubSub};
use crate::quick::Quick;
use crate::reading::{Chosen, Reading};
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
    /// Remote nodes that are to get it from others, by a tree: see [`direct_max`](crate::PubSubConfig::direct_max). Those of
    /// them to which this node hands it are among `peers`.
    pub by_trees: usize,
    /// Queue groups of which a member was given it: a remote node's connection, or a subscription of this node.
    pub groups: usize,
    /// Queue groups that nobody could be given it for: no node of theirs had a connection, or room.
    pub unserved: usize,
}

/// Whom one message goes to.
struct Audience<'a> {
    /// Peers that want every message of the topic.
    links: &'a [Arc<Link>],
    /// Those that want this one.
    chosen: Chosen,
    /// This node's own.
    subscribers: &'a [Arc<Subscriber>],
    /// Those that get it by trees.
    reading: &'a Reading,
}

/// A message on its way.
#[derive(Default)]
pub(crate) struct Departure {
    pub(crate) published: Published,
    delivery: Delivery,
    waiting: Vec<Waiting>,
    /// Groups whose first node could not be given it.
    refused: Vec<Pick>,
    /// The message itself, if there may be groups to hand over.
    content: Option<Box<Content>>,
}

/// A copy for a node that was picked for groups.
struct Picked {
    link: Arc<Link>,
    frame: Frame,
    picks: Vec<Pick>,
}

/// A copy that could not leave at once.
pub(crate) struct Waiting {
    what_for: WaitsFor,
    outcome: oneshot::Receiver<Sent>,
    /// The groups that it is for.
    picks: Vec<Pick>,
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
        let route = inner.routes.get(realm, topic, inner.clock.now(), &inner.metrics);
        match inner.publish_quickly(&route, payload, options) {
            Quick::Done(published) => Ok(published),
            // Boxed, so that who publishes quickly does not carry its state.
            Quick::Waits(departure) => Ok(Box::pin(inner.settle(*departure, options)).await),
            Quick::NotPlain(payload) => {
                Box::pin(inner.publish(inner.content(realm, topic, payload), options)).await
            }
        }
    }
}

impl Departure {
    /// That of a message of which some copies have left.
    pub(crate) fn after(published: Published) -> Self {
        Self { published, ..Self::default() }
    }

    /// Whether nothing of it waits.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Notes what became of a copy that is also for these groups.
    pub(crate) fn add(&mut self, offered: Offered, picks: Vec<Pick>) {
        match offered {
            Offered::Sent => {
                self.published.peers += 1;
                self.published.groups += picks.len();
            }
            Offered::Full => {
                self.published.dropped += 1;
                self.refused.extend(picks);
            }
            Offered::Waits(what_for, outcome) => self.waiting.push(Waiting { what_for, outcome, picks }),
        }
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    pub(crate) fn may_publish(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: &Payload,
    ) -> Result<(), PublishError> {
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

    /// A message of this node that has no number yet.
    pub(crate) fn content(&self, realm: &Realm, topic: &Name, payload: Payload) -> Content {
        Content {
            realm: realm.clone(),
            topic: topic.clone(),
            payload,
            publisher: self.me,
            epoch: self.epoch,
            sequence: 0,
            retained_as: 0,
        }
    }

    /// Publishes what may be published.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        content: Content,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        let (departure, unresolved) = self.send(content, options, Instant::now()).await?;
        let published = self.settle(departure, options).await;
        if unresolved > 0 {
            self.metrics.unresolved.inc();
            let waited = self.config.lookup_timeout;
            return Err(PublishError::Unresolved { unresolved, waited, published });
        }
        Ok(published)
    }

    /// Finds out who wants the message and hands it over. Returns also how many look-ups did not succeed.
    async fn send(
        self: &Arc<Self>,
        content: Content,
        options: PublishOptions,
        started: Instant,
    ) -> Result<(Departure, usize), PublishError> {
        let (realm, topic) = (&content.realm.clone(), &content.topic.clone());
        loop {
            let route = self.routes.get(realm, topic, self.clock.now(), &self.metrics);
            let unresolved = route.ready(started + self.config.lookup_timeout).await;
            let reading = self.routes.read(&route, self.gate.as_ref(), &self.metrics);
            let subscribers = self.local.matching(realm, topic);
            let chosen = if reading.is_plain() {
                Chosen::default()
            } else {
                reading.choose(&content.payload, false, &self.metrics)
            };
            let Some(mut order) = route.order() else {
                // Given up just now, because the cache was full.
                self.routes.forget(&route);
                continue;
            };
            let audience =
                Audience { links: reading.direct(), chosen, subscribers: &subscribers, reading: &reading };
            let mut departure = self.depart(content, &mut order, audience, options)?;
            departure.published.unnamed = reading.unnamed;
            return Ok((departure, unresolved));
        }
    }

    /// Gives the message its number and its place in every queue, while holding the topic's order. Never waits.
    fn depart(
        self: &Arc<Self>,
        mut content: Content,
        order: &mut Order,
        audience: Audience<'_>,
        options: PublishOptions,
    ) -> Result<Departure, PayloadError> {
        content.sequence = order.last_sequence + 1;
        let Audience { links, chosen, subscribers, reading } = audience;
        let addressed = if chosen.groups.is_empty() {
            Addressed::default()
        } else {
            group::address(&content, chosen.groups, &LocalTable::groups(subscribers, &content.payload))
        };
        let spread = self.places(reading, order.last_sequence);
        // Trees serve no groups, so that copies for groups go apart then.
        let is_apart = !spread.is_empty();
        let scope = Scope { grouped: addressed.here.grouped || is_apart, ..Scope::default() };
        let plain = links.iter().chain(&chosen.links);
        let plain = plain.filter(|link| is_apart || !addressed.there.contains_key(&link.peer()));
        let mut plain = plain.peekable();
        let frame = if plain.peek().is_none() {
            None
        } else {
            Some(content.to_frame_at(options.wait, &scope, &spread.places)?)
        };
        let picked = Self::copies_for_groups(&content, &addressed, is_apart, options)?;
        order.last_sequence = content.sequence;
        self.metrics.published.inc();
        self.metrics.message_bytes.observe(content.payload.bytes.len() as f64);

        let may_wait = !options.wait.is_zero();
        let mut departure = Departure::default();
        for (link, frame) in plain.zip(frame.iter().cycle()) {
            departure.add(self.offer(link, frame.clone(), options), Vec::new());
        }
        for Picked { link, frame, picks } in picked {
            departure.add(self.offer(&link, frame, options), picks);
        }
        departure.published.peers += self.spread(&content, &spread);
        departure.published.by_trees = if is_apart { reading.covered } else { 0 };
        self.count_copies(&Published::default(), &departure.published);
        departure.delivery = Delivery::offer(subscribers, &content, may_wait, &addressed.here);
        self.count_delivery(&Delivery::default(), &departure.delivery);
        if addressed.here.grouped {
            departure.content = Some(Box::new(content));
        }
        Ok(departure)
    }

    fn copies_for_groups(
        content: &Content,
        addressed: &Addressed,
        is_apart: bool,
        options: PublishOptions,
    ) -> Result<Vec<Picked>, PayloadError> {
        let copy = |(link, picks): &(Arc<Link>, Vec<Pick>)| {
            let groups = picks.iter().map(|pick| pick.group.clone()).collect();
            let scope = Scope { grouped: true, groups, handed_over: is_apart, apart: false };
            let frame = content.to_frame(options.wait, &scope)?;
            Ok(Picked { link: link.clone(), frame, picks: picks.clone() })
        };
        addressed.there.values().map(copy).collect()
    }

    pub(crate) fn offer(&self, link: &Arc<Link>, frame: Frame, options: PublishOptions) -> Offered {
        link.offer(frame, !options.wait.is_zero(), &self.transport, &self.tasks)
    }

    /// Waits for what had to wait, and counts.
    pub(crate) async fn settle(&self, departure: Departure, options: PublishOptions) -> Published {
        let Departure { mut published, delivery, waiting, mut refused, content } = departure;
        let (before, now) = (published, Instant::now());
        for Waiting { what_for, outcome, picks } in waiting {
            let patience = if what_for == WaitsFor::Room { options.wait } else { options.connect };
            match tokio::time::timeout_at(now + patience, outcome).await {
                Ok(Ok(Sent::Yes)) => {
                    published.peers += 1;
                    published.groups += picks.len();
                    continue;
                }
                Err(_) if what_for == WaitsFor::Room => published.dropped += 1,
                Ok(Ok(Sent::Failed) | Err(_)) | Err(_) => published.failed += 1,
            }
            refused.extend(picks);
        }
        self.count_copies(&before, &published);
        let delivery = self.settle_delivery(delivery, now + options.wait).await;
        published.local = delivery.taken;
        published.dropped += delivery.refused;
        published.groups += delivery.groups;
        if let Some(content) = content {
            // Boxed, so that who publishes without groups does not carry its state.
            Box::pin(self.hand_over_all(&content, refused, options, &mut published)).await;
        }
        published
    }

    /// Offers what no node of a group took yet to the others, for at most as long as a message may wait.
    async fn hand_over_all(
        &self,
        content: &Content,
        refused: Vec<Pick>,
        options: PublishOptions,
        published: &mut Published,
    ) {
        let deadline = Instant::now() + options.connect.max(options.wait);
        for pick in refused {
            if let Some(local) = self.hand_over(content, pick, options, deadline).await {
                published.groups += 1;
                published.local += local;
            } else {
                published.unserved += 1;
                self.metrics.group_unserved.inc();
            }
        }
    }

    /// Offers a message to the next nodes of a group. Returns how many subscriptions of this node have it now; `None`:
    /// nobody took it.
    async fn hand_over(
        &self,
        content: &Content,
        mut pick: Pick,
        options: PublishOptions,
        deadline: Instant,
    ) -> Option<usize> {
        let scope = Scope::handed_over(pick.group.clone());
        while let Some(member) = pick.next() {
            self.metrics.group_handovers.inc();
            let taken = match member {
                Member::Here => match self.deliver_here(content, &scope, options).await {
                    0 => false,
                    local => return Some(local),
                },
                Member::There(link) => match content.to_frame(options.wait, &scope) {
                    Ok(frame) => match self.offer(&link, frame, options) {
                        Offered::Sent => true,
                        Offered::Full => false,
                        Offered::Waits(_, outcome) => {
                            matches!(tokio::time::timeout_at(deadline, outcome).await, Ok(Ok(Sent::Yes)))
                        }
                    },
                    Err(_) => false,
                },
            };
            if taken {
                return Some(0);
            }
        }
        None
    }

    /// Gives a message to a member of a group here; says how many have it.
    async fn deliver_here(&self, content: &Content, scope: &Scope, options: PublishOptions) -> usize {
        let subscribers = self.local.matching(&content.realm, &content.topic);
        let delivery = Delivery::offer(&subscribers, content, !options.wait.is_zero(), scope);
        self.count_delivery(&Delivery::default(), &delivery);
        self.settle_delivery(delivery, Instant::now() + options.wait).await.taken
    }

    /// Waits for this node's subscribers that had no room, and counts.
    pub(crate) async fn settle_delivery(&self, delivery: Delivery, deadline: Instant) -> Delivery {
        let before = delivery.tally();
        let delivery = delivery.settle(deadline).await;
        self.count_delivery(&before, &delivery);
        delivery
    }

    /// Counts what became of copies to peers since `before`.
    pub(crate) fn count_copies(&self, before: &Published, now: &Published) {
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
