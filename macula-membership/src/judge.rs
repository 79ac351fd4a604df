//! What news does to the list: a member's own word counts, hearsay only starts a suspicion.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};

use crate::effect::{Effect, Effects};
use crate::machine::{Machine, audience};
use crate::message::{PacketKind, UPDATES_BYTES_MAX, Update};
use crate::metrics::Refused;
use crate::overlay::{is_watcher, monitors};
use crate::roster::Entry;
use crate::suspicion::Span;
use crate::{Accusation, Event, Incarnation, Member, MemberState, Statement};

/// Up to so many members it is counted who watches a suspect; beyond, each ring has another watcher.
const COUNTED_MONITORS_MAX: usize = 256;

/// Contacts of the forgotten dead that are kept.
pub(crate) const LOST_MAX: usize = 64;

/// For how many times [`forget_after`](crate::SwimConfig::forget_after) they are kept.
const LOST_SPANS: u32 = 24;

/// What is told to somebody who passes on old hearsay, in bytes: half a packet, so that what he must hear about himself
/// fits as well.
const RIGHT_BYTES_MAX: usize = UPDATES_BYTES_MAX / 2;

/// How often a node refutes within the shortest time that a suspicion lasts, at most.
const REFUTATIONS_A_SUSPICION: u32 = 3;

/// More than one in so many suspected at once are a crowd, and no fewer than so many.
const CROWD_SHARE: usize = 4;

/// How many times longer suspicions are if everybody is suspected.
const CROWD_STRETCH: f64 = 8.0;

/// Somebody else who uses this node's name is gone if nothing was heard of it for so long. It is heard of every few seconds
/// while it talks to the same members, and at least at each exchange of lists.
const RIVAL_MEMORY: Duration = Duration::from_secs(60);

/// At most so often a node answers somebody else who uses its name.
const CONTEST_PAUSE: Duration = Duration::from_secs(1);

impl Machine {
    /// One piece of news; `source` brought it, and is not told again.
    pub(crate) fn on_update(
        &mut self,
        now: Timestamp,
        source: Option<NodeId>,
        update: &Update,
        out: &mut Effects,
    ) {
        match update {
            Update::Statement(statement) => self.on_statement(now, source, statement, true, out),
            Update::Suspect(accusation) | Update::Dead(accusation) => {
                if !self.on_accusation(now, source, accusation, out) {
                    self.heard(source, update);
                }
            }
            Update::Doubt(doubt) => {
                if doubt.id == self.me {
                    self.refute(now, doubt.incarnation);
                }
            }
        }
    }

    /// Somebody told what this node knows.
    fn heard(&mut self, source: Option<NodeId>, update: &Update) {
        if let Some(source) = source {
            self.news.heard(&source, update, audience(&self.config, &self.overlay));
        }
    }

    /// A member's own word. `spread` says whether to pass it on.
    pub(crate) fn on_statement(
        &mut self,
        now: Timestamp,
        source: Option<NodeId>,
        statement: &Arc<Statement>,
        spread: bool,
        out: &mut Effects,
    ) {
        let id = statement.id();
        if id == self.me {
            self.on_own_word(now, statement);
            return;
        }
        let known = self.roster.get(&id);
        if let Some(entry) = known {
            match statement.precedence(entry.statement()) {
                Ordering::Less => {
                    // A restarted member that lost count gets its own last word, so that it can go above it.
                    if source == Some(id) && statement.incarnation() < entry.incarnation() {
                        let proof = Update::Statement(entry.statement().clone());
                        self.send(id, PacketKind::Gossip, 0, None, vec![proof], out);
                    }
                    return;
                }
                Ordering::Equal => {
                    if spread {
                        self.heard(source, &Update::Statement(statement.clone()));
                    }
                    return;
                }
                Ordering::Greater => {}
            }
        }
        let full = known.is_none() && self.roster.len() >= self.config.members_max;
        if full && self.tombs.is_empty() {
            self.metrics.refuse(Refused::MembersFull);
            return;
        }
        if statement.verify(&*self.verifier).is_err() {
            self.metrics.refuse(Refused::Forged);
            return;
        }
        if full && !self.forget_oldest(now) {
            self.metrics.refuse(Refused::MembersFull);
            return;
        }
        match statement.presence() {
            Some(_) => self.enlist(now, statement, out),
            None => self.see_off(now, statement, out),
        }
        if spread {
            self.spread(now, Update::Statement(statement.clone()), source);
        }
    }

