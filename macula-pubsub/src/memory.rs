//! A bus in memory: any number of nodes in one process, without transport or directory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula_dht::Announced;
use macula_proto::{Name, NodeId, Realm};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::acknowledged::read_outcome;
use crate::group::Scope;
use crate::local::{Delivery, LocalTable, Subscriber};
use crate::message::Content;
use crate::receipt::{Outcome, Tracker};
use crate::subscription::{Home, Left};
use crate::{
    Acknowledged, Bus, Group, Pattern, Payload, PublishError, PublishOptions, Published, SubscribeError,
    SubscribeOptions, Subscription,
};

/// Most subscriptions of one node.
const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// What the nodes of one in-memory mesh share.
///
/// ```
/// use macula_proto::{NodeId, Realm};
/// use macula_pubsub::{Bus, MemoryBusNetwork, Payload, SubscribeOptions};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let network = MemoryBusNetwork::default();
/// let (anna, bert) = (network.bus(NodeId::from_bytes([1; 32])), network.bus(NodeId::from_bytes([2; 32])));
/// let realm = Realm::default();
/// let mut news = bert.subscribe(&realm, "news.*".parse()?, SubscribeOptions::default()).await?;
/// anna.publish(&realm, &"news.today".parse()?, Payload::new("sunny")).await?;
/// assert_eq!(news.recv().await.unwrap().payload, "sunny");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryBusNetwork {
    nodes: Arc<RwLock<BTreeMap<NodeId, Arc<Node>>>>,
}

/// One node of a [`MemoryBusNetwork`]. It is in every realm, and may do everything.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    node: Arc<Node>,
    network: MemoryBusNetwork,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    local: LocalTable,
    /// The number of this node's last message. Held while a message gets its place in every queue.
    order: Mutex<u64>,
}

impl MemoryBusNetwork {
    /// The node `id`; the same for the same id.
    pub fn bus(&self, id: NodeId) -> MemoryBus {
        let new =
            || Arc::new(Node { id, local: LocalTable::new(SUBSCRIPTIONS_MAX), order: Mutex::default() });
        let node = self.nodes.write().entry(id).or_insert_with(new).clone();
        MemoryBus { node, network: self.clone() }
    }
}

impl Bus for MemoryBus {
    async fn subscribe(
        &self,
        realm: &Realm,
        pattern: Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let subscriber = self.node.local.add(realm, pattern, &options)?;
        let mut subscription = Subscription::new(subscriber, self.node.clone());
        subscription.announced = Announced { holders: 1, ..Announced::default() };
        Ok(subscription)
    }

    async fn publish_with(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
    ) -> Result<Published, PublishError> {
        payload.check()?;
        let (mut published, deliveries) = self.depart(realm, topic, payload, !options.wait.is_zero());
        let deadline = Instant::now() + options.wait;
        for (node, delivery) in deliveries {
            let delivery = delivery.settle(deadline).await;
            if node == self.node.id {
                published.local = delivery.taken;
                published.dropped = delivery.refused;
            }
        }
        Ok(published)
    }

    async fn publish_acknowledged(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
        within: Duration,
    ) -> Result<Acknowledged, PublishError> {
        payload.check()?;
        let deadline = Instant::now() + within;
        let (content, matching, copies) = self.set_out(realm, topic, payload, options);
        let mut acknowledged = Acknowledged::default();
        for (node, delivery, outcome) in copies {
            delivery.settle((Instant::now() + options.wait).min(deadline)).await;
            let outcome = tokio::time::timeout_at(deadline, outcome).await;
            acknowledged.note(node, read_outcome(outcome.ok().and_then(Result::ok)));
        }
        for (group, members) in members(&matching, &content) {
            match serve(&group, &members, &content, options, deadline).await {
                Some(node) => acknowledged.groups.push((group, node)),
                None => acknowledged.unserved.push(group),
            }
        }
        Ok(acknowledged)
    }
}

/// Each node with its subscribers for a topic.
type Matching = Vec<(Arc<Node>, Vec<Arc<Subscriber>>)>;

/// A copy for the subscriptions of one node, and what becomes of it.
type TrackedCopy = (NodeId, Delivery, oneshot::Receiver<Outcome>);

