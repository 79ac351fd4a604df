//! Publishing until everybody who should has the message: at least once.
//!
//! ```text
//!   number ─▶ link ── sent ── again on each new connection ──▶ subscriber's node
//!     ▲                                                             │ receipts of its subscriptions
//!     └──────────── PUBLISHED: what became of the number ◀──────────┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use macula_dht::Directory;
use macula_proto::{Name, NodeId, Realm};
use macula_transport::Transport;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::acks::{Awaiting, Number};
use crate::group::{Member, Pick, Scope};
use crate::link::Link;
use crate::local::{Delivery, LocalTable, Subscriber};
use crate::message::Content;
use crate::metrics::AckOutcome;
use crate::pubsub::{Inner, PubSub};
use crate::reading::{Chosen, Reading};
use crate::receipt::{Outcome, Tracker};
use crate::route::Order;
use crate::{Group, Payload, PayloadError, PublishError, PublishOptions};

/// How often it is checked whether a connection still stands over which something is unacknowledged.
const RESUME_EVERY: Duration = Duration::from_millis(200);

/// Who took a message, and who did not.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Acknowledged {
    /// Nodes of which every subscription that wants the message took it, in order of id; this node may be one of them.
    pub taken: Vec<NodeId>,
    /// The other nodes with subscriptions for it, as far as is known, in order of id.
    pub missed: Vec<Missed>,
    /// Queue groups with the node whose member took it, in order of name.
    pub groups: Vec<(Group, NodeId)>,
    /// Queue groups of which no member took it.
    pub unserved: Vec<Group>,
    /// Remote nodes at most that the directory knows of but did not name.
    pub unnamed: usize,
    /// Look-ups that did not succeed in time: others may have missed it.
    pub unresolved: usize,
}

impl Acknowledged {
    /// Whether everybody who should took it.
    pub fn is_complete(&self) -> bool {
        self.missed.is_empty() && self.unserved.is_empty() && self.unnamed == 0 && self.unresolved == 0
    }
}

impl Acknowledged {
    /// What became of the copy for one node.
    pub(crate) fn note(&mut self, node: NodeId, outcome: Result<Outcome, MissReason>) {
        match outcome {
            Ok(Outcome::Unwanted) => {}
            Ok(_) => self.taken.push(node),
            Err(reason) => self.missed.push(Missed { node, reason }),
        }
    }
}

/// A node that did not take a message, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which.
    pub node: NodeId,
    /// Why.
    pub reason: MissReason,
}

/// Why a node did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissReason {
    /// A subscription there lost it: its queue was full, it ended, or its handler panicked.
    #[error("a subscription there lost it")]
    Lagged,
    /// There is no subscription any more.
    #[error("there is no subscription any more")]
    Gone,
    /// Policy there says no.
    #[error("forbidden there")]
    Refused,
    /// There was no connection within the deadline. It certainly did not get it.
    #[error("no connection")]
    Unreachable,
    /// It did not answer within the deadline. It may have it, and may still take it.
    #[error("no answer")]
    Silent,
    /// Too much is unacknowledged by this node; it was not sent.
    #[error("too much is unacknowledged")]
    Full,
    /// It got it and does not know any more what became of it.
    #[error("what became of it is forgotten there")]
    Forgotten,
}

/// A copy for one node, which is sent until it is acknowledged or given up: when this is dropped.
struct Errand {
    link: Arc<Link>,
    number: Number,
    awaiting: Awaiting,
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.link.forget(self.number);
    }
}

/// Everything that is waited for.
struct Journey {
    errands: Vec<Errand>,
    acknowledged: Acknowledged,
    local: Delivery,
    local_outcome: oneshot::Receiver<Outcome>,
    picks: Vec<Pick>,
    content: Content,
}

