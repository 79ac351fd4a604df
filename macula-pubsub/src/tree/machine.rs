//! [`Tree`]: one node's part in the tree of one topic or pattern.

use std::collections::BTreeMap;

use macula_proto::{Contact, NodeId, Timers, Timestamp};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::cache::Cache;
use super::config::TreeConfig;
use super::effect::{Body, Effect, Parcel, Span, StreamId, Word};
use super::links::{Asked, Known, Link};
use super::metrics::TreeMetrics;
use super::stream::{Feed, Stream};

/// Who has had links for so long has heard of all that is going on.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(5);

/// Publishers of which there are only announcements, at most.
const UNBORN_MAX: usize = 64;

/// One node's part in one tree.
///
/// Each method takes the time, which must not go back, and may append to `out`: carry the effects out in that order. Whenever
/// [`deadline`](Self::deadline) has come, call [`on_timeout`](Self::on_timeout).
#[derive(Debug)]
pub struct Tree<M> {
    pub(super) me: Contact,
    pub(super) config: TreeConfig,
    pub(super) metrics: TreeMetrics,
    pub(super) rng: StdRng,
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) known: BTreeMap<NodeId, Known>,
    pub(super) asked: BTreeMap<NodeId, Asked>,
    pub(super) streams: BTreeMap<NodeId, Stream<M>>,
    pub(super) cache: Cache<M>,
    pub(super) timers: Timers<Timer>,
    /// Since when there has been a link.
    pub(super) linked_since: Option<Timestamp>,
    /// A message came by: from now on, new links only announce.
    pub(super) is_born: bool,
    /// Whether messages come by themselves, whoever publishes: for publishers of whom too few came to tell.
    pub(super) feed: Feed,
    /// When a shorter way was last looked for.
    pub(super) shortened: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Announcements wait.
    Batch,
    /// Missing messages of a publisher are to be asked for.
    Repair(NodeId),
    /// It is time to decide whether a publisher's messages still come by themselves.
    Judge(NodeId),
    /// A publisher's order begins.
    Open(NodeId),
    /// More links are wanted.
    Seek,
    /// Quiet links are to be kept, silent ones given up.
    Keep,
    /// Somebody is to be told of others.
    Shuffle,
    /// What came lately is to be announced again.
    Repeat,
}

/// One link, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// To whom.
    pub peer: NodeId,
    /// Whether messages are pushed there; else they are announced.
    pub is_eager: bool,
}

impl<M: Body> Tree<M> {
    /// A node without links. `seed` is for its random choices.
    pub fn new(now: Timestamp, me: Contact, config: TreeConfig, metrics: TreeMetrics, seed: u64) -> Self {
        let mut timers = Timers::default();
        timers.set(Timer::Keep, now + config.keep_alive);
        timers.set(Timer::Shuffle, now + config.shuffle_interval);
        Self {
            cache: Cache::new(config.cache_messages, config.cache_bytes, config.cache_ttl),
            me,
            config,
            metrics,
            rng: StdRng::seed_from_u64(seed),
            links: BTreeMap::new(),
            known: BTreeMap::new(),
            asked: BTreeMap::new(),
            streams: BTreeMap::new(),
            timers,
            linked_since: None,
            is_born: false,
            feed: Feed::new(now),
            shortened: now,
        }
    }

