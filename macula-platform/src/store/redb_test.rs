//! The store on a disk that loses what was not synced, and keeps torn pieces of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::redb::StorageBackend;
use parking_lot::Mutex;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng as _};

use super::*;

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(u128::MAX)];

/// A disk. Its clones are the same disk.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Plates>>);

#[derive(Debug, Default)]
struct Plates {
    /// What will be read.
    now: Vec<u8>,
    /// What is there when the power is back.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    fails: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Length(u64),
    Bytes(u64, Vec<u8>),
}

impl Change {
    fn apply(&self, plates: &mut Vec<u8>) {
        match self {
            Self::Length(length) => plates.resize(*length as usize, 0),
            Self::Bytes(at, bytes) => {
                let end = *at as usize + bytes.len();
                plates.resize(plates.len().max(end), 0);
                plates[*at as usize..end].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    /// The power goes. Of each change that was not synced, nothing is kept, or all, or a first part.
    fn power_cut(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plates = self.0.lock();
        let mut synced = plates.synced.clone();
        for change in &plates.unsynced {
            match (rng.random_range(0..3), change) {
                (0, _) => {}
                (1, Change::Bytes(at, bytes)) => {
                    let torn = bytes[..rng.random_range(0..=bytes.len())].to_vec();
                    Change::Bytes(*at, torn).apply(&mut synced);
                }
                (_, change) => change.apply(&mut synced),
            }
        }
        Self(Arc::new(Mutex::new(Plates { now: synced.clone(), synced, unsynced: Vec::new(), fails: false })))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut plates = self.0.lock();
        if plates.fails {
            return Err(io::Error::other("the disk is full"));
        }
        change.apply(&mut plates.now);
        plates.unsynced.push(change);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let plates = self.0.lock();
        let found = plates.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut plates = self.0.lock();
        if plates.fails {
            return Err(io::Error::other("the disk is full"));
        }
        plates.synced = plates.now.clone();
        plates.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Bytes(offset, data.to_vec()))
    }
}

fn on(disk: &Disk) -> Result<RedbStore, StoreError> {
    let options = StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() };
    RedbStore::on_backend(disk.clone(), options, StoreMetrics::default())
}

/// What a store has of a group: values, entries of the Raft log, entries of logs.
type Content = (GroupId, Vec<Option<Bytes>>, Vec<(u64, Bytes)>, Vec<(u128, u64, Bytes)>);

/// Everything that a store has of the groups.
fn content(store: &impl LogStore) -> Vec<Content> {
    let slots = [Slot::Vote, Slot::Committed, Slot::Purged, Slot::Image, Slot::Part];
    let of = |group| {
        let slots = slots.iter().map(|slot| store.slot(group, *slot).unwrap()).collect();
        let entries = store.entries(group, 0, u64::MAX, usize::MAX).unwrap();
        let logs = store.logs(group).unwrap().into_iter().flat_map(|log| {
            let entries = store.log_entries(group, log, 0, u64::MAX, usize::MAX).unwrap();
            entries.into_iter().map(move |(offset, entry)| (log, offset, entry))
        });
        (group, slots, entries, logs.collect())
    };
    GROUPS.into_iter().map(of).collect()
}

fn write() -> impl Strategy<Value = Write> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
    let log = || prop_oneof![Just(3u128), Just(1 << 64)];
    prop_oneof![
        bytes().prop_map(|value| Write::Set(Slot::Vote, value)),
        bytes().prop_map(|value| Write::Set(Slot::Part, value)),
        (0u64..20, bytes()).prop_map(|(index, entry)| Write::Append(index, entry)),
        (0u64..20).prop_map(Write::Truncate),
        (0u64..20).prop_map(Write::Purge),
        (log(), 0u64..20, bytes()).prop_map(|(log, offset, entry)| Write::LogPut { log, offset, entry }),
        (log(), 0u64..25).prop_map(|(log, below)| Write::LogTrim { log, below }),
        Just(Write::Forget),
    ]
}