impl<T: Transport, D: Directory> PubSub<T, D> {
    /// Publishes one message and waits until everybody who subscribes now took it, for at most `within`.
    ///
    /// A copy that may be lost with its connection is sent again over the next one. A node's subscriptions get it once all
    /// the same, as long as its process lives and fewer than 4,096 newer messages of this kind came from this node. "Took it" means
    /// that the application received the message and dropped it ([`Message::acknowledge`](crate::Message::acknowledge)). A
    /// queue group took it when one member did; members are asked one after the other, each for an equal part of the time that
    /// is left, so that a slow one and the next may both get it. [`PublishOptions::wait`] counts at full subscribers as
    /// always. Messages on one topic arrive in order, also those that are sent again, except within groups.
    ///
    /// Nothing is promised past the end of this call, or of this process: dropping the future gives up what was not taken yet.
    ///
    /// # Errors
    /// [`PublishError`], never [`Unresolved`](PublishError::Unresolved). Nothing has been sent then.
    pub async fn publish_acknowledged(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
        within: Duration,
    ) -> Result<Acknowledged, PublishError> {
        let inner = &self.inner;
        inner.may_publish(realm, topic, &payload)?;
        let deadline = Instant::now() + within;
        let content = inner.content(realm, topic, payload);
        loop {
            let route = inner.routes.get(realm, topic, inner.clock.now(), &inner.metrics);
            let patience = within.min(inner.config.lookup_timeout);
            let unresolved = route.ready(deadline - within + patience).await;
            let reading = inner.routes.read(&route, inner.gate.as_ref(), &inner.metrics);
            let subscribers = inner.local.matching(realm, topic);
            let chosen = reading.choose(&content.payload, true, &inner.metrics);
            let journey = match route.order() {
                Some(mut order) => {
                    inner.set_out(content, &mut order, &reading, chosen, &subscribers, options)?
                }
                None => {
                    inner.routes.forget(&route);
                    continue;
                }
            };
            let mut acknowledged = inner.await_all(journey, options, deadline).await;
            acknowledged.unresolved = unresolved;
            return Ok(acknowledged);
        }
    }
}

impl<T: Transport, D: Directory> Inner<T, D> {
    /// Gives the message its number and its place in every queue, while holding the topic's order. Never waits. Copies for
    /// queue groups go separately, later.
    fn set_out(
        &self,
        mut content: Content,
        order: &mut Order,
        reading: &Reading,
        mut chosen: Chosen,
        subscribers: &[Arc<Subscriber>],
        options: PublishOptions,
    ) -> Result<Journey, PayloadError> {
        content.sequence = order.last_sequence + 1;
        let groups: BTreeSet<Group> =
            LocalTable::groups(subscribers, &content.payload).into_iter().cloned().collect();
        for group in groups {
            chosen.groups.entry(group).or_default().push(Member::Here);
        }
        let pick = |(group, members)| Pick::new(group, members, &content.publisher, content.sequence);
        let picks: Vec<Pick> = chosen.groups.into_iter().map(pick).collect();
        let scope =
            Scope { grouped: !picks.is_empty(), apart: !reading.trees.is_empty(), ..Scope::default() };
        let number = self.awaited.number();
        let frame = content.to_frame_with(options.wait, &scope, number)?;
        order.last_sequence = content.sequence;
        self.metrics.published.inc();
        self.metrics.message_bytes.observe(content.payload.bytes.len() as f64);

        let mut acknowledged = Acknowledged { unnamed: reading.unnamed, ..Acknowledged::default() };
        let mut errands = Vec::new();
        for link in reading.links.iter().chain(&chosen.links) {
            let awaiting = self.awaited.expect(link.peer(), number);
            if link.entrust(number, frame.clone(), &self.transport, &self.tasks) {
                errands.push(Errand { link: link.clone(), number, awaiting });
            } else {
                self.note(&mut acknowledged, link.peer(), Err(MissReason::Full));
            }
        }
        let (tracker, local_outcome) = Tracker::with_outcome();
        let may_wait = !options.wait.is_zero();
        let here = Scope { grouped: true, ..Scope::default() };
        let local = Delivery::offer_tracked(subscribers, &content, may_wait, &here, Some(tracker));
        self.count_delivery(&Delivery::default(), &local);
        Ok(Journey { errands, acknowledged, local, local_outcome, picks, content })
    }

    async fn await_all(
        self: &Arc<Self>,
        journey: Journey,
        options: PublishOptions,
        deadline: Instant,
    ) -> Acknowledged {
        let Journey { errands, mut acknowledged, local, local_outcome, picks, content } = journey;
        let mut groups = JoinSet::new();
        for pick in picks {
            let (inner, content, group) = (self.clone(), content.clone(), pick.group.clone());
            groups.spawn(async move { (group, inner.serve_group(&content, pick, options, deadline).await) });
        }
        let is_for_local = !local.is_for_nobody();
        self.settle_delivery(local, (Instant::now() + options.wait).min(deadline)).await;
        let links: Vec<Arc<Link>> = errands.iter().map(|errand| errand.link.clone()).collect();
        for mut errand in errands {
            let outcome = self.outcome(&mut errand, &links, deadline).await;
            self.note(&mut acknowledged, errand.link.peer(), outcome);
        }
        if is_for_local {
            let outcome = tokio::time::timeout_at(deadline, local_outcome).await;
            self.note(&mut acknowledged, self.me, read_outcome(outcome.ok().and_then(Result::ok)));
        }
        while let Some(served) = groups.join_next().await {
            match served {
                Ok((group, Some(node))) => acknowledged.groups.push((group, node)),
                Ok((group, None)) => acknowledged.unserved.push(group),
                Err(error) => tracing::error!(%error, "a message for a queue group was given up"),
            }
        }
        self.metrics.group_unserved.inc_by(acknowledged.unserved.len() as u64);
        acknowledged.taken.sort_unstable();
        acknowledged.missed.sort_unstable_by_key(|missed| missed.node);
        acknowledged.groups.sort_unstable();
        acknowledged.unserved.sort_unstable();
        acknowledged
    }