    /// Hearsay about a member starts a suspicion, or confirms one, if whoever says so [may watch](is_watcher) it. About this
    /// node: it is refuted. Returns whether it was news.
    ///
    /// It counts against the very life of its subject that it names. Of a newer one than this node knows, it will hear
    /// again.
    pub(crate) fn on_accusation(
        &mut self,
        now: Timestamp,
        source: Option<NodeId>,
        accusation: &Arc<Accusation>,
        out: &mut Effects,
    ) -> bool {
        let (id, by) = (accusation.subject(), accusation.accuser());
        let Some((subject, accuser)) = self.roster.get(&id).zip(self.roster.get(&by)) else { return false };
        let state = subject.state();
        let is_news = match state {
            _ if id == self.me => !self.has_just_refuted(now),
            MemberState::Alive => !self.suspicions.is_put_off(&id),
            MemberState::Suspect => self.suspicions.is_confirmation(&id, &by),
            MemberState::Dead | MemberState::Left => false,
        };
        let named = accusation.incarnation() == subject.incarnation();
        if !is_news || !named {
            return false;
        }
        if !self.believes(accuser, subject) {
            self.metrics.refuse(Refused::NoWatcher);
            return false;
        }
        if !accusation.is_signed(&*self.verifier) {
            self.metrics.refuse(Refused::Forged);
            return false;
        }
        if id == self.me {
            self.refute(now, accusation.incarnation());
        } else if self.suspicions.is_proven(now, &id) {
            self.suspicions.put_off(accusation);
        } else if state == MemberState::Alive {
            self.suspect(now, accusation.clone(), source, out);
        } else if self.suspicions.confirm(id, by) {
            self.spread(now, Update::Suspect(accusation.clone()), source);
        }
        true
    }

    /// Whether the word of one member about another counts.
    fn believes(&self, accuser: &Entry, subject: &Entry) -> bool {
        let (rings, present) = (self.config.rings, self.roster.present());
        is_watcher(accuser.statement(), subject.statement(), rings, present)
    }

    /// Somebody holds this node for dead or dying. Only the very incarnation that it lives under is worth an answer: nobody can
    /// have a newer word that this node has not signed. And soon after the last answer there is no need for another: whoever has
    /// that one believes no hearsay for a while, and who suspects this node for a reason of its own tells it again.
    pub(crate) fn refute(&mut self, now: Timestamp, incarnation: Incarnation) {
        if self.leaving.is_some() || incarnation != self.own().incarnation() || self.has_just_refuted(now) {
            return;
        }
        self.refuted = Some(now);
        self.raise(now, incarnation);
        self.health.worsen(1);
        self.metrics.refutations.inc();
    }

    fn has_just_refuted(&self, now: Timestamp) -> bool {
        let pause = self.shortest_suspicion() / REFUTATIONS_A_SUSPICION;
        self.refuted.is_some_and(|at| now.since(at) < pause)
    }

    /// A word in this node's own name. If it is newer than the newest that this process signed, it is from an earlier
    /// life whose clock was ahead, or another process has the same key: go above it.
    fn on_own_word(&mut self, now: Timestamp, statement: &Arc<Statement>) {
        let news = statement.precedence(self.own().statement()).is_gt();
        if !news || self.leaving.is_some() {
            return;
        }
        let paused = self.contested.is_some_and(|at| now.since(at) < CONTEST_PAUSE);
        if paused || statement.verify(&*self.verifier).is_err() {
            return;
        }
        self.contested = Some(now);
        if let Some(presence) = statement.presence()
            && presence.contact.addrs != self.presence.contact.addrs
        {
            self.metrics.contested.inc();
            self.rival = Some((now, presence.contact.clone()));
            let addrs = &presence.contact.addrs;
            tracing::warn!(
                ?addrs,
                "another process uses this node's key: only one of them is seen by the others"
            );
        }
        self.raise(now, statement.incarnation());
    }

    /// Another process that uses this node's key, if it was heard of within the last minute.
    pub fn rival(&self, now: Timestamp) -> Option<Arc<Contact>> {
        let (at, contact) = self.rival.as_ref()?;
        (now.since(*at) < RIVAL_MEMORY).then(|| contact.clone())
    }

    /// Nobody could reach `id`: this node says so.
    pub(crate) fn accuse(&mut self, now: Timestamp, id: NodeId, out: &mut Effects) {
        let Some(entry) = self.roster.get(&id) else { return };
        match entry.state() {
            MemberState::Alive => {
                let accusation = self.accusation(entry);
                self.suspect(now, accusation, None, out);
            }
            MemberState::Suspect if self.suspicions.is_confirmation(&id, &self.me) => {
                let accusation = self.accusation(entry);
                self.suspicions.confirm(id, self.me);
                self.spread(now, Update::Suspect(accusation), None);
            }
            MemberState::Suspect | MemberState::Dead | MemberState::Left => {}
        }
    }

