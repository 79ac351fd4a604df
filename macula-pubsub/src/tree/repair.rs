//! How a message gets to all: pushed along the tree, announced beside it, asked for where it did not come.
//!
//! ```text
//!        pushed                    came twice: Prune                nothing is pushed any more: graft
//!   ○ ──────────▶ ○      ○ ═══════════▶ ○ becomes ○ ┄┄┄┄▶ ○      ○ ┄┄┄┄▶ ○ becomes ○ ────▶ ○
//!   │             ┆
//!   ▼    Have     ▼      announced, and not there after a while: Want. What was asked for is announced, not pushed, so
//!   ○ ┄┄┄┄┄┄┄┄┄▶ ○       that those behind do not get it twice: they have asked somebody else by then, or do it now.
//! ```
//!
//! This is Plumtree (Leitão et al. 2007) but for two things: a single loss is repaired without changing the tree, which a
//! lossy network would otherwise never let come to rest; and announcements are repeated, so that a message is not lost with
//! the last word on it.

use std::collections::BTreeMap;
use std::time::Duration;

use macula_proto::{Contact, NodeId, Timestamp};
use rand::RngExt as _;

use super::effect::{Body, Effect, HOPS_UNKNOWN, Parcel, SPAN_NUMBERS_MAX, SPANS_MAX, Span, StreamId, Word};
use super::machine::{Timer, Tree};
use super::stream::{Missing, Stream};

/// How long after a message that had to be asked for it is decided whether messages still come by themselves.
const JUDGED_AFTER: Duration = Duration::from_secs(1);

/// A way is worth changing to if it is shorter by so many hops.
const SHORTER_BY: u32 = 1;

/// A neighbour is asked to push if the way by it is shorter by so many hops.
const SHORTENED_BY: u32 = 3;

/// A publisher of so many messages is worth shortening ways for.
const STEADY_AFTER: u64 = 10;

/// Between one shortening and the next at one node: those behind it are to come to rest.
const SHORTENED_EVERY: Duration = Duration::from_secs(3);

/// Between two requests not to push, to one neighbour.
const PRUNE_PAUSE: Duration = Duration::from_millis(200);

/// Messages sent for one request, at most.
const ANSWERS_MAX: usize = 256;

/// Who published nothing for so many repetitions is not repeated.
const REPEATED_FOR: u32 = 3;

impl<M: Body> Tree<M> {
    /// Pushes or announces a message to all neighbours but `from`.
    pub(super) fn spread(
        &mut self,
        now: Timestamp,
        from: Option<NodeId>,
        parcel: &Parcel<M>,
        out: &mut Vec<Effect<M>>,
    ) {
        let Parcel { stream, number, answer, hops, .. } = *parcel;
        let others: Vec<(NodeId, bool)> = self
            .links
            .iter()
            .filter(|(id, _)| Some(**id) != from && **id != stream.origin)
            .map(|(id, link)| (*id, link.pushes))
            .collect();
        let pushed = |pushes: bool| pushes && !answer;
        // What was asked for came by a way that is not the tree's.
        let hops = if answer { HOPS_UNKNOWN } else { hops };
        for (id, pushes) in others.iter().filter(|(_, pushes)| !pushed(*pushes)) {
            self.announce(now, id, Span { stream, first: number, last: number, hops, late: *pushes });
        }
        let to: Vec<NodeId> =
            others.iter().filter(|(_, pushes)| pushed(*pushes)).map(|(id, _)| *id).collect();
        if to.is_empty() {
            return;
        }
        self.metrics.pushed.inc_by(to.len() as u64);
        for id in &to {
            if let Some(link) = self.links.get_mut(id) {
                link.told = now;
            }
        }
        out.push(Effect::Push { to, parcel: Parcel { hops: parcel.hops + 1, ..parcel.clone() } });
    }

