//! One connection: two sides, and what watches over them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use macula_proto::{Capabilities, Contact, Frame, NodeId, Realm, Version};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::datagrams::Datagrams;
use super::endpoint::Endpoint;
use super::network::Network;
use super::pipe::{PipeProbe, PipeRx};
use super::stream::{MemoryRx, MemoryTx};
use crate::{CloseReason, Dropped, LaneId, LaneSender, PeerInfo};

/// What a node says of itself when a connection begins.
#[derive(Clone)]
pub(super) struct Hello {
    pub(super) contact: Contact,
    pub(super) listen: SocketAddr,
    pub(super) realms: Vec<Realm>,
    pub(super) capabilities: Capabilities,
    pub(super) agent: String,
    pub(super) instance: u64,
}

/// A connection between two nodes. Side 0 dialled.
pub(super) struct Connection {
    network: Arc<Network>,
    version: Version,
    peer_timeout: Duration,
    idle_timeout: Duration,
    sides: [Side; 2],
    usage: Mutex<Usage>,
    /// A lane or stream ended.
    calmed: Notify,
}

/// One node's side of a connection.
pub(super) struct Side {
    pub(super) hello: Hello,
    pub(super) endpoint: Weak<Endpoint>,
    pub(super) lane_queue_bytes: usize,
    pub(super) window_bytes: usize,
    drain_timeout: Duration,
    /// Outgoing.
    pub(super) lanes: Mutex<BTreeMap<LaneId, (LaneSender, PipeProbe)>>,
    /// Room for outgoing streams.
    pub(super) streams: Arc<Semaphore>,
    /// Lanes and streams that the peer opened; bounded by its `streams` and [`LaneId::COUNT`].
    inbox: Mutex<VecDeque<Arrival>>,
    inbox_filled: Notify,
    /// Incoming.
    pub(super) datagrams: Datagrams,
    /// When the outgoing line has sent all that was given to it.
    line_free: Mutex<Instant>,
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
    /// This side takes nothing new, and finishes what it has.
    draining: CancellationToken,
    closed: CancellationToken,
    reason: OnceLock<CloseReason>,
    /// It was in its node's pool, so it counts as a connection.
    pooled: AtomicBool,
}

/// Something that the peer opened.
pub(super) enum Arrival {
    Lane(LaneId, PipeRx, Work),
    Stream(MemoryTx, MemoryRx),
}

struct Usage {
    last: Instant,
    /// Orders uses at one instant, which under paused time are many.
    last_nth: u64,
    lanes: usize,
    streams: usize,
}

/// A connection as seen from one of its sides.
#[derive(Clone)]
pub(super) struct End {
    connection: Arc<Connection>,
    at: usize,
}

/// Kept for as long as a lane or stream is open.
pub(super) struct Work {
    connection: Arc<Connection>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Side {
    /// `endpoint`'s side of a new connection.
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        let config = &endpoint.config;
        Self {
            hello: endpoint.hello(),
            endpoint: Arc::downgrade(endpoint),
            lane_queue_bytes: config.lane_queue_bytes,
            window_bytes: config.window_bytes,
            drain_timeout: config.drain_timeout,
            lanes: Mutex::default(),
            streams: Arc::new(Semaphore::new(config.streams_max)),
            inbox: Mutex::default(),
            inbox_filled: Notify::new(),
            datagrams: Datagrams::new(config.datagrams_max),
            line_free: Mutex::new(Instant::now()),
            frames_sent: AtomicU64::new(0),
            frames_received: AtomicU64::new(0),
            draining: CancellationToken::new(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
            pooled: AtomicBool::new(false),
        }
    }
}

impl Connection {
    /// A connection that `dialler` made to `acceptor`, watched over from now on.
    pub(super) fn open(
        network: &Arc<Network>,
        version: Version,
        dialler: &Arc<Endpoint>,
        acceptor: &Arc<Endpoint>,
    ) -> Arc<Self> {
        let both = [dialler, acceptor];
        let least = |of: fn(&Endpoint) -> Duration| of(dialler).min(of(acceptor));
        let connection = Arc::new(Self {
            network: network.clone(),
            version,
            peer_timeout: least(|endpoint| endpoint.config.peer_timeout),
            idle_timeout: least(|endpoint| endpoint.config.idle_timeout),
            sides: both.map(Side::new),
            usage: Mutex::new(Usage {
                last: Instant::now(),
                last_nth: network.next_use(),
                lanes: 0,
                streams: 0,
            }),
            calmed: Notify::new(),
        });
        tokio::spawn(watch_over(connection.clone()));
        connection
    }

