//! Links: who is asked for one, who gets one, and when one is over.
//!
//! ```text
//!   known ── Ask ──▶ asked ── Accept ──▶ linked ── Leave, silence, failure ──▶ known
//!     ▲                │ Refuse, or no answer in time
//!     └────────────────┘
//! ```
//!
//! A node looks for a few links among those it knows at random, and accepts a few more (as HyParView's active view, Leitão
//! et al. 2007); so the links of all nodes make a random graph that stays connected when many fail at once. Whoever has no link
//! is not refused: somebody else has to go, and finds another one.

use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};
use rand::seq::IteratorRandom as _;

use super::effect::{Body, CONTACTS_MAX, Effect, SPANS_MAX, Span, Word};
use super::machine::{Timer, Tree};

/// How many are asked at a time.
const ASKED_MAX: usize = 2;

/// Who refused, or did not answer, is not asked again for so long.
const PAUSE: Duration = Duration::from_secs(10);

/// How soon a node without anybody to ask looks again.
const SEEK_AGAIN: Duration = Duration::from_secs(2);

/// A neighbour.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) contact: Contact,
    /// Messages are pushed there; else they are announced.
    pub(super) pushes: bool,
    pub(super) heard: Timestamp,
    pub(super) told: Timestamp,
    /// When it was last asked not to push.
    pub(super) pruned: Option<Timestamp>,
    /// It could not take a message, and has been announced to since.
    pub(super) was_slow: bool,
    waiting: Vec<Span>,
}

/// Somebody who could be asked for a link.
#[derive(Debug)]
pub(super) struct Known {
    contact: Contact,
    not_before: Timestamp,
}

/// Somebody who was asked.
#[derive(Debug)]
pub(super) struct Asked {
    contact: Contact,
    until: Timestamp,
    urgent: bool,
}

impl Link {
    fn new(now: Timestamp, contact: Contact, pushes: bool) -> Self {
        Self { contact, pushes, heard: now, told: now, pruned: None, was_slow: false, waiting: Vec::new() }
    }

    /// Announces with the next batch. When too much waits, the oldest is left to the repetition.
    pub(super) fn announce(&mut self, span: Span) {
        match self.waiting.last_mut() {
            Some(last)
                if last.stream == span.stream && last.late == span.late && last.last + 1 == span.first =>
            {
                (last.last, last.hops) = (span.last, span.hops);
            }
            _ => self.waiting.push(span),
        }
        if self.waiting.len() > 4 * SPANS_MAX {
            self.waiting.remove(0);
        }
    }
}

impl<M: Body> Tree<M> {
    /// Learns of nodes that are, or are going to be, part of this tree.
    pub fn learn(&mut self, now: Timestamp, contacts: Vec<Contact>) {
        for contact in contacts {
            if contact.id == self.me.id {
                continue;
            }
            if let Some(known) = self.known.get_mut(&contact.id) {
                known.contact = contact;
                continue;
            }
            if self.known.len() >= self.config.known_max
                && let Some(replaced) = self.known.keys().copied().choose(&mut self.rng)
            {
                self.known.remove(&replaced);
            }
            self.known.insert(contact.id, Known { contact, not_before: now });
        }
        if self.links.len() < self.config.links_wanted {
            self.timers.set_by(Timer::Seek, now);
        }
    }

    /// A node is gone, or a link to it failed.
    pub fn on_lost(&mut self, now: Timestamp, peer: &NodeId) {
        self.asked.remove(peer);
        if self.unlink(now, peer) {
            self.metrics.links_lost.inc();
            self.known.remove(peer);
        }
    }

    /// There was no room for a message to a neighbour. For now it is announced to; if that happens again, it has to go.
    pub fn on_slow(&mut self, now: Timestamp, peer: &NodeId, out: &mut Vec<Effect<M>>) {
        let Some(link) = self.links.get_mut(peer) else { return };
        if !link.pushes && std::mem::replace(&mut link.was_slow, true) {
            let contact = link.contact.clone();
            self.on_lost(now, peer);
            out.push(Effect::Tell { to: contact, word: Word::Leave });
        } else {
            link.pushes = false;
        }
    }

