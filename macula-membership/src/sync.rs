//! Anti-entropy: two nodes compare their lists and exchange what differs. The machine keeps nothing between the steps, so a
//! stream that breaks costs nothing but another try.

use std::sync::Arc;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};
use rand::RngExt as _;

use crate::effect::{Effect, Effects};
use crate::machine::Machine;
use crate::message::{BUCKETS, BucketDigest, DigestEntry, Doubt, Update};
use crate::roster::Entry;
use crate::{Incarnation, MemberState, SyncMessage};

/// Digest entries in one frame: 41 bytes each.
const ENTRIES_A_PAGE: usize = 1_000;

/// Bytes of updates in one frame.
const PAGE_BYTES: usize = 28 * 1024;

/// Ids wanted in one frame: 32 bytes each.
const WANTS_A_PAGE: usize = 512;

/// Up to so many updates in one page count as news for others too; more is a newcomer that catches up, or a partition
/// that heals, and spreads by further exchanges instead of drowning the gossip.
const NEWS_A_PAGE_MAX: usize = 32;

/// With more than one part in so many of the most news that are kept, gossip takes longer than an exchange of lists (some
/// 60 pieces go out in a second, each several times).
const BACKLOG_SHARE: usize = 2;

/// Changes of the list since the last exchange that are an upheaval, as when a partition heals: more than one in so many
/// members. Gossip leaves gaps then.
const UPHEAVAL_SHARE: usize = 4;

/// The first pause after an upheaval is the configured interval divided by this.
const UPHEAVAL_PACE: u32 = 4;

/// The cell size up to which the configured interval holds.
const UNSCALED_MEMBERS: usize = 32;

/// How soon exchanges follow each other: quickly after a start and after an upheaval, then at longer and longer pauses
/// (as in Trickle, RFC 6206 §4.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Until the next exchange.
    pause: Duration,
    /// The version of the list at the last one.
    version: u64,
}

impl Pace {
    /// As after a start.
    pub(crate) const fn new(pause: Duration) -> Self {
        Self { pause, version: 0 }
    }
}

impl Machine {
    /// The first message of an exchange.
    pub fn begin_sync(&self) -> SyncMessage {
        SyncMessage::Buckets(Box::new(*self.roster.buckets()))
    }

    /// Handles a message of an exchange with `from` and appends the answers to `replies`, which go over the same
    /// stream in this order.
    pub fn on_sync(
        &mut self,
        now: Timestamp,
        from: NodeId,
        message: &SyncMessage,
        replies: &mut Vec<SyncMessage>,
        out: &mut Effects,
    ) {
        match message {
            SyncMessage::Buckets(theirs) => self.answer_buckets(theirs, replies),
            SyncMessage::Digest { buckets, last } => self.answer_digest(now, buckets, *last, replies),
            SyncMessage::Exchange { updates, wants, last } => {
                self.merge(now, from, updates, out);
                let mut updates = Vec::new();
                for entry in wants.iter().filter_map(|id| self.roster.get(id)) {
                    self.word_on(entry, &mut updates);
                }
                supply(updates, *last, replies);
            }
            SyncMessage::Supply { updates, .. } => self.merge(now, from, updates, out),
        }
    }

    /// An exchange that [`Effect::Sync`] asked for is over.
    pub fn on_sync_end(&mut self, id: NodeId, done: bool) {
        self.syncs.remove(&id);
        if done {
            self.metrics.syncs.inc()
        } else {
            self.metrics.syncs_failed.inc()
        };
    }

    /// Asks for an exchange with `id`, unless enough are under way.
    pub(crate) fn sync_with(&mut self, id: NodeId, out: &mut Effects) {
        if let Some(member) = self.roster.get(&id).and_then(Entry::member) {
            self.sync_at(member.contact, out);
        }
    }

    fn sync_at(&mut self, contact: Arc<Contact>, out: &mut Effects) {
        if self.syncs.len() < self.config.syncs_max && self.syncs.insert(contact.id) {
            out.push(Effect::Sync(contact));
        }
    }

    /// The periodic exchange, with a neighbour. A newcomer has much to learn, and is known to few: it begins with
    /// short pauses.
    pub(crate) fn sync_next(&mut self, now: Timestamp, out: &mut Effects) {
        let jitter = self.rng.random_range(0.75..1.25);
        self.timers.sync = now + self.pace.pause.mul_f64(jitter);
        let pause = (self.pace.pause * 2).min(self.sync_pause_max());
        self.pace = Pace { pause, version: self.roster.version() };
        let neighbours = self.overlay.neighbours();
        if !neighbours.is_empty() {
            let partner = neighbours[self.rng.random_range(0..neighbours.len())];
            self.sync_with(partner, out);
        }
    }

