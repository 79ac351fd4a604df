//! What is counted.

use std::cell::OnceCell;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::PacketKind;

/// Counters and gauges of one node's membership.
#[derive(Clone, Debug, Default)]
pub struct SwimMetrics {
    /// Members that came, or came back.
    pub joined: Counter,
    /// Members that said goodbye.
    pub left: Counter,
    /// Suspicions that began.
    pub suspected: Counter,
    /// Suspicions that their subject refuted.
    pub refuted: Counter,
    /// Suspicions that ran out: members that count as dead.
    pub confirmed: Counter,
    /// Suspicions against this node that it refuted.
    pub refutations: Counter,
    /// Words of another process that uses this node's key, as far as they were answered.
    pub contested: Counter,
    /// Pieces of news sent, piggybacked or not.
    pub gossip_transmitted: Counter,
    /// Pieces of news dropped because the queue was full.
    pub gossip_dropped: Counter,
    /// Datagrams sent, by kind.
    pub sent: Family<KindLabel, Counter>,
    /// Datagrams received, by kind.
    pub received: Family<KindLabel, Counter>,
    /// Direct probes that got no answer in time.
    pub probes_failed: Counter,
    /// Exchanges of member lists that this node asked for, and that were completed.
    pub syncs: Counter,
    /// The same, failed.
    pub syncs_failed: Counter,
    /// What was refused or dropped, by reason.
    pub refused: Family<RefusedLabel, Counter>,
    /// Members that count as there, this node included.
    pub members: Gauge,
    /// Members under suspicion.
    pub suspects: Gauge,
    /// Lifeguard's local health: 0 is well; `health_max` is worst.
    pub local_health: Gauge,
}

/// A counter for each kind of datagram, looked up in its family no more than once.
#[derive(Debug, Default)]
pub(crate) struct KindCounters([OnceCell<Counter>; PacketKind::COUNT]);

impl KindCounters {
    pub(crate) fn inc(&self, family: &Family<KindLabel, Counter>, kind: PacketKind) {
        self.0[kind as usize].get_or_init(|| family.get_or_create(&KindLabel { kind }).clone()).inc();
    }
}

/// Label of a datagram's kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct KindLabel {
    /// What it is for.
    pub kind: PacketKind,
}

/// Label of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RefusedLabel {
    /// Why.
    pub reason: Refused,
}

/// Why something was refused or dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub enum Refused {
    /// Bytes that are no message of this layer.
    Garbage,
    /// A statement whose signature is not its subject's, or an accusation whose signature is not its accuser's.
    Forged,
    /// An accusation by a member that may not watch whom it accuses.
    NoWatcher,
    /// The member list is full.
    MembersFull,
    /// The queue of received datagrams was full.
    QueueFull,
    /// Too many requests to probe others, or exchanges of member lists.
    Overloaded,
}

impl EncodeLabelValue for PacketKind {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Ping => "ping",
            Self::Ack => "ack",
            Self::PingReq => "ping_req",
            Self::Nack => "nack",
            Self::Gossip => "gossip",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl SwimMetrics {
    /// Registers everything under `membership_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("membership");
        registry.register("joined", "Members that came or came back", self.joined.clone());
        registry.register("left", "Members that said goodbye", self.left.clone());
        registry.register("suspected", "Suspicions that began", self.suspected.clone());
        registry.register("refuted", "Suspicions refuted by their subject", self.refuted.clone());
        registry.register("confirmed", "Suspicions that ran out", self.confirmed.clone());
        registry.register("refutations", "Suspicions of this node that it refuted", self.refutations.clone());
        registry.register(
            "contested",
            "Words of another process that uses this node's key",
            self.contested.clone(),
        );
        registry.register("gossip_transmitted", "News sent", self.gossip_transmitted.clone());
        registry.register("gossip_dropped", "News dropped by a full queue", self.gossip_dropped.clone());
        registry.register("sent", "Datagrams sent", self.sent.clone());
        registry.register("received", "Datagrams received", self.received.clone());
        registry.register("probes_failed", "Direct probes without answer", self.probes_failed.clone());
        registry.register("syncs", "Exchanges of member lists completed", self.syncs.clone());
        registry.register("syncs_failed", "Exchanges of member lists failed", self.syncs_failed.clone());
        registry.register("refused", "What was refused or dropped", self.refused.clone());
        registry.register("members", "Members that count as there", self.members.clone());
        registry.register("suspects", "Members under suspicion", self.suspects.clone());
        registry.register("local_health", "Local health, 0 is well", self.local_health.clone());
    }

    pub(crate) fn refuse(&self, reason: Refused) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
    }
}
