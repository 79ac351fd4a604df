//! The conformance suite on Kademlia over the in-memory network, on a perfect one and on a bad one.

mod mesh;

use macula_dht::conformance::{Harness, Member, Mortal};
use macula_dht::{Kademlia, directory_conformance, directory_death_conformance};
use macula_transport::memory::{Faults, MemoryTransport};

use mesh::Mesh;

struct OverMemory(Mesh);

impl OverMemory {
    fn new(faults: Faults) -> Self {
        Self(Mesh::new(7, faults))
    }
}

impl Harness for OverMemory {
    type Directory = Kademlia<MemoryTransport>;

    async fn mesh(&self, count: u8) -> Vec<Member<Self::Directory>> {
        let mut members = Vec::new();
        for n in 1..=count {
            let node = self.0.node(n).await;
            members.push(Member { id: node.id, directory: node.kademlia });
        }
        members
    }
}

impl Mortal for OverMemory {
    async fn kill(&self, member: Member<Self::Directory>) {
        self.0.kill(member.id).await;
    }
}

mod on_a_perfect_network {
    use super::*;

    directory_conformance! { #[tokio::test(start_paused = true)] OverMemory::new(Faults::default()) }
    directory_death_conformance! { #[tokio::test(start_paused = true)] OverMemory::new(Faults::default()) }
}

mod on_a_bad_network {
    use super::*;

    directory_conformance! { #[tokio::test(start_paused = true)] OverMemory::new(Faults::wan()) }
    directory_death_conformance! { #[tokio::test(start_paused = true)] OverMemory::new(Faults::wan()) }
}
