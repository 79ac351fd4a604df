//! This node's own records: signed, stored at the closest nodes, kept there.
//!
//! ```text
//!   announce ─► sign ─► look up the closest ─► store at each ─► settled
//!                 └──► push to watchers here ───────────────────┘   │
//!                                                                   ▼
//!          republish interval over · a closer node met · a holder lost ─► store again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use macula_proto::{Contact, Distance, Key, NodeId, Timestamp, UnixMillis, wire};

use super::super::lookup::{Goal, Outcome};
use super::super::message::{Request, Stored};
use super::super::record::{RecordBody, SignedRecord, TTL_MAX};
use super::super::store::Refusal;
use super::finding::{GoalIs, PATHS_MAX, unreachable};
use super::serving::Then;
use super::{Done, Effect, Node, Now, Op, Purpose, StoringId, Timer};
use crate::{Announced, DirectoryError, VALUE_BYTES_MAX};

/// A newcomer seldom comes alone: wait for the others before storing again.
const SPREAD_DELAY: Duration = Duration::from_millis(250);

/// However many newcomers there are, a record is not stored again more often than so.
const SPREAD_INTERVAL_MIN: Duration = Duration::from_secs(2);

/// When nobody took a record although nodes are known.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How often a record is signed anew because a holder has a newer one of this node's (from a life with another clock).
const OVERTAKES_MAX: u32 = 3;

/// What an own record says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Usual,
    /// It is shown when this node is gone, too.
    Lasting,
    Withdrawal,
}

impl Kind {
    const fn of(body: &RecordBody) -> Self {
        match (body.withdrawn, body.lasting) {
            (true, _) => Self::Withdrawal,
            (false, true) => Self::Lasting,
            (false, false) => Self::Usual,
        }
    }
}

#[derive(Debug)]
pub(super) struct Own {
    pub(super) record: Arc<SignedRecord>,
    /// Who has it, as far as is known.
    holders: BTreeMap<NodeId, Contact>,
    /// How far the farthest holder is from the key; `None` while there is room for more.
    reach: Option<Distance>,
    stored_at: Timestamp,
}

/// One record on its way to its holders.
#[derive(Debug)]
pub(super) struct Storing {
    record: Arc<SignedRecord>,
    op: Option<Op>,
    /// Closest nodes are still looked up.
    is_looking: bool,
    /// Holders that have not answered yet.
    waiting: usize,
    /// Watchers of the key at this very node are being told.
    is_pushing: bool,
    asked: usize,
    holders: BTreeMap<NodeId, Contact>,
    is_holder: bool,
    told: BTreeSet<NodeId>,
    lapsed: BTreeSet<NodeId>,
    refusal: Option<Refusal>,
    /// What a holder has that is newer than what it was given.
    newer: Option<u64>,
    overtakes: u32,
    unreachable: Option<DirectoryError>,
}

impl Node {
    /// Announces `value` at `key` in this node's name, and keeps it announced. Ends in [`Done::Announced`].
    pub fn announce(&mut self, now: Now, op: Op, key: Key, value: Bytes, out: &mut Vec<Effect>) {
        self.announce_as(Kind::Usual, now, op, key, value, out);
    }

    /// The same; it is shown until it expires, also when this node is gone.
    pub fn announce_lasting(&mut self, now: Now, op: Op, key: Key, value: Bytes, out: &mut Vec<Effect>) {
        self.announce_as(Kind::Lasting, now, op, key, value, out);
    }

    fn announce_as(&mut self, kind: Kind, now: Now, op: Op, key: Key, value: Bytes, out: &mut Vec<Effect>) {
        if value.len() > VALUE_BYTES_MAX {
            let error = DirectoryError::ValueTooLarge { bytes: value.len(), bytes_max: VALUE_BYTES_MAX };
            out.push(Effect::Done { op, outcome: Done::Announced(Err(error)) });
            return;
        }
        self.put_own(now, key, value, kind, Some(op), out);
    }

    /// Takes back what was announced at `key`. Ends in [`Done::Withdrawn`].
    pub fn withdraw(&mut self, now: Now, op: Op, key: Key, out: &mut Vec<Effect>) {
        if self.own.get(&key).is_none_or(|own| own.record.body().withdrawn) {
            out.push(Effect::Done { op, outcome: Done::Withdrawn(Ok(())) });
            return;
        }
        self.put_own(now, key, Bytes::new(), Kind::Withdrawal, Some(op), out);
    }

