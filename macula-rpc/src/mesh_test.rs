//! Nodes of an in-memory network, for tests.

use std::sync::Arc;

use macula_dht::{MemoryDirectory, MemoryDirectoryNetwork};
use macula_proto::{AllowAll, Frame, Gate, NodeId};
use macula_transport::memory::{MemoryNetwork, MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{Inbound, LaneId, PeerEvent, TokioClock, Transport};
use tokio_util::sync::CancellationToken;

use crate::conformance::Mesh;
use crate::{Rpc, RpcConfig};

pub(crate) type Node = Rpc<MemoryTransport, MemoryDirectory>;

/// A network, a directory and the nodes on them.
pub(crate) struct TestMesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) directory: MemoryDirectoryNetwork,
    stop: CancellationToken,
}

impl Default for TestMesh {
    fn default() -> Self {
        Self {
            network: MemoryNetwork::new(1),
            directory: MemoryDirectoryNetwork::default(),
            stop: CancellationToken::new(),
        }
    }
}

impl Drop for TestMesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TestMesh {
    pub(crate) fn add(&self, n: u8) -> (NodeId, Node) {
        self.add_with(n, Arc::new(AllowAll), RpcConfig::default())
    }

    pub(crate) fn add_with(&self, n: u8, gate: Arc<dyn Gate>, config: RpcConfig) -> (NodeId, Node) {
        let transport = self.network.node(n);
        let contact = transport.local();
        let id = contact.id;
        let directory = self.directory.directory_of(contact);
        let rpc = Rpc::new(transport.clone(), directory, gate, Arc::new(TokioClock::default()), config);
        let (wired, stop) = (Wired(rpc.clone()), self.stop.clone());
        tokio::spawn(async move { transport.serve(wired, stop).await });
        let (maintained, stop) = (rpc.clone(), self.stop.clone());
        tokio::spawn(async move { maintained.run(stop).await });
        (id, rpc)
    }
}

impl Mesh for TestMesh {
    type Node = Node;

    async fn node(&self, number: u8) -> (NodeId, Node) {
        let added = self.add(number);
        tokio::task::yield_now().await;
        added
    }
}

struct Wired(Node);

impl Inbound<MemoryTransport> for Wired {
    fn on_peer(&self, event: PeerEvent) {
        self.0.on_peer(&event);
    }

    fn on_datagram(&self, _from: NodeId, _frame: Frame) {}

    async fn on_lane(&self, _from: NodeId, _lane: LaneId, _frame: Frame) {}

    async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
        self.0.on_stream(from, first, tx, rx).await;
    }
}
