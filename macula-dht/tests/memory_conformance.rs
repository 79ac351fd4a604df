//! The conformance suite on the directory in memory.

use macula_dht::conformance::{Harness, Member, Mortal};
use macula_dht::{
    MemoryDirectory, MemoryDirectoryNetwork, directory_conformance, directory_death_conformance,
};
use macula_proto::NodeId;

#[derive(Default)]
struct InMemory(MemoryDirectoryNetwork);

impl Harness for InMemory {
    type Directory = MemoryDirectory;

    async fn mesh(&self, count: u8) -> Vec<Member<MemoryDirectory>> {
        let ids = (1..=count).map(|n| NodeId::from_bytes([n; 32]));
        ids.map(|id| Member { id, directory: self.0.directory(id) }).collect()
    }
}

impl Mortal for InMemory {
    async fn kill(&self, member: Member<MemoryDirectory>) {
        self.0.remove(&member.id);
    }
}

directory_conformance! { #[tokio::test] InMemory::default() }

directory_death_conformance! { #[tokio::test] InMemory::default() }
