//! The endpoint: what its parts share, and the [`Transport`] verbs on top of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, Frame, NodeId};
use parking_lot::Mutex;
use quinn::{Connection, Endpoint, SendDatagramError, TransportConfig};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{SourceSlot, Sources};
use super::backoff::Backoff;
use super::config::{BindError, QuicConfig};
use super::crossing::Crossings;
use super::dial::{Goal, Outcome};
use super::endpoint::{self, canonical, reachable};
use super::hello::{Acquaintance, Introduction};
use super::link::{Link, NewLink};
use super::pool::{Pool, Room};
use super::receive::{Handler, Receiver};
use super::stream::{FrameReader, QuicRx, QuicTx, halves};
use super::tls::{Credentials, Verdict};
use super::trust::{Side, Trust, TrustError};
use crate::metrics::Dropped;
use crate::{
    AddressBook, CloseReason, HangUp, Identity, IdentityError, Inbound, LaneId, LaneSender, PeerEvent,
    PeerInfo, StreamError, StreamTx as _, Target, Transport, TransportError, TransportMetrics,
};

/// A [`Transport`] over QUIC: one UDP port, mutual TLS 1.3.
///
/// It keeps to the tokio runtime on which it was bound, wherever its methods are called from. Its connections live
/// until [`serve`](Transport::serve) is told to stop; dropping the future of `serve` instead closes them at once, as lost,
/// and it may then be served again.
///
/// ```no_run
/// use std::sync::Arc;
/// use macula_transport::{AddressBook, Identity, QuicConfig, QuicTransport};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let config = QuicConfig::new(Identity::generate(), "[::]:4433".parse()?);
/// let transport = QuicTransport::bind(config, Arc::new(AddressBook::new(10_000)))?;
/// println!("listening on {}", transport.local_addr());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct QuicTransport {
    inner: Arc<Inner>,
}

/// What all parts of one endpoint share.
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) config: QuicConfig,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) metrics: TransportMetrics,
    pub(crate) pool: Mutex<Pool<Arc<Link>>>,
    pub(crate) dials: Mutex<BTreeMap<Goal, watch::Receiver<Option<Outcome>>>>,
    pub(crate) crossings: Crossings,
    pub(crate) sources: Arc<Sources>,
    pub(crate) runtime: Handle,
    /// Everything that is spawned.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when nothing new may begin.
    pub(crate) stopping: CancellationToken,
    id: NodeId,
    bound: SocketAddr,
    advertised: Vec<SocketAddr>,
    transport_config: Arc<TransportConfig>,
    book: Arc<AddressBook>,
    backoff: Mutex<Backoff>,
    rng: Mutex<StdRng>,
    receiver: watch::Sender<Option<Arc<dyn Receiver>>>,
    /// Not yet told to the receiver; filled under the pool's lock, so that the order is the pool's.
    events: Mutex<VecDeque<PeerEvent>>,
    telling: Mutex<()>,
    /// A link was added.
    added: Notify,
}

