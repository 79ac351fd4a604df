//! The nodes that the checks work with.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use macula_proto::{Contact, Frame, FrameKind, NodeId, wire};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Harness, NodeSpec, PATIENCE};
use crate::{CloseReason, Inbound, LaneId, PeerEvent, PeerInfo, Target, Transport};

/// A node that serves, and remembers what it saw.
pub(super) struct Node<T: Transport> {
    pub(super) transport: T,
    pub(super) seen: Arc<Seen<T>>,
    streams: mpsc::Receiver<Opened<T>>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// A stream that a peer opened.
pub(super) struct Opened<T: Transport> {
    pub(super) from: NodeId,
    pub(super) first: Frame,
    pub(super) tx: T::Tx,
    pub(super) rx: T::Rx,
}

/// What a node saw so far.
pub(super) struct Seen<T: Transport> {
    log: Mutex<Log>,
    changed: Notify,
    opened: mpsc::Sender<Opened<T>>,
    /// Whether a stream's handler keeps its halves and never ends.
    hold_streams: bool,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) peers: Vec<PeerEvent>,
    pub(super) datagrams: Vec<(NodeId, Frame)>,
    pub(super) lanes: Vec<(NodeId, LaneId, Frame)>,
    /// How many of them there were at the last pause.
    pub(super) told_of_pause_after: usize,
    pub(super) handlers_begun: usize,
    pub(super) handlers_dropped: usize,
    blocked: BTreeSet<LaneId>,
}

impl Log {
    /// How often a peer came up.
    pub(super) fn ups(&self, peer: NodeId) -> usize {
        self.peers.iter().filter(|event| matches!(event, PeerEvent::Up(info) if info.id == peer)).count()
    }

    /// Why a peer's connections went down, in order.
    pub(super) fn downs(&self, peer: NodeId) -> Vec<CloseReason> {
        let down = |event: &PeerEvent| match event {
            PeerEvent::Down { id, reason } if *id == peer => Some(*reason),
            _ => None,
        };
        self.peers.iter().filter_map(down).collect()
    }

    /// The numbers of the frames that came on a lane, in order.
    pub(super) fn numbers(&self, lane: LaneId) -> Vec<u32> {
        self.lanes.iter().filter(|(_, on, _)| *on == lane).map(|(_, _, frame)| number(frame)).collect()
    }
}

/// Starts node number `n`.
pub(super) async fn start<H: Harness>(harness: &H, n: u8) -> Node<H::Transport> {
    start_with(harness, NodeSpec::numbered(n)).await
}

/// Starts a node.
pub(super) async fn start_with<H: Harness>(harness: &H, spec: NodeSpec) -> Node<H::Transport> {
    run(harness.node(spec).await, false)
}

/// Starts a node whose stream handlers never end by themselves.
pub(super) async fn start_holding<H: Harness>(harness: &H, n: u8) -> Node<H::Transport> {
    run(harness.node(NodeSpec::numbered(n)).await, true)
}

/// Starts nodes 1 and 2 and connects the first to the second.
pub(super) async fn connected_pair<H: Harness>(harness: &H) -> (Node<H::Transport>, Node<H::Transport>) {
    let (a, b) = (start(harness, 1).await, start(harness, 2).await);
    a.connect(&b).await;
    (a, b)
}

fn run<T: Transport>(transport: T, hold_streams: bool) -> Node<T> {
    let (opened, streams) = mpsc::channel(1024);
    let seen = Arc::new(Seen { log: Mutex::default(), changed: Notify::new(), opened, hold_streams });
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (transport, seen, stop) = (transport.clone(), seen.clone(), stop.clone());
        async move { transport.serve(Handler(seen), stop).await }
    });
    Node { transport, seen, streams, stop, serving }
}

impl<T: Transport> Node<T> {
    pub(super) fn id(&self) -> NodeId {
        self.contact().id
    }

    pub(super) fn contact(&self) -> Contact {
        self.transport.local()
    }

    /// Connects to another node, and waits until both have seen it.
    pub(super) async fn connect(&self, other: &Self) -> PeerInfo {
        let target = Target::Contact(other.contact());
        let info = within("connect", self.transport.connect(target)).await.expect("the peer is there");
        self.until("the dialler sees the peer come up", |log| log.ups(other.id()) > 0).await;
        other.until("the acceptor sees the peer come up", |log| log.ups(self.id()) > 0).await;
        info
    }

