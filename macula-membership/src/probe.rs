//! Probes: direct, then through helpers, and being a helper.
//!
//! ```text
//!   not linked          linked    half the time    no ack in time    half the time     no ack in time
//!   Dialling ──────────▶ Direct ────────▶ Repeated ────────▶ Indirect ────────▶ Last ────────────▶ suspect
//!      │   dial failed      │ ack            │ ack             │                  │ ack, from the target or a helper
//!      └────────────────────┼────────────────┼────▶ Indirect   │                  │
//!                           ▼                ▼                 ▼                  ▼
//!                         done             done              done               done
//! ```
//!
//! A datagram is easily lost, and a false suspicion costs every member a message. So each step repeats what went before it:
//! until a member is suspected, it was pinged four times directly, and twice by way of each helper. With one message in
//! twenty lost that is one false suspicion in some ten million probes, where SWIM as published has one in two thousand.

use std::time::Duration;

use macula_proto::{NodeId, Timestamp};
use rand::RngExt as _;

use crate::effect::{Effect, Effects};
use crate::machine::{Machine, draw};
use crate::message::{Doubt, PacketKind, Update};
use crate::metrics::Refused;
use crate::roster::Entry;
use crate::{Incarnation, MemberState};

/// Probes under way at once.
pub(crate) const PROBES_MAX: usize = 16;

/// How long helpers have, in direct timeouts. They say after 0.8 of one that they have no answer either; the rest is for the
/// way there and back.
const INDIRECT_TIMEOUTS: f64 = 1.2;

/// Requests of others to probe somebody, under way at once.
pub(crate) const RELAYS_MAX: usize = 128;

/// Members waiting to be probed out of turn.
pub(crate) const CHECKS_MAX: usize = 64;

/// One probe of ours.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) target: NodeId,
    pub(crate) deadline: Timestamp,
    phase: Phase,
    sent: Timestamp,
    helpers: Vec<NodeId>,
    nacks: u32,
    /// Tell the target that it is believed dead elsewhere, as of this incarnation.
    notice: Option<Incarnation>,
    /// The target's incarnation when the probe began: a newer word of it is as good as an answer.
    incarnation: Incarnation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Dialling,
    Direct,
    /// The same ping was sent again: a lost datagram is no reason to trouble others.
    Repeated,
    /// Helpers were asked.
    Indirect,
    /// Those that have not answered were asked again.
    Last,
}

/// A probe in somebody else's name.
#[derive(Debug)]
pub(crate) struct Relay {
    origin: NodeId,
    origin_sequence: u64,
    target: NodeId,
    pinged: bool,
    /// When to say that the target has not answered; `None` once that is done.
    nack: Option<Timestamp>,
    expires: Timestamp,
}

impl Relay {
    pub(crate) fn deadline(&self) -> Timestamp {
        self.nack.unwrap_or(self.expires)
    }
}

impl Machine {
    /// One protocol period: the successor on the next ring (or, rarely, anybody), and one member out of turn.
    pub(crate) fn probe_next(&mut self, now: Timestamp, out: &mut Effects) {
        self.turn = self.turn.wrapping_add(1);
        let every = self.config.random_probe_every;
        let anybody = every > 0 && self.turn.is_multiple_of(every);
        let target = if anybody { self.random_member() } else { self.overlay.successor(self.turn as usize) };
        if let Some(target) = target {
            self.start_probe(now, target, None, out);
        }
        while let Some((id, notice)) = self.checks.pop_front() {
            // A notice is pointless once the member has a newer incarnation: somebody else has told it. Without one, the
            // member is here as a neighbour.
            let due = |entry: &Entry| {
                let wanted = notice.map_or(self.overlay.contains(&id), |told| told >= entry.incarnation());
                entry.state().is_present() && wanted
            };
            if self.roster.get(&id).is_some_and(due) {
                self.start_probe(now, id, notice, out);
                break;
            }
        }
        self.probe_suspect(now, out);
        if self.checks.iter().any(|(id, _)| self.overlay.contains(id)) {
            self.timers.probe = self.timers.probe.min(now + self.config.gossip_interval);
        }
    }

    /// Whom only this node suspects it probes again: nobody else may say so, if others do not believe it of this node.
    fn probe_suspect(&mut self, now: Timestamp, out: &mut Effects) {
        let alone: Vec<NodeId> = self.suspicions.only_by(&self.me).collect();
        if !alone.is_empty() {
            let id = alone[self.rng.random_range(0..alone.len())];
            self.start_probe(now, id, None, out);
        }
    }