    fn accusation(&self, entry: &Entry) -> Arc<Accusation> {
        Arc::new(Accusation::new(&*self.signer, entry.id(), entry.incarnation()))
    }

    /// Starts to suspect an alive member, on an accusation that `source` brought if it is not this node's own.
    fn suspect(
        &mut self,
        now: Timestamp,
        accusation: Arc<Accusation>,
        source: Option<NodeId>,
        out: &mut Effects,
    ) {
        let id = accusation.subject();
        let Some(entry) = self.roster.get(&id) else { return };
        let (statement, span) = (entry.statement().clone(), self.span(entry));
        self.roster.put(statement, MemberState::Suspect, now);
        self.suspicions.start(now, accusation.clone(), span);
        self.spread(now, Update::Suspect(accusation), source);
        self.metrics.suspected.inc();
        self.tell(&id, Event::Suspected, out);
    }

    /// A suspicion is half over: whoever has a newer word of its subject [says so](Self::put_right).
    pub(crate) fn remind(&mut self, now: Timestamp, accusation: Arc<Accusation>) {
        self.spread(now, Update::Suspect(accusation), None);
    }

    /// Somebody passes on hearsay that its subject's own word, known here, has refuted or made pointless: what to tell him, as
    /// far as there is room in one packet. That word may be this node's own.
    pub(crate) fn put_right(&self, update: &Update, told: &mut Vec<Update>) {
        let (id, incarnation) = match update {
            Update::Suspect(accusation) | Update::Dead(accusation) => {
                (accusation.subject(), accusation.incarnation())
            }
            Update::Doubt(doubt) => (doubt.id, doubt.incarnation),
            Update::Statement(_) => return,
        };
        let Some(entry) = self.roster.get(&id) else { return };
        let is_old = match entry.state() {
            MemberState::Left => incarnation <= entry.incarnation(),
            MemberState::Alive | MemberState::Suspect | MemberState::Dead => {
                incarnation < entry.incarnation()
            }
        };
        if !is_old {
            return;
        }
        let word = Update::Statement(entry.statement().clone());
        let bytes = told.iter().chain([&word]).map(Update::wire_len).sum::<usize>();
        if bytes <= RIGHT_BYTES_MAX && !told.contains(&word) {
            told.push(word);
        }
    }

    /// A suspicion ran out.
    pub(crate) fn bury(&mut self, now: Timestamp, id: NodeId, out: &mut Effects) {
        let Some(entry) = self.roster.get(&id) else { return };
        // Others believe this node only of whom it may watch.
        let told = self.believes(self.own(), entry).then(|| self.accusation(entry));
        self.roster.put(entry.statement().clone(), MemberState::Dead, now);
        self.take_out(now, id);
        if let Some(accusation) = told {
            self.spread(now, Update::Dead(accusation), None);
        }
        self.metrics.confirmed.inc();
        self.tell(&id, Event::Confirmed, out);
    }

