//! Keeps this node's records in the directory in step with a table: its subscriptions, or its retained values.
//!
//! One record a key stands for all that the table has there, so changes at one key must not overtake each other: each key has
//! a slot, whose lock is held while the directory is told. Whoever gets the lock announces what is wanted *then*;
//! those who queued behind find it done. A thousand subscriptions made at once cost one or two announcements a key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_dht::{Announced, Directory, DirectoryError};
use macula_proto::{Key, Name, Realm};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Pattern;
use crate::interest::{Interests, Want};
use crate::retained::{RetainedFull, RetainedTable, RetainedValue};

/// Keys that are brought up to date at the same time in the background.
const SYNCS_MAX: usize = 32;

/// First and longest pause before a failed announcement is tried again; it doubles in between.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What this node has to say at each key.
pub(crate) trait Records: Default + Send + 'static {
    /// The value of its record at `key`; `None` if there is to be none.
    fn value(&self, key: &Key) -> Option<Bytes>;

    /// All keys at which there is to be one.
    fn keys(&self) -> Vec<Key>;

    /// Whether they are to be found when this node is gone, too.
    const LASTING: bool;
}

pub(crate) struct Announcer<D, R> {
    directory: D,
    table: Mutex<Table<R>>,
    changed: Notify,
    failures: Counter,
}

#[derive(Default)]
struct Table<R> {
    records: R,
    slots: BTreeMap<Key, Slot>,
    /// Keys whose record may be out of step, with nobody waiting for it. No more than there are slots.
    dirty: BTreeSet<Key>,
}

type Slot = Arc<tokio::sync::Mutex<Standing>>;

/// What the directory has from us at a key, as far as we know.
#[derive(Default)]
enum Standing {
    #[default]
    Absent,
    /// A call was begun and did not end well, or the directory was restarted.
    Unknown,
    Stands(Bytes, Announced),
}

impl<D: Directory> Announcer<D, Interests> {
    /// A subscription was made. [`sync`](Self::sync) the key to announce it. `None`: it is in a group, and those at its key
    /// do not fit into a record.
    pub(crate) fn add(&self, realm: &Realm, want: &Want) -> Option<Key> {
        self.table.lock().records.add(realm, want)
    }

    /// A subscription ended; the record follows in the background, unless somebody syncs it first.
    pub(crate) fn remove(&self, realm: &Realm, want: &Want) -> Key {
        let mut table = self.table.lock();
        let key = table.records.remove(realm, want);
        if table.slots.contains_key(&key) {
            table.dirty.insert(key);
        }
        drop(table);
        self.changed.notify_one();
        key
    }

    /// This node is in the tree of a pattern, or not any more; the record follows in the background.
    pub(crate) fn set_tree(&self, realm: &Realm, pattern: &Pattern, is_in: bool) {
        let mut table = self.table.lock();
        if let Some(key) = table.records.set_tree(realm, pattern, is_in) {
            table.dirty.insert(key);
            drop(table);
            self.changed.notify_one();
        }
    }
}

impl<D: Directory> Announcer<D, RetainedTable> {
    /// A value is to be retained, unless a newer one is. [`sync`](Self::sync) the keys to announce it.
    pub(crate) fn retain(
        &self,
        realm: &Realm,
        topic: &Name,
        value: RetainedValue,
    ) -> Result<Vec<Key>, RetainedFull> {
        self.table.lock().records.set(realm, topic, value)
    }

    /// A value is not to be retained any more. [`sync`](Self::sync) the keys to withdraw it.
    pub(crate) fn clear(&self, realm: &Realm, topic: &Name) -> Vec<Key> {
        self.table.lock().records.clear(realm, topic)
    }

    /// How many values there are.
    pub(crate) fn retained(&self) -> usize {
        self.table.lock().records.len()
    }
}

impl<D: Directory, R: Records> Announcer<D, R> {
    pub(crate) fn new(directory: D, failures: Counter) -> Self {
        Self { directory, table: Mutex::default(), changed: Notify::new(), failures }
    }

    /// Brings the record at `key` in step with the table in the background.
    pub(crate) fn sync_later(&self, key: Key) {
        self.table.lock().dirty.insert(key);
        self.changed.notify_one();
    }

    /// Brings the record at `key` in step with the table as it is by then.
    pub(crate) async fn sync(&self, key: Key) -> Result<Announced, DirectoryError> {
        loop {
            let slot = self.table.lock().slots.entry(key).or_default().clone();
            let mut standing = slot.lock().await;
            // A slot that was given up while we queued for it guards nothing.
            if self.table.lock().slots.get(&key).is_some_and(|current| Arc::ptr_eq(current, &slot)) {
                return self.tell(key, &mut standing).await;
            }
        }
    }

