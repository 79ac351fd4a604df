//! openraft's own suite for stores, on all of ours.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log::RaftLog;
use super::state::State;
use super::types::{Types, VoterId};
use crate::{GroupId, LogStore, MemoryStore, RedbStore, StoreMetrics, StoreOptions};

const GROUP: GroupId = GroupId(7);

impl From<u64> for VoterId {
    fn from(storage: u64) -> Self {
        Self { node: macula_proto::NodeId::from_bytes([7; 32]), storage }
    }
}

fn open<S: LogStore>(store: Arc<S>) -> (RaftLog<S>, State<S>) {
    (RaftLog::open(GROUP, store.clone()).unwrap(), State::new(GROUP, store))
}

struct InMemory;

impl StoreBuilder<Types, RaftLog<MemoryStore>, State<MemoryStore>> for InMemory {
    async fn build(&self) -> Result<((), RaftLog<MemoryStore>, State<MemoryStore>), StorageError<Types>> {
        let (log, state) = open(Arc::new(MemoryStore::default()));
        Ok(((), log, state))
    }
}

struct OnDisk;

impl StoreBuilder<Types, RaftLog<RedbStore>, State<RedbStore>, tempfile::TempDir> for OnDisk {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, RaftLog<RedbStore>, State<RedbStore>), StorageError<Types>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = RedbStore::open(&path, StoreOptions::default(), StoreMetrics::default()).unwrap();
        let (log, state) = open(Arc::new(store));
        Ok((directory, log, state))
    }
}

#[tokio::test]
async fn the_store_in_memory_is_what_openraft_expects() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn the_store_on_disk_is_what_openraft_expects() {
    Suite::test_all(OnDisk).await.unwrap();
}
