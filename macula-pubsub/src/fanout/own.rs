//! What a publisher knows of one tree: its numbers, its last messages, and through whom they enter.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};
use rand::Rng;
use rand::seq::IteratorRandom as _;

use super::TreeKey;
use super::wire::Carried;
use crate::link::Link;
use crate::message::Place;
use crate::reading::Roster;
use crate::tree::{CONTACTS_MAX, Cache, Parcel, SPAN_NUMBERS_MAX, StreamId, TreeConfig};

/// A publisher that is no subscriber hands its messages to so many: one of them would be enough while none of them fails.
const ENTRIES: usize = 3;

/// How far back a node that hears of the publisher for the first time begins.
const BEGINS_BEFORE: Duration = Duration::from_secs(5);

/// What was handed over so recently goes to another one, too, if whoever took it says that it is not in the tree.
const HANDED_AGAIN: Duration = Duration::from_secs(1);

/// A node is not invited again within this time.
const INVITED_EVERY: Duration = Duration::from_secs(30);

/// Invitations with one message, at most.
const INVITED_AT_ONCE: usize = 64;

/// Nodes remembered as invited, at most.
const INVITED_MAX: usize = 4_096;

/// A publisher's side of one tree.
pub(super) struct Own {
    run: u64,
    last: u64,
    /// The last numbers, and when they were given.
    recent: VecDeque<(Timestamp, u64)>,
    cache: Cache<Carried>,
    entries: BTreeMap<NodeId, Arc<Link>>,
    roster: Arc<Roster>,
    invited: BTreeMap<NodeId, Timestamp>,
    made: Timestamp,
    /// There were messages without numbers before.
    continued: bool,
    pub(super) used: Timestamp,
}

impl Own {
    /// Begins to count. `continued`: there were messages before.
    pub(super) fn new(
        now: Timestamp,
        roster: Arc<Roster>,
        continued: bool,
        config: &TreeConfig,
        rng: &mut impl Rng,
    ) -> Self {
        Self {
            run: rng.next_u64(),
            last: 0,
            recent: VecDeque::new(),
            cache: Cache::new(config.cache_messages, config.cache_bytes, config.cache_ttl),
            entries: BTreeMap::new(),
            roster,
            invited: BTreeMap::new(),
            made: now,
            continued,
            used: now,
        }
    }

    /// Gives the next message its place.
    pub(super) fn place(&mut self, now: Timestamp, tree: &TreeKey) -> Place {
        self.last += 1;
        self.used = now;
        self.recent.push_back((now, self.last));
        while self.recent.front().is_some_and(|(at, number)| {
            now.since(*at) > BEGINS_BEFORE || self.last - number >= SPAN_NUMBERS_MAX
        }) {
            self.recent.pop_front();
        }
        let since = self.recent.front().map_or(self.last, |(_, number)| *number);
        let continued = self.continued && now.since(self.made) <= BEGINS_BEFORE;
        Place { pattern: tree.pattern.clone(), run: self.run, number: self.last, since, continued }
    }

    /// Keeps a message for those who ask for it.
    pub(super) fn keep(&mut self, now: Timestamp, parcel: Parcel<Carried>) {
        self.cache.put(now, parcel);
    }

    /// A message that somebody asks for.
    pub(super) fn get(&self, stream: StreamId, number: u64) -> Option<&Parcel<Carried>> {
        self.cache.get(stream, number)
    }

    /// The newest word on who takes part. Entries that do not any more are given up.
    pub(super) fn learn(&mut self, roster: &Arc<Roster>) {
        if Arc::ptr_eq(&self.roster, roster) {
            return;
        }
        self.roster = roster.clone();
        let is_member = |id: &NodeId| roster.members.iter().any(|link| link.peer() == *id);
        self.entries.retain(|id, _| is_member(id));
    }

    /// Through whom messages enter the tree: always the same, as long as that works; rather those that are connected.
    pub(super) fn entries(&mut self, rng: &mut impl Rng) -> Vec<Arc<Link>> {
        while self.entries.len() < ENTRIES
            && let Some(link) = self.draw(rng)
        {
            self.entries.insert(link.peer(), link);
        }
        self.entries.values().cloned().collect()
    }

    /// An entry failed. Returns another one in its place.
    pub(super) fn replace(&mut self, failed: &NodeId, rng: &mut impl Rng) -> Option<Arc<Link>> {
        self.entries.remove(failed)?;
        let others = self.entries.clone();
        // It is not drawn again at once.
        let link = self.draw_but(Some(failed), rng)?;
        self.entries = others;
        self.entries.insert(link.peer(), link.clone());
        Some(link)
    }

    /// What an entry that turned out not to be in the tree may have kept from it.
    pub(super) fn handed_lately(&self, now: Timestamp) -> Vec<Parcel<Carried>> {
        let lately = self.recent.iter().filter(|(at, _)| now.since(*at) <= HANDED_AGAIN);
        let origin = |number: u64| {
            let first = self.cache.newest()?.stream;
            self.cache.get(first, number).cloned()
        };
        lately.filter_map(|(_, number)| origin(*number)).collect()
    }

    /// Who is to be invited now, each with the others that it is told of.
    pub(super) fn invitations(
        &mut self,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Vec<(Arc<Link>, Vec<Contact>)> {
        self.invited.retain(|_, at| now.since(*at) < INVITED_EVERY);
        let mut invitations = Vec::new();
        for link in &self.roster.outside {
            if invitations.len() >= INVITED_AT_ONCE || self.invited.len() >= INVITED_MAX {
                break;
            }
            let peer = link.peer();
            if self.invited.contains_key(&peer) {
                continue;
            }
            self.invited.insert(peer, now);
            let others = self.roster.contacts.iter().filter(|contact| contact.id != peer);
            invitations.push((link.clone(), others.cloned().sample(rng, CONTACTS_MAX)));
        }
        invitations
    }

    /// Some of those who want the pattern.
    pub(super) fn some_others(&self, rng: &mut impl Rng) -> Vec<Contact> {
        self.roster.contacts.iter().cloned().sample(rng, CONTACTS_MAX)
    }

    fn draw(&self, rng: &mut impl Rng) -> Option<Arc<Link>> {
        self.draw_but(None, rng)
    }

    fn draw_but(&self, but: Option<&NodeId>, rng: &mut impl Rng) -> Option<Arc<Link>> {
        let free = || {
            let members = self.roster.members.iter();
            members.filter(|link| !self.entries.contains_key(&link.peer()) && Some(&link.peer()) != but)
        };
        let connected = free().filter(|link| link.pending_bytes().is_some()).choose(rng);
        connected.or_else(|| free().choose(rng)).cloned()
    }
}
