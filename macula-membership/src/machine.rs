//! The machine: state, timers, and the ways in. Sans-IO: time and randomness come in, effects go out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Signer, Timestamp, UnixMillis, Verifier};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::effect::{Effect, Effects};
use crate::health::LocalHealth;
use crate::judge::crowd;
use crate::member::check_tags;
use crate::message::{Doubt, Packet, PacketKind, Update};
use crate::metrics::{KindCounters, SwimMetrics};
use crate::news::{Audience, News};
use crate::overlay::{Overlay, positions};
use crate::probe::{Probe, Relay};
use crate::roster::{Entry, Roster};
use crate::statement::Presence;
use crate::suspicion::{Due, Stretch, Suspicions};
use crate::sync::Pace;
use crate::{Incarnation, Member, MemberState, Statement, SwimConfig, Tags, TagsError};

/// News go round in fewer rounds of gossip than the binary logarithm of the number of members. After so many times more,
/// whoever has not heard hears from an exchange of lists.
const NEWS_ROUNDS: u32 = 4;

/// Packets to one partner in one round of gossip.
const GOSSIP_PACKETS_MAX: usize = 2;

/// A neighbour is told one piece of news at most so often.
const TIMES_MAX: u32 = 12;

/// What a [`Machine`] is made of.
pub struct MachineParts {
    /// The knobs; valid.
    pub config: SwimConfig,
    /// Where this node can be reached. Its id is the signer's.
    pub contact: Contact,
    /// Its first tags; within the limits.
    pub tags: Tags,
    /// The smallest incarnation to begin with, for instance from a file. The wall clock is used if it says more.
    pub incarnation_min: Incarnation,
    /// Signs in this node's name.
    pub signer: Arc<dyn Signer>,
    /// Checks the others' signatures.
    pub verifier: Arc<dyn Verifier>,
    /// Where the machine counts.
    pub metrics: SwimMetrics,
    /// Wall clock at the time of making the machine.
    pub unix: UnixMillis,
    /// Seeds all random choices.
    pub seed: u64,
}

/// SWIM with Lifeguard, as a pure state machine.
///
/// Call order: [`new`](Self::new); then, as things happen, the `on_…` methods; and
/// [`on_timeout`](Self::on_timeout) once [`deadline`](Self::deadline) has come. Each appends to `out` what is to be done.
pub struct Machine {
    pub(crate) config: SwimConfig,
    pub(crate) me: NodeId,
    pub(crate) presence: Presence,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) verifier: Arc<dyn Verifier>,
    pub(crate) metrics: SwimMetrics,
    sent: KindCounters,
    received: KindCounters,
    pub(crate) rng: StdRng,
    /// Wall clock and own clock at the start, to date statements.
    origin: (UnixMillis, Timestamp),

    pub(crate) roster: Roster,
    pub(crate) overlay: Overlay,
    pub(crate) suspicions: Suspicions,
    pub(crate) news: News,
    pub(crate) health: LocalHealth,
    /// Live connections; as many as the transport's pool has.
    pub(crate) links: BTreeSet<NodeId>,
    /// Dials under way for probing.
    pub(crate) dials: BTreeSet<NodeId>,
    pub(crate) probes: BTreeMap<u64, Probe>,
    pub(crate) relays: BTreeMap<u64, Relay>,
    /// Members to probe out of turn, and under which incarnation others believe them dead, if they do.
    pub(crate) checks: VecDeque<(NodeId, Option<Incarnation>)>,
    /// Smoothed round-trip times of the overlay's neighbours.
    pub(crate) rtts: BTreeMap<NodeId, Duration>,
    /// The dead and the departed, in the order in which they are forgotten.
    pub(crate) tombs: VecDeque<(Timestamp, NodeId)>,
    /// Some of the dead who are forgotten, and when: after a partition that outlasted the memory of the dead, one of them
    /// is the way back.
    pub(crate) lost: VecDeque<(Timestamp, Arc<Contact>)>,
    /// Exchanges of member lists that this node asked for.
    pub(crate) syncs: BTreeSet<NodeId>,
    pub(crate) leaving: Option<Leaving>,
    /// When this node last raised its incarnation because somebody else used its name.
    pub(crate) contested: Option<Timestamp>,
    /// When another process last spoke in this node's name, and from where.
    pub(crate) rival: Option<(Timestamp, Arc<Contact>)>,
    /// When this node last refuted what others said of it.
    pub(crate) refuted: Option<Timestamp>,
    sequence: u64,
    pub(crate) turn: u32,
    pub(crate) pace: Pace,
    pub(crate) timers: Timers,
}

