//! Dialling: known addresses in a staggered race (after RFC 8305), one dial a peer at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::NodeId;
use parking_lot::Mutex;
use quinn::{ConnectError, Connection, ConnectionError};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::codes::{ABANDONED, refusal_of};
use super::hello::{HelloError, introduce};
use super::link::Link;
use super::tls::{SERVER_NAME, Verdict};
use super::transport::{Inner, Place};
use crate::{Refusal, TransportError};

/// What one dial is for; equal ones share a dial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Goal {
    /// A peer whose id is known.
    Peer(NodeId),
    /// Whoever is at an address.
    Address(SocketAddr),
}

pub(crate) type Outcome = Result<Arc<Link>, TransportError>;

impl Inner {
    /// Dials, or joins the dial that is under way. The dial goes on even if all who wait for it give up.
    pub(crate) async fn dial(self: &Arc<Self>, goal: Goal, addrs: Vec<SocketAddr>) -> Outcome {
        let mut outcome = self.join_dial(goal, addrs);
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| TransportError::Closed)?;
        outcome.clone().unwrap_or(Err(TransportError::Closed))
    }

    fn join_dial(self: &Arc<Self>, goal: Goal, addrs: Vec<SocketAddr>) -> watch::Receiver<Option<Outcome>> {
        let mut dials = self.dials.lock();
        if let Some(under_way) = dials.get(&goal) {
            return under_way.clone();
        }
        let (tell, outcome) = watch::channel(None);
        dials.insert(goal.clone(), outcome.clone());
        let (inner, done) = (self.clone(), DialDone { inner: self.clone(), goal: goal.clone() });
        let dial = async move {
            let result = inner.dial_once(&goal, addrs).await;
            drop(done);
            tell.send_replace(Some(result));
        };
        self.tasks.spawn_on(dial, &self.runtime);
        outcome
    }

    async fn dial_once(self: &Arc<Self>, goal: &Goal, addrs: Vec<SocketAddr>) -> Outcome {
        let expected = match goal {
            Goal::Peer(id) => Some(*id),
            Goal::Address(_) => None,
        };
        if let Some(id) = &expected {
            if let Some(link) = self.pool.lock().current(id) {
                return Ok(link);
            }
            self.may_dial(id)?;
        }
        let dialled = tokio::select! {
            dialled = self.attempt(addrs, expected) => dialled,
            () = self.stopping.cancelled() => Err(TransportError::Closed),
        };
        if let Some(id) = expected {
            self.note_dial(id, &dialled);
        }
        self.metrics.handshake(true, dialled.is_ok());
        dialled
    }

    async fn attempt(self: &Arc<Self>, addrs: Vec<SocketAddr>, expected: Option<NodeId>) -> Outcome {
        let place = self.reserve(expected.as_ref())?;
        let waited = self.config.handshake_timeout;
        let unreachable = TransportError::Unreachable { addrs: addrs.clone(), waited };
        timeout(waited, self.establish(place, addrs, expected)).await.unwrap_or(Err(unreachable))
    }

    async fn establish(
        self: &Arc<Self>,
        place: Place,
        addrs: Vec<SocketAddr>,
        expected: Option<NodeId>,
    ) -> Outcome {
        let (connection, addr) = tokio::select! {
            raced = self.race(addrs, expected) => raced?,
            // The peer may be faster. Up to here it has not heard of this dial, so giving it up hurts nobody.
            link = self.linked(expected) => return Ok(link),
        };
        let id = self.identify(&connection).map_err(|refusal| TransportError::Refused { addr, refusal })?;
        if id == self.id() {
            connection.close(ABANDONED.into(), b"");
            return Err(TransportError::Myself);
        }
        let Some(_turn) = self.crossings.begin_dialling(id, || self.pool.lock().current(&id).is_some())
        else {
            connection.close(ABANDONED.into(), b"");
            return Ok(self.linked(Some(id)).await);
        };
        let me = self.introduction();
        match introduce(&connection, &me, &self.credentials.identity(), id).await {
            Ok(peer) => Ok(self.add(place, id, connection, peer, Some(addr), None)),
            // The peer's own dial goes on and will arrive here.
            Err(HelloError::Refused(Refusal::Crossed)) => Ok(self.linked(Some(id)).await),
            Err(error) => Err(self.hello_failed(error, addr)),
        }
    }

    /// The first address where the TLS handshake succeeds. The next one starts when the last one failed or was given
    /// its head start. Those that lose are closed before they say hello, so the peer never counts them.
    async fn race(
        self: &Arc<Self>,
        addrs: Vec<SocketAddr>,
        expected: Option<NodeId>,
    ) -> Result<(Connection, SocketAddr), TransportError> {
        let mut left = addrs.clone().into_iter();
        let mut attempts = JoinSet::new();
        let mut worst = None;
        loop {
            if let Some(addr) = left.next() {
                attempts.spawn(attempt_one(self.clone(), addr, expected));
            } else if attempts.is_empty() {
                let waited = Duration::ZERO;
                return Err(worst.unwrap_or(TransportError::Unreachable { addrs, waited }));
            }
            let head_start = async {
                match left.len() {
                    0 => std::future::pending().await,
                    _ => sleep(self.config.dial_stagger).await,
                }
            };
            tokio::select! {
                Some(done) = attempts.join_next() => match done {
                    Ok(Ok(won)) => return Ok(won),
                    Ok(Err(error)) => worst = Some(more_telling(worst, error)),
                    Err(_panicked) => {}
                },
                () = head_start => {}
            }
        }
    }

    /// Who the connection's certificate names; it was checked in the handshake.
    pub(crate) fn identify(&self, connection: &Connection) -> Result<NodeId, Refusal> {
        let chain = connection
            .peer_identity()
            .and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        let leaf = chain.as_ref().and_then(|chain| chain.first());
        let leaf = leaf.ok_or_else(|| Refusal::BadCertificate("the peer showed none".into()))?;
        super::certificate::key_and_subject(leaf).map(|(key, _)| key.node_id())
    }

    fn hello_failed(&self, error: HelloError, addr: SocketAddr) -> TransportError {
        match error {
            HelloError::Refused(refusal) => TransportError::Refused { addr, refusal },
            HelloError::Refusing(refusal) => {
                self.metrics.refused(&refusal);
                TransportError::Refused { addr, refusal }
            }
            HelloError::Protocol(cause) => TransportError::Hello { addr, cause },
            HelloError::Connection(error) => failure(error, addr, self.config.handshake_timeout),
        }
    }
}