    /// Waits until the log is as asked, and returns what `look` makes of it.
    pub(super) async fn until(&self, what: &str, look: impl Fn(&Log) -> bool) {
        self.seen.until(what, look).await;
    }

    pub(super) fn log<R>(&self, look: impl FnOnce(&Log) -> R) -> R {
        self.seen.look(look)
    }

    /// The next stream that a peer opened.
    pub(super) async fn next_stream(&mut self) -> Opened<T> {
        within("a stream arrives", self.streams.recv()).await.expect("the node serves")
    }

    /// From now on, the handler of this lane waits.
    pub(super) fn block(&self, lane: LaneId) {
        self.seen.log.lock().blocked.insert(lane);
    }

    pub(super) fn unblock(&self, lane: LaneId) {
        self.seen.log.lock().blocked.remove(&lane);
        self.seen.changed.notify_waiters();
    }

    /// Begins to stop; `stopped` waits for the end.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until `serve` has returned.
    pub(super) async fn stopped(self) -> T {
        self.stop();
        within("serve returns", self.serving).await.expect("serve does not panic");
        self.transport
    }

    /// Ends without a word.
    pub(super) async fn crash<H: Harness<Transport = T>>(self, harness: &H) {
        self.serving.abort();
        let _ = self.serving.await;
        drop(self.seen);
        within("the node crashes", harness.crash(self.transport)).await;
    }
}

impl<T: Transport> Seen<T> {
    pub(super) fn look<R>(&self, look: impl FnOnce(&Log) -> R) -> R {
        look(&self.log.lock())
    }

    pub(super) async fn until(&self, what: &str, look: impl Fn(&Log) -> bool) {
        within(what, async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if look(&self.log.lock()) {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }

    fn note(&self, note: impl FnOnce(&mut Log)) {
        note(&mut self.log.lock());
        self.changed.notify_waiters();
    }
}

struct Handler<T: Transport>(Arc<Seen<T>>);

impl<T: Transport> Inbound<T> for Handler<T> {
    fn on_peer(&self, event: PeerEvent) {
        self.0.note(|log| log.peers.push(event));
    }

    fn on_datagram(&self, from: NodeId, frame: Frame) {
        self.0.note(|log| log.datagrams.push((from, frame)));
    }

    async fn on_lane(&self, from: NodeId, lane: LaneId, frame: Frame) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.0.log.lock().blocked.contains(&lane) {
                break;
            }
            changed.await;
        }
        self.0.note(|log| log.lanes.push((from, lane, frame)));
    }

    fn on_lane_pause(&self, _from: NodeId, _lane: LaneId) {
        self.0.note(|log| log.told_of_pause_after = log.lanes.len());
    }

    async fn on_stream(&self, from: NodeId, first: Frame, tx: T::Tx, rx: T::Rx) {
        if self.0.hold_streams {
            self.0.note(|log| log.handlers_begun += 1);
            let _held = (tx, rx, Dropped(self.0.clone()));
            std::future::pending::<()>().await;
        } else {
            // The node is gone when nobody takes streams any more.
            let _ = self.0.opened.send(Opened { from, first, tx, rx }).await;
        }
    }
}

/// Notes that a handler's future was dropped.
struct Dropped<T: Transport>(Arc<Seen<T>>);

impl<T: Transport> Drop for Dropped<T> {
    fn drop(&mut self) {
        self.0.note(|log| log.handlers_dropped += 1);
    }
}

/// Waits, but not for ever.
pub(super) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// A frame with a number and a payload of `payload_bytes`.
pub(super) fn frame(number: u32, payload_bytes: usize) -> Frame {
    let payload = Bytes::from(vec![number as u8; payload_bytes]);
    Frame::new(FrameKind::PUBLISH, &wire::LaneOpen { lane: number }, payload).expect("within the limits")
}

/// The number of a frame made by [`frame`].
pub(super) fn number(frame: &Frame) -> u32 {
    frame.header::<wire::LaneOpen>().map_or(u32::MAX, |header| header.lane)
}