    /// Says goodbye to all.
    pub fn leave(&mut self, out: &mut Vec<Effect<M>>) {
        for (_, link) in std::mem::take(&mut self.links) {
            out.push(Effect::Tell { to: link.contact, word: Word::Leave });
        }
    }

    pub(super) fn on_ask(&mut self, now: Timestamp, from: &Contact, urgent: bool, out: &mut Vec<Effect<M>>) {
        if !self.links.contains_key(&from.id) {
            if self.links.len() >= self.config.links_max {
                if !urgent {
                    self.metrics.links_refused.inc();
                    let others = self.some_others(&from.id, CONTACTS_MAX);
                    return self.tell(now, from.clone(), Word::Refuse { others }, out);
                }
                self.make_room(now, out);
            }
            self.link(now, from.clone(), urgent);
        }
        self.tell(now, from.clone(), Word::Accept, out);
    }

    pub(super) fn on_accept(&mut self, now: Timestamp, from: &Contact, out: &mut Vec<Effect<M>>) {
        let asked = self.asked.remove(&from.id);
        if self.links.contains_key(&from.id) {
            return;
        }
        match asked {
            Some(asked) if self.links.len() < self.config.links_max => {
                self.link(now, asked.contact, asked.urgent);
                self.timers.set_by(Timer::Seek, now);
            }
            _ => self.tell(now, from.clone(), Word::Leave, out),
        }
    }

    pub(super) fn on_refuse(
        &mut self,
        now: Timestamp,
        from: &NodeId,
        others: Vec<Contact>,
        out: &mut Vec<Effect<M>>,
    ) {
        if self.asked.remove(from).is_none() {
            return;
        }
        self.pause(now, from);
        self.learn(now, others);
        self.seek(now, out);
    }

    pub(super) fn on_leave(&mut self, now: Timestamp, from: &NodeId, out: &mut Vec<Effect<M>>) {
        self.asked.remove(from);
        if self.unlink(now, from) {
            self.pause(now, from);
            self.seek(now, out);
        }
    }

    pub(super) fn on_others(
        &mut self,
        now: Timestamp,
        from: &Contact,
        others: Vec<Contact>,
        reply: bool,
        out: &mut Vec<Effect<M>>,
    ) {
        if !self.links.contains_key(&from.id) {
            return;
        }
        if reply {
            let answer = self.some_others(&from.id, CONTACTS_MAX);
            self.tell(now, from.clone(), Word::Others { others: answer, reply: false }, out);
        }
        self.learn(now, others);
    }

    /// Asks for links while there are too few.
    pub(super) fn seek(&mut self, now: Timestamp, out: &mut Vec<Effect<M>>) {
        let late: Vec<NodeId> =
            self.asked.iter().filter(|(_, asked)| asked.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.asked.remove(&id);
            self.pause(now, &id);
        }
        let urgent = self.links.is_empty();
        while self.links.len() + self.asked.len() < self.config.links_wanted && self.asked.len() < ASKED_MAX {
            let Some(contact) = self.draw(now) else { break };
            let until = now + self.config.ask_timeout;
            self.asked.insert(contact.id, Asked { contact: contact.clone(), until, urgent });
            self.tell(now, contact, Word::Ask { urgent }, out);
        }
        if urgent && self.asked.is_empty() {
            out.push(Effect::Alone);
        }
        let first = self.asked.values().map(|asked| asked.until).min();
        if let Some(at) =
            first.or_else(|| (self.links.len() < self.config.links_wanted).then(|| now + SEEK_AGAIN))
        {
            self.timers.set(Timer::Seek, at);
        }
    }

