//! Both buses keep the same promises.

mod mesh;

use macula_proto::NodeId;
use macula_pubsub::{MemoryBusNetwork, conformance};

use mesh::{Mesh, Node};

#[tokio::test(start_paused = true)]
async fn the_memory_bus_conforms() {
    conformance::run(async |nodes| {
        let network = MemoryBusNetwork::default();
        let ids = (1..=nodes).map(|n| NodeId::from_bytes([n as u8; 32]));
        ids.map(|id| (id, network.bus(id))).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_real_one_conforms() {
    conformance::run(async |nodes| -> Vec<(NodeId, Node)> {
        let mut mesh = Mesh::new();
        (1..=nodes as u8)
            .map(|n| {
                let node = mesh.node(n);
                (mesh.id(n), node)
            })
            .collect()
    })
    .await;
}