    /// The neighbours have changed: successors that are not linked yet are probed soon, which links them.
    pub(crate) fn link_successors(&mut self, now: Timestamp) {
        let unlinked = |id: &NodeId| !self.links.contains(id) && !self.dials.contains(id);
        let unlinked: Vec<NodeId> = self.overlay.successors().filter(unlinked).collect();
        for id in unlinked {
            self.check_soon(now, id);
        }
    }

    /// Puts a neighbour down for a probe that does not wait for the end of the period.
    pub(crate) fn check_soon(&mut self, now: Timestamp, id: NodeId) {
        if self.check(id, None) {
            self.timers.probe = self.timers.probe.min(now + self.config.gossip_interval);
        }
    }

    /// Puts a member down for a probe out of turn. Returns whether it was not down for one yet.
    pub(crate) fn check(&mut self, id: NodeId, notice: Option<Incarnation>) -> bool {
        let waits = self.checks.iter().any(|(other, _)| *other == id);
        let room = !waits && self.checks.len() < CHECKS_MAX && id != self.me;
        if room {
            self.checks.push_back((id, notice));
        }
        room
    }

    pub(crate) fn on_ack(&mut self, now: Timestamp, from: NodeId, sequence: u64, out: &mut Effects) {
        if let Some(probe) = self.probes.get(&sequence)
            && (probe.target == from || probe.helpers.contains(&from))
        {
            // Only a direct answer to a direct probe measures the path, and only if it was sent once (Karn's rule).
            if probe.target == from && probe.phase == Phase::Direct {
                self.learn_rtt(from, now - probe.sent);
            }
            self.probes.remove(&sequence);
            self.health.improve();
        } else if self.relays.get(&sequence).is_some_and(|relay| relay.target == from)
            && let Some(relay) = self.relays.remove(&sequence)
        {
            self.send(relay.origin, PacketKind::Ack, relay.origin_sequence, None, Vec::new(), out);
        } else {
            self.on_goodbye_acked(from, sequence, out);
        }
    }

    pub(crate) fn on_nack(&mut self, from: NodeId, sequence: u64) {
        if let Some(probe) = self.probes.get_mut(&sequence)
            && let Some(at) = probe.helpers.iter().position(|helper| *helper == from)
        {
            // Each helper counts once; its ack is still welcome, so it only moves to the back of the count.
            if at >= probe.nacks as usize {
                probe.helpers.swap(at, probe.nacks as usize);
                probe.nacks += 1;
            }
        }
    }

    /// Somebody asks this node to probe `target`, perhaps again.
    pub(crate) fn on_ping_req(
        &mut self,
        now: Timestamp,
        origin: NodeId,
        origin_sequence: u64,
        target: NodeId,
        out: &mut Effects,
    ) {
        if target == self.me {
            self.send(origin, PacketKind::Ack, origin_sequence, None, Vec::new(), out);
            return;
        }
        let linked = self.links.contains(&target);
        let asked = |relay: &Relay| relay.origin == origin && relay.origin_sequence == origin_sequence;
        if let Some((sequence, relay)) = self.relays.iter_mut().find(|(_, relay)| asked(relay)) {
            let sequence = *sequence;
            if linked && relay.target == target {
                self.ping(target, sequence, None, out);
            }
            return;
        }
        let contact = self.roster.get(&target).and_then(Entry::member).map(|member| member.contact);
        let dialling = self.dials.contains(&target) || self.dials.len() < self.config.dials_max;
        let possible = linked || (contact.is_some() && dialling);
        if !possible || self.relays.len() >= RELAYS_MAX || self.leaving.is_some() {
            self.metrics.refuse(Refused::Overloaded);
            self.send(origin, PacketKind::Nack, origin_sequence, None, Vec::new(), out);
            return;
        }
        let sequence = self.next_sequence();
        let nack = now + self.config.probe_timeout.mul_f64(0.8);
        let expires = now + self.config.probe_timeout * 4;
        let relay = Relay { origin, origin_sequence, target, pinged: linked, nack: Some(nack), expires };
        self.relays.insert(sequence, relay);
        if linked {
            self.ping(target, sequence, None, out);
        } else if let Some(contact) = contact
            && self.dials.insert(target)
        {
            out.push(Effect::Connect(contact));
        }
    }

