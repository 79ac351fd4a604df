//! One node on the in-memory network.

use std::net::SocketAddr;
use std::sync::Arc;

use macula_proto::{Contact, Frame, NodeId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::MemoryConfig;
use super::connection::{End, Hello};
use super::network::Network;
use super::pool::{Added, Pool};
use crate::{CloseReason, Dropped, TransportError};

/// How far a node's life has gone.
///
/// ```text
///   New ── serve ──► Serving ── stop ──► Stopping ── drained ──► Over
///    └───────────────────┴─────── crash, or dropped ───────────────►
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// May dial; accepts nothing.
    New,
    /// Accepts.
    Serving,
    /// Takes nothing new, finishes what it has.
    Stopping,
    /// Gone.
    Over,
}

pub(super) struct Endpoint {
    pub(super) network: Arc<Network>,
    pub(super) config: MemoryConfig,
    pub(super) contact: Contact,
    pub(super) listen: SocketAddr,
    pub(super) pool: Mutex<Pool>,
    /// The pool has a connection that `serve` does not read from.
    pub(super) arrived: Notify,
    pub(super) dead: CancellationToken,
    stage: Mutex<Stage>,
    instance: u64,
}

impl Endpoint {
    pub(super) fn new(
        network: Arc<Network>,
        config: MemoryConfig,
        listen: SocketAddr,
        instance: u64,
    ) -> Self {
        let addrs = if config.advertised.is_empty() { vec![listen] } else { config.advertised.clone() };
        Self {
            contact: Contact { id: config.key.node_id(), addrs },
            network,
            config,
            listen,
            pool: Mutex::default(),
            arrived: Notify::new(),
            dead: CancellationToken::new(),
            stage: Mutex::new(Stage::New),
            instance,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.contact.id
    }

    pub(super) fn stage(&self) -> Stage {
        *self.stage.lock()
    }

    /// What this node says of itself.
    pub(super) fn hello(&self) -> Hello {
        Hello {
            contact: self.contact.clone(),
            listen: self.listen,
            realms: self.config.realms.clone(),
            capabilities: self.config.capabilities,
            agent: self.config.agent.clone(),
            instance: self.instance,
        }
    }

    /// Goes on to a later stage; returns whether it did.
    pub(super) fn advance(&self, to: Stage) -> bool {
        let mut stage = self.stage.lock();
        let order = |stage: Stage| stage as u8;
        let later = order(to) > order(*stage);
        if later {
            *stage = to;
        }
        drop(stage);
        self.network.announce_change();
        later
    }

    /// Fails once this node is stopping.
    pub(super) fn check_open(&self) -> Result<(), TransportError> {
        match self.stage() {
            Stage::New | Stage::Serving => Ok(()),
            Stage::Stopping | Stage::Over => Err(TransportError::Closed),
        }
    }

    /// Puts a connection into the pool, closing another if need be. Putting it there again does nothing.
    pub(super) fn register(&self, end: &End) -> Result<(), TransportError> {
        self.check_open()?;
        let added = self.pool.lock().insert(end, self.config.connections_max)?;
        if let Added::New(displaced) = added {
            self.config.metrics.opened();
            end.mark_pooled();
            if let Some((old, reason)) = displaced {
                old.close(reason);
            }
        }
        self.config.book.learn(&end.theirs().hello.contact);
        self.arrived.notify_one();
        self.network.announce_change();
        Ok(())
    }

    /// The connections, in order of peer id.
    pub(super) fn ends(&self) -> Vec<End> {
        self.pool.lock().ends().cloned().collect()
    }

    /// A connection of this node has closed.
    pub(super) fn on_closed(&self, end: &End, reason: CloseReason) {
        self.pool.lock().remove(end);
        if end.was_pooled() {
            self.config.metrics.closed(reason);
        }
    }

    /// Ends at once, telling nobody.
    pub(super) fn die(&self) {
        if !self.advance(Stage::Over) {
            return;
        }
        self.dead.cancel();
        for end in self.ends() {
            end.close(CloseReason::Lost);
        }
        self.network.forget_endpoint(self.listen);
    }

    pub(super) fn count_sent(&self, frame: &Frame) {
        self.config.metrics.sent(frame.kind(), frame.wire_len());
    }

    pub(super) fn count_received(&self, frame: &Frame) {
        self.config.metrics.received(frame.kind(), frame.wire_len());
    }

    pub(super) fn count_dropped(&self, what: Dropped) {
        self.config.metrics.dropped(what);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // The last handle is gone without a stop: nobody can send or receive here any more.
        self.die();
    }
}
