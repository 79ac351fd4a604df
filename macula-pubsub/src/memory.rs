//! A bus in memory: any number of nodes in one process, without transport or directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_dht::Announced;
use macula_proto::{Name, NodeId, Realm};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::group::Scope;
use crate::local::{Delivery, LocalTable, Subscriber};
use crate::message::Content;
use crate::subscription::{Home, Left};
use crate::{
    Bus, Group, Pattern, Payload, PublishError, PublishOptions, Published, SubscribeError, SubscribeOptions,
    Subscription,
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
}

impl MemoryBus {
    fn depart(
        &self,
        realm: &Realm,
        topic: &Name,
        payload: Payload,
        may_wait: bool,
    ) -> (Published, Vec<(NodeId, Delivery)>) {
        let nodes: Vec<Arc<Node>> = self.network.nodes.read().values().cloned().collect();
        let mut order = self.node.order.lock();
        *order += 1;
        let content = Content {
            realm: realm.clone(),
            topic: topic.clone(),
            payload,
            publisher: self.node.id,
            epoch: 1,
            sequence: *order,
        };
        let mut published = Published::default();
        let mut deliveries = Vec::new();
        let matching = |node: Arc<Node>| {
            let subscribers = node.local.matching(realm, topic);
            (node, subscribers)
        };
        let matching: Vec<_> = nodes.into_iter().map(matching).collect();
        let picked = pick(&matching, &content);
        for (node, subscribers) in &matching {
            let groups =
                picked.iter().filter(|(_, member)| **member == node.id).map(|(group, _)| group.clone());
            let scope = Scope { grouped: true, groups: groups.collect(), handed_over: false };
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

/// Picks a node for each queue group that wants the message.
fn pick(matching: &[(Arc<Node>, Vec<Arc<Subscriber>>)], content: &Content) -> BTreeMap<Group, NodeId> {
    let mut members: BTreeMap<&Group, Vec<NodeId>> = BTreeMap::new();
    for (node, subscribers) in matching {
        for group in LocalTable::groups(subscribers, &content.payload) {
            members.entry(group).or_default().push(node.id);
        }
    }
    let turn = |nodes: &[NodeId]| nodes[(content.sequence % nodes.len() as u64) as usize];
    members.into_iter().map(|(group, nodes)| (group.clone(), turn(&nodes))).collect()
}

impl Home for Node {
    fn leave(&self, subscriber: &Subscriber) {
        self.local.remove(subscriber);
    }

    fn left<'a>(&'a self, _subscriber: &'a Subscriber) -> Left<'a> {
        Box::pin(async { Ok(()) })
    }
}
