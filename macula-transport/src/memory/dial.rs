//! Dialling: from a target to a connection that both sides have accepted.
//!
//! ```text
//!   dialler ── TLS ──────────► acceptor      two round trips, as QUIC with a hello takes
//!           ◄───────── TLS ──                the dialler knows who answers: wrong id?
//!           ── hello ────────►               realms, version, room? the connection is up here
//!           ◄──────── welcome                and up there
//! ```
//!
//! Two dials of one pair meet at the acceptor's check: the first makes the connection, the second is given it.

use std::net::SocketAddr;
use std::sync::Arc;

use macula_proto::{Contact, NodeId};

use super::connection::{Connection, End};
use super::endpoint::{Endpoint, Stage};
use super::pool::DialKey;
use crate::{CloseReason, Refusal, Target, TransportError};

/// The connection to a target, dialling if there is none.
pub(super) async fn connect(endpoint: &Arc<Endpoint>, target: Target) -> Result<End, TransportError> {
    endpoint.check_open()?;
    let (id, addrs) = match target {
        Target::Id(id) => (Some(id), endpoint.config.book.addrs(&id)),
        Target::Addr(addr) => (None, vec![addr]),
        Target::Contact(contact) => (Some(contact.id), contact.addrs),
    };
    if id == Some(endpoint.id()) {
        return Err(TransportError::Myself);
    }
    let key = (id, addrs);
    let (dial, mine) = {
        let mut pool = endpoint.pool.lock();
        let live = match key.0 {
            Some(id) => pool.get(id),
            None => key.1.first().and_then(|addr| pool.at(*addr)),
        };
        if let Some(end) = live {
            return Ok(end.clone());
        }
        if key.1.is_empty() {
            return Err(TransportError::NoAddress(key.0.unwrap_or_else(|| endpoint.id())));
        }
        pool.dial(&key)
    };
    if mine {
        // In a task of its own: whoever asked first may lose interest, the others have not.
        let (endpoint, dial) = (endpoint.clone(), dial.clone());
        tokio::spawn(async move {
            let outcome = run(&endpoint, &key).await;
            endpoint.pool.lock().forget_dial(&key);
            dial.settle(outcome);
        });
    }
    dial.outcome().await
}

/// Tries the addresses in turn, all within the dial timeout.
async fn run(endpoint: &Arc<Endpoint>, (id, addrs): &DialKey) -> Result<End, TransportError> {
    let waited = endpoint.config.dial_timeout;
    let share = waited / u32::try_from(addrs.len()).unwrap_or(u32::MAX).max(1);
    let mut failure = TransportError::Unreachable { addrs: addrs.clone(), waited };
    for addr in addrs {
        let attempt = tokio::select! {
            biased;
            () = endpoint.dead.cancelled() => return Err(TransportError::Closed),
            end = linked(endpoint, *id) => return Ok(end),
            attempt = tokio::time::timeout(share, handshake(endpoint, *id, *addr)) => attempt,
        };
        endpoint.config.metrics.handshake(true, matches!(attempt, Ok(Ok(_))));
        match attempt {
            Ok(Ok(end)) => {
                // Known to work from here, whatever the peer says of itself.
                endpoint.config.book.learn(&Contact::new(end.peer(), *addr));
                return Ok(end);
            }
            Ok(Err(error)) => failure = error,
            Err(_elapsed) => {}
        }
    }
    Err(failure)
}

/// Waits until there is a connection to the peer, whoever made it; for ever if no peer is asked for.
async fn linked(endpoint: &Endpoint, id: Option<NodeId>) -> End {
    let Some(id) = id else { return std::future::pending().await };
    let live = || endpoint.pool.lock().get(id).cloned();
    loop {
        endpoint.network.until(|| live().is_some()).await;
        if let Some(end) = live() {
            return end;
        }
    }
}

async fn handshake(
    me: &Arc<Endpoint>,
    expected: Option<NodeId>,
    addr: SocketAddr,
) -> Result<End, TransportError> {
    loop {
        let peer = me.network.until_listening(addr).await;
        let found = peer.id();
        if found == me.id() {
            return Err(TransportError::Myself);
        }
        me.network.travel(me.id(), found).await;
        me.network.travel(found, me.id()).await;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(TransportError::WrongPeer { expected, found, addr });
        }
        me.network.travel(me.id(), found).await;
        let end = match peer.stage() {
            Stage::Serving => Welcomed(accept(me, &peer, addr)?),
            // It went away meanwhile: somebody else may take its place.
            Stage::New | Stage::Over => continue,
            Stage::Stopping => {
                let cause = "the peer is shutting down".into();
                return Err(TransportError::Connection { addr, cause });
            }
        };
        me.network.travel(found, me.id()).await;
        me.register(&end.0)?;
        return Ok(end.0.clone());
    }
}

/// The acceptor's decision about a hello that arrived.
fn accept(me: &Arc<Endpoint>, peer: &Arc<Endpoint>, addr: SocketAddr) -> Result<End, TransportError> {
    if let Some(connection) = me.network.connection(me.id(), peer.id()) {
        return Ok(connection.end_of(me.id()));
    }
    let refused = |refusal| {
        peer.config.metrics.handshake(false, false);
        peer.config.metrics.refused(&refusal);
        TransportError::Refused { addr, refusal }
    };
    let version = me.config.versions.agree(peer.config.versions).ok_or_else(|| refused(Refusal::Version))?;
    if !me.config.realms.iter().any(|realm| peer.config.realms.contains(realm)) {
        return Err(refused(Refusal::Realm));
    }
    if !me.pool.lock().has_room(peer.id(), me.config.connections_max) {
        return Err(TransportError::PoolFull(me.config.connections_max));
    }
    if !peer.pool.lock().has_room(me.id(), peer.config.connections_max) {
        return Err(refused(Refusal::Full));
    }
    let connection = Connection::open(&me.network, version, me, peer);
    if peer.register(&connection.end(1)).is_err() {
        close_unused(&connection);
        return Err(refused(Refusal::Full));
    }
    peer.config.metrics.handshake(false, true);
    me.network.put_connection(me.id(), peer.id(), &connection);
    Ok(connection.end(0))
}

/// A connection that never came up: nobody has heard of it.
fn close_unused(connection: &Arc<Connection>) {
    connection.end(0).close(CloseReason::Lost);
    connection.end(1).close(CloseReason::Lost);
}

/// A connection that the acceptor has taken and the dialler not yet. If the dial ends here, the dialler's side is
/// dead, and the acceptor will find out.
struct Welcomed(End);

impl Drop for Welcomed {
    fn drop(&mut self) {
        let registered = self
            .0
            .mine()
            .endpoint
            .upgrade()
            .is_some_and(|endpoint| endpoint.pool.lock().ends().any(|end| end.is_same(&self.0)));
        if !registered {
            self.0.close(CloseReason::Lost);
        }
    }
}