    /// An own record is due: signed anew if it is old, and stored where it belongs now.
    pub(super) fn republish(&mut self, now: Now, key: Key, out: &mut Vec<Effect>) {
        let Some(own) = self.own.get(&key) else { return };
        let record = own.record.clone();
        let left = record.remaining(now.unix);
        if record.body().withdrawn && left.is_zero() {
            self.own.remove(&key);
            return;
        }
        if self.is_busy() {
            self.backlog.insert(Timer::Republish(key));
            return;
        }
        let moved = record.body().announcer != self.local;
        let is_old = record.body().ttl - left >= self.config.republish_interval * 3 / 4;
        if !record.body().withdrawn && (is_old || moved) {
            self.put_own(now, key, record.body().value.clone(), Kind::of(record.body()), None, out);
        } else {
            self.store_own(now, record, None, false, 0, out);
        }
    }

    /// Own records that belong at the newcomer are stored again soon.
    pub(super) fn spread_to(&mut self, now: Now, contact: &Contact) {
        for (key, own) in &self.own {
            if is_wanted(key, contact, &own.holders, own.reach) {
                let at = (now.at + SPREAD_DELAY).max(own.stored_at + SPREAD_INTERVAL_MIN);
                self.timers.set_by(Timer::Republish(*key), at);
            }
        }
    }

    /// What a lost node held is stored elsewhere, and watched elsewhere, soon.
    pub(super) fn replace_holder(&mut self, now: Now, id: &NodeId) {
        for (key, own) in &mut self.own {
            if own.holders.remove(id).is_some() {
                own.reach = None;
                let at = (now.at + SPREAD_DELAY).max(own.stored_at + SPREAD_INTERVAL_MIN);
                self.timers.set_by(Timer::Republish(*key), at);
            }
        }
        self.rewatch_without(now, id);
    }

    /// The closest nodes are known: store there.
    pub(super) fn store_at(&mut self, now: Now, id: StoringId, outcome: Outcome, out: &mut Vec<Effect>) {
        let Some(storing) = self.storing.get_mut(&id) else { return };
        let key = storing.record.body().key;
        storing.is_looking = false;
        if outcome.answered == 0 {
            storing.unreachable = Some(unreachable(&outcome));
        }
        let mut holders = outcome.closest;
        let own_distance = key.distance(&self.local.id.into());
        let farther = |contact: &&Contact| key.distance(&contact.id.into()) > own_distance;
        let closer = holders.len() - holders.iter().filter(farther).count();
        storing.is_holder = closer < self.config.k;
        holders.truncate(if storing.is_holder { self.config.k - 1 } else { self.config.k }.max(1));
        storing.waiting = holders.len();
        storing.asked = holders.len();
        let request = Request::Store(vec![storing.record.envelope().clone()]);
        for holder in holders {
            let timeout = self.config.store_timeout;
            self.send(now, holder, request.clone(), Purpose::Store(id), timeout, out);
        }
        self.settle_storing(now, id, out);
    }

    pub(super) fn store_answered(
        &mut self,
        now: Now,
        id: StoringId,
        from: Contact,
        stored: Stored,
        out: &mut Vec<Effect>,
    ) {
        let Some(storing) = self.storing.get_mut(&id) else { return };
        storing.waiting -= 1;
        storing.told.extend(stored.told);
        storing.lapsed.extend(stored.lapsed);
        match stored.outcomes.into_iter().next() {
            Some(outcome) if outcome.refusal == Some(Refusal::Outdated) => {
                let newer = outcome.newer.and_then(|newer| self.own_newer(id, newer));
                if let Some(storing) = self.storing.get_mut(&id) {
                    storing.newer = storing.newer.max(newer);
                    storing.refusal = Some(Refusal::Outdated);
                }
            }
            Some(outcome) if outcome.refusal.is_some() => storing.refusal = outcome.refusal,
            Some(_) => {
                storing.holders.insert(from.id, from);
            }
            None => storing.refusal = Some(Refusal::Other),
        }
        self.settle_storing(now, id, out);
    }

    pub(super) fn store_failed(&mut self, now: Now, id: StoringId, out: &mut Vec<Effect>) {
        if let Some(storing) = self.storing.get_mut(&id) {
            storing.waiting -= 1;
            self.settle_storing(now, id, out);
        }
    }