    /// Asks the members of a group one after the other, until one takes the message. Returns its node.
    async fn serve_group(
        &self,
        content: &Content,
        mut pick: Pick,
        options: PublishOptions,
        deadline: Instant,
    ) -> Option<NodeId> {
        let scope = Scope::handed_over(pick.group.clone());
        let mut is_first = true;
        while let Some(member) = pick.next() {
            if !std::mem::take(&mut is_first) {
                self.metrics.group_handovers.inc();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let until = Instant::now() + left / (pick.left() as u32 + 1);
            let node = match &member {
                Member::Here => self.me,
                Member::There(link) => link.peer(),
            };
            let outcome = match member {
                Member::Here => self.outcome_here(content, &scope, options, until).await,
                Member::There(link) => self.outcome_there(content, &scope, link, options, until).await,
            };
            self.metrics.acknowledge(ack_outcome(outcome));
            if outcome == Ok(Outcome::Taken) {
                return Some(node);
            }
        }
        None
    }

    async fn outcome_here(
        &self,
        content: &Content,
        scope: &Scope,
        options: PublishOptions,
        until: Instant,
    ) -> Result<Outcome, MissReason> {
        let subscribers = self.local.matching(&content.realm, &content.topic);
        let (tracker, outcome) = Tracker::with_outcome();
        let may_wait = !options.wait.is_zero();
        let delivery = Delivery::offer_tracked(&subscribers, content, may_wait, scope, Some(tracker));
        self.count_delivery(&Delivery::default(), &delivery);
        self.settle_delivery(delivery, (Instant::now() + options.wait).min(until)).await;
        read_outcome(tokio::time::timeout_at(until, outcome).await.ok().and_then(Result::ok))
    }

    async fn outcome_there(
        &self,
        content: &Content,
        scope: &Scope,
        link: Arc<Link>,
        options: PublishOptions,
        until: Instant,
    ) -> Result<Outcome, MissReason> {
        let number = self.awaited.number();
        let frame = content.to_frame_with(options.wait, scope, number).map_err(|_| MissReason::Full)?;
        let awaiting = self.awaited.expect(link.peer(), number);
        if !link.entrust(number, frame, &self.transport, &self.tasks) {
            return Err(MissReason::Full);
        }
        let links = [link.clone()];
        self.outcome(&mut Errand { link, number, awaiting }, &links, until).await
    }

    /// Waits for what becomes of a copy, and meanwhile sees to the connections of all `links`.
    async fn outcome(
        &self,
        errand: &mut Errand,
        links: &[Arc<Link>],
        until: Instant,
    ) -> Result<Outcome, MissReason> {
        loop {
            let next_check = (Instant::now() + RESUME_EVERY).min(until);
            match tokio::time::timeout_at(next_check, &mut errand.awaiting.outcome).await {
                Ok(outcome) => return read_outcome(outcome.ok()),
                Err(_) if next_check == until => {
                    let was_sent = errand.link.forget(errand.number);
                    return Err(if was_sent { MissReason::Silent } else { MissReason::Unreachable });
                }
                Err(_) => links.iter().for_each(|link| link.resume(&self.transport, &self.tasks)),
            }
        }
    }

    fn note(&self, acknowledged: &mut Acknowledged, node: NodeId, outcome: Result<Outcome, MissReason>) {
        self.metrics.acknowledge(ack_outcome(outcome));
        acknowledged.note(node, outcome);
    }
}

/// `None`: it did not come.
pub(crate) fn read_outcome(outcome: Option<Outcome>) -> Result<Outcome, MissReason> {
    match outcome {
        Some(outcome @ (Outcome::Taken | Outcome::Unwanted)) => Ok(outcome),
        Some(Outcome::Lagged) => Err(MissReason::Lagged),
        Some(Outcome::Nobody) => Err(MissReason::Gone),
        Some(Outcome::Refused) => Err(MissReason::Refused),
        Some(Outcome::Forgotten) => Err(MissReason::Forgotten),
        None => Err(MissReason::Silent),
    }
}

fn ack_outcome(outcome: Result<Outcome, MissReason>) -> AckOutcome {
    match outcome {
        Ok(Outcome::Unwanted) => AckOutcome::Unwanted,
        Ok(_) => AckOutcome::Taken,
        Err(_) => AckOutcome::Missed,
    }
}
