//! Who watches which key here, and until when.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::{Contact, Key, NodeId, Timestamp};

use super::config::Quotas;

/// Longest time that a watch is granted.
const LAPSE_MAX: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub(super) struct Watchers {
    quotas: Quotas,
    by_key: BTreeMap<Key, BTreeMap<NodeId, Watcher>>,
    per_peer: BTreeMap<NodeId, usize>,
    len: usize,
}

#[derive(Debug)]
struct Watcher {
    contact: Contact,
    until: Timestamp,
}

impl Watchers {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self { quotas, by_key: BTreeMap::new(), per_peer: BTreeMap::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Registers or renews a watch; `false` if there is no room.
    pub(super) fn register(&mut self, now: Timestamp, key: Key, contact: Contact, lapse: Duration) -> bool {
        let id = contact.id;
        let until = now + lapse.min(LAPSE_MAX);
        let of_key = self.by_key.get(&key);
        if !of_key.is_some_and(|watchers| watchers.contains_key(&id)) {
            let full = of_key.is_some_and(|watchers| watchers.len() >= self.quotas.watchers_per_key)
                || self.per_peer.get(&id).is_some_and(|count| *count >= self.quotas.watches_per_peer)
                || self.len >= self.quotas.watches;
            if full {
                return false;
            }
            self.len += 1;
            *self.per_peer.entry(id).or_default() += 1;
        }
        self.by_key.entry(key).or_default().insert(id, Watcher { contact, until });
        true
    }

    /// The live watchers of a key.
    pub(super) fn of(&self, now: Timestamp, key: &Key) -> Vec<Contact> {
        let watchers = self.by_key.get(key).into_iter().flat_map(BTreeMap::values);
        watchers.filter(|watcher| watcher.until > now).map(|watcher| watcher.contact.clone()).collect()
    }

    /// A peer does not watch a key any more.
    pub(super) fn remove(&mut self, key: &Key, id: &NodeId) {
        let Some(watchers) = self.by_key.get_mut(key) else { return };
        if watchers.remove(id).is_some() {
            self.len -= 1;
            uncount(&mut self.per_peer, id);
        }
        if watchers.is_empty() {
            self.by_key.remove(key);
        }
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, id: &NodeId) {
        if self.per_peer.contains_key(id) {
            let keys: Vec<Key> = self
                .by_key
                .iter()
                .filter(|(_, watchers)| watchers.contains_key(id))
                .map(|(key, _)| *key)
                .collect();
            keys.iter().for_each(|key| self.remove(key, id));
        }
    }

    /// Drops the watches that were not renewed.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let per_peer = &mut self.per_peer;
        let len = &mut self.len;
        self.by_key.retain(|_, watchers| {
            watchers.retain(|id, watcher| {
                let is_live = watcher.until > now;
                if !is_live {
                    *len -= 1;
                    uncount(per_peer, id);
                }
                is_live
            });
            !watchers.is_empty()
        });
    }
}

fn uncount(per_peer: &mut BTreeMap<NodeId, usize>, id: &NodeId) {
    if let Some(count) = per_peer.get_mut(id) {
        *count -= 1;
        if *count == 0 {
            per_peer.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    fn contact(n: u8) -> Contact {
        Contact { id: NodeId::from_bytes([n; 32]), addrs: Vec::new() }
    }

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 32])
    }

    #[test]
    fn a_watch_lapses_unless_it_is_renewed() {
        let mut watchers = Watchers::new(Quotas::default());
        assert!(watchers.register(at(0), key(1), contact(1), Duration::from_secs(30)));
        assert!(watchers.register(at(0), key(1), contact(2), Duration::from_secs(30)));
        assert!(watchers.register(at(20), key(1), contact(1), Duration::from_secs(30)));
        assert_eq!(watchers.of(at(40), &key(1)), [contact(1)]);
        watchers.expire(at(40));
        assert_eq!(watchers.len(), 1);
        watchers.expire(at(60));
        assert_eq!((watchers.len(), watchers.per_peer.len(), watchers.by_key.len()), (0, 0, 0));
    }

    #[test]
    fn each_quota_refuses_and_a_forgotten_peer_makes_room() {
        let quotas = Quotas { watchers_per_key: 2, watches_per_peer: 2, watches: 3, ..Quotas::default() };
        let mut watchers = Watchers::new(quotas);
        let register =
            |watchers: &mut Watchers, k, n| watchers.register(at(0), key(k), contact(n), LAPSE_MAX);
        assert!(register(&mut watchers, 1, 1));
        assert!(register(&mut watchers, 2, 1));
        assert!(!register(&mut watchers, 3, 1), "two a peer");
        assert!(register(&mut watchers, 1, 2));
        assert!(!register(&mut watchers, 1, 3), "two a key");
        assert!(!register(&mut watchers, 4, 3), "three in all");
        watchers.forget(&NodeId::from_bytes([1; 32]));
        assert_eq!(watchers.len(), 1);
        assert!(register(&mut watchers, 4, 3));
    }
}