    /// When gossip cannot keep up, as when thousands join at once, the next exchange comes sooner; after an upheaval, several.
    pub(crate) fn hasten_sync(&mut self, now: Timestamp) {
        let interval = self.config.sync_interval;
        if self.news.len() > self.config.news_max / BACKLOG_SHARE {
            let soon = interval.mul_f64(self.rng.random_range(0.2..0.5));
            self.timers.sync = self.timers.sync.min(now + soon);
        }
        let changes = self.roster.version() - self.pace.version;
        let upheaval = (self.roster.len() / UPHEAVAL_SHARE).max(NEWS_A_PAGE_MAX);
        if self.pace.pause >= interval && changes > upheaval as u64 {
            self.pace.pause = interval / UPHEAVAL_PACE;
            let soon = self.pace.pause.mul_f64(self.rng.random_range(0.75..1.25));
            self.timers.sync = self.timers.sync.min(now + soon);
        }
    }

    /// Tries one of the dead again, be it forgotten or not; and the seeds, when nobody else is left.
    pub(crate) fn recontact_next(&mut self, now: Timestamp, out: &mut Effects) {
        let jitter = self.rng.random_range(0.75..1.25);
        self.timers.recontact = now + self.config.recontact_interval.mul_f64(jitter);
        if self.roster.present() <= 1 {
            out.push(Effect::RetrySeeds);
        }
        let candidates = self.tombs.len() + self.lost.len();
        if candidates == 0 {
            return;
        }
        let drawn = self.rng.random_range(0..candidates);
        match self.tombs.get(drawn).copied() {
            Some((_, id)) if self.state_of(&id) == Some(MemberState::Dead) => self.sync_with(id, out),
            Some(_) => {}
            None => {
                let contact = self.lost[drawn - self.tombs.len()].1.clone();
                self.sync_at(contact, out);
            }
        }
    }

    /// The configured interval, longer in a large cell.
    fn sync_pause_max(&self) -> Duration {
        let ratio = self.roster.present() as f64 / UNSCALED_MEMBERS as f64;
        let scale = if ratio > 1.0 { ratio.log2().ceil() + 1.0 } else { 1.0 };
        self.config.sync_interval.mul_f64(scale)
    }

    /// Step 2: who is in the buckets that differ.
    fn answer_buckets(&self, theirs: &[u64; BUCKETS], replies: &mut Vec<SyncMessage>) {
        let mine = self.roster.buckets();
        let mut digests: [Option<BucketDigest>; BUCKETS] = std::array::from_fn(|bucket| {
            let empty = BucketDigest { index: bucket as u8, complete: true, entries: Vec::new() };
            (mine[bucket] != theirs[bucket]).then_some(empty)
        });
        for entry in self.roster.iter() {
            let Some(digest) = &mut digests[usize::from(entry.bucket())] else { continue };
            if digest.entries.len() < ENTRIES_A_PAGE {
                digest.entries.push(digest_of(entry));
            } else {
                digest.complete = false;
            }
        }
        let mut page: Vec<BucketDigest> = Vec::new();
        let mut entries = 0;
        for digest in digests.into_iter().flatten() {
            if entries + digest.entries.len() > ENTRIES_A_PAGE && !page.is_empty() {
                replies.push(SyncMessage::Digest { buckets: std::mem::take(&mut page), last: false });
                entries = 0;
            }
            entries += digest.entries.len();
            page.push(digest);
        }
        replies.push(SyncMessage::Digest { buckets: page, last: true });
    }

    /// Step 3: what they lack, and what is wanted from them.
    fn answer_digest(
        &mut self,
        now: Timestamp,
        buckets: &[BucketDigest],
        last: bool,
        replies: &mut Vec<SyncMessage>,
    ) {
        let mut complete = [false; BUCKETS];
        for bucket in buckets {
            complete[bucket.index as usize] = bucket.complete;
        }
        let mut known = vec![false; self.roster.len()];
        let (mut lacking, mut wants) = (Vec::new(), Vec::new());
        for entry in buckets.iter().flat_map(|bucket| &bucket.entries) {
            let place = self.roster.place(&entry.id);
            // Told of twice: once is enough.
            if place.is_some_and(|place| std::mem::replace(&mut known[place], true)) {
                continue;
            }
            let mine = place.map(|place| self.roster.at(place));
            match self.compare(entry, mine) {
                Difference::None => {}
                Difference::TheyKnowMore => wants.push(entry.id),
                Difference::TheyKnowLess => mine.iter().for_each(|entry| self.word_on(entry, &mut lacking)),
                Difference::TheyDoubt => self.on_doubt(now, entry.id, entry.incarnation),
            }
        }
        wants.sort_unstable();
        wants.dedup();
        for (entry, known) in self.roster.iter().zip(known) {
            if !known && complete[usize::from(entry.bucket())] && entry.state().is_present() {
                self.word_on(entry, &mut lacking);
            }
        }
        exchange(lacking, &wants, last, replies);
    }

