//! What a transport counts.

use std::sync::OnceLock;

use macula_proto::FrameKind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::{CloseReason, Refusal};

/// Kinds below this have a counter of their own, found without hashing.
const KINDS: usize = 64;

/// Counters and gauges of one node's transport. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct TransportMetrics {
    sent: Traffic,
    received: Traffic,
    handshakes: Family<HandshakeLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    closes: Family<ReasonLabels, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    connections: Gauge,
}

#[derive(Clone, Debug, Default)]
struct Traffic {
    frames: Family<KindLabels, Counter>,
    bytes: Counter,
    by_kind: std::sync::Arc<Kinds>,
}

#[derive(Debug)]
struct Kinds([OnceLock<Counter>; KINDS]);

impl Default for Kinds {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HandshakeLabels {
    side: &'static str,
    result: &'static str,
}

/// What was thrown away, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dropped {
    /// A frame of a kind that this version does not know.
    UnknownKind,
    /// Bytes that are no frame.
    BadFrame,
    /// An outgoing datagram, pushed out of the full send buffer.
    DatagramBuffer,
    /// A stream whose first frame did not come in time.
    SilentStream,
    /// A connection attempt, because too many handshakes were under way.
    HalfOpen,
}

impl Dropped {
    const fn label(self) -> &'static str {
        match self {
            Self::UnknownKind => "unknown_kind",
            Self::BadFrame => "bad_frame",
            Self::DatagramBuffer => "datagram_buffer",
            Self::SilentStream => "silent_stream",
            Self::HalfOpen => "half_open",
        }
    }
}

impl TransportMetrics {
    /// Puts everything into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("transport");
        r.register("frames_sent", "Frames sent, by kind", self.sent.frames.clone());
        r.register("frames_received", "Frames received, by kind", self.received.frames.clone());
        r.register_with_unit("sent", "Frame bytes sent", Unit::Bytes, self.sent.bytes.clone());
        r.register_with_unit("received", "Frame bytes received", Unit::Bytes, self.received.bytes.clone());
        r.register("handshakes", "Finished handshakes, by side and result", self.handshakes.clone());
        r.register("refusals", "Peers refused by this node, by reason", self.refusals.clone());
        r.register("closes", "Connections that ended, by reason", self.closes.clone());
        r.register("dropped", "What was thrown away, by reason", self.dropped.clone());
        r.register("connections", "Live connections", self.connections.clone());
    }

    /// A frame of `bytes` bytes was handed to the network.
    pub fn sent(&self, kind: FrameKind, bytes: usize) {
        self.sent.count(kind, 1, bytes);
    }

    /// So many frames of one kind were, `bytes` bytes in all.
    pub fn sent_many(&self, kind: FrameKind, frames: u64, bytes: usize) {
        self.sent.count(kind, frames, bytes);
    }

    /// A frame of `bytes` bytes arrived.
    pub fn received(&self, kind: FrameKind, bytes: usize) {
        self.received.count(kind, 1, bytes);
    }

    /// A handshake (hello included) ended; `dialled` says which side this node was on.
    pub fn handshake(&self, dialled: bool, ok: bool) {
        let side = if dialled { "dialler" } else { "listener" };
        let result = if ok { "ok" } else { "failed" };
        self.handshakes.get_or_create(&HandshakeLabels { side, result }).inc();
    }

    /// This node refused a peer.
    pub fn refused(&self, refusal: &Refusal) {
        self.refusals.get_or_create(&ReasonLabels { reason: refusal.label() }).inc();
    }

    /// A connection came up.
    pub fn opened(&self) {
        self.connections.inc();
    }

    /// A connection ended.
    pub fn closed(&self, reason: CloseReason) {
        self.connections.dec();
        self.closes.get_or_create(&ReasonLabels { reason: close_label(reason) }).inc();
    }

    /// Something was thrown away.
    pub fn dropped(&self, what: Dropped) {
        self.dropped.get_or_create(&ReasonLabels { reason: what.label() }).inc();
    }

    /// How many peers were refused for this reason.
    pub fn refusals(&self, refusal: &Refusal) -> u64 {
        self.refusals.get_or_create(&ReasonLabels { reason: refusal.label() }).get()
    }

    /// How often this was thrown away.
    pub fn drops(&self, what: Dropped) -> u64 {
        self.dropped.get_or_create(&ReasonLabels { reason: what.label() }).get()
    }

    /// Live connections.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }
}

impl Traffic {
    fn count(&self, kind: FrameKind, frames: u64, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
        match self.by_kind.0.get(kind.0 as usize) {
            Some(slot) => slot.get_or_init(|| self.counter(kind.to_string())).inc_by(frames),
            None => self.counter("other".into()).inc_by(frames),
        };
    }

    fn counter(&self, kind: String) -> Counter {
        self.frames.get_or_create(&KindLabels { kind }).clone()
    }
}

const fn close_label(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Idle => "idle",
        CloseReason::Evicted => "evicted",
        CloseReason::Shutdown => "shutdown",
        CloseReason::TimedOut => "timed_out",
        CloseReason::Protocol => "protocol",
        CloseReason::Revoked => "revoked",
        CloseReason::GivenUp => "given_up",
        CloseReason::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_exposition() {
        let metrics = TransportMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.sent(FrameKind::PUBLISH, 10);
        metrics.sent(FrameKind(7_000), 5);
        metrics.refused(&Refusal::Realm);
        metrics.opened();
        metrics.closed(CloseReason::Idle);
        metrics.dropped(Dropped::BadFrame);
        metrics.handshake(true, true);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "transport_frames_sent_total{kind=\"PUBLISH\"} 1",
            "transport_frames_sent_total{kind=\"other\"} 1",
            "transport_sent_bytes_total 15",
            "transport_refusals_total{reason=\"realm\"} 1",
            "transport_closes_total{reason=\"idle\"} 1",
            "transport_connections 0",
            "transport_dropped_total{reason=\"bad_frame\"} 1",
            "transport_handshakes_total{side=\"dialler\",result=\"ok\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