    /// The dialler's end (0) or the acceptor's (1).
    pub(super) fn end(self: &Arc<Self>, at: usize) -> End {
        End { connection: self.clone(), at }
    }

    /// The end of a node.
    pub(super) fn end_of(self: &Arc<Self>, node: NodeId) -> End {
        self.end(usize::from(self.id(0) != node))
    }

    /// Whether neither side is closed or closing.
    pub(super) fn is_up(&self) -> bool {
        self.sides.iter().all(|side| !side.closed.is_cancelled() && !side.draining.is_cancelled())
    }

    /// Opens a lane.
    pub(super) fn lane_work(self: &Arc<Self>) -> Work {
        self.usage.lock().lanes += 1;
        Work { connection: self.clone(), permit: None }
    }

    /// Opens a stream.
    pub(super) fn stream_work(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Work {
        self.usage.lock().streams += 1;
        Work { connection: self.clone(), permit: Some(permit) }
    }

    fn id(&self, at: usize) -> NodeId {
        self.sides[at].hello.contact.id
    }

    fn touch(&self) {
        let mut usage = self.usage.lock();
        usage.last = Instant::now();
        usage.last_nth = self.network.next_use();
    }

    fn is_quiet(&self) -> bool {
        let usage = self.usage.lock();
        usage.streams == 0 && self.sides.iter().all(Side::has_sent_all)
    }

    /// Whether one side can do without hearing from the other only for so long.
    fn is_silent(&self) -> bool {
        self.network.is_silent(self.id(0), self.id(1))
    }

    fn close_side(self: &Arc<Self>, at: usize, reason: CloseReason) {
        let side = &self.sides[at];
        if side.reason.set(reason).is_err() {
            return;
        }
        side.closed.cancel();
        if let Some(endpoint) = side.endpoint.upgrade() {
            endpoint.on_closed(&self.end(at), reason);
        }
        self.network.announce_change();
    }

    async fn until_silent_too_long(&self) {
        loop {
            self.network.until(|| self.is_silent()).await;
            tokio::select! {
                biased;
                () = self.network.until(|| !self.is_silent()) => {}
                () = tokio::time::sleep(self.peer_timeout) => return,
            }
        }
    }

    async fn until_idle_too_long(&self) {
        loop {
            let last = self.usage.lock().last;
            tokio::time::sleep_until(last + self.idle_timeout).await;
            if self.usage.lock().last != last {
                continue;
            }
            if self.is_quiet() {
                return;
            }
            // Open streams or undelivered frames: that counts as use, as if it ended just now.
            self.touch();
        }
    }
}

/// Ends the connection when its time has come, and tells each side that the other has closed.
async fn watch_over(connection: Arc<Connection>) {
    let [dialler, acceptor] = &connection.sides;
    let closed_first = tokio::select! {
        biased;
        () = dialler.closed.cancelled() => 0,
        () = acceptor.closed.cancelled() => 1,
        () = connection.until_silent_too_long() => return close_both(&connection, CloseReason::TimedOut),
        () = connection.until_idle_too_long() => return close_both(&connection, CloseReason::Idle),
    };
    let other = 1 - closed_first;
    let reason = tokio::select! {
        biased;
        () = connection.sides[other].closed.cancelled() => None,
        reason = news_of_closing(&connection, closed_first) => Some(reason),
    };
    if let Some(reason) = reason {
        connection.close_side(other, reason);
    }
    close_both(&connection, CloseReason::Lost);
}

fn close_both(connection: &Arc<Connection>, reason: CloseReason) {
    for at in [0, 1] {
        connection.close_side(at, reason);
        // What was never taken holds the connection: let go of it.
        let untaken = std::mem::take(&mut *connection.sides[at].inbox.lock());
        drop(untaken);
        connection.sides[at].lanes.lock().clear();
    }
}

/// Waits until the other side hears that this one has closed, or gives up on it; says what it makes of it.
async fn news_of_closing(connection: &Connection, closed: usize) -> CloseReason {
    let (from, to) = (connection.id(closed), connection.id(1 - closed));
    let reason = connection.sides[closed].reason.get().copied().unwrap_or(CloseReason::Lost);
    let is_told = !matches!(reason, CloseReason::Lost | CloseReason::TimedOut);
    let left = Instant::now();
    // Said once: nobody is left to say it again when it does not get through.
    if is_told && connection.network.delivers(from, to) {
        let (line, trip) = connection.network.reliable_trip(from, to, CLOSE_BYTES);
        if !(line + trip).is_zero() {
            tokio::time::sleep(line + trip).await;
        }
        if connection.network.is_open(from, to) {
            return reason;
        }
    }
    tokio::time::sleep_until(left + connection.peer_timeout).await;
    CloseReason::TimedOut
}

/// What the word that a connection closes takes on the line.
const CLOSE_BYTES: usize = 50;

impl Side {
    fn has_sent_all(&self) -> bool {
        let lanes = self.lanes.lock();
        lanes.values().all(|(sender, pipe)| sender.queued_bytes() == 0 && pipe.is_empty())
    }
}

impl End {
    pub(super) fn mine(&self) -> &Side {
        &self.connection.sides[self.at]
    }