impl MemoryBus {
    /// Gives the message its place in the queues of those who are in no group.
    fn set_out(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        options: PublishOptions,
    ) -> (Content, Matching, Vec<TrackedCopy>) {
        let mut order = self.node.order.lock();
        let (content, matching) = self.number(&mut order, realm, topic, payload);
        let scope = Scope { grouped: true, ..Scope::default() };
        let copy = |(node, subscribers): &(Arc<Node>, Vec<Arc<Subscriber>>)| {
            let (delivery, outcome) = offer_tracked(subscribers, &content, options, &scope);
            (!delivery.is_for_nobody()).then_some((node.id, delivery, outcome))
        };
        let copies = matching.iter().filter_map(copy).collect();
        (content, matching, copies)
    }

    /// The next message, and whoever subscribes to its topic.
    fn number(&self, order: &mut u64, realm: &Realm, topic: &Name, payload: Payload) -> (Content, Matching) {
        *order += 1;
        let (realm, topic) = (realm.clone(), topic.clone());
        let (publisher, epoch, sequence) = (self.node.id, 1, *order);
        let content = Content { realm, topic, payload, publisher, epoch, sequence, retained_as: 0 };
        let nodes: Vec<Arc<Node>> = self.network.nodes.read().values().cloned().collect();
        let matching = |node: Arc<Node>| {
            let subscribers = node.local.matching(&content.realm, &content.topic);
            (node, subscribers)
        };
        let matching = nodes.into_iter().map(matching).collect();
        (content, matching)
    }

    fn depart(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        may_wait: bool,
    ) -> (Published, Vec<(NodeId, Delivery)>) {
        let mut order = self.node.order.lock();
        let (content, matching) = self.number(&mut order, realm, topic, payload);
        let mut published = Published::default();
        let mut deliveries = Vec::new();
        let first = |(group, members): (Group, Vec<Arc<Node>>)| (group, members[0].id);
        let picked: BTreeMap<Group, NodeId> = members(&matching, &content).into_iter().map(first).collect();
        for (node, subscribers) in &matching {
            let groups =
                picked.iter().filter(|(_, member)| **member == node.id).map(|(group, _)| group.clone());
            let scope = Scope { grouped: true, groups: groups.collect(), ..Scope::default() };
            let delivery = Delivery::offer(subscribers, &content, may_wait, &scope);
            published.groups += delivery.groups;
            if !delivery.is_for_nobody() {
                published.peers += usize::from(node.id != self.node.id);
                deliveries.push((node.id, delivery));
            }
        }
        (published, deliveries)
    }
}

/// The nodes of each queue group that wants the message, in the order in which they are tried.
fn members(matching: &Matching, content: &Content) -> BTreeMap<Group, Vec<Arc<Node>>> {
    let mut members: BTreeMap<Group, Vec<Arc<Node>>> = BTreeMap::new();
    for (node, subscribers) in matching {
        for group in LocalTable::groups(subscribers, &content.payload) {
            members.entry(group.clone()).or_default().push(node.clone());
        }
    }
    for nodes in members.values_mut() {
        let turn = content.sequence % nodes.len() as u64;
        nodes.rotate_left(turn as usize);
    }
    members
}

/// Asks the nodes of a group one after the other, each for an equal part of the time that is left.
async fn serve(
    group: &Group,
    members: &[Arc<Node>],
    content: &Content,
    options: PublishOptions,
    deadline: Instant,
) -> Option<NodeId> {
    let scope = Scope::handed_over(group.clone());
    for (asked, node) in members.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let until = Instant::now() + left / (members.len() - asked) as u32;
        let subscribers = node.local.matching(&content.realm, &content.topic);
        let (delivery, outcome) = offer_tracked(&subscribers, content, options, &scope);
        delivery.settle((Instant::now() + options.wait).min(until)).await;
        if let Ok(Ok(Outcome::Taken)) = tokio::time::timeout_at(until, outcome).await {
            return Some(node.id);
        }
    }
    None
}

fn offer_tracked(
    subscribers: &[Arc<Subscriber>],
    content: &Content,
    options: PublishOptions,
    scope: &Scope,
) -> (Delivery, oneshot::Receiver<Outcome>) {
    let (tracker, outcome) = Tracker::with_outcome();
    let may_wait = !options.wait.is_zero();
    (Delivery::offer_tracked(subscribers, content, may_wait, scope, Some(tracker)), outcome)
}

impl Home for Node {
    fn leave(&self, subscriber: &Subscriber) {
        self.local.remove(subscriber);
    }

    fn left<'a>(&'a self, _subscriber: &'a Subscriber) -> Left<'a> {
        Box::pin(async { Ok(()) })
    }
}
