//! The watches that users hold, by key: where the driver shows what the node found.

use std::collections::BTreeMap;

use macula_proto::Key;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{DirectoryError, Found, Watch, WatchSource};

/// Grows with the watches of this node's own users only; those dropped are swept out by the driver.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<Key, Vec<WatchSource>>,
    /// Keys that somebody began to watch since the driver last looked.
    wanted: Vec<Key>,
    is_closed: bool,
}

impl Board {
    pub(super) fn watch(&self, key: Key) -> Watch {
        let (source, watch) = Watch::new();
        let mut state = self.state.lock();
        if state.is_closed {
            source.failed(DirectoryError::Closed);
            return watch;
        }
        state.sources.entry(key).or_default().push(source);
        state.wanted.push(key);
        drop(state);
        self.wanted.notify_one();
        watch
    }

    /// Waits until keys are wanted, and takes them.
    pub(super) async fn wanted(&self) -> Vec<Key> {
        loop {
            let wanted = std::mem::take(&mut self.state.lock().wanted);
            if !wanted.is_empty() {
                return wanted;
            }
            self.wanted.notified().await;
        }
    }

    pub(super) fn show(&self, key: &Key, found: &Result<Found, DirectoryError>) {
        for source in self.state.lock().sources.get(key).into_iter().flatten() {
            match found {
                Ok(found) => source.update(found.clone()),
                Err(error) => source.failed(error.clone()),
            }
        }
    }

    /// Drops the watches that nobody holds; returns the keys that nobody watches any more.
    pub(super) fn sweep(&self) -> Vec<Key> {
        let mut state = self.state.lock();
        let mut unwatched = Vec::new();
        state.sources.retain(|key, sources| {
            sources.retain(|source| !source.is_abandoned());
            if sources.is_empty() {
                unwatched.push(*key);
            }
            !sources.is_empty()
        });
        unwatched
    }

    /// No answers will come any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.sources.clear();
        state.wanted.clear();
    }
}