    pub(super) fn theirs(&self) -> &Side {
        &self.connection.sides[1 - self.at]
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The same connection, seen from the other side.
    pub(super) fn other(&self) -> Self {
        self.connection.end(1 - self.at)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }

    pub(super) fn me(&self) -> NodeId {
        self.connection.id(self.at)
    }

    pub(super) fn peer(&self) -> NodeId {
        self.connection.id(1 - self.at)
    }

    /// The peer and the state of the connection.
    pub(super) fn info(&self) -> PeerInfo {
        let (mine, hello) = (self.mine(), &self.theirs().hello);
        PeerInfo {
            id: hello.contact.id,
            remote: hello.listen,
            contact: hello.contact.clone(),
            realms: hello.realms.clone(),
            capabilities: hello.capabilities,
            version: self.connection.version,
            agent: hello.agent.clone(),
            instance: hello.instance,
            rtt: self.connection.network.rtt(self.me(), self.peer()),
            dialled: self.at == 0,
            frames_sent: mine.frames_sent.load(Ordering::Relaxed),
            frames_received: mine.frames_received.load(Ordering::Relaxed),
        }
    }

    /// Closes this side; the other hears of it as the network allows.
    pub(super) fn close(&self, reason: CloseReason) {
        self.connection.close_side(self.at, reason);
    }

    pub(super) fn mark_pooled(&self) {
        self.mine().pooled.store(true, Ordering::Relaxed);
    }

    pub(super) fn was_pooled(&self) -> bool {
        self.mine().pooled.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.mine().closed.is_cancelled()
    }

    pub(super) async fn closed(&self) {
        self.mine().closed.cancelled().await;
    }

    /// Why this side is closed.
    pub(super) fn reason(&self) -> CloseReason {
        self.mine().reason.get().copied().unwrap_or(CloseReason::Lost)
    }

    /// Whether new lanes and streams may be opened from here.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_closed() && !self.mine().draining.is_cancelled()
    }

    /// Takes nothing new, and finishes what was accepted: this side, and the peer's if it hears of it.
    pub(super) fn drain(&self) {
        self.mine().draining.cancel();
        if self.connection.network.delivers(self.me(), self.peer()) {
            self.theirs().draining.cancel();
        }
    }

    pub(super) fn draining_token(&self) -> CancellationToken {
        self.mine().draining.clone()
    }

    pub(super) async fn draining(&self) {
        self.mine().draining.cancelled().await;
    }

    /// Waits until all lanes are delivered and all streams have ended, or the connection.
    pub(super) async fn drained(&self) {
        loop {
            let calmed = self.connection.calmed.notified();
            tokio::pin!(calmed);
            calmed.as_mut().enable();
            let is_calm = {
                let usage = self.connection.usage.lock();
                usage.lanes == 0 && usage.streams == 0
            };
            if is_calm {
                return;
            }
            tokio::select! {
                biased;
                () = self.closed() => return,
                () = calmed => {}
            }
        }
    }