    /// Watchers at this very node were told.
    pub(super) fn storing_pushed(
        &mut self,
        now: Now,
        id: StoringId,
        told: Vec<NodeId>,
        lapsed: Vec<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(storing) = self.storing.get_mut(&id) {
            storing.is_pushing = false;
            storing.told.extend(told);
            storing.lapsed.extend(lapsed);
            self.settle_storing(now, id, out);
        }
    }

    /// A peer says what time it is for it. If this node's own clock turns out to be off, its records are announced again.
    pub(super) fn heard_time(&mut self, now: Now, peer: NodeId, theirs: UnixMillis) {
        let own = self.skew.uncorrected(now.unix);
        if self.skew.heard(peer, theirs, own) {
            self.metrics.clock_skew.set(self.skew.millis() / 1_000);
            for key in self.own.keys() {
                self.timers.set_by(Timer::Republish(*key), now.at);
            }
        }
    }

    /// The time to go by: this node's own, unless that is off.
    pub fn correct(&self, now: Now) -> Now {
        Now { unix: self.skew.correct(now.unix), ..now }
    }

    fn put_own(
        &mut self,
        now: Now,
        key: Key,
        value: Bytes,
        kind: Kind,
        op: Option<Op>,
        out: &mut Vec<Effect>,
    ) {
        let record = self.sign(now, key, value, kind);
        let before = self.own.get(&key).map(|own| own.record.clone());
        let is_changed = before.is_none_or(|before| !before.says_the_same(&record));
        let fresh = || Own {
            record: record.clone(),
            holders: BTreeMap::new(),
            reach: None,
            stored_at: Timestamp::ZERO,
        };
        self.own.entry(key).or_insert_with(fresh).record = record.clone();
        self.apply_to_watch(now, &record, out);
        self.store_own(now, record, op, is_changed, 0, out);
    }

    /// Finds the holders of an own record, while watchers at this node are told already.
    fn store_own(
        &mut self,
        now: Now,
        record: Arc<SignedRecord>,
        op: Option<Op>,
        is_changed: bool,
        overtakes: u32,
        out: &mut Vec<Effect>,
    ) {
        let key = record.body().key;
        let id = StoringId(self.number());
        let is_alone = self.table.is_empty();
        let storing = Storing {
            record: record.clone(),
            op,
            is_looking: !is_alone,
            waiting: 0,
            is_pushing: is_changed,
            asked: 0,
            holders: BTreeMap::new(),
            is_holder: true,
            told: BTreeSet::new(),
            lapsed: BTreeSet::new(),
            refusal: None,
            newer: None,
            overtakes,
            unreachable: None,
        };
        self.storing.insert(id, storing);
        // Not due again while it is under way; settling sets the next time.
        self.timers.cancel(Timer::Republish(key));
        if is_changed {
            self.push(now, &[record], Vec::new(), Then::Storing(id), out);
        }
        if is_alone {
            self.settle_storing(now, id, out);
            return;
        }
        let hints = self.own.get(&key).map(|own| own.holders.values().cloned().collect()).unwrap_or_default();
        let paths = self.config.paths.clamp(1, PATHS_MAX);
        let goal = Goal { paths, ..self.goal(now, key, self.config.k) };
        self.start(now, goal, hints, GoalIs::Announce { storing: id, background: op.is_none() }, out);
    }

    fn sign(&mut self, now: Now, key: Key, value: Bytes, kind: Kind) -> Arc<SignedRecord> {
        // The wall clock's milliseconds go on growing over restarts; within one life no number comes twice.
        self.last_sequence = now.unix.0.max(self.last_sequence.saturating_add(1));
        let body = RecordBody {
            key,
            announcer: self.local.clone(),
            value,
            sequence: self.last_sequence,
            issued: now.unix,
            ttl: self.config.record_ttl.clamp(Duration::from_millis(1), TTL_MAX),
            withdrawn: kind == Kind::Withdrawal,
            lasting: kind == Kind::Lasting,
            life: self.config.life,
        };
        Arc::new(SignedRecord::sign(&*self.signer, body))
    }

