//! What one node holds: the newest version of each value that it was given.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use macula::NodeId;
use serde::{Deserialize, Serialize};

/// Which of two values is the newer one: later by the writers' clocks, then by their ids, so that all agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Version {
    at_ms: u64,
    writer: String,
}

/// A value with its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) version: Version,
    /// `None`: deleted. That has to be remembered, or an older copy elsewhere would bring the value back.
    pub(crate) value: Option<String>,
}

/// Keys with their versions, to compare with another node's.
pub(crate) type Digest = BTreeMap<String, Version>;

pub(crate) struct Store {
    me: NodeId,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Store {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, entries: Mutex::default() }
    }

    /// A version for a write that follows `seen`, whatever the clocks say.
    pub(crate) fn next_version(&self, seen: Option<&Version>) -> Version {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let after = seen.map_or(0, |seen| seen.at_ms.saturating_add(1));
        Version { at_ms: now.max(after), writer: self.me.to_string() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.entries().get(key).cloned()
    }

    /// Takes a value unless a newer one is here; taking it twice changes nothing.
    pub(crate) fn put(&self, key: String, entry: Entry) {
        let mut entries = self.entries();
        if entries.get(&key).is_none_or(|held| held.version < entry.version) {
            entries.insert(key, entry);
        }
    }

    /// Gives up a value that others hold, unless it has changed meanwhile.
    pub(crate) fn remove(&self, key: &str, version: &Version) {
        let mut entries = self.entries();
        if entries.get(key).is_some_and(|held| held.version == *version) {
            entries.remove(key);
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.entries().iter().map(|(key, entry)| (key.clone(), entry.version.clone())).collect()
    }

    /// Those of `offered` that are newer than what is here.
    pub(crate) fn wanted(&self, offered: Digest) -> Vec<String> {
        let entries = self.entries();
        let is_new =
            |(key, version): &(String, Version)| entries.get(key).is_none_or(|held| held.version < *version);
        offered.into_iter().filter(is_new).map(|(key, _)| key).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Every change is a single insertion or removal: a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
