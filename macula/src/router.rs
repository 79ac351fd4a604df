//! Hands what arrives to the layer it is for. It decides nothing.

use macula_dht::Kademlia;
use macula_membership::Swim;
use macula_platform::{Coordination, RedbStore};
use macula_proto::{Frame, NodeId, Service};
use macula_pubsub::PubSub;
use macula_rpc::Rpc;
use macula_transport::{Inbound, LaneId, PeerEvent, ResetCode, StreamRx, StreamTx, Transport};
use prometheus_client::metrics::counter::Counter;

/// The layers, as seen from the transport.
pub(crate) struct Router<T: Transport> {
    pub(crate) swim: Swim<T>,
    pub(crate) directory: Kademlia<T>,
    pub(crate) pubsub: PubSub<T, Kademlia<T>>,
    pub(crate) rpc: Rpc<T, Kademlia<T>>,
    pub(crate) coordination: Coordination<T, RedbStore>,
    /// Frames of a known layer on a verb that this layer does not use.
    pub(crate) misplaced: Counter,
}

impl<T: Transport> Inbound<T> for Router<T> {
    fn on_peer(&self, event: PeerEvent) {
        match &event {
            PeerEvent::Up(peer) => {
                tracing::debug!(peer = %peer.id, remote = %peer.remote, "connected");
                self.directory.peer_up(peer);
            }
            PeerEvent::Down { id, reason } => tracing::debug!(peer = %id, ?reason, "disconnected"),
            _ => {}
        }
        self.swim.on_peer(&event);
        self.rpc.on_peer(&event);
    }

    fn on_datagram(&self, from: NodeId, frame: Frame) {
        match frame.kind().service() {
            Service::Membership => self.swim.on_datagram(from, frame),
            _ => self.misplaced(from, &frame),
        }
    }

    async fn on_lane(&self, from: NodeId, _lane: LaneId, frame: Frame) {
        match frame.kind().service() {
            Service::PubSub => self.pubsub.on_lane_frame(from, frame).await,
            _ => self.misplaced(from, &frame),
        }
    }

    async fn on_lane_frames(&self, from: NodeId, lane: LaneId, frames: &mut Vec<Frame>) {
        if frames.iter().all(|frame| frame.kind().service() == Service::PubSub) {
            return self.pubsub.on_lane_frames(from, frames).await;
        }
        for frame in frames.drain(..) {
            self.on_lane(from, lane, frame).await;
        }
    }

    fn on_lane_pause(&self, _from: NodeId, _lane: LaneId) {
        self.pubsub.on_lane_pause();
    }

    async fn on_stream(&self, from: NodeId, first: Frame, mut tx: T::Tx, mut rx: T::Rx) {
        match first.kind().service() {
            // Boxed, so that each call does not carry their state.
            Service::Membership => Box::pin(self.swim.on_stream(from, first, tx, rx)).await,
            Service::Directory => Box::pin(self.directory.on_stream(from, first, tx, rx)).await,
            Service::Rpc => self.rpc.on_stream(from, first, tx, rx).await,
            Service::Platform => Box::pin(self.coordination.on_stream(from, first, tx, rx)).await,
            _ => {
                self.misplaced(from, &first);
                tx.reset(ResetCode::UNKNOWN);
                rx.stop(ResetCode::UNKNOWN);
            }
        }
    }
}

impl<T: Transport> Router<T> {
    fn misplaced(&self, from: NodeId, frame: &Frame) {
        self.misplaced.inc();
        tracing::debug!(peer = %from, kind = %frame.kind(), "skipped a frame that nobody here serves");
    }
}