    /// A link came up: what waited for it goes out.
    pub(crate) fn probes_linked(&mut self, now: Timestamp, id: NodeId, out: &mut Effects) {
        let timeout = self.direct_timeout(&id);
        let mut pings = Vec::new();
        for (sequence, probe) in &mut self.probes {
            if probe.target == id && probe.phase == Phase::Dialling {
                (probe.phase, probe.sent, probe.deadline) = (Phase::Direct, now, now + timeout / 2);
                pings.push((*sequence, probe.notice));
            }
        }
        for (sequence, relay) in &mut self.relays {
            if relay.target == id && !relay.pinged {
                relay.pinged = true;
                pings.push((*sequence, None));
            }
        }
        for (sequence, notice) in pings {
            self.ping(id, sequence, notice, out);
        }
    }

    /// A dial failed: for its probe that is a direct probe without answer, unless the reason lies here.
    pub(crate) fn probes_unlinked(&mut self, now: Timestamp, id: NodeId, local: bool, out: &mut Effects) {
        let waiting = |probe: &Probe| probe.target == id && probe.phase == Phase::Dialling;
        if local {
            self.probes.retain(|_, probe| !waiting(probe));
            return;
        }
        let failed: Vec<u64> =
            self.probes.iter().filter(|(_, probe)| waiting(probe)).map(|(sequence, _)| *sequence).collect();
        for sequence in failed {
            self.ask_helpers(now, sequence, out);
        }
    }

    pub(crate) fn drop_dialling(&mut self) {
        self.probes.retain(|_, probe| probe.phase != Phase::Dialling);
    }

    pub(crate) fn expire_probes(&mut self, now: Timestamp, out: &mut Effects) {
        let due: Vec<(u64, Phase)> = self
            .probes
            .iter()
            .filter(|(_, probe)| probe.deadline <= now)
            .map(|(sequence, probe)| (*sequence, probe.phase))
            .collect();
        for (sequence, phase) in due {
            match phase {
                Phase::Direct => self.repeat(now, sequence, out),
                Phase::Dialling | Phase::Repeated => self.ask_helpers(now, sequence, out),
                Phase::Indirect => self.ask_again(now, sequence, out),
                Phase::Last => self.give_up(now, sequence, out),
            }
        }
    }

    pub(crate) fn expire_relays(&mut self, now: Timestamp, out: &mut Effects) {
        let mut nacks = Vec::new();
        self.relays.retain(|_, relay| {
            if relay.nack.is_some_and(|at| at <= now) {
                relay.nack = None;
                nacks.push((relay.origin, relay.origin_sequence));
            }
            relay.expires > now
        });
        for (origin, sequence) in nacks {
            self.send(origin, PacketKind::Nack, sequence, None, Vec::new(), out);
        }
    }

    pub(crate) fn start_probe(
        &mut self,
        now: Timestamp,
        target: NodeId,
        notice: Option<Incarnation>,
        out: &mut Effects,
    ) {
        let probed = self.probes.values().any(|probe| probe.target == target);
        if probed || self.probes.len() >= PROBES_MAX {
            return;
        }
        let linked = self.links.contains(&target);
        if !linked && !self.dial(target, out) {
            return;
        }
        let sequence = self.next_sequence();
        let (phase, timeout) = if linked {
            (Phase::Direct, self.direct_timeout(&target) / 2)
        } else {
            (Phase::Dialling, self.config.stream_timeout)
        };
        let probe = Probe {
            target,
            deadline: now + timeout,
            phase,
            sent: now,
            helpers: Vec::new(),
            nacks: 0,
            notice,
            incarnation: self.incarnation_of(&target).unwrap_or_default(),
        };
        self.probes.insert(sequence, probe);
        if linked {
            self.ping(target, sequence, notice, out);
        }
    }

    /// Makes sure that a dial is under way, within the limit.
    fn dial(&mut self, target: NodeId, out: &mut Effects) -> bool {
        if self.dials.contains(&target) {
            return true;
        }
        let contact = self.roster.get(&target).and_then(Entry::member).map(|member| member.contact);
        let Some(contact) = contact.filter(|_| self.dials.len() < self.config.dials_max) else {
            return false;
        };
        self.dials.insert(target);
        out.push(Effect::Connect(contact));
        true
    }

    fn ping(&mut self, target: NodeId, sequence: u64, notice: Option<Incarnation>, out: &mut Effects) {
        let mut told = self.belief_to_refute(&target);
        if let Some(incarnation) = notice.filter(|_| told.is_empty()) {
            told.push(Update::Doubt(Doubt { id: target, incarnation }));
        }
        self.send(target, PacketKind::Ping, sequence, None, told, out);
    }