    /// Keeps quiet links and gives silent ones up.
    pub(super) fn keep(&mut self, now: Timestamp, out: &mut Vec<Effect<M>>) {
        let silent: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(_, link)| now.since(link.heard) > self.config.silence_max)
            .map(|(id, _)| *id)
            .collect();
        silent.iter().for_each(|id| self.on_lost(now, id));
        let quiet = self.links.values_mut().filter(|link| now.since(link.told) >= self.config.keep_alive);
        for link in quiet {
            link.told = now;
            link.was_slow = false;
            out.push(Effect::Tell { to: link.contact.clone(), word: Word::Have(Vec::new()) });
        }
        self.timers.set(Timer::Keep, now + self.config.keep_alive);
    }

    /// Exchanges some of whom this node knows with a neighbour.
    pub(super) fn shuffle(&mut self, now: Timestamp, out: &mut Vec<Effect<M>>) {
        self.timers.set(Timer::Shuffle, now + self.config.shuffle_interval);
        let Some(to) = self.links.values().map(|link| link.contact.clone()).choose(&mut self.rng) else {
            return;
        };
        let mut others = self.some_others(&to.id, CONTACTS_MAX - 1);
        others.push(self.me.clone());
        self.tell(now, to, Word::Others { others, reply: true }, out);
    }

    /// Sends the announcements that wait.
    pub(super) fn flush(&mut self, now: Timestamp, out: &mut Vec<Effect<M>>) {
        for link in self.links.values_mut() {
            for spans in std::mem::take(&mut link.waiting).chunks(SPANS_MAX) {
                link.told = now;
                out.push(Effect::Tell { to: link.contact.clone(), word: Word::Have(spans.to_vec()) });
            }
        }
    }

    fn link(&mut self, now: Timestamp, contact: Contact, urgent: bool) {
        self.asked.remove(&contact.id);
        self.metrics.links_made.inc();
        self.links.insert(contact.id, Link::new(now, contact, urgent || !self.is_born));
        self.linked_since.get_or_insert(now);
    }

    fn unlink(&mut self, now: Timestamp, peer: &NodeId) -> bool {
        if self.links.remove(peer).is_none() {
            return false;
        }
        for stream in self.streams.values_mut() {
            stream.feed.lose(peer);
            stream.missing.values_mut().for_each(|missing| missing.forget(peer));
        }
        self.feed.lose(peer);
        if self.links.is_empty() {
            self.linked_since = None;
        }
        self.timers.set_by(Timer::Seek, now);
        true
    }

    /// Lets a link go for somebody who has none; rather one over which nothing is pushed.
    fn make_room(&mut self, now: Timestamp, out: &mut Vec<Effect<M>>) {
        let lazy = self.links.values().filter(|link| !link.pushes).map(|link| link.contact.clone());
        let drawn = lazy.choose(&mut self.rng);
        let any = || self.links.values().map(|link| link.contact.clone()).choose(&mut self.rng);
        if let Some(contact) = drawn.or_else(any) {
            self.unlink(now, &contact.id);
            self.pause(now, &contact.id);
            out.push(Effect::Tell { to: contact, word: Word::Leave });
        }
    }

    /// Somebody to be asked, at random.
    fn draw(&mut self, now: Timestamp) -> Option<Contact> {
        let free = self.known.iter().filter(|(id, known)| {
            known.not_before <= now && !self.links.contains_key(id) && !self.asked.contains_key(id)
        });
        free.map(|(_, known)| known.contact.clone()).choose(&mut self.rng)
    }

    fn pause(&mut self, now: Timestamp, peer: &NodeId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.not_before = now + PAUSE;
        }
    }

    /// Some of those this node is linked to or knows, but not `to`.
    fn some_others(&mut self, to: &NodeId, count: usize) -> Vec<Contact> {
        let linked = self.links.values().map(|link| &link.contact);
        let all = linked.chain(self.known.values().map(|known| &known.contact));
        let mut others: Vec<Contact> =
            all.filter(|contact| contact.id != *to).cloned().sample(&mut self.rng, count);
        others.sort_unstable_by_key(|contact| contact.id);
        others.dedup();
        others
    }
}
