//! Taking part in trees.
//!
//! ```text
//!   subscribed ── invited, or asked for a link ──▶ joining ── linked for a while ──▶ announced
//!       ▲                                             ▲  └── no link any more ◀────────┘ │
//!       │                                             └──────────────────────────────────┘
//!       └── left ◀── a while later ◀── taken back ◀── too few subscribers are left
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use macula_dht::{Directory, Found};
use macula_proto::{Access, Action, Contact, Frame, FrameKind, NodeId, Realm, Timestamp};
use macula_transport::Transport;
use rand::Rng as _;
use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use super::wire::{self, Carried, Said};
use super::{State, TreeKey};
use crate::Pattern;
use crate::interest;
use crate::link::Link;
use crate::message::{BadFrame, Incoming};
use crate::metrics::RefuseReason;
use crate::pubsub::Inner;
use crate::tree::{LinkInfo, Parcel, SPAN_NUMBERS_MAX, Span, Tree, Word};

/// Who has been linked for so long, and up to twice as long, says so: by then the tree holds together.
const LINKED_FOR: Duration = Duration::from_secs(3);

/// How long a node stays in a tree after it said that it does not take part any more: publishers see that at once.
const STAYS_FOR: Duration = Duration::from_secs(10);

/// How often a node looks whether its tree is still worth while, at least; up to twice as long.
const REVIEW_EVERY: Duration = Duration::from_secs(300);

/// How often it asks the directory for others while it has no link.
const LOOKS_EVERY: Duration = Duration::from_secs(10);

/// How often subscriptions are compared with trees.
const TENDED_EVERY: Duration = Duration::from_secs(1);

/// A tree in which this node takes part, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// In which realm.
    pub realm: Realm,
    /// Of the subscribers to this very pattern.
    pub pattern: Pattern,
    /// This node's links, in order of id.
    pub links: Vec<LinkInfo>,
    /// Whether publishers know that this node takes part; otherwise they send it a copy themselves.
    pub is_announced: bool,
    /// How many times the last message that came was sent on its way here.
    pub last_hops: u32,
}

/// This node's part in one tree.
pub(super) struct Member {
    pub(super) tree: Tree<Carried>,
    /// The ways to those that something is said to.
    pub(super) ways: BTreeMap<NodeId, Arc<Link>>,
    is_announced: bool,
    /// How long it has to be linked before it says so.
    linked_for: Duration,
    leaves_at: Option<Timestamp>,
    reviewed_at: Timestamp,
    /// When the directory may be asked for others (again).
    looks_at: Timestamp,
    last_hops: u32,
}

impl<T: Transport, D: Directory> Inner<T, D> {
    pub(crate) fn trees(&self) -> Vec<TreeInfo> {
        let Some(fanout) = self.fanout.get() else { return Vec::new() };
        let state = fanout.state.lock();
        let info = |(key, member): (&TreeKey, &Member)| TreeInfo {
            realm: key.realm.clone(),
            pattern: key.pattern.clone(),
            links: member.tree.links(),
            is_announced: member.is_announced,
            last_hops: member.last_hops,
        };
        state.members.iter().map(info).collect()
    }

    /// A frame about a tree.
    pub(crate) fn on_tree_frame(self: &Arc<Self>, from: NodeId, frame: Frame) -> Result<(), RefuseReason> {
        if self.fanout.get().is_none() {
            return Err(RefuseReason::UnknownKind);
        }
        if frame.kind() == FrameKind::TREE_MESSAGE {
            return self.on_tree_message(from, frame);
        }
        let (key, said) = wire::read_word(from, &frame).ok_or(RefuseReason::Malformed)?;
        if !self.config.realms.contains(&key.realm) {
            return Err(RefuseReason::Realm);
        }
        match said {
            // Whoever it comes from: what counts is that this node subscribes.
            Said::Invite(others) => self.on_invitation(&key, others),
            Said::Word(sender, word) => self.on_word(&sender, &key, word),
        }
    }

    /// A copy that came directly and has a place in a tree in which this node takes part goes through that. Otherwise it is
    /// given back.
    pub(crate) fn stage(self: &Arc<Self>, incoming: Incoming) -> Option<Incoming> {
        let Some(fanout) = self.fanout.get().filter(|_| !incoming.places.is_empty()) else {
            return Some(incoming);
        };
        let now = self.clock.now();
        let mut state = fanout.state.lock();
        let mut is_staged = false;
        for place in &incoming.places {
            let key = TreeKey { realm: incoming.content.realm.clone(), pattern: place.pattern.clone() };
            let Some(member) = state.members.get_mut(&key) else { continue };
            let carried = Carried::direct(incoming.content.clone(), incoming.scope.clone());
            let mut out = Vec::new();
            member.tree.on_direct(now, wire::parcel(place, carried), &mut out);
            self.carry_out(&mut state, &key, out);
            is_staged = true;
        }
        self.plan(&mut state);
        (!is_staged).then_some(incoming)
    }