    /// Notes who brought a new message, and what it shows to be missing.
    pub(super) fn note_arrival(
        &mut self,
        now: Timestamp,
        from: NodeId,
        parcel: &Parcel<M>,
        begins: u64,
        out: &mut Vec<Effect<M>>,
    ) {
        let (origin, patience) = (parcel.stream.origin, self.config.patience);
        let Some(stream) = self.streams.get_mut(&origin) else { return };
        stream.heard = now;
        for gap in stream.arrived(parcel, begins) {
            stream.missing_from(now, gap, now + patience, (from, parcel.hops));
        }
        if !parcel.answer {
            stream.feed.fed_by(now, from);
            self.feed.fed_by(now, from);
            if let Some(link) = self.links.get_mut(&from) {
                link.pushes = true;
            }
        } else if stream.feed.is_orphaned {
            self.graft(now, origin, from, out);
        } else {
            stream.answered = Some(from);
            self.timers.set_by(Timer::Judge(origin), now + JUDGED_AFTER);
        }
    }

    /// A copy came that was there before.
    pub(super) fn came_twice(
        &mut self,
        now: Timestamp,
        from: NodeId,
        parcel: &Parcel<M>,
        out: &mut Vec<Effect<M>>,
    ) {
        self.metrics.duplicates.inc();
        if parcel.answer {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&parcel.stream.origin)
            && parcel.stream.origin != self.me.id
            && stream.feed.feeder.is_none_or(|feeder| feeder == from)
        {
            // It was only late.
            stream.feed.fed_by(now, from);
            self.feed.fed_by(now, from);
            return;
        }
        let superfluous = self.longer_way(now, from, parcel, out).unwrap_or(from);
        let Some(link) = self.links.get_mut(&superfluous) else { return };
        link.pushes = false;
        if link.pruned.is_none_or(|at| now.since(at) >= PRUNE_PAUSE) {
            link.pruned = Some(now);
            let contact = link.contact.clone();
            self.metrics.prunes.inc();
            self.tell(now, contact, Word::Prune, out);
        }
    }

    /// Of two neighbours that push, the one whose copy had been sent fewer times stays. Returns the other if that is not the
    /// one whose copy came last. No circle can come of it: a neighbour that stays is closer to the publisher than this node.
    fn longer_way(
        &mut self,
        now: Timestamp,
        from: NodeId,
        parcel: &Parcel<M>,
        out: &mut Vec<Effect<M>>,
    ) -> Option<NodeId> {
        let came = self.cache.get(parcel.stream, parcel.number)?;
        let is_shorter = !came.answer && parcel.hops + SHORTER_BY <= came.hops;
        let stream = self.streams.get_mut(&parcel.stream.origin).filter(|_| is_shorter)?;
        let feeder = stream.feed.feeder?;
        let link = self.links.get_mut(&from)?;
        link.pushes = true;
        let contact = link.contact.clone();
        stream.feed.fed_by(now, from);
        self.cache.shorten(parcel.stream, parcel.number, parcel.hops);
        // It may have had a copy from here at the same time, and want to push no more.
        self.tell(now, contact, Word::Want { spans: Vec::new(), graft: true }, out);
        Some(feeder)
    }

    /// A neighbour has messages.
    pub(super) fn on_have(&mut self, now: Timestamp, from: NodeId, spans: &[Span], out: &mut Vec<Effect<M>>) {
        let pushes = self.links.get(&from).is_some_and(|link| link.pushes);
        for span in spans.iter().take(SPANS_MAX).filter(|span| span.first <= span.last) {
            let origin = span.stream.origin;
            let is_known = self.streams.get(&origin).is_some_and(|known| known.run == span.stream.run);
            if origin == self.me.id || !(is_known || self.may_begin(span.stream)) {
                continue;
            }
            let jitter = self.rng.random_range(0..=self.config.patience.as_millis() as u64 / 2);
            let patience = self.config.patience + Duration::from_millis(jitter);
            if pushes && span.late {
                self.feed.is_alive(now);
            }
            let Some(stream) = self.stream(now, span.stream) else { continue };
            if pushes && span.late {
                stream.feed.is_alive(now);
            }
            // Of a stream that nothing came of yet, the newest message tells where it begins.
            let span_max = if stream.seen.is_some() { SPAN_NUMBERS_MAX } else { 1 };
            for number in span.first.max(span.last.saturating_sub(span_max - 1))..=span.last {
                let is_over = stream.has(number) || number < stream.stage.floor();
                if is_over || !stream.is_plausible(number) {
                    continue;
                }
                let due = if span.late { now } else { now + patience };
                stream.missing_from(now, number, due, (from, span.hops));
            }
            self.set_repair(origin);
            self.shorten(now, from, span, out);
        }
    }

