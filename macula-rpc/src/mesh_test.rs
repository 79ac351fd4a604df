//! Nodes of an in-memory network, for tests.

use std::sync::Arc;

use macula_dht::{MemoryDirectory, MemoryDirectoryNetwork};
use macula_proto::{
    Access, Action, AllowAll, Capabilities, Forbidden, Frame, Gate, Liveness, NodeId, Unwatched,
};
use macula_transport::memory::{MemoryNetwork, MemoryTransport};
use macula_transport::{
    AddressBook, Identity, Inbound, LaneId, PeerEvent, QuicConfig, QuicTransport, TokioClock, Transport,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::conformance::Mesh;
use crate::{Rpc, RpcConfig};

pub(crate) type Node = Rpc<MemoryTransport, MemoryDirectory>;

/// A network, a directory and the nodes on them.
pub(crate) struct TestMesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) directory: MemoryDirectoryNetwork,
    pub(crate) gone: Arc<Gone>,
    stop: CancellationToken,
}

/// Who is gone, as somebody says who watches.
#[derive(Default)]
pub(crate) struct Gone(pub(crate) Mutex<Vec<NodeId>>);

impl Liveness for Gone {
    fn is_gone(&self, id: &NodeId) -> bool {
        self.0.lock().contains(id)
    }
}

impl Default for TestMesh {
    fn default() -> Self {
        Self {
            network: MemoryNetwork::new(1),
            directory: MemoryDirectoryNetwork::default(),
            gone: Arc::default(),
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
        self.start(self.network.node(n), gate, config)
    }

    pub(crate) fn start(
        &self,
        transport: MemoryTransport,
        gate: Arc<dyn Gate>,
        config: RpcConfig,
    ) -> (NodeId, Node) {
        let contact = transport.local();
        let id = contact.id;
        let directory = self.directory.directory_of(contact);
        let rpc = start(transport, directory, gate, self.gone.clone(), config, &self.stop);
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

/// Nodes with sockets of their own, on loopback.
#[derive(Default)]
pub(crate) struct QuicMesh {
    directory: MemoryDirectoryNetwork,
    stop: CancellationToken,
}

impl Drop for QuicMesh {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Mesh for QuicMesh {
    type Node = Rpc<QuicTransport, MemoryDirectory>;

    async fn node(&self, _number: u8) -> (NodeId, Self::Node) {
        let mut config = QuicConfig::new(Identity::generate(), "127.0.0.1:0".parse().unwrap());
        config.capabilities = Capabilities::NUMBERED_CALLS;
        let transport = QuicTransport::bind(config, Arc::new(AddressBook::new(100))).unwrap();
        let contact = transport.local();
        let id = contact.id;
        let directory = self.directory.directory_of(contact);
        tokio::task::yield_now().await;
        (
            id,
            start(
                transport,
                directory,
                Arc::new(AllowAll),
                Arc::new(Unwatched),
                RpcConfig::default(),
                &self.stop,
            ),
        )
    }
}

pub(crate) fn start<T: Transport>(
    transport: T,
    directory: MemoryDirectory,
    gate: Arc<dyn Gate>,
    liveness: Arc<dyn Liveness>,
    config: RpcConfig,
    stop: &CancellationToken,
) -> Rpc<T, MemoryDirectory> {
    let rpc = Rpc::new(transport.clone(), directory, gate, liveness, Arc::new(TokioClock::default()), config);
    let (wired, until) = (Wired(rpc.clone()), stop.clone());
    tokio::spawn(async move { transport.serve(wired, until).await });
    let (maintained, until) = (rpc.clone(), stop.clone());
    tokio::spawn(async move { maintained.run(until).await });
    rpc
}

struct Wired<T: Transport>(Rpc<T, MemoryDirectory>);

impl<T: Transport> Inbound<T> for Wired<T> {
    fn on_peer(&self, event: PeerEvent) {
        self.0.on_peer(&event);
    }

    fn on_datagram(&self, _from: NodeId, _frame: Frame) {}

    async fn on_lane(&self, _from: NodeId, _lane: LaneId, _frame: Frame) {}

    async fn on_stream(&self, from: NodeId, first: Frame, tx: T::Tx, rx: T::Rx) {
        self.0.on_stream(from, first, tx, rx).await;
    }
}

/// Nobody may call.
#[derive(Debug)]
pub(crate) struct DenyCalls;

impl Gate for DenyCalls {
    fn check(&self, access: Access<'_>) -> Result<(), Forbidden> {
        match access.action {
            Action::Call(_) => Err(access.forbidden()),
            _ => Ok(()),
        }
    }
}