impl QuicTransport {
    /// Opens the socket. Connections can be dialled from now on, and are accepted once it is served.
    ///
    /// # Errors
    /// [`BindError`]: the port is taken, a setting makes no sense, or there is no tokio runtime.
    pub fn bind(config: QuicConfig, book: Arc<AddressBook>) -> Result<Self, BindError> {
        config.validate()?;
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let credentials = Credentials::new(&config)?;
        let transport_config = Arc::new(endpoint::transport(&config)?);
        let endpoint = endpoint::open(&config, &credentials)?;
        let bound =
            endpoint.local_addr().map_err(|cause| BindError::Socket { addr: config.listen, cause })?;
        let advertised =
            if config.advertise.is_empty() { reachable(bound) } else { config.advertise.clone() };
        let id = config.identity.id();
        let inner = Inner {
            endpoint,
            credentials,
            metrics: config.metrics.clone(),
            pool: Mutex::new(Pool::new(id, config.connections_max)),
            dials: Mutex::default(),
            crossings: Crossings::new(id),
            sources: Arc::default(),
            runtime,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            id,
            bound,
            advertised,
            transport_config,
            book,
            backoff: Mutex::new(Backoff::new(config.backoff_min, config.backoff_max)),
            rng: Mutex::new(StdRng::from_rng(&mut rand::rng())),
            receiver: watch::Sender::new(None),
            events: Mutex::default(),
            telling: Mutex::default(),
            added: Notify::new(),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The address the socket is bound to, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.bound
    }

    /// The counters.
    pub fn metrics(&self) -> &TransportMetrics {
        &self.inner.metrics
    }

    /// Shows a renewed certificate from the next handshake on. Its key must be the old one: another key is another
    /// node.
    ///
    /// # Errors
    /// [`IdentityError::OtherKey`].
    pub fn reload_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        if identity.id() != self.inner.id {
            return Err(IdentityError::OtherKey);
        }
        self.inner.credentials.set_identity(identity);
        Ok(())
    }

    /// Believes others from now on. Live connections to those who are no longer believed close with
    /// [`CloseReason::Revoked`].
    ///
    /// # Errors
    /// [`TrustError`]; the old trust then stays.
    pub fn reload_trust(&self, trust: &Trust) -> Result<(), TrustError> {
        self.inner.credentials.set_trust(trust)?;
        self.inner.recheck();
        Ok(())
    }
}

impl Transport for QuicTransport {
    type Tx = QuicTx;
    type Rx = QuicRx;

    fn local(&self) -> Contact {
        self.inner.contact()
    }

    async fn serve<H: Inbound<Self>>(&self, handler: H, stop: CancellationToken) {
        let mut serving = Serving { inner: &self.inner, ends_in_order: false };
        self.inner.begin(Arc::new(Handler(handler)));
        let mut maintenance =
            interval((self.inner.config.idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(5)));
        maintenance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.inner.endpoint.accept() => match incoming {
                    Some(incoming) => self.inner.on_incoming(incoming),
                    None => break,
                },
                _ = maintenance.tick() => self.inner.close_idle(),
            }
        }
        self.inner.end().await;
        serving.ends_in_order = true;
    }

    async fn connect(&self, target: Target) -> Result<PeerInfo, TransportError> {
        let link = match target {
            Target::Id(id) => self.inner.link_to(id).await?,
            Target::Contact(contact) => self.inner.link_at(contact.id, contact.addrs).await?,
            Target::Addr(addr) => self.inner.link_to_whoever(addr).await?,
        };
        Ok(link.info())
    }

    fn datagram(&self, to: NodeId, frame: Frame) -> Result<(), TransportError> {
        let link = self.inner.pool.lock().current(&to).ok_or(TransportError::NotConnected(to))?;
        let bytes = frame.wire_len();
        if link.connection.datagram_send_buffer_space() < bytes {
            link.metrics.dropped(Dropped::DatagramBuffer);
        }
        match link.connection.send_datagram(frame.to_bytes()) {
            Ok(()) => {
                link.count_sent(&frame);
                Ok(())
            }
            Err(SendDatagramError::ConnectionLost(_)) => Err(TransportError::NotConnected(to)),
            Err(_too_large) => {
                let bytes_max = link.connection.max_datagram_size().unwrap_or(0);
                Err(TransportError::TooLarge { bytes, bytes_max })
            }
        }
    }

    async fn lane(&self, to: NodeId, lane: LaneId) -> Result<LaneSender, TransportError> {
        if usize::from(lane.0) >= LaneId::COUNT {
            return Err(TransportError::NoSuchLane(lane));
        }
        // A link may begin to drain between being found and being used; its successor is then looked for once.
        for _ in 0..2 {
            if let Some(sender) = self.inner.link_to(to).await?.lane(lane) {
                return Ok(sender);
            }
        }
        Err(TransportError::NotConnected(to))
    }

    async fn stream(&self, to: NodeId, first: Frame) -> Result<(QuicTx, QuicRx), TransportError> {
        let link = self.inner.link_to(to).await?;
        let (tx, rx) = link.connection.open_bi().await.map_err(|_| TransportError::NotConnected(to))?;
        let (mut tx, rx) = halves(&link, tx, FrameReader::new(rx));
        match tx.send(first).await {
            Err(StreamError::Lost) => Err(TransportError::NotConnected(to)),
            // A peer that wants none of it says so on the stream, where the caller looks.
            _ => Ok((tx, rx)),
        }
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let links = self.inner.pool.lock().all();
        links.iter().map(|link| link.info()).collect()
    }

    fn is_connected(&self, id: &NodeId) -> bool {
        self.inner.pool.lock().current(id).is_some()
    }
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicTransport({} at {})", self.inner.id.short(), self.inner.bound)
    }
}

