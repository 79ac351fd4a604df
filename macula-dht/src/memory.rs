//! A directory in memory: one hub, any number of nodes' views of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Contact, Key, NodeId};
use parking_lot::Mutex;

use crate::{Announced, Directory, DirectoryError, Found, Record, VALUE_BYTES_MAX, Watch, WatchSource};

/// What the nodes of one [`MemoryDirectory`] mesh share. Cheap to clone; all clones are the same mesh.
///
/// ```
/// use macula_dht::{Directory, MemoryDirectoryNetwork};
/// use macula_proto::{Key, NodeId, Realm};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// let network = MemoryDirectoryNetwork::default();
/// let anna = network.directory(NodeId::from_bytes([1; 32]));
/// let bert = network.directory(NodeId::from_bytes([2; 32]));
/// let key = Key::derive("topic", &Realm::default(), "kitchen");
///
/// let watch = bert.watch(key);
/// anna.announce(key, "here".into()).await?;
/// assert_eq!(watch.current().records.len(), 1);
/// # Ok::<(), macula_dht::DirectoryError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryDirectoryNetwork {
    hub: Arc<Mutex<Hub>>,
}

/// One node's view of a [`MemoryDirectoryNetwork`]: records announced through it bear its node's name.
///
/// What is announced is in every watch of the key before `announce` returns. Records stay until they are withdrawn
/// or their node is [removed](MemoryDirectoryNetwork::remove).
#[derive(Clone, Debug)]
pub struct MemoryDirectory {
    contact: Contact,
    hub: Arc<Mutex<Hub>>,
}

#[derive(Debug, Default)]
struct Hub {
    records: BTreeMap<Key, BTreeMap<NodeId, Record>>,
    watches: BTreeMap<Key, Vec<WatchSource>>,
    /// Keys watched when the abandoned watches were last swept out.
    keys_at_sweep: usize,
    sequence: u64,
}

/// Below this many watched keys, nothing is swept.
const SWEEP_KEYS_MIN: usize = 64;

impl MemoryDirectoryNetwork {
    /// The view of node `id`, with a made-up loopback address.
    pub fn directory(&self, id: NodeId) -> MemoryDirectory {
        let port = u16::from_be_bytes([id.as_bytes()[0], id.as_bytes()[1]]).max(1);
        self.directory_of(Contact::new(id, SocketAddr::from(([127, 0, 0, 1], port))))
    }

    /// The view of a node that is reached at `contact`: its records say so.
    pub fn directory_of(&self, contact: Contact) -> MemoryDirectory {
        MemoryDirectory { contact, hub: self.hub.clone() }
    }

    /// The node is gone, and all its records with it.
    pub fn remove(&self, id: &NodeId) {
        let mut hub = self.hub.lock();
        let had: Vec<Key> =
            hub.records.iter().filter(|(_, by)| by.contains_key(id)).map(|(key, _)| *key).collect();
        for key in had {
            hub.withdraw(key, id);
        }
    }
}

impl MemoryDirectory {
    /// The node whose view this is.
    pub fn contact(&self) -> &Contact {
        &self.contact
    }
}

impl Directory for MemoryDirectory {
    async fn announce(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(DirectoryError::ValueTooLarge { bytes: value.len(), bytes_max: VALUE_BYTES_MAX });
        }
        let watchers_told = self.hub.lock().announce(key, &self.contact, value);
        Ok(Announced { holders: 1, watchers_told, watchers_lapsed: 0 })
    }

    async fn announce_lasting(&self, key: Key, value: Bytes) -> Result<Announced, DirectoryError> {
        // Here nobody's records are hidden when it is gone.
        self.announce(key, value).await
    }

    async fn withdraw(&self, key: Key) -> Result<(), DirectoryError> {
        self.hub.lock().withdraw(key, &self.contact.id);
        Ok(())
    }

    async fn find(&self, key: Key) -> Result<Found, DirectoryError> {
        Ok(self.hub.lock().found(&key))
    }

    fn watch(&self, key: Key) -> Watch {
        let (source, watch) = Watch::new();
        let mut hub = self.hub.lock();
        source.update(hub.found(&key));
        hub.sweep();
        hub.watches.entry(key).or_default().push(source);
        watch
    }
}

impl Hub {
    fn found(&self, key: &Key) -> Found {
        let records: Vec<Record> =
            self.records.get(key).map(|by| by.values().cloned().collect()).unwrap_or_default();
        Found { estimate: records.len(), records }
    }

    fn announce(&mut self, key: Key, announcer: &Contact, value: Bytes) -> usize {
        self.sequence += 1;
        let record = Record { key, announcer: announcer.clone(), value, sequence: self.sequence };
        self.records.entry(key).or_default().insert(announcer.id, record);
        self.tell(key)
    }

    fn withdraw(&mut self, key: Key, announcer: &NodeId) {
        let Some(by) = self.records.get_mut(&key) else { return };
        if by.remove(announcer).is_none() {
            return;
        }
        if by.is_empty() {
            self.records.remove(&key);
        }
        self.tell(key);
    }

    /// Shows the change to the key's watches; returns how many there are.
    fn tell(&mut self, key: Key) -> usize {
        let found = self.found(&key);
        let Some(watches) = self.watches.get_mut(&key) else { return 0 };
        watches.retain(|source| !source.is_abandoned());
        watches.iter().for_each(|source| source.update(found.clone()));
        watches.len()
    }

    /// Drops abandoned watches once the watched keys have doubled, so that the cost is spread evenly.
    fn sweep(&mut self) {
        if self.watches.len() < SWEEP_KEYS_MIN.max(2 * self.keys_at_sweep) {
            return;
        }
        self.watches.retain(|_, sources| {
            sources.retain(|source| !source.is_abandoned());
            !sources.is_empty()
        });
        self.keys_at_sweep = self.watches.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn key(n: u32) -> Key {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Key::from_bytes(bytes)
    }

    #[tokio::test]
    async fn a_removed_node_leaves_no_records() {
        let network = MemoryDirectoryNetwork::default();
        let (anna, bert) = (network.directory(id(1)), network.directory(id(2)));
        let watch = bert.watch(key(1));
        anna.announce(key(1), "a".into()).await.unwrap();
        bert.announce(key(1), "b".into()).await.unwrap();
        network.remove(&id(1));
        let left: Vec<NodeId> = watch.current().records.iter().map(|record| record.announcer.id).collect();
        assert_eq!(left, [id(2)]);
    }

    #[tokio::test]
    async fn abandoned_watches_are_swept_out() {
        let network = MemoryDirectoryNetwork::default();
        let anna = network.directory(id(1));
        let kept = anna.watch(key(0));
        for n in 1..10_000 {
            drop(anna.watch(key(n)));
        }
        assert!(network.hub.lock().watches.len() <= SWEEP_KEYS_MIN);
        anna.announce(key(0), "v".into()).await.unwrap();
        assert_eq!(kept.current().records.len(), 1);
    }
}
