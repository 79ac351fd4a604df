//! A transport that counts what passes through it, and has something happen at one of these points.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use macula_proto::{Contact, Frame, NodeId};
use macula_transport::memory::{MemoryRx, MemoryTransport, MemoryTx};
use macula_transport::{
    Inbound, LaneId, LaneSender, PeerEvent, PeerInfo, ResetCode, StreamError, StreamRx, StreamTx, Target,
    Transport, TransportError,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// What happens, at this node of the two that a point is about.
type Action = Box<dyn FnOnce(NodeId) -> Stall + Send>;

/// How long whoever passes the point is held up.
pub(crate) type Stall = Option<Duration>;

/// Every point that the calls of a mesh pass: around each operation of a transport, and in the handlers.
#[derive(Default)]
pub(crate) struct Points {
    passed: AtomicUsize,
    planned: Mutex<BTreeMap<usize, Action>>,
}

impl Points {
    /// From now on points are counted.
    pub(crate) fn count(&self) {
        self.passed.store(0, Ordering::Relaxed);
    }

    /// At the `nth` point (from zero) this happens.
    pub(crate) fn plan(&self, nth: usize, action: Action) {
        self.planned.lock().insert(nth, action);
    }

    /// How much of what was planned has not happened.
    pub(crate) fn left(&self) -> usize {
        self.planned.lock().len()
    }

    /// A point that is about `peer`.
    pub(crate) async fn pass(&self, peer: NodeId) {
        if let Some(stall) = self.pass_now(peer) {
            // Whoever was aborted goes no further.
            tokio::task::yield_now().await;
            // tidy: allow(sleep): paused time
            tokio::time::sleep(stall.unwrap_or_default()).await;
        }
    }

    /// The same where nobody can wait.
    fn pass_now(&self, peer: NodeId) -> Option<Stall> {
        let nth = self.passed.fetch_add(1, Ordering::Relaxed);
        let action = self.planned.lock().remove(&nth);
        action.map(|action| action(peer))
    }
}

#[derive(Clone)]
pub(crate) struct Observed {
    inner: MemoryTransport,
    points: Arc<Points>,
}

pub(crate) struct ObservedTx {
    inner: MemoryTx,
    peer: NodeId,
    points: Arc<Points>,
}

pub(crate) struct ObservedRx {
    inner: MemoryRx,
    peer: NodeId,
    points: Arc<Points>,
    /// Received, and not handed over yet.
    held: Option<Result<Option<Frame>, StreamError>>,
}

impl Observed {
    pub(crate) fn new(inner: MemoryTransport, points: Arc<Points>) -> Self {
        Self { inner, points }
    }

    fn halves(&self, peer: NodeId, tx: MemoryTx, rx: MemoryRx) -> (ObservedTx, ObservedRx) {
        halves(&self.points, peer, tx, rx)
    }
}

fn halves(points: &Arc<Points>, peer: NodeId, tx: MemoryTx, rx: MemoryRx) -> (ObservedTx, ObservedRx) {
    let tx = ObservedTx { inner: tx, peer, points: points.clone() };
    let rx = ObservedRx { inner: rx, peer, points: points.clone(), held: None };
    (tx, rx)
}

fn id_of(target: &Target) -> NodeId {
    match target {
        Target::Id(id) => *id,
        Target::Contact(contact) => contact.id,
        other => panic!("calls connect to nodes that they know, not to {other:?}"),
    }
}

impl Transport for Observed {
    type Tx = ObservedTx;
    type Rx = ObservedRx;

    fn local(&self) -> Contact {
        self.inner.local()
    }

    async fn serve<H: Inbound<Self>>(&self, handler: H, stop: CancellationToken) {
        self.inner.serve(Arriving { handler, points: self.points.clone() }, stop).await;
    }

    async fn connect(&self, target: Target) -> Result<PeerInfo, TransportError> {
        let peer = id_of(&target);
        self.points.pass(peer).await;
        let connected = self.inner.connect(target).await;
        self.points.pass(peer).await;
        connected
    }

    fn datagram(&self, to: NodeId, frame: Frame) -> Result<(), TransportError> {
        self.inner.datagram(to, frame)
    }

    async fn lane(&self, to: NodeId, lane: LaneId) -> Result<LaneSender, TransportError> {
        self.inner.lane(to, lane).await
    }

    async fn stream(&self, to: NodeId, first: Frame) -> Result<(ObservedTx, ObservedRx), TransportError> {
        self.points.pass(to).await;
        let opened = self.inner.stream(to, first).await.map(|(tx, rx)| self.halves(to, tx, rx));
        self.points.pass(to).await;
        opened
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.inner.peers()
    }
}

impl StreamTx for ObservedTx {
    async fn send(&mut self, frame: Frame) -> Result<(), StreamError> {
        self.points.pass(self.peer).await;
        let sent = self.inner.send(frame).await;
        self.points.pass(self.peer).await;
        sent
    }

    fn draining(&self) -> CancellationToken {
        self.inner.draining()
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.points.pass_now(self.peer);
        self.inner.finish()
    }

    fn reset(&mut self, code: ResetCode) {
        self.inner.reset(code);
    }

    async fn closed(&mut self) -> Result<(), StreamError> {
        self.inner.closed().await
    }
}

impl StreamRx for ObservedRx {
    async fn recv(&mut self) -> Result<Option<Frame>, StreamError> {
        if self.held.is_none() {
            self.held = Some(self.inner.recv().await);
            self.points.pass(self.peer).await;
        }
        self.held.take().expect("it was received above")
    }

    fn stop(&mut self, code: ResetCode) {
        self.inner.stop(code);
    }
}

/// Hands over what arrives.
struct Arriving<H> {
    handler: H,
    points: Arc<Points>,
}

impl<H: Inbound<Observed>> Inbound<MemoryTransport> for Arriving<H> {
    fn on_peer(&self, event: PeerEvent) {
        self.handler.on_peer(event);
    }

    fn on_datagram(&self, from: NodeId, frame: Frame) {
        self.handler.on_datagram(from, frame);
    }

    async fn on_lane(&self, from: NodeId, lane: LaneId, frame: Frame) {
        self.handler.on_lane(from, lane, frame).await;
    }

    async fn on_stream(&self, from: NodeId, first: Frame, tx: MemoryTx, rx: MemoryRx) {
        self.points.pass(from).await;
        let (tx, rx) = halves(&self.points, from, tx, rx);
        self.handler.on_stream(from, first, tx, rx).await;
    }
}
