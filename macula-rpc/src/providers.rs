//! Who offers what: one watched directory answer for each procedure that this node calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use macula_dht::{Directory, DirectoryError, Found, Watch};
use macula_proto::{Clock, NodeId, Timestamp};
use parking_lot::Mutex;

use crate::registry::Procedure;
use crate::roster::Roster;
use crate::{CallRequest, mux};

/// An empty answer is asked for again at most so often, whatever callers do.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

/// Watched answers, at most `entries_max` of them: the least recently used goes first.
pub(crate) struct Providers<D> {
    directory: D,
    entries: DashMap<Procedure, Arc<Entry>>,
    entries_max: usize,
    clock: Arc<dyn Clock>,
}

/// The providers of one procedure.
pub(crate) struct Entry {
    procedure: Procedure,
    watch: Watch,
    pub(crate) roster: Mutex<Roster>,
    turn: AtomicU64,
    used: Mutex<Timestamp>,
    rechecked: Mutex<Timestamp>,
    body: Mutex<Option<Body>>,
}

/// What the latest call said of itself, for calls that say the same.
struct Body {
    content_type: String,
    idempotent: bool,
    bytes: Bytes,
}

impl<D: Directory> Providers<D> {
    pub(crate) fn new(directory: D, entries_max: usize, clock: Arc<dyn Clock>) -> Self {
        Self { directory, entries: DashMap::new(), entries_max: entries_max.max(1), clock }
    }

    /// The entry of a procedure; begins to watch it if need be.
    pub(crate) fn entry(&self, procedure: &Procedure) -> Arc<Entry> {
        let now = self.clock.now();
        if let Some(entry) = self.cached(procedure, now) {
            return entry;
        }
        if self.entries.len() >= self.entries_max {
            self.evict();
        }
        let fresh = || {
            Arc::new(Entry {
                procedure: procedure.clone(),
                watch: self.directory.watch(procedure.key()),
                roster: Mutex::default(),
                turn: AtomicU64::new(0),
                used: Mutex::new(now),
                rechecked: Mutex::new(now),
                body: Mutex::default(),
            })
        };
        self.entries.entry(procedure.clone()).or_insert_with(fresh).clone()
    }

    /// The entry of a procedure, if it is watched.
    pub(crate) fn cached(&self, procedure: &Procedure, now: Timestamp) -> Option<Arc<Entry>> {
        let entry = self.entries.get(procedure)?.clone();
        *entry.used.lock() = now;
        Some(entry)
    }

    /// What the directory knows; waits for the first answer. An empty one is checked once more before it is believed.
    pub(crate) async fn found(&self, entry: &Entry) -> Result<Arc<Found>, DirectoryError> {
        let found = entry.watch.ready().await?;
        if !found.records.is_empty() || !entry.may_recheck(self.clock.now()) {
            return Ok(found);
        }
        self.directory.find(entry.procedure.key()).await.map(Arc::new)
    }

    /// Ends watches that nobody has used for `idle_max`, and forgets providers that are no longer announced.
    pub(crate) fn expire(&self, idle_max: Duration) {
        let now = self.clock.now();
        self.entries.retain(|_, entry| now - *entry.used.lock() < idle_max);
        for entry in &self.entries {
            let found = entry.watch.current();
            entry.roster.lock().retain(|id| found.by(id).is_some());
        }
    }

    /// A connection to `id` is up.
    pub(crate) fn back(&self, id: &NodeId) {
        for entry in &self.entries {
            entry.roster.lock().back(id);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn evict(&self) {
        let oldest =
            self.entries.iter().min_by_key(|entry| *entry.used.lock()).map(|entry| entry.key().clone());
        if let Some(oldest) = oldest {
            self.entries.remove(&oldest);
        }
    }
}

impl Entry {
    /// What the directory was last seen to know.
    pub(crate) fn current(&self) -> Arc<Found> {
        self.watch.current()
    }

    /// How many calls were made before this one.
    pub(crate) fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// What a small call says of itself.
    pub(crate) fn body(&self, request: &CallRequest) -> Bytes {
        if !request.headers.is_empty() {
            return mux::call_body(request);
        }
        let mut latest = self.body.lock();
        let said = latest.as_ref().filter(|body| {
            body.content_type == request.content_type && body.idempotent == request.idempotent
        });
        if let Some(body) = said {
            return body.bytes.clone();
        }
        let bytes = mux::call_body(request);
        let (content_type, idempotent) = (request.content_type.clone(), request.idempotent);
        *latest = Some(Body { content_type, idempotent, bytes: bytes.clone() });
        bytes
    }

    fn may_recheck(&self, now: Timestamp) -> bool {
        let mut rechecked = self.rechecked.lock();
        let may = now - *rechecked >= RECHECK_EVERY;
        if may {
            *rechecked = now;
        }
        may
    }
}
