//! The [`Directory`] trait: announce, withdraw, find, watch.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use macula_proto::{Contact, Key, NodeId};
use tokio::sync::{Notify, watch};

/// Largest value of a record, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024;

/// A directory of records. Cheap to clone; all clones are the same node's view.
///
/// # Guarantees
/// - One record for each (key, announcer): announcing again replaces the value.
/// - A record is its announcer's own word: holders and relays cannot forge or alter it.
/// - What is announced stays findable (it is republished) until it is withdrawn or its announcer is gone for longer
///   than the record's time to live.
/// - After [`announce`](Self::announce) returned, every [`Watch`] of that key whose holder could be reached
///   already shows the record; [`Announced::watchers_lapsed`] says how many may lag until they refresh.
pub trait Directory: Clone + Send + Sync + 'static {
    /// Announces `value` at `key` in this node's name, and keeps it announced.
    ///
    /// # Errors
    /// [`DirectoryError::ValueTooLarge`]; [`DirectoryError::Refused`] by every holder. A lone node is no error:
    /// it stores its own record, and spreads it once it meets others.
    fn announce(
        &self,
        key: Key,
        value: Bytes,
    ) -> impl Future<Output = Result<Announced, DirectoryError>> + Send;

    /// As [`announce`](Self::announce), for what is to be found when its announcer is gone, too: until the record's time to
    /// live is over. A usual record is not shown any more once it is known that its announcer died or left.
    ///
    /// # Errors
    /// The same.
    fn announce_lasting(
        &self,
        key: Key,
        value: Bytes,
    ) -> impl Future<Output = Result<Announced, DirectoryError>> + Send;

    /// Takes this node's record at `key` back. Withdrawing what is not announced does nothing.
    ///
    /// # Errors
    /// [`DirectoryError`] if no holder could be told; the record then goes with its time to live.
    fn withdraw(&self, key: Key) -> impl Future<Output = Result<(), DirectoryError>> + Send;

    /// Looks up the records at `key`, asking remote nodes. Nothing found is not an error.
    ///
    /// # Errors
    /// [`DirectoryError::Unreachable`] if nodes are known but none of them answered.
    fn find(&self, key: Key) -> impl Future<Output = Result<Found, DirectoryError>> + Send;

    /// Looks up the records at `key` and keeps the answer fresh for as long as the [`Watch`] is held.
    fn watch(&self, key: Key) -> Watch;
}

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is announced.
    pub key: Key,
    /// Who announces it, and where that node can be reached.
    pub announcer: Contact,
    /// What is announced; at most [`VALUE_BYTES_MAX`] bytes.
    pub value: Bytes,
    /// Of two records of one announcer at one key, the higher number is the newer.
    pub sequence: u64,
}

/// The answer to a lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The records, at most one for each announcer, in order of announcer id.
    pub records: Vec<Record>,
    /// How many records there seem to be in all; more than `records` holds if the answer is a sample.
    pub estimate: usize,
}

impl Found {
    /// Whether `records` is all there is, not a sample.
    pub fn is_complete(&self) -> bool {
        self.estimate <= self.records.len()
    }

    /// The record of one announcer.
    pub fn by(&self, announcer: &NodeId) -> Option<&Record> {
        self.records.iter().find(|record| record.announcer.id == *announcer)
    }
}

/// What became of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Announced {
    /// Nodes that hold the record now, this one included if it is among the closest.
    pub holders: usize,
    /// Watchers that acknowledged the change.
    pub watchers_told: usize,
    /// Watchers that did not acknowledge in time: they may miss the change until their next refresh.
    pub watchers_lapsed: usize,
}

/// What can go wrong in a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The value is larger than any may be.
    #[error("a record's value has at most {bytes_max} bytes, not {bytes}")]
    ValueTooLarge {
        /// The value's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Every node that should hold the record said no.
    #[error("no holder took the record: {0}")]
    Refused(String),
    /// Nodes are known, but none answered.
    #[error("none of {asked} nodes answered within {waited:?}")]
    Unreachable {
        /// How many were asked.
        asked: usize,
        /// For how long.
        waited: Duration,
    },
    /// No other node is known.
    #[error("no peers: this node has not joined a mesh")]
    NoPeers,
    /// This node is shutting down.
    #[error("the directory is shut down")]
    Closed,
}