    /// Half of the time for an answer is over, which is more than a round trip: the ping or its ack got lost.
    fn repeat(&mut self, now: Timestamp, sequence: u64, out: &mut Effects) {
        let Some(probe) = self.probes.get_mut(&sequence) else { return };
        let (target, notice, half) = (probe.target, probe.notice, probe.deadline - probe.sent);
        (probe.phase, probe.deadline) = (Phase::Repeated, now + half);
        self.ping(target, sequence, notice, out);
    }

    /// The direct probe had no answer: ask others to try (SWIM §3.1).
    fn ask_helpers(&mut self, now: Timestamp, sequence: u64, out: &mut Effects) {
        let Some(probe) = self.probes.get(&sequence) else { return };
        let (target, notice) = (probe.target, probe.notice);
        self.metrics.probes_failed.inc();
        let mut helpers: Vec<NodeId> = self.links.iter().copied().filter(|id| *id != target).collect();
        helpers.retain(|id| self.state_of(id) == Some(MemberState::Alive));
        draw(&mut helpers, self.config.indirect_count, &mut self.rng);
        let wait = self.indirect_timeout(&target) / 2;
        if let Some(probe) = self.probes.get_mut(&sequence) {
            (probe.phase, probe.deadline, probe.helpers) = (Phase::Indirect, now + wait, helpers);
        }
        self.ask(sequence, target, notice, out);
    }

    /// Half of the time that helpers have is over.
    fn ask_again(&mut self, now: Timestamp, sequence: u64, out: &mut Effects) {
        let Some(target) = self.probes.get(&sequence).map(|probe| probe.target) else { return };
        let wait = self.indirect_timeout(&target) / 2;
        let Some(probe) = self.probes.get_mut(&sequence) else { return };
        (probe.phase, probe.deadline) = (Phase::Last, now + wait);
        let notice = probe.notice;
        self.ask(sequence, target, notice, out);
    }

    /// Pings the target once more, if there is a link, and asks the helpers that have not said yet that they cannot reach
    /// it either.
    fn ask(&mut self, sequence: u64, target: NodeId, notice: Option<Incarnation>, out: &mut Effects) {
        let Some(probe) = self.probes.get(&sequence) else { return };
        let open = probe.helpers[probe.nacks as usize..].to_vec();
        if self.links.contains(&target) {
            self.ping(target, sequence, notice, out);
        }
        for helper in open {
            self.send(helper, PacketKind::PingReq, sequence, Some(target), Vec::new(), out);
        }
    }

    /// How long helpers have: four round trips if that is more than configured.
    fn indirect_timeout(&self, target: &NodeId) -> Duration {
        let rtt = self.rtts.get(target).copied().unwrap_or_default();
        self.health.stretch(self.config.probe_timeout.mul_f64(INDIRECT_TIMEOUTS).max(rtt * 4))
    }

    /// Nobody could reach the target. Helpers that did not even say so point at this node (Lifeguard §IV-A).
    fn give_up(&mut self, now: Timestamp, sequence: u64, out: &mut Effects) {
        let Some(probe) = self.probes.remove(&sequence) else { return };
        let asked = probe.helpers.len() as u32;
        self.health.worsen(if asked == 0 { 1 } else { asked - probe.nacks });
        if self.incarnation_of(&probe.target) == Some(probe.incarnation) {
            self.accuse(now, probe.target, out);
        }
    }

    /// How long a direct probe waits: three round trips if that is more than configured, stretched by local health.
    fn direct_timeout(&self, target: &NodeId) -> Duration {
        let rtt = self.rtts.get(target).copied().unwrap_or_default();
        self.health.stretch(self.config.probe_timeout.max(rtt * 3))
    }

    fn learn_rtt(&mut self, id: NodeId, sample: Duration) {
        if !self.overlay.contains(&id) {
            return;
        }
        // The usual smoothing: seven parts old, one part new (RFC 6298 §2).
        let smoothed = self.rtts.get(&id).map_or(sample, |old| (*old * 7 + sample) / 8);
        self.rtts.insert(id, smoothed);
        if self.rtts.len() > 4 * self.config.rings {
            self.rtts.retain(|id, _| self.overlay.contains(id));
        }
    }

    /// Somebody present, drawn at random; `None` if a few draws hit only others.
    pub(crate) fn random_member(&mut self) -> Option<NodeId> {
        (0..8).find_map(|_| {
            let entry = self.roster.at(self.rng.random_range(0..self.roster.len()));
            (entry.state().is_present() && entry.id() != self.me).then(|| entry.id())
        })
    }
}
