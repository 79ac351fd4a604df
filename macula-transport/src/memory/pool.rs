//! A node's connections, one a peer, and the dials that are on their way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use macula_proto::NodeId;
use tokio_util::sync::CancellationToken;

use super::connection::End;
use crate::{CloseReason, TransportError};

/// The live connections of one node.
#[derive(Default)]
pub(super) struct Pool {
    entries: BTreeMap<NodeId, Entry>,
    dials: BTreeMap<DialKey, Arc<Dial>>,
}

struct Entry {
    end: End,
    /// `serve` reads from it.
    attached: bool,
}

/// Whom a dial is for: the id, if one is asked for, and the addresses to try.
pub(super) type DialKey = (Option<NodeId>, Vec<SocketAddr>);

/// What became of a connection that was put into the pool.
pub(super) enum Added {
    /// It was there.
    Already,
    /// It is there now, and another one must be closed for that reason.
    New(Option<(End, CloseReason)>),
}

/// A dial under way, shared by all who want its outcome.
#[derive(Default)]
pub(super) struct Dial {
    outcome: OnceLock<Result<End, TransportError>>,
    done: CancellationToken,
}

impl Pool {
    pub(super) fn get(&self, peer: NodeId) -> Option<&End> {
        self.entries.get(&peer).map(|entry| &entry.end).filter(|end| end.is_usable())
    }

    /// The connection whose peer is at an address.
    pub(super) fn at(&self, addr: SocketAddr) -> Option<&End> {
        self.ends().find(|end| end.theirs().hello.listen == addr && end.is_usable())
    }

    /// All connections, in order of peer id.
    pub(super) fn ends(&self) -> impl Iterator<Item = &End> {
        self.entries.values().map(|entry| &entry.end)
    }

    /// Adds a connection, or gives up if the pool is full of connections in use.
    pub(super) fn insert(&mut self, end: &End, connections_max: usize) -> Result<Added, TransportError> {
        let peer = end.peer();
        let displaced = match self.entries.get(&peer) {
            Some(entry) if entry.end.is_same(end) => return Ok(Added::Already),
            // The peer began anew, so it has lost the old one.
            Some(entry) => Some((entry.end.clone(), CloseReason::Lost)),
            None if self.entries.len() < connections_max => None,
            None => {
                let idlest = self.idlest().ok_or(TransportError::PoolFull(connections_max))?;
                self.entries.remove(&idlest.peer());
                Some((idlest, CloseReason::Evicted))
            }
        };
        self.entries.insert(peer, Entry { end: end.clone(), attached: false });
        Ok(Added::New(displaced))
    }

    /// Whether another connection finds room, if need be by evicting one that is not in use.
    pub(super) fn has_room(&self, peer: NodeId, connections_max: usize) -> bool {
        self.entries.len() < connections_max || self.entries.contains_key(&peer) || self.idlest().is_some()
    }

    /// Removes this connection, and no other to the same peer.
    pub(super) fn remove(&mut self, end: &End) {
        let peer = end.peer();
        if self.entries.get(&peer).is_some_and(|entry| entry.end.is_same(end)) {
            self.entries.remove(&peer);
        }
    }

    /// The next connection that `serve` does not read from yet, to a peer that `may` be attached.
    pub(super) fn attach(&mut self, may: impl Fn(&NodeId) -> bool) -> Option<End> {
        let (_, entry) = self.entries.iter_mut().find(|(peer, entry)| !entry.attached && may(peer))?;
        entry.attached = true;
        Some(entry.end.clone())
    }

    /// The dial for this key, and whether the caller must run it.
    pub(super) fn dial(&mut self, key: &DialKey) -> (Arc<Dial>, bool) {
        if let Some(dial) = self.dials.get(key) {
            return (dial.clone(), false);
        }
        let dial = Arc::new(Dial::default());
        self.dials.insert(key.clone(), dial.clone());
        (dial, true)
    }

    pub(super) fn forget_dial(&mut self, key: &DialKey) {
        self.dials.remove(key);
    }

    /// Of the connections with nothing under way and no open stream, the one unused for longest.
    fn idlest(&self) -> Option<End> {
        self.ends().filter(|end| end.is_quiet()).min_by_key(|end| end.last_used()).cloned()
    }
}

impl Dial {
    /// Waits for the outcome.
    pub(super) async fn outcome(&self) -> Result<End, TransportError> {
        self.done.cancelled().await;
        self.outcome.get().cloned().unwrap_or(Err(TransportError::Closed))
    }

    /// Tells everybody.
    pub(super) fn settle(&self, outcome: Result<End, TransportError>) {
        // Only the task that runs the dial settles it, once.
        let _ = self.outcome.set(outcome);
        self.done.cancel();
    }
}