    /// Has a neighbour push as well by which a message that was pushed here would have come with far fewer hops (Leitão et
    /// al. 2007, §3.8). Whichever way turns out to be longer is then given up, because copies come twice.
    fn shorten(&mut self, now: Timestamp, from: NodeId, span: &Span, out: &mut Vec<Effect<M>>) {
        let Some(came) = self.cache.get(span.stream, span.last) else { return };
        let by_it = span.hops.saturating_add(1);
        let is_shorter = !span.late && !came.answer && by_it.saturating_add(SHORTENED_BY) <= came.hops;
        let is_steady = came.number >= STEADY_AFTER && now.since(self.shortened) >= SHORTENED_EVERY;
        let Some(link) = self.links.get_mut(&from).filter(|_| is_shorter && is_steady) else { return };
        // Nothing is pushed back meanwhile, or it would take that for a reason to stop.
        link.pushes = false;
        let contact = link.contact.clone();
        self.shortened = now;
        self.tell(now, contact, Word::Want { spans: Vec::new(), graft: true }, out);
    }

    /// Whether announcements may make a stream known. A new run of a publisher that is known shows by its messages alone.
    fn may_begin(&self, stream: StreamId) -> bool {
        !self.streams.contains_key(&stream.origin) && self.has_room_for_unborn()
    }

    /// A neighbour asks for messages.
    pub(super) fn on_want(&mut self, from: NodeId, spans: &[Span], graft: bool, out: &mut Vec<Effect<M>>) {
        if graft && let Some(link) = self.links.get_mut(&from) {
            link.pushes = true;
        }
        let spans = spans.iter().take(SPANS_MAX).filter(|span| span.first <= span.last);
        let numbers = spans.flat_map(|span| {
            let last = span.last.min(span.first.saturating_add(SPAN_NUMBERS_MAX - 1));
            (span.first..=last).map(|number| (span.stream, number))
        });
        let mut answers = Vec::new();
        for (stream, number) in numbers.take(ANSWERS_MAX) {
            if let Some(parcel) = self.cache.get(stream, number) {
                answers.push(Parcel { hops: parcel.hops + 1, answer: true, ..parcel.clone() });
            }
        }
        self.metrics.answered.inc_by(answers.len() as u64);
        out.extend(answers.into_iter().map(|parcel| Effect::Push { to: vec![from], parcel }));
    }

    /// Asks for what is missing, and gives up what nobody sends.
    pub(super) fn repair(&mut self, now: Timestamp, origin: NodeId, out: &mut Vec<Effect<M>>) {
        let (give_up, patience) = (self.config.give_up, self.config.patience);
        let Some(stream) = self.streams.get_mut(&origin) else { return };
        let id = StreamId { origin, run: stream.run };
        let mut requests: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
        let mut lost = Vec::new();
        for (number, missing) in stream.missing.iter_mut().filter(|(_, missing)| missing.due <= now) {
            if now.since(missing.since) >= give_up {
                lost.push(*number);
                continue;
            }
            missing.due = now + 2 * patience;
            if let Some(holder) = missing.next_holder() {
                requests.entry(holder).or_default().push(*number);
            }
        }
        for number in &lost {
            stream.missing.remove(number);
            stream.stage.give_up(*number);
            if let Some(seen) = &mut stream.seen {
                seen.insert(*number);
            }
        }
        let is_unborn = stream.seen.is_none() && stream.missing.is_empty() && !stream.stage.is_open();
        self.metrics.lost.inc_by(lost.len() as u64);
        for (holder, numbers) in requests {
            self.metrics.wanted.inc_by(numbers.len() as u64);
            let spans = spans_of(id, &numbers);
            let contact = self.links.get(&holder).map(|link| link.contact.clone());
            let contact = contact.unwrap_or(Contact { id: holder, addrs: Vec::new() });
            self.tell(now, contact, Word::Want { spans, graft: false }, out);
        }
        self.deliver(origin, out);
        if is_unborn {
            self.forget_stream(&origin);
        }
        self.set_repair(origin);
    }

