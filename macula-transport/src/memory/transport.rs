//! The [`Transport`] of the in-memory network.

use std::fmt;
use std::sync::Arc;

use macula_proto::{Contact, Frame, NodeId};
use tokio_util::sync::CancellationToken;

use super::connection::{Arrival, End};
use super::dial::connect;
use super::endpoint::Endpoint;
use super::pipe::{PipeTx, pipe};
use super::serve::serve;
use super::stream::{self, MemoryRx, MemoryTx};
use crate::{
    AddressBook, CloseReason, Dropped, HangUp, Inbound, LaneId, LaneQueue, LaneSender, PeerInfo, Target,
    Transport, TransportError, TransportMetrics, lane_queue,
};

/// A node's link to the others on a [`MemoryNetwork`](super::MemoryNetwork), which makes it.
#[derive(Clone)]
pub struct MemoryTransport {
    endpoint: Arc<Endpoint>,
}

impl MemoryTransport {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint }
    }

    /// Where other nodes can be reached, as far as this node has heard; read when connecting by id.
    pub fn book(&self) -> &Arc<AddressBook> {
        &self.endpoint.config.book
    }

    /// The counters.
    pub fn metrics(&self) -> &TransportMetrics {
        &self.endpoint.config.metrics
    }

    async fn connection(&self, target: Target) -> Result<End, TransportError> {
        connect(&self.endpoint, target).await
    }

    fn live(&self, to: NodeId) -> Result<End, TransportError> {
        self.endpoint.pool.lock().get(to).cloned().ok_or(TransportError::NotConnected(to))
    }
}

impl Transport for MemoryTransport {
    type Tx = MemoryTx;
    type Rx = MemoryRx;

    fn local(&self) -> Contact {
        self.endpoint.contact.clone()
    }

    async fn serve<H: Inbound<Self>>(&self, handler: H, stop: CancellationToken) {
        serve(self.endpoint.clone(), handler, stop).await;
    }

    async fn connect(&self, target: Target) -> Result<PeerInfo, TransportError> {
        self.connection(target).await.map(|end| end.info())
    }

    fn datagram(&self, to: NodeId, frame: Frame) -> Result<(), TransportError> {
        let end = self.live(to)?;
        let (bytes, bytes_max) = (frame.wire_len(), self.endpoint.config.datagram_bytes_max);
        if bytes > bytes_max {
            return Err(TransportError::TooLarge { bytes, bytes_max });
        }
        end.count_sent(&frame);
        for at in end.datagram_departure(bytes).into_iter().flatten() {
            if end.theirs().datagrams.put(at, frame.clone()) {
                end.count_dropped(Dropped::DatagramBuffer);
            }
        }
        Ok(())
    }

    async fn lane(&self, to: NodeId, lane: LaneId) -> Result<LaneSender, TransportError> {
        if usize::from(lane.0) >= LaneId::COUNT {
            return Err(TransportError::NoSuchLane(lane));
        }
        let end = self.connection(Target::Id(to)).await?;
        open_lane(&end, lane)
    }

    async fn stream(&self, to: NodeId, first: Frame) -> Result<(MemoryTx, MemoryRx), TransportError> {
        let end = self.connection(Target::Id(to)).await?;
        stream::open(&end, first).await
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.endpoint.ends().iter().map(End::info).collect()
    }
}

impl HangUp for MemoryTransport {
    fn hang_up(&self, id: &NodeId) {
        let ends = self.endpoint.ends();
        ends.iter().filter(|end| end.peer() == *id).for_each(|end| end.close(CloseReason::GivenUp));
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("contact", &self.endpoint.contact).finish_non_exhaustive()
    }
}

/// The sender of a lane; makes the lane if it is new.
fn open_lane(end: &End, lane: LaneId) -> Result<LaneSender, TransportError> {
    let mut lanes = end.mine().lanes.lock();
    if let Some((sender, _)) = lanes.get(&lane) {
        return Ok(sender.clone());
    }
    if !end.is_usable() {
        return Err(TransportError::NotConnected(end.peer()));
    }
    let (sender, queue) = lane_queue(end.mine().lane_queue_bytes);
    let (tx, rx) = pipe(end, end.mine().window_bytes);
    lanes.insert(lane, (sender.clone(), tx.probe()));
    drop(lanes);
    end.hand_over(Arrival::Lane(lane, rx, end.connection().lane_work()));
    tokio::spawn(write_lane(end.clone(), queue, tx));
    Ok(sender)
}

/// Moves frames from the queue into the pipe until the connection ends or drains.
async fn write_lane(end: End, mut queue: LaneQueue, mut pipe: PipeTx) {
    let mut batch = Vec::new();
    let mut last = false;
    while !last {
        tokio::select! {
            biased;
            () = end.closed() => return,
            () = end.draining() => {
                queue.close();
                queue.take(&mut batch);
                last = true;
            }
            _ = queue.next_batch(&mut batch) => {}
        }
        for frame in batch.drain(..) {
            if pipe.send(frame).await.is_err() {
                return;
            }
        }
    }
    // Fails only with the connection, and then there is nobody to tell.
    let _ = pipe.finish();
}