fn batches() -> impl Strategy<Value = Vec<(usize, Vec<Write>, bool)>> {
    let batch = (0..GROUPS.len(), proptest::collection::vec(write(), 1..6), any::<bool>());
    proptest::collection::vec(batch, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The store in memory is the model of the one on disk.
    #[test]
    fn both_stores_keep_the_same(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let disk = Disk::default();
        let (stored, modelled) = (on(&disk).unwrap(), MemoryStore::default());
        runtime.block_on(async {
            for (group, writes, _) in batches {
                write_durably(&stored, GROUPS[group], writes.clone()).await.unwrap();
                write_durably(&modelled, GROUPS[group], writes).await.unwrap();
                assert_eq!(content(&stored), content(&modelled));
            }
        });
        drop(stored);
        prop_assert_eq!(content(&on(&disk).unwrap()), content(&modelled));
    }

    /// After a loss of power there is a first part of what was written, with all that was said to be on the disk.
    #[test]
    fn a_loss_of_power_takes_nothing_that_was_acknowledged(batches in batches(), seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let disk = Disk::default();
        let store = on(&disk).unwrap();
        let model = MemoryStore::default();
        let mut after_each = vec![content(&model)];
        let acknowledged = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            for (number, (group, writes, waits)) in batches.into_iter().enumerate() {
                write_durably(&model, GROUPS[group], writes.clone()).await.unwrap();
                after_each.push(content(&model));
                let acknowledged = acknowledged.clone();
                let (told, done) = tokio::sync::oneshot::channel();
                let done_now: Done = Box::new(move |result| {
                    result.unwrap();
                    acknowledged.fetch_max(number + 1, Ordering::SeqCst);
                    let _ = told.send(());
                });
                let batch = Batch { group: GROUPS[group], writes, urgent: waits, done: Some(done_now) };
                store.write(batch).await.unwrap();
                if waits {
                    done.await.unwrap();
                }
            }
        });
        // Whatever the writer is doing now: acknowledged first, or it could grow between the two.
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        let after = disk.power_cut(seed);
        let kept = content(&on(&after).unwrap());
        let found = after_each.iter().skip(acknowledged).any(|content| *content == kept);
        prop_assert!(found, "acknowledged: {acknowledged}, kept: {kept:?}");
    }
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_taken_any_more() {
    let disk = Disk::default();
    let store = on(&disk).unwrap();
    let append = |index| vec![Write::Append(index, Bytes::from_static(b"entry"))];
    write_durably(&store, GROUPS[0], append(1)).await.unwrap();
    disk.0.lock().fails = true;
    let refused = write_durably(&store, GROUPS[0], append(2)).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    disk.0.lock().fails = false;
    let refused = write_durably(&store, GROUPS[0], append(3)).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "a failed sync is never tried again: {refused:?}");
    let kept = on(&disk.power_cut(1)).unwrap();
    assert_eq!(kept.bounds(GROUPS[0]).unwrap(), Some((1, 1)));
}

#[tokio::test]
async fn a_file_belongs_to_one_process_and_damage_in_it_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let open = || RedbStore::open(&path, StoreOptions::default(), StoreMetrics::default());
    let store = open().unwrap();
    assert!(!path.exists(), "there is nothing to keep yet");
    let marker = Bytes::from_static(b"a value that can be found in the file");
    write_durably(&store, GROUPS[0], vec![Write::Set(Slot::Image, marker.clone())]).await.unwrap();
    let second = open();
    assert!(matches!(&second, Err(StoreError::Open { .. })), "{second:?}");
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<_> =
        (0..bytes.len() - marker.len()).filter(|at| bytes[*at..].starts_with(&marker)).collect();
    for at in &places {
        bytes[*at] ^= 1;
    }
    assert!(!places.is_empty());
    std::fs::write(&path, bytes).unwrap();
    // Either the file is refused, or the value is.
    let read = open().and_then(|store| store.slot(GROUPS[0], Slot::Image));
    assert!(
        matches!(&read, Err(StoreError::Damaged(_) | StoreError::Open { .. } | StoreError::Failed(_))),
        "{read:?}"
    );
}