    /// Sees to the trees, for ever.
    pub(crate) async fn tend_trees(self: &Arc<Self>) {
        let Some(fanout) = self.fanout.get() else { return std::future::pending().await };
        loop {
            let pause = self.tend();
            tokio::select! {
                biased;
                () = fanout.woken.notified() => {}
                () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Says goodbye to all neighbours.
    pub(crate) fn leave_trees(self: &Arc<Self>) {
        let Some(fanout) = self.fanout.get() else { return };
        let mut state = fanout.state.lock();
        let keys: Vec<TreeKey> = state.members.keys().cloned().collect();
        keys.iter().for_each(|key| self.leave_tree(&mut state, key));
        state.own.clear();
    }

    /// Somebody is gone: links to them are over.
    pub(crate) fn forget_the_gone(self: &Arc<Self>) {
        let Some(fanout) = self.fanout.get() else { return };
        let now = self.clock.now();
        let mut state = fanout.state.lock();
        for member in state.members.values_mut() {
            let gone = member.tree.links().into_iter().filter(|link| self.routes.is_gone(&link.peer));
            gone.collect::<Vec<_>>().iter().for_each(|link| member.tree.on_lost(now, &link.peer));
        }
        self.plan(&mut state);
    }

    /// Wakes the task that tends the trees, if something is due before it looks again.
    pub(super) fn plan(&self, state: &mut State) {
        let first = state.members.values().filter_map(|member| member.tree.deadline()).min();
        if let (Some(first), Some(fanout)) = (first, self.fanout.get())
            && first < state.planned
        {
            state.planned = first;
            fanout.woken.notify_one();
        }
    }

    /// No link, and nobody known to ask for one: the directory knows others.
    pub(super) fn look_for_others(self: &Arc<Self>, state: &mut State, key: &TreeKey) {
        let now = self.clock.now();
        if let Some(member) = state.members.get_mut(key)
            && member.looks_at <= now
        {
            member.looks_at = now + LOOKS_EVERY;
            self.tasks.spawn(self.clone().look(key.clone()));
        }
    }

    fn on_tree_message(self: &Arc<Self>, from: NodeId, frame: Frame) -> Result<(), RefuseReason> {
        let Some(fanout) = self.fanout.get() else { return Err(RefuseReason::UnknownKind) };
        let read = wire::read_message(frame, fanout.verifier.as_ref());
        let (key, parcel) = read.map_err(|bad| match bad {
            BadFrame::Malformed => RefuseReason::Malformed,
            BadFrame::Publisher => RefuseReason::Publisher,
        })?;
        let content = parcel.body.content();
        self.may_come(content)?;
        self.metrics.received.inc();
        self.metrics.message_bytes.observe(content.payload.bytes.len() as f64);
        let now = self.clock.now();
        let mut state = fanout.state.lock();
        if let Some(member) = state.members.get_mut(&key) {
            let mut out = Vec::new();
            member.last_hops = parcel.hops;
            member.tree.on_parcel(now, from, parcel, &mut out);
            self.carry_out(&mut state, &key, out);
            self.plan(&mut state);
            return Ok(());
        }
        // Its sender believes that this node takes part.
        let leave = Contact { id: from, addrs: Vec::new() };
        self.say(&key, &leave, &Word::Leave);
        drop(state);
        if content.publisher != self.me {
            self.deliver_carried(&parcel.body);
        }
        Ok(())
    }

    fn on_invitation(self: &Arc<Self>, key: &TreeKey, others: Vec<Contact>) -> Result<(), RefuseReason> {
        let Some(fanout) = self.fanout.get() else { return Ok(()) };
        self.invited(&mut fanout.state.lock(), key, others);
        Ok(())
    }

    /// A publisher has too many subscribers to send to each.
    pub(super) fn invited(&self, state: &mut State, key: &TreeKey, others: Vec<Contact>) {
        let is_member = state.members.contains_key(key);
        state.left.remove(key);
        if self.take_part(state, key)
            && let Some(member) = state.members.get_mut(key)
            && (!is_member || member.tree.linked_since().is_none())
        {
            member.tree.learn(self.clock.now(), others);
            self.plan(state);
        }
    }

    fn on_word(self: &Arc<Self>, from: &Contact, key: &TreeKey, word: Word) -> Result<(), RefuseReason> {
        self.may_take_part(from.id, key)?;
        let Some(fanout) = self.fanout.get() else { return Ok(()) };
        let now = self.clock.now();
        let mut state = fanout.state.lock();
        let word = match word {
            Word::Want { spans, graft } => {
                let (own, others): (Vec<Span>, Vec<Span>) =
                    spans.into_iter().partition(|span| span.stream.origin == self.me);
                self.answer_own(&mut state, key, from, &own);
                Word::Want { spans: others, graft }
            }
            word => word,
        };
        if word == Word::Leave {
            self.entry_refused(&mut state, key, &from.id);
        }
        let asks = matches!(word, Word::Ask { .. });
        if asks && !self.take_part(&mut state, key) {
            self.say(key, from, &Word::Refuse { others: Vec::new() });
            return Ok(());
        }
        let Some(member) = state.members.get_mut(key) else {
            // A neighbour of a run of this node that is over.
            if matches!(word, Word::Have(_)) {
                self.say(key, from, &Word::Leave);
            }
            return Ok(());
        };
        let mut out = Vec::new();
        // Whoever asked for this node's own messages need not be a neighbour, and has its answer.
        let is_for_own = matches!(&word, Word::Want { spans, graft: false } if spans.is_empty());
        if !is_for_own {
            member.tree.on_word(now, from, word, &mut out);
        }
        self.carry_out(&mut state, key, out);
        self.plan(&mut state);
        Ok(())
    }

    /// Somebody who may not subscribe may not take part either.
    fn may_take_part(&self, peer: NodeId, key: &TreeKey) -> Result<(), RefuseReason> {
        let action = Action::Subscribe(key.pattern.as_str());
        let access = Access { peer, realm: &key.realm, action };
        self.gate.check(access).map_err(|_| RefuseReason::Forbidden)
    }

    /// Somebody asks this node, as a publisher, for its own messages.
    fn answer_own(self: &Arc<Self>, state: &mut State, key: &TreeKey, to: &Contact, spans: &[Span]) {
        let Some(own) = state.own.get(key) else { return };
        let mut answers: Vec<Parcel<Carried>> = Vec::new();
        for span in spans {
            let last = span.last.min(span.first.saturating_add(SPAN_NUMBERS_MAX - 1));
            answers.extend((span.first..=last).filter_map(|number| own.get(span.stream, number).cloned()));
            answers.truncate(SPAN_NUMBERS_MAX as usize);
        }
        let link = self.routes.link(to);
        self.metrics.tree.answered.inc_by(answers.len() as u64);
        for parcel in answers {
            let parcel = Parcel { hops: 1, answer: true, ..parcel };
            if let Some(Ok(frame)) = wire::message(&parcel) {
                self.keep_waiting(link.offer(frame, false, &self.transport, &self.tasks));
            }
        }
    }

    /// Says something to somebody who is no neighbour.
    fn say(&self, key: &TreeKey, to: &Contact, word: &Word) {
        if let Ok(frame) = wire::word(key, &self.transport.local(), word) {
            let link = self.routes.link(to);
            self.keep_waiting(link.offer(frame, false, &self.transport, &self.tasks));
        }
    }

    /// Takes part in a tree, if this node subscribes to its pattern and is not in too many already.
    fn take_part(&self, state: &mut State, key: &TreeKey) -> bool {
        let now = self.clock.now();
        if state.members.contains_key(key) {
            return true;
        }
        state.left.retain(|_, at| now.since(*at) < REVIEW_EVERY);
        let is_wanted = self.local.has_plain(&key.realm, &key.pattern) && !self.local.is_closed();
        if !is_wanted || state.left.contains_key(key) || state.members.len() >= self.config.trees_max {
            return false;
        }
        let (config, metrics) = (self.config.tree.clone(), self.metrics.tree.clone());
        let seed = state.rng.next_u64();
        let later = |rng: &mut rand::rngs::StdRng, least: Duration| rng.random_range(least..2 * least);
        let member = Member {
            tree: Tree::new(now, self.transport.local(), config, metrics, seed),
            ways: BTreeMap::new(),
            is_announced: false,
            linked_for: later(&mut state.rng, LINKED_FOR),
            leaves_at: None,
            reviewed_at: now + later(&mut state.rng, REVIEW_EVERY),
            looks_at: now,
            last_hops: 0,
        };
        tracing::debug!(pattern = %key.pattern, "takes part in a tree");
        state.members.insert(key.clone(), member);
        self.metrics.trees.set(state.members.len() as i64);
        true
    }

    fn leave_tree(self: &Arc<Self>, state: &mut State, key: &TreeKey) {
        let Some(member) = state.members.get_mut(key) else { return };
        let mut out = Vec::new();
        member.tree.leave(&mut out);
        self.carry_out(state, key, out);
        state.members.remove(key);
        self.announcer.set_tree(&key.realm, &key.pattern, false);
        self.metrics.trees.set(state.members.len() as i64);
        tracing::debug!(pattern = %key.pattern, "left a tree");
    }

    /// Does what is due. Returns how long nothing is.
    fn tend(self: &Arc<Self>) -> Duration {
        let Some(fanout) = self.fanout.get() else { return TENDED_EVERY };
        let now = self.clock.now();
        let mut state = fanout.state.lock();
        let ttl = self.config.cache_ttl;
        state.own.retain(|_, own| now.since(own.used) <= ttl);
        let keys: Vec<TreeKey> = state.members.keys().cloned().collect();
        for key in keys {
            let mut out = Vec::new();
            if let Some(member) = state.members.get_mut(&key) {
                member.tree.on_timeout(now, &mut out);
            }
            self.carry_out(&mut state, &key, out);
            self.tend_one(&mut state, now, &key);
        }
        let first = state.members.values().filter_map(|member| member.tree.deadline()).min();
        state.planned = first.map_or(now + TENDED_EVERY, |first| first.min(now + TENDED_EVERY));
        state.planned.since(now)
    }

    fn tend_one(self: &Arc<Self>, state: &mut State, now: Timestamp, key: &TreeKey) {
        let Some(member) = state.members.get_mut(key) else { return };
        let is_over = member.leaves_at.is_some_and(|at| at <= now);
        if is_over || !self.local.has_plain(&key.realm, &key.pattern) {
            if is_over {
                state.left.insert(key.clone(), now);
            }
            return self.leave_tree(state, key);
        }
        let links = member.tree.links();
        if member.ways.len() > links.len() {
            member.ways.retain(|peer, _| links.iter().any(|link| link.peer == *peer));
        }
        let linked = member.tree.linked_since().map(|since| now.since(since));
        let should_announce =
            member.leaves_at.is_none() && linked.is_some_and(|linked| linked >= member.linked_for);
        if should_announce != member.is_announced && (should_announce || linked.is_none()) {
            member.is_announced = should_announce;
            self.announcer.set_tree(&key.realm, &key.pattern, should_announce);
        }
        if member.reviewed_at <= now {
            member.reviewed_at = now + state.rng.random_range(REVIEW_EVERY..2 * REVIEW_EVERY);
            self.tasks.spawn(self.clone().review(key.clone()));
        }
    }

    /// Learns of others from the directory.
    async fn look(self: Arc<Self>, key: TreeKey) {
        let Ok(found) = self.routes.find(&key).await else { return };
        let Some(fanout) = self.fanout.get() else { return };
        let mut state = fanout.state.lock();
        let State { members, rng, .. } = &mut *state;
        if let Some(member) = members.get_mut(&key) {
            let others = subscribers(&found, &key, self.me).sample(rng, self.config.tree.known_max / 2);
            member.tree.learn(self.clock.now(), others);
        }
        self.plan(&mut state);
    }

    /// Looks whether the tree is still worth while, and learns of others, so that parts of it find together again.
    async fn review(self: Arc<Self>, key: TreeKey) {
        let Ok(found) = self.routes.find(&key).await else { return };
        let known = subscribers(&found, &key, self.me).count();
        // What is not listed is taken to be like what is.
        let all = known * found.estimate.max(found.records.len()) / found.records.len().max(1);
        if all < self.config.direct_max / 2 {
            let Some(fanout) = self.fanout.get() else { return };
            let mut state = fanout.state.lock();
            if let Some(member) = state.members.get_mut(&key) {
                member.leaves_at = Some(self.clock.now() + STAYS_FOR);
                member.is_announced = false;
                self.announcer.set_tree(&key.realm, &key.pattern, false);
            }
            return;
        }
        self.look(key).await;
    }
}

/// Those who subscribe to the tree's pattern, other than this node.
fn subscribers(found: &Found, key: &TreeKey, me: NodeId) -> impl Iterator<Item = Contact> {
    let wants = move |record: &&macula_dht::Record| {
        let wants = interest::decode(&record.value).wants;
        wants.iter().any(|want| want.group.is_none() && want.pattern == key.pattern)
    };
    let others = found.records.iter().filter(move |record| record.announcer.id != me).filter(wants);
    others.map(|record| record.announcer.clone())
}
