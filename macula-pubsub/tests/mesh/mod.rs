//! Whole nodes' pub/sub over the in-memory network and directory.

#![allow(dead_code, clippy::unwrap_used, reason = "for tests, not all of which use all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use macula_dht::{MemoryDirectory, MemoryDirectoryNetwork};
use macula_proto::{
    AllowAll, Ed25519Verifier, Frame, Gate, Liveness, Name, NodeId, Realm, SecretKey, Unwatched,
};
use macula_pubsub::{Message, Payload, PubSub, PubSubConfig, Published, SubscribeOptions, Subscription};
use macula_transport::memory::{MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, TokioClock, Transport};
use tokio_util::sync::CancellationToken;

pub(crate) type Node = PubSub<MemoryTransport, MemoryDirectory>;

pub(crate) struct Mesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) directory: MemoryDirectoryNetwork,
    pub(crate) config: PubSubConfig,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) liveness: Arc<dyn Liveness>,
    /// Nodes started from now on take part in trees.
    pub(crate) has_trees: bool,
    epoch: u64,
    ids: BTreeMap<u8, NodeId>,
    stops: BTreeMap<u8, CancellationToken>,
}

struct Handler(Node);

impl Inbound<MemoryTransport> for Handler {
    fn on_peer(&self, _event: PeerEvent) {}

    fn on_datagram(&self, _from: NodeId, _frame: Frame) {}

    async fn on_lane(&self, from: NodeId, _lane: LaneId, frame: Frame) {
        self.0.on_lane_frame(from, frame).await;
    }

    fn on_lane_pause(&self, _from: NodeId, _lane: LaneId) {
        self.0.on_lane_pause();
    }

    async fn on_stream(&self, _from: NodeId, _first: Frame, _tx: MemoryTx, _rx: MemoryRx) {}
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let realms = ["default", "other"].map(|realm| realm.parse().unwrap());
        Self {
            network: MemoryNetwork::new(1),
            directory: MemoryDirectoryNetwork::default(),
            config: PubSubConfig { realms: BTreeSet::from(realms), ..PubSubConfig::default() },
            gate: Arc::new(AllowAll),
            liveness: Arc::new(Unwatched),
            has_trees: false,
            epoch: 0,
            ids: BTreeMap::new(),
            stops: BTreeMap::new(),
        }
    }

    /// Starts node `n`.
    pub(crate) fn node(&mut self, n: u8) -> Node {
        self.epoch += 1;
        let transport = self.network.node(n);
        let directory = self.directory.directory_of(transport.local());
        let clock = Arc::new(TokioClock::default());
        let node = PubSub::new(
            transport.clone(),
            directory,
            self.gate.clone(),
            self.liveness.clone(),
            clock,
            self.epoch,
            self.config.clone(),
        );
        let node = if self.has_trees {
            let key = Arc::new(SecretKey::from_seed([n; 32]));
            node.with_trees(key, Arc::new(Ed25519Verifier), u64::from(n))
        } else {
            node
        };
        let stop = CancellationToken::new();
        tokio::spawn({
            let (handler, stop) = (Handler(node.clone()), stop.clone());
            let transport = transport.clone();
            async move { transport.serve(handler, stop).await }
        });
        tokio::spawn({
            let (node, stop) = (node.clone(), stop.clone());
            async move { node.run(stop).await }
        });
        self.ids.insert(n, transport.local().id);
        self.stops.insert(n, stop);
        node
    }

    pub(crate) fn nodes<const N: usize>(&mut self) -> [Node; N] {
        std::array::from_fn(|n| self.node(n as u8 + 1))
    }

    pub(crate) fn id(&self, n: u8) -> NodeId {
        self.ids[&n]
    }

    pub(crate) fn stop(&self, n: u8) {
        self.stops[&n].cancel();
    }
}

pub(crate) fn name(topic: &str) -> Name {
    topic.parse().unwrap()
}

pub(crate) fn realm() -> Realm {
    Realm::default()
}

pub(crate) async fn subscribe(node: &Node, pattern: &str) -> Subscription {
    node.subscribe(&realm(), pattern.parse().unwrap(), SubscribeOptions::default()).await.unwrap()
}

pub(crate) async fn publish(node: &Node, topic: &str, n: u32) -> Published {
    node.publish(&realm(), &name(topic), Payload::new(n.to_string())).await.unwrap()
}

pub(crate) async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(Duration::from_secs(60), subscription.recv()).await.expect("a message").unwrap()
}

pub(crate) async fn number(subscription: &mut Subscription) -> u32 {
    std::str::from_utf8(&next(subscription).await.payload).unwrap().parse().unwrap()
}

/// Lets paused time pass, in which everything that falls due happens.
pub(crate) async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await; // tidy: allow(sleep): time is paused, so this waits for events and not for luck
}
