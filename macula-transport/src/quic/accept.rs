//! Accepting: limits before cryptography, then handshake and hello within one deadline.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use quinn::{Connecting, ConnectionError, Incoming};
use tokio::time::timeout;

use super::codes::{ABANDONED, refusal_of};
use super::endpoint::canonical;
use super::hello::{HelloError, receive_introduction};
use super::link::Link;
use super::transport::Inner;
use crate::metrics::Dropped;
use crate::{CloseReason, Refusal, TransportError};

/// What is left of handshakes that have ended may be so many times what may be under way.
const REMNANTS_PER_HALF_OPEN: usize = 2;

/// Connections from each source: a whole IPv4 address, the first 64 bits of an IPv6 one.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    counts: Mutex<BTreeMap<IpAddr, usize>>,
    half_open: AtomicUsize,
}

/// One connection's share of its source's limit; given back on drop.
#[derive(Debug)]
pub(crate) struct SourceSlot {
    sources: Arc<Sources>,
    source: IpAddr,
}

/// A peer is taken in before it has welcomed this node in turn; if it never does, it goes.
struct CloseUnlessWelcome(Option<Arc<Link>>);

impl Drop for CloseUnlessWelcome {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.close(CloseReason::Protocol);
        }
    }
}

/// One handshake under way.
struct HalfOpen(Arc<Sources>);

impl HalfOpen {
    fn new(sources: &Arc<Sources>) -> Self {
        sources.half_open.fetch_add(1, Relaxed);
        Self(sources.clone())
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.half_open.fetch_sub(1, Relaxed);
    }
}

impl Inner {
    /// Decides on a connection attempt without waiting; what passes goes on in a task of its own.
    pub(crate) fn on_incoming(self: &Arc<Self>, incoming: Incoming) {
        let half_open = self.sources.half_open.load(Relaxed);
        let half_open_max = self.config.half_open_max;
        if half_open >= half_open_max || self.remnants() >= REMNANTS_PER_HALF_OPEN * half_open_max {
            self.metrics.dropped(Dropped::HalfOpen);
            return incoming.ignore();
        }
        if half_open >= self.config.retry_above
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            if incoming.retry().is_err() {
                self.metrics.dropped(Dropped::HalfOpen);
            }
            return;
        }
        let Some(slot) = self.take_source(incoming.remote_address()) else {
            self.metrics.refused(&Refusal::Full);
            return incoming.refuse();
        };
        let from = canonical(incoming.remote_address());
        // At once, so that the next attempt finds this one counted.
        let connecting = incoming.accept();
        let (inner, guard) = (self.clone(), HalfOpen::new(&self.sources));
        let handshake = async move {
            let limit = inner.config.handshake_timeout;
            let ok = matches!(timeout(limit, inner.accept(from, connecting, slot)).await, Ok(Ok(())));
            inner.metrics.handshake(false, ok);
            drop(guard);
        };
        self.tasks.spawn_on(handshake, &self.runtime);
    }

    /// What quinn keeps beside the connections in use: handshakes under way in both directions, and what is left of
    /// those that have ended, for three probe timeouts (RFC 9000 §10.2). Whoever begins handshakes and breaks them off
    /// at once fills this, and not the places of handshakes under way.
    fn remnants(&self) -> usize {
        let linked = self.pool.lock().len();
        self.endpoint.open_connections().saturating_sub(linked)
    }

    async fn accept(
        self: &Arc<Self>,
        from: SocketAddr,
        connecting: Result<Connecting, ConnectionError>,
        slot: Option<SourceSlot>,
    ) -> Result<(), ()> {
        let refused = |error: String| tracing::debug!(%from, error, "an incoming connection failed");
        let connected = match connecting {
            Ok(connecting) => connecting.await,
            Err(error) => Err(error),
        };
        let connection = connected.map_err(|error| {
            self.note_failed_handshake(&error);
            refused(error.to_string());
        })?;
        let peer = self.identify(&connection).map_err(|refusal| refused(refusal.to_string()))?;
        if peer == self.id() {
            connection.close(ABANDONED.into(), b"");
            return Err(());
        }
        let mut unwelcome = CloseUnlessWelcome(None);
        let admit = |acquaintance| {
            let _turn = self.crossings.begin_accepting(peer).ok_or(Refusal::Crossed)?;
            let place = self.reserve(Some(&peer)).map_err(|error| match error {
                TransportError::Closed => Refusal::Policy("this node is shutting down".into()),
                _full => Refusal::Full,
            })?;
            unwelcome.0 = Some(self.add(place, peer, connection.clone(), acquaintance, None, slot));
            Ok(())
        };
        let me = self.introduction();
        let identity = self.credentials.identity();
        match receive_introduction(&connection, &me, &identity, peer, admit).await {
            Ok(()) => {
                unwelcome.0 = None;
                Ok(())
            }
            Err(error) => {
                self.note_failed_hello(&error);
                refused(format!("{error:?}"));
                Err(())
            }
        }
    }

    /// Refused certificates were counted by their check.
    fn note_failed_handshake(&self, error: &ConnectionError) {
        let is_own = matches!(error, ConnectionError::TransportError(_) | ConnectionError::VersionMismatch);
        if let Some(refusal) = refusal_of(error).filter(|_| is_own) {
            self.metrics.refused(&refusal);
        }
    }

    fn note_failed_hello(&self, error: &HelloError) {
        match error {
            HelloError::Refusing(refusal) => self.metrics.refused(refusal),
            HelloError::Protocol(_) => self.metrics.dropped(Dropped::BadFrame),
            HelloError::Refused(_) | HelloError::Connection(_) => {}
        }
    }

    /// `None` when the source has its share; `Some(None)` when it is exempt.
    fn take_source(&self, from: SocketAddr) -> Option<Option<SourceSlot>> {
        let from = canonical(from).ip();
        if self.config.loopback_exempt && (from.is_loopback() || self.is_own_address(from)) {
            return Some(None);
        }
        self.sources.take(from, self.config.per_source_max).map(Some)
    }
}

impl Sources {
    fn take(self: &Arc<Self>, from: IpAddr, per_source_max: usize) -> Option<SourceSlot> {
        let source = match from {
            IpAddr::V4(_) => from,
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        };
        let mut counts = self.counts.lock();
        let count = counts.entry(source).or_default();
        if *count >= per_source_max {
            return None;
        }
        *count += 1;
        Some(SourceSlot { sources: self.clone(), source })
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut counts = self.sources.counts.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_share_and_ipv6_hosts_of_one_network_are_one_source() {
        let sources = Arc::new(Sources::default());
        let one = sources.take("2001:db8::1".parse().unwrap(), 2).unwrap();
        let _two = sources.take("2001:db8::2".parse().unwrap(), 2).unwrap();
        assert!(sources.take("2001:db8::3".parse().unwrap(), 2).is_none());
        assert!(sources.take("2001:db8:0:1::3".parse().unwrap(), 2).is_some());
        drop(one);
        assert!(sources.take("2001:db8::3".parse().unwrap(), 2).is_some());
        assert_eq!(sources.counts.lock().len(), 1, "sources without connections are forgotten");
    }
}