    /// Forgets the dead and departed whose time is over.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.tombs.front().copied()
            && now.since(at) >= self.config.forget_after
        {
            self.tombs.pop_front();
            self.forget_if_gone_since(now, at, &id);
        }
        while let Some((at, _)) = self.lost.front()
            && now.since(*at) >= self.config.forget_after * LOST_SPANS
        {
            self.lost.pop_front();
        }
    }

    /// Makes room: forgets the one who died or left first. Returns whether there was one.
    fn forget_oldest(&mut self, now: Timestamp) -> bool {
        while let Some((at, id)) = self.tombs.pop_front() {
            if self.forget_if_gone_since(now, at, &id) {
                return true;
            }
        }
        false
    }

    /// The same id may have come back since, or have gone again and stand further back in the queue.
    fn forget_if_gone_since(&mut self, now: Timestamp, at: Timestamp, id: &NodeId) -> bool {
        let Some(entry) = self.roster.get(id).filter(|entry| entry.is_gone_since(at)) else { return false };
        if entry.state() == MemberState::Dead
            && let Some(member) = entry.member()
        {
            if self.lost.len() >= LOST_MAX {
                self.lost.pop_front();
            }
            self.lost.push_back((now, member.contact));
        }
        self.roster.remove(id);
        true
    }

    /// A newer alive statement, verified.
    fn enlist(&mut self, now: Timestamp, statement: &Arc<Statement>, out: &mut Effects) {
        let id = statement.id();
        let before = self.roster.get(&id).cloned();
        // Another word at the same incarnation refutes nothing.
        let same_life = before.as_ref().filter(|entry| entry.incarnation() == statement.incarnation());
        let state = same_life.map_or(MemberState::Alive, Entry::state);
        self.roster.put(statement.clone(), state, now);
        let Some(after) = self.roster.get(&id).and_then(Entry::member) else { return };
        if !state.is_present() {
            return;
        }
        if self.overlay.insert(statement) {
            self.link_successors(now);
        }
        let said = before.as_ref().and_then(Entry::member);
        let refutes = |said: &Member| said.incarnation < after.incarnation && !differs(said, &after);
        if said.as_ref().is_none_or(refutes) {
            // A newer word that says nothing new refutes something that somebody said. Who comes too late to have heard that,
            // and learns of the member only now, must not believe what the others do not any more.
            self.suspicions.prove(now, id, now + self.shortest_suspicion());
        }
        let was = before.as_ref().map(Entry::state);
        if was == Some(MemberState::Suspect) && state == MemberState::Alive {
            self.suspicions.end(&id);
            self.metrics.refuted.inc();
            out.push(Effect::Event(Event::Refuted(after.clone())));
        }
        if !was.is_some_and(MemberState::is_present) {
            self.lost.retain(|(_, contact)| contact.id != id);
            self.metrics.joined.inc();
            out.push(Effect::Event(Event::Joined(after)));
        } else if before.as_ref().and_then(Entry::member).is_some_and(|before| differs(&before, &after)) {
            out.push(Effect::Event(Event::Updated(after)));
        }
    }

    /// A leave statement, verified.
    fn see_off(&mut self, now: Timestamp, statement: &Arc<Statement>, out: &mut Effects) {
        let id = statement.id();
        let before = self.roster.get(&id).cloned();
        self.roster.put(statement.clone(), MemberState::Left, now);
        self.take_out(now, id);
        let was_present = before.as_ref().filter(|entry| entry.state().is_present());
        if let Some(member) = was_present.and_then(Entry::member) {
            self.metrics.left.inc();
            out.push(Effect::Event(Event::Left(Member { state: MemberState::Left, since: now, ..member })));
        }
    }

    /// Removes one who is gone from everything but the list.
    fn take_out(&mut self, now: Timestamp, id: NodeId) {
        self.suspicions.end(&id);
        self.probes.retain(|_, probe| probe.target != id);
        self.rtts.remove(&id);
        if self.overlay.remove(&id, self.roster.present_statements()) {
            self.link_successors(now);
        }
        self.tombs.push_back((now, id));
        // Entries of members that came back are left behind; a member can only add one a life, but bound it.
        if self.tombs.len() > 2 * self.config.members_max {
            self.tombs.pop_front();
        }
    }

    /// How long a suspicion lasts at least.
    fn shortest_suspicion(&self) -> Duration {
        let scale = (self.roster.present().max(10) as f64).log10();
        self.config.suspect_timeout.mul_f64(scale)
    }

    /// How long a suspicion of `entry` lasts now (Lifeguard §IV-B).
    fn span(&self, entry: &Entry) -> Span {
        let (present, min) = (self.roster.present(), self.shortest_suspicion());
        let watchers = if present <= COUNTED_MONITORS_MAX {
            monitors(entry.statement(), self.config.rings, self.roster.present_statements())
        } else {
            self.config.rings
        };
        let confirmations = watchers.saturating_sub(1);
        // Of two, each has only the other: neither can learn whether it is at fault itself.
        let factor = if present <= 2 { 1 } else { self.config.suspect_timeout_max_factor };
        Span { min, max: min * factor, confirmations }
    }

    fn tell(&self, id: &NodeId, event: fn(Member) -> Event, out: &mut Effects) {
        out.extend(self.roster.get(id).and_then(Entry::member).map(event).map(Effect::Event));
    }
}

/// By how much the shortest suspicion is longer where many are suspected at once: it is more likely then that somebody lies,
/// or that this node is cut off, than that so many have died; and so many refutations take longer to go round.
pub(crate) fn crowd(suspects: usize, present: usize) -> f64 {
    let usual = (present / CROWD_SHARE).max(CROWD_SHARE);
    1.0 + CROWD_STRETCH * suspects.saturating_sub(usual) as f64 / present.max(1) as f64
}

/// Whether what users see of a member changed.
fn differs(before: &Member, after: &Member) -> bool {
    before.contact != after.contact || before.tags != after.tags || before.instance != after.instance
}