/// Serving. If its future is dropped, all connections are lost, here and at the peers; whoever serves again begins anew.
struct Serving<'a> {
    inner: &'a Inner,
    ends_in_order: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.ends_in_order {
            self.inner.lose_all();
        }
        self.inner.receiver.send_replace(None);
    }
}

/// A place in the pool, reserved for a handshake under way.
pub(crate) struct Place {
    inner: Arc<Inner>,
    taken: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.taken {
            self.inner.pool.lock().release();
        }
    }
}

impl HangUp for QuicTransport {
    fn hang_up(&self, id: &NodeId) {
        let links = self.inner.pool.lock().with(id);
        links.iter().for_each(|link| link.close(CloseReason::GivenUp));
    }
}

impl Inner {
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    fn contact(&self) -> Contact {
        Contact { id: self.id, addrs: self.advertised.clone() }
    }

    pub(crate) fn introduction(&self) -> Introduction {
        Introduction {
            contact: self.contact(),
            realms: self.config.realms.clone(),
            capabilities: self.config.capabilities,
            versions: self.config.versions,
            agent: self.config.agent.clone(),
            instance: self.config.instance,
        }
    }

    pub(crate) fn client_config(
        &self,
        expected: Option<NodeId>,
        verdict: Arc<Mutex<Option<Verdict>>>,
    ) -> Result<quinn::ClientConfig, rustls::Error> {
        let mut config = self.credentials.client(expected, verdict)?;
        config.transport_config(self.transport_config.clone());
        Ok(config)
    }

    async fn link_to(self: &Arc<Self>, id: NodeId) -> Outcome {
        if let Some(link) = self.pool.lock().current(&id) {
            return Ok(link);
        }
        // Boxed, so that who is connected does not carry the state of a dial.
        Box::pin(self.link_at(id, self.book.addrs(&id))).await
    }

    async fn link_at(self: &Arc<Self>, id: NodeId, addrs: Vec<SocketAddr>) -> Outcome {
        if id == self.id {
            return Err(TransportError::Myself);
        }
        if let Some(link) = self.pool.lock().current(&id) {
            return Ok(link);
        }
        // A socket of one family reaches that family only.
        let addrs: Vec<SocketAddr> =
            addrs.into_iter().filter(|addr| self.bound.is_ipv6() || addr.is_ipv4()).collect();
        let goal = Goal::Peer(id);
        if addrs.is_empty() && !self.dials.lock().contains_key(&goal) {
            return Err(TransportError::NoAddress(id));
        }
        self.dial(goal, addrs).await
    }

    async fn link_to_whoever(self: &Arc<Self>, addr: SocketAddr) -> Outcome {
        let addr = canonical(addr);
        let links = self.pool.lock().all();
        let known = links.into_iter().find(|link| link.dialled == Some(addr) || link.remote() == addr);
        match known {
            Some(link) => Ok(link),
            None => self.dial(Goal::Address(addr), vec![addr]).await,
        }
    }