/// The periodic timers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    pub(crate) probe: Timestamp,
    pub(crate) gossip: Timestamp,
    pub(crate) sync: Timestamp,
    pub(crate) recontact: Timestamp,
}

/// A goodbye under way.
#[derive(Debug)]
pub(crate) struct Leaving {
    sequence: u64,
    waiting: BTreeSet<NodeId>,
    resend: Timestamp,
    statement: Arc<Statement>,
}

impl Machine {
    /// A machine that knows only itself.
    pub fn new(parts: MachineParts, now: Timestamp) -> Self {
        let MachineParts { config, contact, tags, incarnation_min, signer, verifier, metrics, unix, seed } =
            parts;
        let me = signer.public_key().node_id();
        let mut rng = StdRng::seed_from_u64(seed);
        let contact = Arc::new(Contact { id: me, ..contact });
        let presence = Presence { contact, tags: Arc::new(tags), instance: rng.next_u64() };
        let hash_key = rng.next_u64();
        let timers = first_timers(&config, now, &mut rng);
        let mut machine = Self {
            me,
            presence,
            signer,
            verifier,
            metrics,
            sent: KindCounters::default(),
            received: KindCounters::default(),
            rng,
            origin: (unix, now),
            roster: Roster::new(hash_key),
            overlay: Overlay::new(me, positions(&me), config.rings),
            suspicions: Suspicions::default(),
            news: News::new(config.news_max, hash_key),
            health: LocalHealth::new(config.health_max),
            links: BTreeSet::new(),
            dials: BTreeSet::new(),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
            checks: VecDeque::new(),
            rtts: BTreeMap::new(),
            tombs: VecDeque::new(),
            lost: VecDeque::new(),
            syncs: BTreeSet::new(),
            leaving: None,
            contested: None,
            rival: None,
            refuted: None,
            sequence: 0,
            turn: 0,
            pace: Pace::new(config.protocol_period),
            timers,
            config,
        };
        machine.proclaim(now, incarnation_min.max(Incarnation(unix.0)));
        machine
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// This node as a member. After a goodbye its state is `Left`.
    pub fn local(&self) -> Member {
        let presence = self.presence.clone();
        let own = self.own();
        Member {
            contact: presence.contact,
            tags: presence.tags,
            instance: presence.instance,
            state: own.state(),
            incarnation: own.incarnation(),
            since: own.since(),
        }
    }

    /// Those who are known to be dead or to have left, until they are forgotten; in no particular order.
    pub fn gone(&self) -> impl Iterator<Item = (NodeId, MemberState)> {
        let all = self.roster.iter().map(|entry| (entry.id(), entry.state()));
        all.filter(|(_, state)| !state.is_present())
    }

    /// The same, with what is still known of them. Whoever left has no addresses and tags any more.
    pub fn gone_members(&self) -> impl Iterator<Item = Member> {
        let gone = self.roster.iter().filter(|entry| !entry.state().is_present() && entry.id() != self.me);
        gone.map(Entry::remembered)
    }

    /// Whether this node said goodbye: it belongs to no mesh.
    pub fn has_left(&self) -> bool {
        self.leaving.is_some()
    }

    /// Everybody who counts as there, this node included (unless it left), in no particular order.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.roster.iter().filter(|entry| entry.state().is_present()).filter_map(Entry::member)
    }

    /// How many count as there.
    pub fn members_len(&self) -> usize {
        self.roster.present()
    }

    /// Grows with every change of the member list.
    pub fn version(&self) -> u64 {
        self.roster.version()
    }

    /// How many are under suspicion.
    pub fn suspects_len(&self) -> usize {
        self.suspicions.len()
    }

    /// What is believed about `id`; `None` if nothing is known.
    pub fn state_of(&self, id: &NodeId) -> Option<MemberState> {
        self.roster.get(id).map(Entry::state)
    }

    /// The newest incarnation of `id` that is known.
    pub fn incarnation_of(&self, id: &NodeId) -> Option<Incarnation> {
        self.roster.get(id).map(Entry::incarnation)
    }

    /// Lifeguard's score: 0 is well, the configured `health_max` is worst.
    pub fn health_score(&self) -> u32 {
        self.health.score()
    }