    fn compare(&self, theirs: &DigestEntry, mine: Option<&Entry>) -> Difference {
        let Some(mine) = mine else {
            let useful = theirs.state != MemberState::Dead;
            return if useful { Difference::TheyKnowMore } else { Difference::None };
        };
        let (left, dead) = (MemberState::Left, MemberState::Dead);
        match theirs.incarnation.cmp(&mine.incarnation()) {
            std::cmp::Ordering::Greater => Difference::TheyKnowMore,
            std::cmp::Ordering::Less => Difference::TheyKnowLess,
            std::cmp::Ordering::Equal => match (mine.state(), theirs.state) {
                (mine, theirs) if mine == theirs => Difference::None,
                (_, theirs) if theirs == left => Difference::TheyKnowMore,
                (mine, _) if mine == left || mine == dead => Difference::TheyKnowLess,
                (_, theirs) if theirs == dead => Difference::TheyDoubt,
                // Suspicions spread by gossip; about this node itself, they are worth an answer at once.
                (_, MemberState::Suspect) if theirs.id == self.me => Difference::TheyDoubt,
                _ => Difference::None,
            },
        }
    }

    /// What to send about a member: its own word, and that it is dead if this node believes so.
    fn word_on(&self, entry: &Entry, updates: &mut Vec<Update>) {
        updates.push(Update::Statement(entry.statement().clone()));
        if entry.state() == MemberState::Dead {
            updates.push(Update::Doubt(Doubt { id: entry.id(), incarnation: entry.incarnation() }));
        }
    }

    /// Takes in the updates of one page.
    fn merge(&mut self, now: Timestamp, from: NodeId, updates: &[Update], out: &mut Effects) {
        let spread = updates.len() <= NEWS_A_PAGE_MAX;
        for update in updates {
            match update {
                Update::Statement(statement) => self.on_statement(now, Some(from), statement, spread, out),
                Update::Doubt(doubt) => self.on_doubt(now, doubt.id, doubt.incarnation),
                // These go round by gossip.
                Update::Suspect(_) | Update::Dead(_) => {}
            }
        }
    }

    /// Another believes a member dead whom this node believes alive. That may be old, from a partition: nobody is
    /// suspected for it, but the member is probed and told, and refutes; or it does not answer, and is suspected for that.
    fn on_doubt(&mut self, now: Timestamp, id: NodeId, incarnation: Incarnation) {
        if id == self.me {
            self.refute(now, incarnation);
        } else if self
            .roster
            .get(&id)
            .is_some_and(|entry| entry.state().is_present() && entry.incarnation() <= incarnation)
        {
            self.check(id, Some(incarnation));
        }
    }
}

/// How another's belief about a member differs from this node's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Difference {
    None,
    /// They have a newer word of the member's own.
    TheyKnowMore,
    /// This node has a newer word, or knows of the member's end.
    TheyKnowLess,
    /// They believe dead whom this node believes alive.
    TheyDoubt,
}

fn digest_of(entry: &Entry) -> DigestEntry {
    DigestEntry { id: entry.id(), incarnation: entry.incarnation(), state: entry.state() }
}

fn exchange(updates: Vec<Update>, wants: &[NodeId], last: bool, replies: &mut Vec<SyncMessage>) {
    let first = replies.len();
    let mut pages = pages(updates).into_iter();
    let mut wants = wants.chunks(WANTS_A_PAGE);
    loop {
        let (updates, ids) = (pages.next(), wants.next());
        if updates.is_none() && ids.is_none() {
            break;
        }
        let (updates, wants) = (updates.unwrap_or_default(), ids.map(<[_]>::to_vec).unwrap_or_default());
        replies.push(SyncMessage::Exchange { updates, wants, last: false });
    }
    if last {
        if replies.len() == first {
            replies.push(SyncMessage::Exchange { updates: Vec::new(), wants: Vec::new(), last });
        } else if let Some(SyncMessage::Exchange { last, .. }) = replies.last_mut() {
            *last = true;
        }
    }
}

fn supply(updates: Vec<Update>, last: bool, replies: &mut Vec<SyncMessage>) {
    let first = replies.len();
    let pages = pages(updates).into_iter();
    replies.extend(pages.map(|updates| SyncMessage::Supply { updates, last: false }));
    if last {
        if replies.len() == first {
            replies.push(SyncMessage::Supply { updates: Vec::new(), last });
        } else if let Some(SyncMessage::Supply { last, .. }) = replies.last_mut() {
            *last = true;
        }
    }
}

/// Cuts updates into pages that fit a frame header.
fn pages(updates: Vec<Update>) -> Vec<Vec<Update>> {
    let mut pages: Vec<Vec<Update>> = Vec::new();
    let mut room = 0;
    for update in updates {
        let len = update.wire_len();
        match pages.last_mut() {
            Some(page) if len <= room => page.push(update),
            _ => {
                room = PAGE_BYTES;
                pages.push(vec![update]);
            }
        }
        room = room.saturating_sub(len);
    }
    pages
}
