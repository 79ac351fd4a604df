//! The in-memory network passes the conformance suite: a perfect one, and a rough one.

use std::time::Duration;

use macula_proto::NodeId;
use macula_transport::conformance::{Faulty, Harness, NodeSpec};
use macula_transport::memory::{Faults, MemoryConfig, MemoryNetwork, MemoryTransport};
use macula_transport::{
    Transport, transport_conformance, transport_fault_conformance, transport_hang_up_conformance,
};

struct InMemory {
    network: MemoryNetwork,
    faults: Faults,
    peer_timeout: Duration,
}

impl InMemory {
    fn new(faults: Faults, peer_timeout: Duration) -> Self {
        let network = MemoryNetwork::new(1);
        network.set_faults(faults.clone());
        Self { network, faults, peer_timeout }
    }
}

impl Harness for InMemory {
    type Transport = MemoryTransport;

    async fn node(&self, spec: NodeSpec) -> MemoryTransport {
        self.network.node(MemoryConfig {
            realms: spec.realms,
            connections_max: spec.connections_max,
            idle_timeout: spec.idle_timeout,
            peer_timeout: self.peer_timeout,
            ..MemoryConfig::new(spec.key)
        })
    }

    async fn crash(&self, node: MemoryTransport) {
        self.network.crash(node.local().id);
    }
}

impl Faulty for InMemory {
    fn lose(&self, share: f64) {
        self.network.set_faults(Faults { loss: share, ..self.faults.clone() });
    }

    fn partition(&self, a: NodeId, b: NodeId) {
        self.network.partition(a, b);
    }

    fn partition_one_way(&self, from: NodeId, to: NodeId) {
        self.network.partition_one_way(from, to);
    }

    fn heal(&self) {
        self.network.heal_all();
    }

    fn pause(&self, node: NodeId) {
        self.network.pause(node);
    }

    fn resume(&self, node: NodeId) {
        self.network.resume(node);
    }

    fn peer_timeout(&self) -> Duration {
        self.peer_timeout
    }
}

mod perfect {
    use super::*;

    transport_conformance! { #[tokio::test(start_paused = true)] InMemory::new(Faults::default(), Duration::from_secs(10)) }
    transport_hang_up_conformance! { #[tokio::test(start_paused = true)] InMemory::new(Faults::default(), Duration::from_secs(10)) }
    transport_fault_conformance! { #[tokio::test(start_paused = true)] InMemory::new(Faults::default(), Duration::from_secs(10)) }
}

mod rough {
    use super::*;

    transport_conformance! { #[tokio::test(start_paused = true)] InMemory::new(Faults::wan(), Duration::from_secs(10)) }
    transport_hang_up_conformance! { #[tokio::test(start_paused = true)] InMemory::new(Faults::wan(), Duration::from_secs(10)) }
    transport_fault_conformance! { #[tokio::test(start_paused = true)] InMemory::new(Faults::wan(), Duration::from_secs(10)) }
}

mod real_time {
    use super::*;

    transport_conformance! { #[tokio::test] InMemory::new(Faults::lan(), Duration::from_secs(1)) }
    transport_hang_up_conformance! { #[tokio::test] InMemory::new(Faults::lan(), Duration::from_secs(1)) }
}
