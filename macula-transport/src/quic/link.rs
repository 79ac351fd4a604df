//! One live connection to a peer.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use macula_proto::{Clock, Frame, NodeId, Timestamp};
use parking_lot::Mutex;
use quinn::{Connection, SendStream, VarInt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::SourceSlot;
use super::endpoint::canonical;
use super::hello::Acquaintance;
use super::lane;
use super::pool::Pooled;
use super::stream::is_acknowledged;
use crate::batch::Count;
use crate::lane::batched_lane_queue;
use crate::{CloseReason, LaneId, LaneSender, PeerInfo, TransportMetrics};

/// Finished streams that are remembered until they are acknowledged. QUIC's own stream limit keeps the number near
/// this anyway.
const RETIRED_MAX: usize = 4_096;
/// After writing to a lane, its data may be unacknowledged for so many round trips.
const ACKNOWLEDGED_AFTER_RTTS: u32 = 4;
const ACKNOWLEDGED_AFTER_MIN: Duration = Duration::from_millis(200);

/// A connection whose hello is done.
pub(crate) struct Link {
    pub(crate) id: NodeId,
    pub(crate) connection: Connection,
    pub(crate) peer: Acquaintance,
    /// Where this side dialled, if it did.
    pub(crate) dialled: Option<SocketAddr>,
    pub(crate) metrics: TransportMetrics,
    /// Cancelled when no new lane or stream may begin and the lanes flush.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the peer has flushed, too.
    pub(crate) peer_drained: CancellationToken,
    /// The tasks that write lanes.
    pub(crate) writers: TaskTracker,
    /// Lanes that the peer has opened, one bit each.
    pub(crate) lanes_in: AtomicU8,
    pub(crate) goodbye_seen: AtomicBool,
    lanes: Mutex<[Option<LaneSender>; LaneId::COUNT]>,
    lane_bytes: usize,
    halves_open: AtomicUsize,
    half_closed: Notify,
    retired: Mutex<VecDeque<SendStream>>,
    sent: AtomicU64,
    received: AtomicU64,
    used: Moment,
    lane_used: Moment,
    reason: OnceLock<CloseReason>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    _source: Option<SourceSlot>,
}

/// What a link is made of.
pub(crate) struct NewLink {
    pub(crate) id: NodeId,
    pub(crate) connection: Connection,
    pub(crate) peer: Acquaintance,
    pub(crate) dialled: Option<SocketAddr>,
    pub(crate) metrics: TransportMetrics,
    pub(crate) lane_bytes: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Handle,
    pub(crate) source: Option<SourceSlot>,
}

impl Link {
    pub(crate) fn new(new: NewLink) -> Arc<Self> {
        let now = new.clock.now();
        Arc::new(Self {
            id: new.id,
            connection: new.connection,
            peer: new.peer,
            dialled: new.dialled,
            metrics: new.metrics,
            draining: CancellationToken::new(),
            peer_drained: CancellationToken::new(),
            writers: TaskTracker::new(),
            lanes_in: AtomicU8::new(0),
            goodbye_seen: AtomicBool::new(false),
            lanes: Mutex::default(),
            lane_bytes: new.lane_bytes,
            halves_open: AtomicUsize::new(0),
            half_closed: Notify::new(),
            retired: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            used: Moment::at(now),
            lane_used: Moment::at(Timestamp::ZERO),
            reason: OnceLock::new(),
            clock: new.clock,
            runtime: new.runtime,
            _source: new.source,
        })
    }

    /// The lane's queue, whose writer is started on first use. `None` once the link drains or is closed.
    pub(crate) fn lane(self: &Arc<Self>, id: LaneId) -> Option<LaneSender> {
        let mut lanes = self.lanes.lock();
        if self.draining.is_cancelled() || self.is_closed() {
            return None;
        }
        let slot = lanes.get_mut(usize::from(id.0))?;
        if let Some(open) = slot.as_ref().filter(|lane| !lane.is_closed()) {
            return Some(open.clone());
        }
        if slot.is_some() {
            // Its writer failed, so the connection is failing; a lane is opened once only.
            return None;
        }
        let (sender, queue) = batched_lane_queue(self.lane_bytes);
        self.writers.spawn_on(lane::write(self.clone(), id, queue), &self.runtime);
        Some(slot.insert(sender).clone())
    }

    /// Stops new lanes and streams and lets the lanes flush. Returns whether this was the first call.
    pub(crate) fn stop_lanes(&self) -> bool {
        // Under the lock, so that no lane begins unnoticed.
        let _lanes = self.lanes.lock();
        let first = !self.draining.is_cancelled();
        self.draining.cancel();
        self.writers.close();
        first
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    pub(crate) fn info(&self) -> PeerInfo {
        PeerInfo {
            id: self.id,
            remote: self.remote(),
            contact: self.peer.contact.clone(),
            realms: self.peer.realms.clone(),
            capabilities: self.peer.capabilities,
            version: self.peer.version,
            agent: self.peer.agent.clone(),
            instance: self.peer.instance,
            rtt: self.connection.rtt(),
            dialled: self.dialled.is_some(),
            frames_sent: self.sent.load(Relaxed),
            frames_received: self.received.load(Relaxed),
        }
    }

    /// Closes at once. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        let reason = *self.reason.get_or_init(|| reason);
        self.connection.close(VarInt::from_u32(reason.code()), b"");
    }

    /// Why this side closed it, or what the connection ended of.
    pub(crate) fn close_reason(&self) -> CloseReason {
        self.reason.get().copied().unwrap_or_else(|| {
            self.connection.close_reason().map_or(CloseReason::Lost, |error| CloseReason::of(&error))
        })
    }

    pub(crate) fn count_sent(&self, frame: &Frame) {
        let (kind, bytes) = (frame.kind(), frame.wire_len());
        self.count_sent_many(Count { kind, frames: 1, bytes });
        self.touch();
    }

    pub(crate) fn count_received(&self, frame: &Frame) {
        self.count_received_untouched(frame);
        self.touch();
    }

    /// Counts frames that go with one look at the clock: see [`lane_written`](Self::lane_written).
    pub(crate) fn count_sent_many(&self, count: Count) {
        self.sent.fetch_add(count.frames, Relaxed);
        self.metrics.sent_many(count.kind, count.frames, count.bytes);
    }

    /// The same for what is received: see [`touch`](Self::touch).
    pub(crate) fn count_received_untouched(&self, frame: &Frame) {
        self.received.fetch_add(1, Relaxed);
        self.metrics.received(frame.kind(), frame.wire_len());
    }

    /// It is in use.
    pub(crate) fn touch(&self) {
        self.used.set(self.clock.now());
    }

    pub(crate) fn lane_written(&self) {
        let now = self.clock.now();
        self.lane_used.set(now);
        self.used.set(now);
    }

    pub(crate) fn half_opened(&self) {
        self.halves_open.fetch_add(1, Relaxed);
    }

    pub(crate) fn half_closed(&self) {
        if self.halves_open.fetch_sub(1, Relaxed) == 1 {
            self.half_closed.notify_waiters();
        }
    }

    /// Waits until no stream is open.
    pub(crate) async fn streams_ended(&self) {
        loop {
            let closed = self.half_closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.halves_open.load(Relaxed) == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Keeps a finished stream until the peer has acknowledged it.
    pub(crate) fn retire(&self, stream: SendStream) {
        let mut retired = self.retired.lock();
        while retired.front().is_some_and(is_acknowledged) || retired.len() >= RETIRED_MAX {
            retired.pop_front();
        }
        retired.push_back(stream);
    }

    /// Waits until every finished stream is acknowledged.
    pub(crate) async fn retired_acknowledged(&self) {
        loop {
            let Some(stream) = self.retired.lock().pop_front() else { return };
            let _ = stream.stopped().await;
        }
    }

    fn has_unacknowledged(&self, now: Timestamp) -> bool {
        let queued = self.lanes.lock().iter().flatten().any(|lane| lane.queued_bytes() > 0);
        let pause = (self.connection.rtt() * ACKNOWLEDGED_AFTER_RTTS).max(ACKNOWLEDGED_AFTER_MIN);
        let mut retired = self.retired.lock();
        retired.retain(|stream| !is_acknowledged(stream));
        queued || !retired.is_empty() || self.lane_used.get().is_some_and(|at| now.since(at) < pause)
    }
}

impl Pooled for Arc<Link> {
    fn is_closed(&self) -> bool {
        Link::is_closed(self)
    }

    fn last_used(&self) -> Timestamp {
        self.used.get().unwrap_or_default()
    }

    fn is_busy(&self, now: Timestamp) -> bool {
        self.halves_open.load(Relaxed) > 0 || self.has_unacknowledged(now)
    }

    fn is_same(&self, other: &Self) -> bool {
        Self::ptr_eq(self, other)
    }
}

impl Link {
    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.reason.get().is_some() || self.connection.close_reason().is_some()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(to {} at {})", self.id.short(), self.remote())
    }
}

/// A timestamp that many may set. Zero stands for never.
#[derive(Debug)]
struct Moment(AtomicU64);

impl Moment {
    fn at(now: Timestamp) -> Self {
        let moment = Self(AtomicU64::new(0));
        moment.set(now);
        moment
    }

    fn set(&self, now: Timestamp) {
        self.0.store(u64::try_from(now.since_start().as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn get(&self) -> Option<Timestamp> {
        let nanos = self.0.load(Relaxed);
        (nanos > 0).then(|| Timestamp::from_start(Duration::from_nanos(nanos)))
    }
}