    /// With whom this node keeps links for probing and gossip.
    pub fn neighbours(&self) -> Vec<NodeId> {
        self.overlay.neighbours().to_vec()
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called next.
    pub fn deadline(&self) -> Timestamp {
        if let Some(leaving) = &self.leaving {
            return leaving.resend;
        }
        let timers = self.timers;
        let periodic = timers.probe.min(timers.sync).min(timers.recontact);
        let gossip = (!self.news.is_empty() && !self.links.is_empty()).then_some(timers.gossip);
        let probes = self.probes.values().map(|probe| probe.deadline).min();
        let relays = self.relays.values().map(Relay::deadline).min();
        let timers = [gossip, self.suspicions.deadline(), probes, relays];
        let soonest = timers.into_iter().flatten().min();
        soonest.map_or(periodic, |at| at.min(periodic))
    }

    /// Handles every timer that is due by `now`.
    pub fn on_timeout(&mut self, now: Timestamp, out: &mut Effects) {
        if self.leaving.is_some() {
            self.resend_goodbye(now, out);
            return;
        }
        let crowd = crowd(self.suspicions.len(), self.roster.present());
        let stretch = Stretch { crowd, alone: self.health.score() + 1 };
        while let Some(due) = self.suspicions.due(now, stretch) {
            match due {
                Due::Reminder(accusation) => self.remind(now, accusation),
                Due::End(id) => self.bury(now, id, out),
                Due::Hearsay(accusation) => {
                    self.on_accusation(now, None, &accusation, out);
                }
            }
        }
        self.expire_probes(now, out);
        self.expire_relays(now, out);
        if now >= self.timers.probe {
            self.timers.probe = now + self.health.stretch(self.config.protocol_period);
            self.forget(now);
            self.news.expire(now, self.news_age_max());
            self.hasten_sync(now);
            self.probe_next(now, out);
        }
        if now >= self.timers.gossip && !self.news.is_empty() {
            self.timers.gossip = now + self.config.gossip_interval;
            self.gossip(out);
        }
        if now >= self.timers.sync {
            self.sync_next(now, out);
        }
        if now >= self.timers.recontact {
            self.recontact_next(now, out);
        }
    }

    /// A datagram arrived from the authenticated peer `from`.
    pub fn on_packet(&mut self, now: Timestamp, from: NodeId, packet: &Packet, out: &mut Effects) {
        self.received.inc(&self.metrics.received, packet.kind);
        let mut told = Vec::new();
        for update in &packet.updates {
            self.on_update(now, Some(from), update, out);
            self.put_right(update, &mut told);
        }
        if packet.kind != PacketKind::Ping && !told.is_empty() {
            self.send(from, PacketKind::Gossip, 0, None, std::mem::take(&mut told), out);
        }
        match packet.kind {
            PacketKind::Ping => {
                told.extend(self.belief_to_refute(&from));
                self.send(from, PacketKind::Ack, packet.sequence, None, told, out);
            }
            PacketKind::Ack => self.on_ack(now, from, packet.sequence, out),
            PacketKind::PingReq => {
                if let Some(target) = packet.target {
                    self.on_ping_req(now, from, packet.sequence, target, out);
                }
            }
            PacketKind::Nack => self.on_nack(from, packet.sequence),
            PacketKind::Gossip => {}
        }
    }

    /// A connection to `id` is up. Saying so twice does no harm.
    pub fn on_link_up(&mut self, now: Timestamp, id: NodeId, out: &mut Effects) {
        if self.links.insert(id) {
            self.news.on_link(&id);
        }
        self.dials.remove(&id);
        self.probes_linked(now, id, out);
        if self.leaving.is_none() && self.state_of(&id) == Some(MemberState::Dead) {
            self.sync_with(id, out);
        }
    }

    /// The connection to `id` is gone. A neighbour is probed at once.
    pub fn on_link_down(&mut self, now: Timestamp, id: NodeId) {
        self.links.remove(&id);
        if self.leaving.is_none() && self.overlay.contains(&id) {
            self.check_soon(now, id);
        }
    }

    /// A dial that [`Effect::Connect`] asked for failed. `local` says that the reason lies here (no room for another
    /// connection), and so says nothing about the member.
    pub fn on_dial_failed(&mut self, now: Timestamp, id: NodeId, local: bool, out: &mut Effects) {
        self.dials.remove(&id);
        if !self.links.contains(&id) {
            self.probes_unlinked(now, id, local, out);
        }
    }

    /// The driver was started anew: dials and exchanges under way are lost, and these are the live connections.
    pub fn on_restart(&mut self, links: impl IntoIterator<Item = NodeId>) {
        self.links = links.into_iter().collect();
        self.dials.clear();
        self.syncs.clear();
        self.drop_dialling();
    }

    /// Links that the machine believes live and that are not among `live`.
    pub fn links_not_in(&self, live: &[NodeId]) -> Vec<NodeId> {
        self.links.iter().copied().filter(|id| !live.contains(id)).collect()
    }

    /// Replaces this node's tags and tells the others; after a goodbye, once it [is back](Self::rejoin).
    ///
    /// # Errors
    /// [`TagsError`]; nothing has changed then.
    pub fn set_tags(&mut self, now: Timestamp, tags: Tags, out: &mut Effects) -> Result<(), TagsError> {
        check_tags(&tags)?;
        if *self.presence.tags == tags {
            return Ok(());
        }
        self.presence.tags = Arc::new(tags);
        if self.leaving.is_some() {
            self.roster.touch();
            return Ok(());
        }
        self.raise(now, Incarnation::default());
        out.push(Effect::Event(crate::Event::Updated(self.local())));
        Ok(())
    }

    /// Says goodbye to the neighbours, again and again until all have acknowledged; then comes
    /// [`Effect::Departed`]. From now on this node only answers.
    pub fn leave(&mut self, now: Timestamp, out: &mut Effects) {
        if self.leaving.is_some() {
            return;
        }
        let incarnation = self.own().incarnation();
        let statement = Arc::new(Statement::leave(&*self.signer, self.me, incarnation, self.unix(now)));
        self.roster.put(statement.clone(), MemberState::Left, now);
        self.news.push(now, Update::Statement(statement.clone()), None);
        self.probes.clear();
        self.relays.clear();
        let sequence = self.next_sequence();
        let waiting = self.gossip_partners(2 * self.config.rings).into_iter().collect();
        self.leaving = Some(Leaving { sequence, waiting, resend: now, statement });
        self.resend_goodbye(now, out);
    }

    /// Comes back after a goodbye, if there was one.
    pub fn rejoin(&mut self, now: Timestamp) {
        if self.leaving.take().is_some() {
            self.timers = first_timers(&self.config, now, &mut self.rng);
            self.pace = Pace::new(self.config.protocol_period);
            self.raise(now, Incarnation::default());
        }
    }

    fn resend_goodbye(&mut self, now: Timestamp, out: &mut Effects) {
        let Some(mut leaving) = self.leaving.take() else { return };
        if now >= leaving.resend {
            leaving.resend = now + self.config.gossip_interval;
            leaving.waiting.retain(|id| self.links.contains(id));
            for id in &leaving.waiting {
                let goodbye = vec![Update::Statement(leaving.statement.clone())];
                self.send(*id, PacketKind::Ping, leaving.sequence, None, goodbye, out);
            }
            if leaving.waiting.is_empty() {
                leaving.resend = never();
                out.push(Effect::Departed);
            }
        }
        self.leaving = Some(leaving);
    }

    pub(crate) fn on_goodbye_acked(&mut self, from: NodeId, sequence: u64, out: &mut Effects) {
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.sequence == sequence && leaving.waiting.remove(&from) && leaving.waiting.is_empty() {
            leaving.resend = never();
            out.push(Effect::Departed);
        }
    }

    /// What `id` should hear about itself first, if this node believes it to be anything but alive (Lifeguard §IV-C).
    /// The dead also get their own last word back: they may have lost count of their incarnations.
    pub(crate) fn belief_to_refute(&self, id: &NodeId) -> Vec<Update> {
        let Some(entry) = self.roster.get(id) else { return Vec::new() };
        let doubt = Update::Doubt(Doubt { id: *id, incarnation: entry.incarnation() });
        match entry.state() {
            MemberState::Alive => Vec::new(),
            MemberState::Suspect => vec![doubt],
            MemberState::Dead => vec![Update::Statement(entry.statement().clone()), doubt],
            MemberState::Left => vec![Update::Statement(entry.statement().clone())],
        }
    }

    /// Sends a packet with `first` and as much news as fits behind.
    pub(crate) fn send(
        &mut self,
        to: NodeId,
        kind: PacketKind,
        sequence: u64,
        target: Option<NodeId>,
        first: Vec<Update>,
        out: &mut Effects,
    ) {
        let mut updates = first;
        let used: usize = updates.iter().map(Update::wire_len).sum();
        let room = crate::message::UPDATES_BYTES_MAX.saturating_sub(used);
        let audience = audience(&self.config, &self.overlay);
        self.news.take(&to, room, audience, &mut updates);
        self.sent.inc(&self.metrics.sent, kind);
        self.metrics.gossip_transmitted.inc_by(updates.len() as u64);
        out.push(Effect::Send { to, packet: Packet { kind, sequence, target, updates } });
    }

    /// One packet to each partner; more while there is news that was not passed on at all.
    fn gossip(&mut self, out: &mut Effects) {
        let partners = self.gossip_partners(self.config.gossip_fanout);
        for packet in 0..GOSSIP_PACKETS_MAX {
            for to in &partners {
                if self.news.is_empty() || packet > 0 && !self.news.has_fresh() {
                    return;
                }
                let before = out.len();
                self.send(*to, PacketKind::Gossip, 0, None, Vec::new(), out);
                let nothing_for_it =
                    matches!(out.last(), Some(Effect::Send { packet, .. }) if packet.updates.is_empty());
                if nothing_for_it {
                    out.truncate(before);
                }
            }
        }
    }

    /// Linked members to gossip with: neighbours first, others if there are not enough of those.
    pub(crate) fn gossip_partners(&mut self, wanted: usize) -> Vec<NodeId> {
        let neighbours = self.overlay.neighbours();
        let (mut near, mut far): (Vec<NodeId>, Vec<NodeId>) =
            self.links.iter().copied().partition(|id| neighbours.binary_search(id).is_ok());
        draw(&mut near, wanted, &mut self.rng);
        let missing = wanted - near.len();
        far.retain(|id| self.roster.get(id).is_none_or(|entry| entry.state().is_present()));
        draw(&mut far, missing, &mut self.rng);
        near.extend(far);
        near
    }

    /// How long news are worth telling.
    fn news_age_max(&self) -> Duration {
        let rounds = usize::BITS - self.roster.present().leading_zeros();
        self.config.gossip_interval * (NEWS_ROUNDS * rounds.max(8))
    }

    /// Signs a newer word of this node's own, above everything that anybody has, and spreads it.
    pub(crate) fn raise(&mut self, now: Timestamp, above: Incarnation) {
        let incarnation = self.own().incarnation().max(above).next();
        self.proclaim(now, incarnation);
    }

    fn proclaim(&mut self, now: Timestamp, incarnation: Incarnation) {
        let unix = self.unix(now);
        let statement = Arc::new(Statement::alive(&*self.signer, incarnation, self.presence.clone(), unix));
        self.roster.put(statement.clone(), MemberState::Alive, now);
        self.spread(now, Update::Statement(statement), None);
    }

    pub(crate) fn spread(&mut self, now: Timestamp, update: Update, source: Option<NodeId>) {
        if self.news.push(now, update, source) {
            self.metrics.gossip_dropped.inc();
        }
    }

    pub(crate) fn own(&self) -> &Entry {
        self.roster.get(&self.me).expect("this node is in its own list from the start and never removed")
    }

    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn unix(&self, now: Timestamp) -> UnixMillis {
        let (unix, start) = self.origin;
        UnixMillis(unix.0.saturating_add(now.since(start).as_millis() as u64))
    }
}

/// Periodic work begins at a random point of its interval, so that nodes started together do not march in step.
fn first_timers(config: &SwimConfig, now: Timestamp, rng: &mut StdRng) -> Timers {
    let mut within = |interval: Duration| now + interval.mul_f64(rng.random_range(0.0..1.0));
    Timers {
        probe: within(config.protocol_period),
        gossip: within(config.gossip_interval),
        sync: within(config.protocol_period),
        recontact: within(config.recontact_interval),
    }
}

/// Whom news go to: every neighbour, and where there are few, each of them so much more often.
pub(crate) fn audience<'a>(config: &SwimConfig, overlay: &'a Overlay) -> Audience<'a> {
    let neighbours = overlay.neighbours();
    let sends = config.retransmit_multiplier * 2 * config.rings as u32;
    Audience { neighbours, times: sends.div_ceil(neighbours.len().max(1) as u32).clamp(1, TIMES_MAX) }
}

/// Keeps `count` of `from`, drawn at random.
pub(crate) fn draw(from: &mut Vec<NodeId>, count: usize, rng: &mut StdRng) {
    let count = count.min(from.len());
    for i in 0..count {
        let j = rng.random_range(i..from.len());
        from.swap(i, j);
    }
    from.truncate(count);
}

const fn never() -> Timestamp {
    Timestamp::from_start(Duration::MAX)
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