async fn attempt_one(
    inner: Arc<Inner>,
    addr: SocketAddr,
    expected: Option<NodeId>,
) -> Result<(Connection, SocketAddr), TransportError> {
    let verdict = Arc::new(Mutex::new(None));
    let connecting = inner
        .client_config(expected, verdict.clone())
        .map_err(|error| error.to_string())
        .and_then(|config| {
            inner
                .endpoint
                .connect_with(config, addr, SERVER_NAME)
                .map_err(|error: ConnectError| error.to_string())
        })
        .map_err(|cause| TransportError::Connection { addr, cause })?;
    match connecting.await {
        Ok(connection) => Ok((connection, addr)),
        Err(error) => Err(match (verdict.lock().take(), expected) {
            (Some(Verdict::Refused(refusal)), _) => TransportError::Refused { addr, refusal },
            (Some(Verdict::WrongPeer { found }), Some(expected)) => {
                TransportError::WrongPeer { expected, found, addr }
            }
            _ => failure(error, addr, inner.config.handshake_timeout),
        }),
    }
}

/// What a broken connection attempt means.
fn failure(error: ConnectionError, addr: SocketAddr, waited: Duration) -> TransportError {
    match refusal_of(&error) {
        Some(refusal) => TransportError::Refused { addr, refusal },
        None if error == ConnectionError::TimedOut => {
            TransportError::Unreachable { addrs: vec![addr], waited }
        }
        None => TransportError::Connection { addr, cause: error.to_string() },
    }
}

/// Of two failures, the one that says more: a word of a peer before silence.
fn more_telling(known: Option<TransportError>, new: TransportError) -> TransportError {
    let rank = |error: &TransportError| match error {
        TransportError::Refused { .. } | TransportError::Hello { .. } => 3,
        TransportError::WrongPeer { .. } => 2,
        TransportError::Connection { .. } => 1,
        _ => 0,
    };
    match known {
        Some(known) if rank(&known) >= rank(&new) => known,
        _ => new,
    }
}

/// Takes a dial off the list when it ends, even by a panic.
struct DialDone {
    inner: Arc<Inner>,
    goal: Goal,
}

impl Drop for DialDone {
    fn drop(&mut self) {
        self.inner.dials.lock().remove(&self.goal);
    }
}
