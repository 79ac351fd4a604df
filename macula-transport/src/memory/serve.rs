//! Receiving: one task a connection, one within it for each lane, each stream and the datagrams.

use std::collections::BTreeMap;
use std::sync::Arc;

use macula_proto::{Frame, NodeId, Service};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::MemoryTransport;
use super::connection::{Arrival, End, Work};
use super::endpoint::{Endpoint, Stage};
use super::pipe::PipeRx;
use super::stream::{MemoryRx, MemoryTx};
use crate::{CloseReason, Dropped, Inbound, LaneId, PeerEvent, ResetCode, StreamRx, StreamTx};

/// Receives until `stop`, then drains and closes; or until the node crashes.
pub(super) async fn serve<H: Inbound<MemoryTransport>>(
    endpoint: Arc<Endpoint>,
    handler: H,
    stop: CancellationToken,
) {
    if !endpoint.advance(Stage::Serving) {
        tracing::warn!(node = %endpoint.id().short(), "serve was called twice, or on a node that is over");
        return;
    }
    // Dropped in mid-flight, `serve` leaves the node dead.
    let mut serving =
        Serving { endpoint, handler: Arc::new(handler), sides: JoinSet::new(), peers: BTreeMap::new() };
    serving.run(&stop).await;
    if serving.endpoint.dead.is_cancelled() {
        return;
    }
    serving.endpoint.advance(Stage::Stopping);
    serving.drain().await;
    serving.close().await;
}

struct Serving<H> {
    endpoint: Arc<Endpoint>,
    handler: Arc<H>,
    /// One task a connection.
    sides: JoinSet<()>,
    /// Whose task is which. A peer's next connection is read from once its last one is reported down.
    peers: BTreeMap<NodeId, Id>,
}

impl<H> Drop for Serving<H> {
    fn drop(&mut self) {
        self.endpoint.die();
    }
}

impl<H: Inbound<MemoryTransport>> Serving<H> {
    async fn run(&mut self, stop: &CancellationToken) {
        loop {
            self.attach();
            tokio::select! {
                biased;
                () = self.endpoint.dead.cancelled() => return,
                () = stop.cancelled() => return,
                Some(done) = self.sides.join_next_with_id() => self.on_side_done(done),
                () = self.endpoint.arrived.notified() => {}
            }
        }
    }

    /// Finishes what was accepted, on both sides, for as long as the drain timeout allows.
    async fn drain(&mut self) {
        let ends = self.endpoint.ends();
        for end in &ends {
            end.drain();
        }
        let all = async {
            for end in &ends {
                end.drained().await;
            }
        };
        let in_time = tokio::time::timeout(self.endpoint.config.drain_timeout, all);
        tokio::select! {
            biased;
            () = self.endpoint.dead.cancelled() => {}
            drained = in_time => if drained.is_err() {
                tracing::debug!(node = %self.endpoint.id().short(), "stopped before everything was delivered");
            }
        }
    }

    async fn close(&mut self) {
        for end in self.endpoint.ends() {
            end.close(CloseReason::Shutdown);
        }
        loop {
            tokio::select! {
                biased;
                () = self.endpoint.dead.cancelled() => return,
                done = self.sides.join_next_with_id() => match done {
                    Some(done) => self.on_side_done(done),
                    None => return,
                },
            }
        }
    }

    /// Begins to read from connections that came up.
    fn attach(&mut self) {
        loop {
            let next = self.endpoint.pool.lock().attach(|peer| !self.peers.contains_key(peer));
            let Some(end) = next else { return };
            let peer = end.peer();
            let task = self.sides.spawn(run_side(end, self.handler.clone()));
            self.peers.insert(peer, task.id());
        }
    }

    fn on_side_done(&mut self, done: Result<(Id, ()), JoinError>) {
        let id = match &done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        if let Err(error) = done {
            tracing::error!(node = %self.endpoint.id().short(), %error, "a connection's task failed");
        }
        self.peers.retain(|_, task| *task != id);
    }
}

/// Reports a connection up, reads from it until it ends, and reports it down.
async fn run_side<H: Inbound<MemoryTransport>>(end: End, handler: Arc<H>) {
    handler.on_peer(PeerEvent::Up(end.info()));
    let (mut lanes, mut streams) = (JoinSet::new(), JoinSet::new());
    streams.spawn(read_datagrams(end.clone(), handler.clone()));
    loop {
        tokio::select! {
            biased;
            () = end.closed() => break,
            arrival = end.next_arrival() => match arrival {
                Arrival::Lane(lane, pipe, work) => {
                    lanes.spawn(read_lane(end.clone(), lane, pipe, work, handler.clone()));
                }
                Arrival::Stream(tx, rx) => {
                    streams.spawn(run_stream(end.clone(), tx, rx, handler.clone()));
                }
            },
            Some(done) = lanes.join_next() => if is_panic(&end, done) {
                // A lane without a reader would fill up for ever; a new connection brings new lanes.
                end.close(CloseReason::Lost);
            },
            Some(done) = streams.join_next() => { is_panic(&end, done); }
        }
    }
    // A paused node notices nothing.
    end.until_running().await;
    streams.shutdown().await;
    // What has arrived is handed over even now; the readers end by themselves after that.
    let handed_over = async { while lanes.join_next().await.is_some() {} };
    if tokio::time::timeout(end.drain_timeout(), handed_over).await.is_err() {
        tracing::debug!(peer = %end.peer().short(), "lane frames of an ended connection are dropped");
    }
    handler.on_peer(PeerEvent::Down { id: end.peer(), reason: end.reason() });
}

fn is_panic(end: &End, done: Result<(), JoinError>) -> bool {
    let Err(error) = done else { return false };
    if error.is_panic() {
        tracing::error!(peer = %end.peer().short(), %error, "a handler panicked");
    }
    error.is_panic()
}

async fn read_datagrams<H: Inbound<MemoryTransport>>(end: End, handler: Arc<H>) {
    loop {
        let frame = end.mine().datagrams.next().await;
        end.until_running().await;
        if !end.hears_peer() {
            continue;
        }
        end.count_received(&frame);
        if is_known(&end, &frame) {
            handler.on_datagram(end.peer(), frame);
        }
    }
}

async fn read_lane<H: Inbound<MemoryTransport>>(
    end: End,
    lane: LaneId,
    mut pipe: PipeRx,
    work: Work,
    handler: Arc<H>,
) {
    while let Ok(Some(frame)) = pipe.recv().await {
        if is_known(&end, &frame) {
            handler.on_lane(end.peer(), lane, frame).await;
            handler.on_lane_pause(end.peer(), lane);
        }
    }
    // Kept until the handler is done with the last frame: draining waits for that.
    drop(work);
}

async fn run_stream<H: Inbound<MemoryTransport>>(
    end: End,
    mut tx: MemoryTx,
    mut rx: MemoryRx,
    handler: Arc<H>,
) {
    // Reset before it said what it was for: nothing to do.
    let Some(first) = rx.first().await else { return };
    if is_known(&end, &first) {
        handler.on_stream(end.peer(), first, tx, rx).await;
    } else {
        tx.reset(ResetCode::UNKNOWN);
        rx.stop(ResetCode::UNKNOWN);
    }
}

/// Whether the frame is for a layer above; otherwise it is skipped and counted.
fn is_known(end: &End, frame: &Frame) -> bool {
    let known = !matches!(frame.kind().service(), Service::Unknown | Service::Transport);
    if !known {
        end.count_dropped(Dropped::UnknownKind);
    }
    known
}
