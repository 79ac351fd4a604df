//! The sessions of one node, by provider.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use dashmap::DashMap;
use macula_proto::{Capabilities, Frame, NodeId};
use macula_transport::{PeerEvent, ResetCode, StreamRx, Transport};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Handle;

use super::session::{Ending, Session, carry};
use super::{STREAMS_MAX, frames};
use crate::RpcMetrics;

/// Connected peers that serve numbered calls, and the sessions with them.
pub(crate) struct Sessions {
    /// At most one a connected peer.
    peers: DashMap<NodeId, Option<Arc<Session>>>,
    /// Streams of calls that are served, by caller.
    served: Mutex<BTreeMap<NodeId, usize>>,
    rng: Mutex<StdRng>,
    /// Where sessions are carried, wherever calls come from.
    runtime: Option<Handle>,
}

impl Sessions {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            peers: DashMap::new(),
            served: Mutex::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            runtime: Handle::try_current().ok(),
        }
    }

    /// Makes room for another stream of calls from `caller`; `None` if it has enough of them.
    pub(crate) fn serve(&self, caller: NodeId) -> Option<Served<'_>> {
        let mut served = self.served.lock();
        let streams = served.entry(caller).or_insert(0);
        if *streams >= STREAMS_MAX {
            return None;
        }
        *streams += 1;
        Some(Served { sessions: self, caller })
    }

    /// A connection came or went.
    pub(crate) fn on_peer(&self, event: &PeerEvent) {
        match event {
            PeerEvent::Up(peer) if peer.capabilities.contains(Capabilities::NUMBERED_CALLS) => {
                self.peers.insert(peer.id, None);
            }
            PeerEvent::Up(peer) => drop(self.peers.remove(&peer.id)),
            PeerEvent::Down { id, .. } => drop(self.peers.remove(id)),
            _ => {}
        }
    }

    /// The session with `provider`, if there is one; it may be over.
    pub(crate) fn open(&self, provider: &NodeId) -> Option<Arc<Session>> {
        self.peers.get(provider)?.clone()
    }

    /// The session with `provider`, begun if there is none; `None` if it does not serve such calls, or is not connected.
    pub(crate) fn with<T: Transport>(
        &self,
        provider: &NodeId,
        transport: &T,
        metrics: &Arc<RpcMetrics>,
    ) -> Option<Arc<Session>> {
        if let Some(session) = &*self.peers.get(provider)?
            && session.is_open()
        {
            return Some(session.clone());
        }
        let mut peer = self.peers.get_mut(provider)?;
        if let Some(session) = peer.as_ref().filter(|session| session.is_open()) {
            return Some(session.clone());
        }
        let session = Session::new(*provider, self.rng.lock().next_u32());
        *peer = Some(session.clone());
        drop(peer);
        let carried = carry(Ending(session.clone()), transport.clone(), metrics.clone());
        match &self.runtime {
            Some(runtime) => runtime.spawn(carried),
            None => tokio::spawn(carried),
        };
        Some(session)
    }

    #[cfg(test)]
    pub(crate) fn serves_nobody(&self) -> bool {
        self.served.lock().is_empty()
    }

    #[cfg(test)]
    pub(crate) fn is_open(&self, provider: &NodeId) -> bool {
        let session = self.peers.get(provider).and_then(|peer| peer.clone());
        session.is_some_and(|session| session.is_open())
    }

    /// Reads a large answer, on a stream of its own. `false`: what came is for nobody.
    pub(crate) async fn on_stream<Rx: StreamRx>(&self, from: &NodeId, first: Frame, rx: &mut Rx) -> bool {
        let Some(number) = frames::read_announced(&first) else { return false };
        let session = self.open(from).filter(|session| session.awaits(number));
        let Some(session) = session else {
            // Its caller has gone meanwhile.
            rx.stop(ResetCode::CANCELLED);
            return true;
        };
        match rx.recv().await {
            Ok(Some(frame)) => {
                let woken = session.on_answer(frame);
                woken.is_some_and(|waker| {
                    waker.into_iter().for_each(Waker::wake);
                    true
                })
            }
            // The provider gave up, and says why where the call was made, or the connection is lost.
            Ok(None) | Err(_) => true,
        }
    }
}

/// A stream of calls that is served.
pub(crate) struct Served<'a> {
    sessions: &'a Sessions,
    caller: NodeId,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let mut served = self.sessions.served.lock();
        if let Some(streams) = served.get_mut(&self.caller) {
            *streams -= 1;
            if *streams == 0 {
                served.remove(&self.caller);
            }
        }
    }
}