    /// When [`on_timeout`](Self::on_timeout) is next wanted.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Timestamp, out: &mut Vec<Effect<M>>) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Batch => self.flush(now, out),
                Timer::Repair(origin) => self.repair(now, origin, out),
                Timer::Judge(origin) => self.judge(now, origin, out),
                Timer::Open(origin) => self.open(origin, out),
                Timer::Seek => self.seek(now, out),
                Timer::Keep => self.keep(now, out),
                Timer::Shuffle => self.shuffle(now, out),
                Timer::Repeat => self.repeat(now),
            }
        }
    }

    /// The links, in order of id.
    pub fn links(&self) -> Vec<LinkInfo> {
        let info = |(peer, link): (&NodeId, &Link)| LinkInfo { peer: *peer, is_eager: link.pushes };
        self.links.iter().map(info).collect()
    }

    /// Since when this node has had links; `None`: it has none.
    pub fn linked_since(&self) -> Option<Timestamp> {
        self.linked_since
    }

    /// Another node of the tree said something.
    pub fn on_word(&mut self, now: Timestamp, from: &Contact, word: Word, out: &mut Vec<Effect<M>>) {
        if let Some(link) = self.links.get_mut(&from.id) {
            link.heard = now;
        }
        match word {
            Word::Ask { urgent } => self.on_ask(now, from, urgent, out),
            Word::Accept => self.on_accept(now, from, out),
            Word::Refuse { others } => self.on_refuse(now, &from.id, others, out),
            Word::Leave => self.on_leave(now, &from.id, out),
            Word::Others { others, reply } => self.on_others(now, from, others, reply, out),
            Word::Prune => {
                if let Some(link) = self.links.get_mut(&from.id) {
                    link.pushes = false;
                }
            }
            Word::Have(spans) if self.links.contains_key(&from.id) => {
                self.on_have(now, from.id, &spans, out);
            }
            Word::Want { spans, graft } if self.links.contains_key(&from.id) => {
                self.on_want(from.id, &spans, graft, out);
            }
            // It believes in a link that there is not.
            Word::Have(_) | Word::Want { .. } => self.tell(now, from.clone(), Word::Leave, out),
        }
    }

    /// A message came by the tree, or from its publisher, which need not have a link: it comes in here.
    pub fn on_parcel(&mut self, now: Timestamp, from: NodeId, parcel: Parcel<M>, out: &mut Vec<Effect<M>>) {
        if let Some(link) = self.links.get_mut(&from) {
            link.heard = now;
        }
        let (origin, number) = (parcel.stream.origin, parcel.number);
        let is_linked = self.links.contains_key(&from);
        if !is_linked && from != origin && !parcel.answer {
            return self.tell(now, Contact { id: from, addrs: Vec::new() }, Word::Leave, out);
        }
        if origin == self.me.id {
            return self.came_twice(now, from, &parcel, out);
        }
        let is_settled = self.linked_since.is_some_and(|since| now.since(since) >= SETTLED);
        let Some(stream) = self.stream(now, parcel.stream) else { return };
        if stream.has(number) {
            return self.came_twice(now, from, &parcel, out);
        }
        self.is_born = true;
        let begins = if is_settled { parcel.since } else { number };
        self.note_arrival(now, from, &parcel, begins, out);
        self.cache.put(now, parcel.clone());
        self.spread(now, Some(from), &parcel, out);
        // A newcomer is sent a copy directly as well; an earlier one may still be on its way, behind a handshake.
        let opening = match (is_settled, parcel.continued) {
            (false, _) => SETTLED,
            (true, true) => self.config.opening,
            (true, false) => std::time::Duration::ZERO,
        };
        self.put_on_stage(now, parcel, opening, out);
        self.timers.set_by(Timer::Repeat, now + self.config.repeat_interval);
    }

    /// A message came directly from its publisher, for this node alone: it has its place in the order, and goes no further.
    pub fn on_direct(&mut self, now: Timestamp, parcel: Parcel<M>, out: &mut Vec<Effect<M>>) {
        let (patience, origin, number) = (self.config.patience, parcel.stream.origin, parcel.number);
        let Some(stream) = self.stream(now, parcel.stream) else { return };
        if !stream.stage.is_open() {
            stream.stage.open_by(number);
        }
        let gaps = stream.stage.gaps_before(number);
        if stream.stage.put(parcel) {
            gaps.into_iter().for_each(|gap| stream.missing_from(now, gap, now + patience, (origin, 0)));
        }
        stream.missing.remove(&number);
        self.deliver(origin, out);
        self.set_repair(origin);
    }

    /// Publishes a message of this node. Its number must be one more than the last one's.
    pub fn publish(&mut self, now: Timestamp, parcel: Parcel<M>, out: &mut Vec<Effect<M>>) {
        self.is_born = true;
        self.cache.put(now, parcel.clone());
        let own = self.stream_of(now, parcel.stream);
        own.arrived(&parcel, parcel.number);
        own.heard = now;
        self.spread(now, None, &parcel, out);
        self.timers.set_by(Timer::Repeat, now + self.config.repeat_interval);
    }

    /// The stream of a message; `None` if it is older than one that is known, or there is no room.
    pub(super) fn stream(&mut self, now: Timestamp, id: StreamId) -> Option<&mut Stream<M>> {
        if let Some(known) = self.streams.get(&id.origin)
            && known.superseded == Some(id.run)
        {
            return None;
        }
        Some(self.stream_of(now, id))
    }

    fn stream_of(&mut self, now: Timestamp, id: StreamId) -> &mut Stream<M> {
        let superseded = match self.streams.get(&id.origin) {
            Some(known) if known.run == id.run => None,
            Some(known) => Some(known.run),
            None => None,
        };
        if superseded.is_some() {
            self.streams.remove(&id.origin);
        }
        if !self.streams.contains_key(&id.origin) {
            if self.streams.len() >= self.config.streams_max {
                self.forget_quietest();
            }
            let mut stream = Stream::new(now, id.run, self.config.held_max);
            stream.superseded = superseded;
            self.streams.insert(id.origin, stream);
        }
        self.streams.get_mut(&id.origin).expect("it was there, or was just inserted")
    }

    fn forget_quietest(&mut self) {
        let quietest = self.streams.iter().min_by_key(|(_, stream)| stream.heard).map(|(id, _)| *id);
        if let Some(origin) = quietest {
            self.forget_stream(&origin);
        }
    }

    pub(super) fn forget_stream(&mut self, origin: &NodeId) {
        self.streams.remove(origin);
        for timer in [Timer::Repair(*origin), Timer::Judge(*origin), Timer::Open(*origin)] {
            self.timers.cancel(timer);
        }
    }

    /// Whether one more publisher may be known by announcements alone.
    pub(super) fn has_room_for_unborn(&self) -> bool {
        self.streams.values().filter(|stream| stream.seen.is_none()).count() < UNBORN_MAX
    }

    fn put_on_stage(
        &mut self,
        now: Timestamp,
        parcel: Parcel<M>,
        opening: std::time::Duration,
        out: &mut Vec<Effect<M>>,
    ) {
        let origin = parcel.stream.origin;
        let Some(stream) = self.streams.get_mut(&origin) else { return };
        stream.stage.put(parcel);
        if !stream.stage.is_open() {
            if opening.is_zero() {
                stream.stage.open(stream.began);
            } else {
                self.timers.set_by(Timer::Open(origin), now + opening);
            }
        }
        self.deliver(origin, out);
        self.set_repair(origin);
    }

    fn open(&mut self, origin: NodeId, out: &mut Vec<Effect<M>>) {
        if let Some(stream) = self.streams.get_mut(&origin) {
            stream.stage.open(stream.began);
        }
        self.deliver(origin, out);
    }

    pub(super) fn deliver(&mut self, origin: NodeId, out: &mut Vec<Effect<M>>) {
        let Some(stream) = self.streams.get_mut(&origin) else { return };
        while let Some(parcel) = stream.stage.take() {
            out.push(Effect::Deliver(parcel));
        }
        let floor = stream.stage.floor();
        if stream.missing.first_key_value().is_some_and(|(first, _)| *first < floor) {
            stream.missing = stream.missing.split_off(&floor);
        }
    }

    /// Says something, and notes it at the link if there is one.
    pub(super) fn tell(&mut self, now: Timestamp, to: Contact, word: Word, out: &mut Vec<Effect<M>>) {
        if let Some(link) = self.links.get_mut(&to.id) {
            link.told = now;
        }
        out.push(Effect::Tell { to, word });
    }

    /// Announces a message over a link, with the next batch.
    pub(super) fn announce(&mut self, now: Timestamp, to: &NodeId, span: Span) {
        if let Some(link) = self.links.get_mut(to) {
            link.announce(span);
            self.timers.set_by(Timer::Batch, now + self.config.batch);
        }
    }
}