/// A lookup that stays fresh. Reading it is a pointer load; dropping the last clone ends the watch.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    ready: watch::Receiver<Option<Result<(), DirectoryError>>>,
    /// Held by every `Watch` and by no [`WatchSource`]: when the last goes, the source learns of it.
    _interest: Arc<Interest>,
}

/// The directory's end of a [`Watch`].
#[derive(Debug)]
pub struct WatchSource {
    shared: Arc<Shared>,
    ready: watch::Sender<Option<Result<(), DirectoryError>>>,
    dropped: Arc<Notify>,
}

#[derive(Debug)]
struct Shared {
    found: ArcSwap<Found>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Interest {
    dropped: Arc<Notify>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

impl Watch {
    /// A watch and the end that feeds it.
    pub fn new() -> (WatchSource, Self) {
        let shared = Arc::new(Shared { found: ArcSwap::default(), generation: AtomicU64::new(0) });
        let (ready, is_ready) = watch::channel(None);
        let dropped = Arc::new(Notify::new());
        let interest = Arc::new(Interest { dropped: dropped.clone() });
        let source = WatchSource { shared: shared.clone(), ready, dropped };
        (source, Self { shared, ready: is_ready, _interest: interest })
    }

    /// What is known now; empty before the first lookup is done.
    pub fn current(&self) -> Arc<Found> {
        self.shared.found.load_full()
    }

    /// Grows with every change: compare it to know whether a cached reading is still good.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Waits for the first lookup and returns what it found.
    ///
    /// # Errors
    /// Why the first lookup failed (it is tried again in the background), or [`DirectoryError::Closed`].
    pub async fn ready(&self) -> Result<Arc<Found>, DirectoryError> {
        let mut ready = self.ready.clone();
        let outcome = ready.wait_for(Option::is_some).await.map_err(|_| DirectoryError::Closed)?;
        match outcome.as_ref() {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(self.current()),
        }
    }

    /// Whether the first lookup is done, well or ill.
    pub fn is_ready(&self) -> bool {
        self.ready.borrow().is_some()
    }
}

impl WatchSource {
    /// Shows a new answer. Readers see it before this returns.
    pub fn update(&self, found: Found) {
        if **self.shared.found.load() != found {
            self.shared.found.store(Arc::new(found));
            self.shared.generation.fetch_add(1, Ordering::Release);
        }
        self.ready.send_replace(Some(Ok(())));
    }

    /// The lookup failed. An answer already shown stays.
    pub fn failed(&self, error: DirectoryError) {
        let answered = matches!(*self.ready.borrow(), Some(Ok(())));
        if !answered {
            self.ready.send_replace(Some(Err(error)));
        }
    }

    /// What the watchers see now.
    pub fn current(&self) -> Arc<Found> {
        self.shared.found.load_full()
    }

    /// Whether nobody watches any more.
    pub fn is_abandoned(&self) -> bool {
        self.ready.receiver_count() == 0
    }

    /// Waits until nobody watches any more.
    pub async fn abandoned(&self) {
        while !self.is_abandoned() {
            self.dropped.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_shows_updates_and_tells_its_source_when_it_is_dropped() {
        let (source, watch) = Watch::new();
        assert!(!watch.is_ready());
        source.update(Found { records: Vec::new(), estimate: 3 });
        assert_eq!(watch.ready().await.unwrap().estimate, 3);
        assert_eq!(watch.generation(), 1);
        source.update(Found { records: Vec::new(), estimate: 3 });
        assert_eq!(watch.generation(), 1, "the same answer is no change");
        let second = watch.clone();
        drop(watch);
        assert!(!source.is_abandoned());
        drop(second);
        source.abandoned().await;
    }

    #[tokio::test]
    async fn a_failed_first_lookup_is_an_error_until_one_succeeds() {
        let (source, watch) = Watch::new();
        source.failed(DirectoryError::NoPeers);
        assert_eq!(watch.ready().await, Err(DirectoryError::NoPeers));
        source.update(Found::default());
        assert!(watch.ready().await.is_ok());
        source.failed(DirectoryError::NoPeers);
        assert!(watch.ready().await.is_ok(), "an answer that was shown stays");
    }
}