    /// Waits until the peer is linked, by whomever; for ever if there is no peer in question.
    pub(crate) async fn linked(&self, id: Option<NodeId>) -> Arc<Link> {
        let Some(id) = id else { return std::future::pending().await };
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            if let Some(link) = self.pool.lock().current(&id) {
                return link;
            }
            added.await;
        }
    }

    pub(crate) fn may_dial(&self, id: &NodeId) -> Result<(), TransportError> {
        match self.backoff.lock().wait(id, self.config.clock.now()) {
            Some((retry_in, cause)) => Err(TransportError::BackingOff { id: *id, retry_in, cause }),
            None => Ok(()),
        }
    }

    pub(crate) fn note_dial(&self, id: NodeId, outcome: &Outcome) {
        let mut backoff = self.backoff.lock();
        match outcome {
            Ok(_) => backoff.succeeded(&id),
            // This node's own state says nothing about the peer.
            Err(TransportError::PoolFull(_) | TransportError::Closed) => {}
            Err(error) => {
                backoff.failed(id, error.to_string(), self.config.clock.now(), &mut *self.rng.lock());
            }
        }
    }

    /// Reserves a place in the pool, making one if somebody can go.
    pub(crate) fn reserve(self: &Arc<Self>, id: Option<&NodeId>) -> Result<Place, TransportError> {
        if self.stopping.is_cancelled() {
            return Err(TransportError::Closed);
        }
        let room = self.pool.lock().reserve(id, self.config.clock.now());
        match room {
            Room::Yes => {}
            Room::Evict(link) => self.begin_drain(&link, CloseReason::Evicted),
            Room::Full => return Err(TransportError::PoolFull(self.config.connections_max)),
        }
        Ok(Place { inner: self.clone(), taken: false })
    }

    /// Takes a connection in whose hello is done.
    pub(crate) fn add(
        self: &Arc<Self>,
        mut place: Place,
        id: NodeId,
        connection: Connection,
        peer: Acquaintance,
        dialled: Option<SocketAddr>,
        source: Option<SourceSlot>,
    ) -> Arc<Link> {
        self.book.learn(&peer.contact);
        if let Some(addr) = dialled {
            // Known to work from here, whatever the peer says of itself.
            self.book.learn(&Contact::new(id, addr));
        }
        let instance = peer.instance;
        let link = Link::new(NewLink {
            id,
            connection,
            peer,
            dialled,
            metrics: self.metrics.clone(),
            lane_bytes: self.config.lane_bytes,
            clock: self.config.clock.clone(),
            runtime: self.runtime.clone(),
            source,
        });
        place.taken = true;
        let added = {
            let mut pool = self.pool.lock();
            let added = pool.add(id, instance, link.clone());
            if added.restarted {
                self.note(PeerEvent::Down { id, reason: CloseReason::Lost });
            }
            if added.is_new || added.restarted {
                self.note(PeerEvent::Up(link.info()));
            }
            added
        };
        self.metrics.opened();
        self.backoff.lock().succeeded(&id);
        self.tasks.spawn_on(run(self.clone(), link.clone()), &self.runtime);
        added.dead.iter().for_each(|link| link.close(CloseReason::Lost));
        added.superseded.iter().for_each(|link| self.begin_drain(link, CloseReason::Evicted));
        if self.stopping.is_cancelled() {
            self.begin_drain(&link, CloseReason::Shutdown);
        }
        self.tell();
        self.added.notify_waiters();
        link
    }

    fn begin(&self, receiver: Arc<dyn Receiver>) {
        let pool = self.pool.lock();
        self.receiver.send_replace(Some(receiver));
        pool.all().iter().for_each(|link| self.note(PeerEvent::Up(link.info())));
        drop(pool);
        self.tell();
    }

    /// Queues an event; only under the pool's lock. Nobody is told what happened before serving began.
    fn note(&self, event: PeerEvent) {
        if self.receiver.borrow().is_some() {
            self.events.lock().push_back(event);
        }
    }

    /// Tells the receiver all queued events; when this returns it has heard them, whichever task told.
    fn tell(&self) {
        let Some(receiver) = self.receiver.borrow().clone() else { return };
        let _in_order = self.telling.lock();
        loop {
            let event = self.events.lock().pop_front();
            match event {
                Some(event) => receiver.on_peer(event),
                None => return,
            }
        }
    }

    fn close_idle(self: &Arc<Self>) {
        let idle = self.pool.lock().idle(self.config.clock.now(), self.config.idle);
        idle.iter().for_each(|link| self.begin_drain(link, CloseReason::Idle));
    }

    /// Whether `ip` is this machine's, so that whoever sends from there runs on it.
    pub(crate) fn is_own_address(&self, ip: IpAddr) -> bool {
        self.config.advertise.is_empty() && self.advertised.iter().any(|own| own.ip() == ip)
    }

    /// Closes connections to those who are not believed any more.
    fn recheck(&self) {
        let trust = self.credentials.trust();
        let links = self.pool.lock().every();
        for link in links {
            let side = if link.dialled.is_some() { Side::Listener } else { Side::Dialler };
            let chain = link.connection.peer_identity();
            let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
            let Some((leaf, intermediates)) = chain.as_ref().and_then(|chain| chain.split_first()) else {
                continue;
            };
            if let Err(refusal) = trust.check(leaf, intermediates, side, UnixTime::now()) {
                tracing::info!(peer = %link.id.short(), %refusal, "closing a connection");
                self.metrics.refused(&refusal);
                link.close(CloseReason::Revoked);
            }
        }
    }

    /// Closes every connection at once, and says so.
    fn lose_all(&self) {
        {
            let mut pool = self.pool.lock();
            for link in pool.every() {
                link.close(CloseReason::Lost);
                if pool.remove(&link.id, &link) {
                    self.note(PeerEvent::Down { id: link.id, reason: CloseReason::Lost });
                }
            }
        }
        self.tell();
    }

    /// Nothing new begins; everything under way drains; then the endpoint closes.
    async fn end(self: &Arc<Self>) {
        self.stopping.cancel();
        let links = self.pool.lock().every();
        links.iter().for_each(|link| self.begin_drain(link, CloseReason::Shutdown));
        self.tasks.close();
        let refuse_others = async {
            while let Some(incoming) = self.endpoint.accept().await {
                incoming.refuse();
            }
        };
        // Flushing, streams and goodbye, and handing over what arrived, each have one `drain`.
        let deadline = self.config.drain * 3 + Duration::from_millis(100);
        tokio::select! {
            _ = timeout(deadline, self.tasks.wait()) => {}
            () = refuse_others => {}
        }
        self.endpoint.close(CloseReason::Shutdown.code().into(), b"");
        let _ = timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
        let _ = timeout(Duration::from_millis(500), self.tasks.wait()).await;
    }
}

/// One link's life, from hello to end.
async fn run(inner: Arc<Inner>, link: Arc<Link>) {
    let mut receiver = inner.receiver.subscribe();
    let receiver = tokio::select! {
        served = receiver.wait_for(Option::is_some) => served.ok().and_then(|receiver| receiver.clone()),
        _ = link.connection.closed() => None,
    };
    if let Some(receiver) = receiver {
        // The peer's frames come after the word that it is up.
        inner.tell();
        receiver.run(inner.clone(), link.clone()).await;
    }
    let reason = link.close_reason();
    link.stop_lanes();
    {
        let mut pool = inner.pool.lock();
        if pool.remove(&link.id, &link) {
            inner.note(PeerEvent::Down { id: link.id, reason });
        }
    }
    inner.metrics.closed(reason);
    inner.tell();
}

#[cfg(test)]
#[path = "transport_test.rs"]
mod tests;

#[cfg(test)]
#[path = "limits_test.rs"]
mod limits_tests;