    /// Decides whether a publisher's messages still come by themselves, and mends the tree if not.
    pub(super) fn judge(&mut self, now: Timestamp, origin: NodeId, out: &mut Vec<Effect<M>>) {
        let Some(stream) = self.streams.get_mut(&origin) else { return };
        let Some(answered) = stream.answered.take() else { return };
        let in_time = JUDGED_AFTER + 2 * self.config.patience;
        let is_telling = stream.feed.feeder.is_some() || stream.feed.is_orphaned;
        let feed = if is_telling { &mut stream.feed } else { &mut self.feed };
        if feed.is_cut_off(now, in_time) {
            self.graft(now, origin, answered, out);
        }
    }

    /// Has a neighbour push from now on.
    fn graft(&mut self, now: Timestamp, origin: NodeId, peer: NodeId, out: &mut Vec<Effect<M>>) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.pushes = true;
        let contact = link.contact.clone();
        if let Some(stream) = self.streams.get_mut(&origin) {
            stream.feed.fed_by(now, peer);
        }
        self.feed.fed_by(now, peer);
        self.metrics.grafts.inc();
        self.tell(now, contact, Word::Want { spans: Vec::new(), graft: true }, out);
    }

    /// Announces once more what came lately.
    pub(super) fn repeat(&mut self, now: Timestamp) {
        let lately = self.config.repeat_interval * REPEATED_FOR;
        let recent = self.streams.iter_mut().filter(|(_, stream)| now.since(stream.heard) <= lately);
        let mut spans = Vec::new();
        let mut is_going_on = false;
        for (origin, stream) in recent {
            is_going_on = true;
            if spans.len() < 2 * SPANS_MAX {
                spans.extend(stream.repeat(StreamId { origin: *origin, run: stream.run }));
            }
        }
        let links: Vec<NodeId> = self.links.keys().copied().collect();
        for (link, span) in links.iter().flat_map(|link| spans.iter().map(move |span| (link, span))) {
            self.announce(now, link, *span);
        }
        if is_going_on {
            self.timers.set(Timer::Repeat, now + self.config.repeat_interval);
        }
    }

    pub(super) fn set_repair(&mut self, origin: NodeId) {
        match self.streams.get(&origin).and_then(Stream::due) {
            Some(at) => self.timers.set(Timer::Repair(origin), at),
            None => self.timers.cancel(Timer::Repair(origin)),
        }
    }
}

impl<M> Stream<M> {
    /// A message is missing here, and somebody has it.
    pub(super) fn missing_from(
        &mut self,
        now: Timestamp,
        number: u64,
        due: Timestamp,
        holder: (NodeId, u32),
    ) {
        let missing = self.missing.entry(number).or_insert_with(|| Missing::new(now, due));
        missing.held_by(holder.0, holder.1);
        missing.due = missing.due.min(due);
    }
}

fn spans_of(stream: StreamId, numbers: &[u64]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some(span) if span.last + 1 == *number => span.last = *number,
            _ => spans.push(Span { stream, first: *number, last: *number, hops: 0, late: false }),
        }
    }
    // The rest is asked for the next time.
    spans.truncate(SPANS_MAX);
    spans
}