    /// Announces everything again, for a directory that lost its memory. Returns the first failure; the rest is
    /// tried in any case, and what failed is tried again in the background.
    pub(crate) async fn replay(self: &Arc<Self>) -> Result<(), DirectoryError> {
        let keys = self.table.lock().records.keys();
        let mut outcome = Ok(());
        let mut running = JoinSet::new();
        let mut rest = keys.into_iter();
        loop {
            while running.len() < SYNCS_MAX
                && let Some(key) = rest.next()
            {
                let announcer = self.clone();
                running.spawn(async move { announcer.again(key).await });
            }
            match running.join_next().await {
                Some(Ok(Err(error))) => outcome = outcome.and(Err(error)),
                Some(_) => {}
                None => return outcome,
            }
        }
    }

    /// Works off what changed, for ever. Run it in one task; started again, it looks at every key once, because
    /// its predecessor may have had some in hand. Keys that are in step cost nothing.
    pub(crate) async fn maintain(self: &Arc<Self>) {
        self.all_dirty();
        let mut running = JoinSet::new();
        let mut failed = BTreeSet::new();
        let mut pause = RETRY_MIN;
        let mut retry_at = Instant::now();
        loop {
            while running.len() < SYNCS_MAX
                && let Some(key) = self.take_dirty()
            {
                let announcer = self.clone();
                running.spawn(async move { (key, announcer.sync(key).await) });
            }
            tokio::select! {
                biased;
                Some(done) = running.join_next() => match done {
                    Ok((_, Ok(_))) => pause = RETRY_MIN,
                    Ok((key, Err(error))) => {
                        tracing::warn!(key = %key.short(), %error, "a record could not be announced");
                        if failed.is_empty() {
                            retry_at = Instant::now() + pause;
                            pause = (pause * 2).min(RETRY_MAX);
                        }
                        failed.insert(key);
                    }
                    Err(panicked) => tracing::error!(%panicked, "announcing a record panicked"),
                },
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(retry_at), if !failed.is_empty() => {
                    self.table.lock().dirty.append(&mut failed);
                }
            }
        }
    }

    /// Takes every record back.
    pub(crate) async fn withdraw_all(self: &Arc<Self>) {
        self.table.lock().records = R::default();
        self.all_dirty();
        let mut running = JoinSet::new();
        loop {
            while running.len() < SYNCS_MAX
                && let Some(key) = self.take_dirty()
            {
                let announcer = self.clone();
                running.spawn(async move { announcer.sync(key).await.map(|_| ()) });
            }
            if running.join_next().await.is_none() {
                return;
            }
        }
    }

    fn all_dirty(&self) {
        let mut table = self.table.lock();
        table.dirty = table.slots.keys().copied().collect();
    }

    fn take_dirty(&self) -> Option<Key> {
        self.table.lock().dirty.pop_first()
    }

    async fn again(&self, key: Key) -> Result<(), DirectoryError> {
        let slot = self.table.lock().slots.entry(key).or_default().clone();
        *slot.lock().await = Standing::Unknown;
        let outcome = self.sync(key).await;
        if outcome.is_err() {
            self.sync_later(key);
        }
        outcome.map(|_| ())
    }

    async fn tell(&self, key: Key, standing: &mut Standing) -> Result<Announced, DirectoryError> {
        let wanted = self.table.lock().records.value(&key);
        match wanted {
            Some(value) => self.announce(key, value, standing).await,
            None => self.withdraw(key, standing).await.map(|()| Announced::default()),
        }
        .inspect_err(|_| {
            self.failures.inc();
        })
    }

    async fn announce(
        &self,
        key: Key,
        value: Bytes,
        standing: &mut Standing,
    ) -> Result<Announced, DirectoryError> {
        if let Standing::Stands(current, announced) = standing
            && *current == value
        {
            return Ok(*announced);
        }
        // Until the call returns, and if it is cancelled, nobody knows.
        *standing = Standing::Unknown;
        let announced = match R::LASTING {
            false => self.directory.announce(key, value.clone()).await?,
            true => self.directory.announce_lasting(key, value.clone()).await?,
        };
        *standing = Standing::Stands(value, announced);
        Ok(announced)
    }

    async fn withdraw(&self, key: Key, standing: &mut Standing) -> Result<(), DirectoryError> {
        if !matches!(standing, Standing::Absent) {
            *standing = Standing::Unknown;
            self.directory.withdraw(key).await?;
            *standing = Standing::Absent;
        }
        let mut table = self.table.lock();
        // Somebody may want one again meanwhile; then they wait for this slot.
        if table.records.value(&key).is_none() {
            table.slots.remove(&key);
            table.dirty.remove(&key);
        }
        Ok(())
    }
}