    /// The number of a record of this node's that a holder has and that is newer than the one given to it: only this
    /// node's own signature proves it.
    fn own_newer(&self, id: StoringId, newer: wire::Signed) -> Option<u64> {
        let given = self.storing.get(&id)?.record.body().sequence;
        let newer = SignedRecord::open(&*self.verifier, newer).ok()?;
        let body = newer.body();
        (body.announcer.id == self.local.id && body.sequence > given).then_some(body.sequence)
    }

    fn settle_storing(&mut self, now: Now, id: StoringId, out: &mut Vec<Effect>) {
        let Some(storing) = self.storing.get(&id) else { return };
        if storing.is_looking || storing.waiting > 0 || storing.is_pushing {
            return;
        }
        let Some(storing) = self.storing.remove(&id) else { return };
        let body = storing.record.body();
        let key = body.key;
        let current = self.own.get(&key).map(|own| own.record.body().sequence);
        let is_current = current == Some(body.sequence);
        if let Some(newer) = storing.newer
            && is_current
            && newer > body.sequence
            && storing.overtakes < OVERTAKES_MAX
        {
            self.last_sequence = self.last_sequence.max(newer);
            self.overtake(now, storing, out);
            return;
        }
        if is_current {
            self.note_holders(now, &key, &storing);
        }
        if let Some(op) = storing.op {
            let is_superseded = !is_current;
            out.push(Effect::Done { op, outcome: storing.outcome(is_superseded) });
        }
    }

    /// Signs again with a higher number than what is out there.
    fn overtake(&mut self, now: Now, storing: Storing, out: &mut Vec<Effect>) {
        let body = storing.record.body();
        let record = self.sign(now, body.key, body.value.clone(), Kind::of(body));
        if let Some(own) = self.own.get_mut(&body.key) {
            own.record = record.clone();
        }
        self.apply_to_watch(now, &record, out);
        self.store_own(now, record, storing.op, true, storing.overtakes + 1, out);
    }

    fn note_holders(&mut self, now: Now, key: &Key, storing: &Storing) {
        let pause = if storing.record.body().withdrawn {
            // Only to be forgotten then.
            storing.record.remaining(now.unix) + Duration::from_millis(1)
        } else if storing.holders.is_empty() && !self.table.is_empty() {
            RETRY_INTERVAL
        } else {
            self.jitter(self.config.republish_interval)
        };
        let Some(own) = self.own.get_mut(key) else { return };
        own.holders = storing.holders.clone();
        own.reach = reach(key, &own.holders, self.config.k - usize::from(storing.is_holder));
        own.stored_at = now.at;
        self.timers.set_by(Timer::Republish(*key), now.at + pause);
    }
}

impl Storing {
    /// What its user is told. A newer word of this node's own in the meantime is no failure.
    fn outcome(&self, is_superseded: bool) -> Done {
        let holders = self.holders.len() + usize::from(self.is_holder);
        let refused = self.asked > 0 && holders == 0 && !is_superseded;
        if self.record.body().withdrawn {
            let nobody = self.holders.is_empty() && !is_superseded;
            return Done::Withdrawn(match (&self.unreachable, self.refusal) {
                (Some(error), _) if nobody => Err(error.clone()),
                (None, Some(refusal)) if refused => Err(DirectoryError::Refused(refusal.to_string())),
                _ => Ok(()),
            });
        }
        if refused {
            let reason = self.refusal.map_or_else(|| "none answered".into(), |refusal| refusal.to_string());
            return Done::Announced(Err(DirectoryError::Refused(reason)));
        }
        Done::Announced(Ok(Announced {
            holders,
            watchers_told: self.told.len(),
            watchers_lapsed: self.lapsed.difference(&self.told).count(),
        }))
    }
}

/// Whether something at `key` belongs at a node that was just met.
pub(super) fn is_wanted(
    key: &Key,
    contact: &Contact,
    holders: &BTreeMap<NodeId, Contact>,
    reach: Option<Distance>,
) -> bool {
    let closer = reach.is_none_or(|reach| key.distance(&contact.id.into()) < reach);
    closer && !holders.contains_key(&contact.id)
}

/// The distance of the farthest of at least `wanted` holders; `None` if there are fewer.
pub(super) fn reach(key: &Key, holders: &BTreeMap<NodeId, Contact>, wanted: usize) -> Option<Distance> {
    if holders.len() < wanted {
        return None;
    }
    holders.keys().map(|id| key.distance(&(*id).into())).max()
}