    /// Whether no frame is under way and no stream is open.
    pub(super) fn is_quiet(&self) -> bool {
        self.connection.is_quiet()
    }

    /// Grows with each use of any connection: when a frame was last sent or received here, or a stream ended.
    pub(super) fn last_used(&self) -> u64 {
        self.connection.usage.lock().last_nth
    }

    /// Puts so much on the line to the peer; returns when it arrives.
    pub(super) fn departure(&self, bytes: usize) -> Instant {
        let (line, trip) = self.connection.network.reliable_trip(self.me(), self.peer(), bytes);
        self.occupy_line(line) + trip
    }

    /// Puts a datagram on the line, or nothing if the line is too far behind; returns when its copies arrive.
    pub(super) fn datagram_departure(&self, bytes: usize) -> [Option<Instant>; 2] {
        let network = &self.connection.network;
        let behind = self.mine().line_free.lock().saturating_duration_since(Instant::now());
        if behind > LINE_BEHIND_MAX || !network.can_send(self.me(), self.peer()) {
            return [None; 2];
        }
        let (line, trips) = network.datagram_trips(self.me(), self.peer(), bytes);
        let departed = self.occupy_line(line);
        trips.map(|trip| trip.map(|trip| departed + trip))
    }

    /// How long something small takes to the peer, now.
    pub(super) fn trip(&self) -> Duration {
        self.connection.network.reliable_trip(self.me(), self.peer(), 0).1
    }

    /// Whether what the peer sends comes through, now.
    pub(super) fn hears_peer(&self) -> bool {
        self.connection.network.delivers(self.peer(), self.me())
    }

    pub(super) async fn until_hears_peer(&self) {
        self.connection.network.until_delivers(self.peer(), self.me()).await;
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        self.mine().drain_timeout
    }

    /// Waits until this node is not paused.
    pub(super) async fn until_running(&self) {
        self.connection.network.until_running(self.me()).await;
    }

    pub(super) fn count_sent(&self, frame: &Frame) {
        self.connection.touch();
        self.mine().frames_sent.fetch_add(1, Ordering::Relaxed);
        if let Some(endpoint) = self.mine().endpoint.upgrade() {
            endpoint.count_sent(frame);
        }
    }

    pub(super) fn count_received(&self, frame: &Frame) {
        self.connection.touch();
        self.mine().frames_received.fetch_add(1, Ordering::Relaxed);
        if let Some(endpoint) = self.mine().endpoint.upgrade() {
            endpoint.count_received(frame);
        }
    }

    /// Counts something thrown away, at this node.
    pub(super) fn count_dropped(&self, what: Dropped) {
        if let Some(endpoint) = self.mine().endpoint.upgrade() {
            endpoint.count_dropped(what);
        }
    }

    /// Hands the peer something that was opened here.
    pub(super) fn hand_over(&self, arrival: Arrival) {
        self.theirs().inbox.lock().push_back(arrival);
        self.theirs().inbox_filled.notify_one();
    }

    /// What the peer opened next.
    pub(super) async fn next_arrival(&self) -> Arrival {
        loop {
            let next = self.mine().inbox.lock().pop_front();
            if let Some(arrival) = next {
                return arrival;
            }
            self.mine().inbox_filled.notified().await;
        }
    }

    fn occupy_line(&self, line: Duration) -> Instant {
        let mut free = self.mine().line_free.lock();
        *free = (*free).max(Instant::now()) + line;
        *free
    }
}

/// A line that is further behind than this drops datagrams: its send buffer is full.
const LINE_BEHIND_MAX: Duration = Duration::from_millis(500);

impl Drop for Work {
    fn drop(&mut self) {
        let mut usage = self.connection.usage.lock();
        match self.permit.take() {
            Some(_) => usage.streams -= 1,
            None => usage.lanes -= 1,
        }
        drop(usage);
        self.connection.touch();
        self.connection.calmed.notify_waiters();
    }
}
