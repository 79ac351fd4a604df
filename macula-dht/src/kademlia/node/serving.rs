//! What this node does for others: answers, stores, pushes, hands over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use macula_proto::{Access, Action, Contact, Key, NodeId, Realm, wire};
use prost::Message;

use super::super::message::{
    BATCH_RECORDS_MAX, Find, Findings, RECORDS_BYTES_MAX, Request, Response, StoreOutcome, Stored,
    WATCHER_IDS_MAX,
};
use super::super::record::SignedRecord;
use super::super::store::{Page, Put, Refusal};
use super::super::table::Known;
use super::{Effect, Node, Now, Purpose, PushId, ReplyTo, RequestId, StoringId, Timer};

/// A holder hands a newcomer the records that belong there if so few others that it knows are closer to the key:
/// those closest know best, and three of them are enough.
const HANDOVER_RANK: usize = 3;

/// How many of the keys closest to this node are looked through for a newcomer.
const HANDOVER_KEYS_MAX: usize = 1_024;

/// Newcomers that are handed records at a time.
const HANDOVERS_MAX: usize = 64;

/// Bytes of "here is a newer one" in one answer.
const NEWER_BYTES_MAX: usize = 8 * 1024;

/// A change on its way to the watchers of its key.
#[derive(Debug)]
pub(super) struct Push {
    waiting: BTreeMap<RequestId, NodeId>,
    told: Vec<NodeId>,
    lapsed: Vec<NodeId>,
    then: Then,
}

/// Who waits for the watchers.
#[derive(Debug)]
pub(super) enum Then {
    Reply(ReplyTo, Vec<StoreOutcome>),
    Storing(StoringId),
    Nothing,
}

/// Keys whose records a newcomer is still to get; of the first, those of announcers after the given one.
#[derive(Debug)]
pub(super) struct Handover {
    keys: VecDeque<(Key, Option<NodeId>)>,
}

impl Node {
    pub(super) fn on_find(
        &mut self,
        now: Now,
        from: NodeId,
        sender: Option<Contact>,
        find: Find,
        to: ReplyTo,
        out: &mut Vec<Effect>,
    ) {
        let wanted = |known: &Known| known.failures == 0 && known.contact.id != from;
        let contacts = self.table.closest_where(&find.key, self.config.k, wanted);
        let mut findings = Findings { contacts, unix: now.unix, ..Findings::default() };
        if let (Some(lapse), Some(sender)) = (find.watch, sender) {
            findings.watching = self.watchers.register(now.at, find.key, sender, lapse);
        }
        if find.records {
            let records = self.local_records(&find.key).into_values().collect();
            let page = Page::cut(records, find.after, self.config.quotas.answer_records, &mut self.rng);
            findings.records = page.records.iter().map(|record| record.envelope().clone()).collect();
            findings.estimate = page.estimate;
            findings.more = page.more;
        }
        out.push(Effect::Reply { to, response: Response::Found(findings) });
    }

    pub(super) fn on_store(
        &mut self,
        now: Now,
        envelopes: Vec<wire::Signed>,
        to: ReplyTo,
        out: &mut Vec<Effect>,
    ) {
        let mut outcomes = Vec::new();
        let mut changed = Vec::new();
        let mut newer_bytes = 0;
        for envelope in envelopes.into_iter().take(BATCH_RECORDS_MAX) {
            let mut outcome = self.store_one(now, envelope, &mut changed);
            newer_bytes += outcome.newer.as_ref().map_or(0, Message::encoded_len);
            if newer_bytes > NEWER_BYTES_MAX {
                outcome.newer = None;
            }
            match outcome.refusal {
                Some(refusal) => self.metrics.refused(refusal),
                None => {
                    self.metrics.stores_accepted.inc();
                }
            }
            outcomes.push(outcome);
        }
        if let Some(next) = self.store.next_expiry() {
            self.timers.set(Timer::Expire, next);
        }
        self.tell_watchers(now, &changed, Then::Reply(to, outcomes), out);
    }

    /// Records changed: this node's own watches hear of it, then the others'.
    pub(super) fn tell_watchers(
        &mut self,
        now: Now,
        changed: &[Arc<SignedRecord>],
        then: Then,
        out: &mut Vec<Effect>,
    ) {
        let mut told = Vec::new();
        for record in changed {
            // A holder that watches is a watcher told, like any other.
            if self.apply_to_watch(now, record, out) && told.is_empty() {
                told.push(self.local.id);
            }
        }
        self.push(now, changed, told, then, out);
    }

    pub(super) fn on_notify(
        &mut self,
        now: Now,
        envelopes: Vec<wire::Signed>,
        to: ReplyTo,
        out: &mut Vec<Effect>,
    ) {
        self.metrics.notifies_received.inc();
        let mut unwatched = Vec::new();
        for envelope in envelopes.into_iter().take(BATCH_RECORDS_MAX) {
            let Ok(body) = SignedRecord::peek(&envelope) else {
                self.metrics.garbage.inc();
                continue;
            };
            if !self.watched.contains_key(&body.key) {
                unwatched.push(body.key);
                continue;
            }
            let held = self.record_watched(&body.key, &body.announcer.id);
            if held.is_some_and(|held| held.body().sequence >= body.sequence) {
                // The same push from another holder, or an older one that came late.
                continue;
            }
            match SignedRecord::open(&*self.verifier, envelope) {
                Ok(record) if self.counts(now, &record) => {
                    self.apply_to_watch(now, &Arc::new(record), out);
                }
                Ok(_) => {}
                Err(_) => {
                    self.metrics.garbage.inc();
                }
            }
        }
        out.push(Effect::Reply { to, response: Response::Notified(unwatched) });
    }

    /// Whether a record has not expired, and its announcer's run is not over.
    pub(super) fn counts(&self, now: Now, record: &SignedRecord) -> bool {
        !record.remaining(now.unix).is_zero() && !self.lives.is_past(record.body())
    }

    /// Tells the watchers of changed records, besides those `told` already, and `then` goes on.
    pub(super) fn push(
        &mut self,
        now: Now,
        changed: &[Arc<SignedRecord>],
        told: Vec<NodeId>,
        then: Then,
        out: &mut Vec<Effect>,
    ) {
        let id = PushId(self.number());
        let mut push = Push { waiting: BTreeMap::new(), told, lapsed: Vec::new(), then };
        for record in changed {
            let key = record.body().key;
            for watcher in self.watchers.of(now.at, &key) {
                // The announcer has told itself.
                if watcher.id == record.body().announcer.id {
                    continue;
                }
                let watcher_id = watcher.id;
                let request = Request::Notify(vec![record.envelope().clone()]);
                let purpose = Purpose::Push { push: id, key };
                let sent = self.send(now, watcher, request, purpose, self.config.request_timeout, out);
                push.waiting.insert(sent, watcher_id);
                self.metrics.notifies_sent.inc();
            }
        }
        let is_over = push.waiting.is_empty();
        self.pushes.insert(id, push);
        if is_over {
            self.push_over(now, id, out);
        } else {
            self.timers.set(Timer::Push(id), now.at + self.config.notify_timeout);
        }
    }

    /// One watcher acknowledged, or will not.
    pub(super) fn push_settled(
        &mut self,
        now: Now,
        id: PushId,
        request: RequestId,
        is_told: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(push) = self.pushes.get_mut(&id) else { return };
        let Some(watcher) = push.waiting.remove(&request) else { return };
        let settled = if is_told { &mut push.told } else { &mut push.lapsed };
        settled.push(watcher);
        if push.waiting.is_empty() {
            self.push_over(now, id, out);
        }
    }

    /// All acknowledged, or their time is over.
    pub(super) fn push_over(&mut self, now: Now, id: PushId, out: &mut Vec<Effect>) {
        self.timers.cancel(Timer::Push(id));
        let Some(mut push) = self.pushes.remove(&id) else { return };
        push.lapsed.extend(push.waiting.into_values());
        self.metrics.notifies_lapsed.inc_by(push.lapsed.len() as u64);
        match push.then {
            Then::Reply(to, outcomes) => {
                push.told.truncate(WATCHER_IDS_MAX);
                push.lapsed.truncate(WATCHER_IDS_MAX - push.told.len());
                let stored = Stored { outcomes, told: push.told, lapsed: push.lapsed };
                out.push(Effect::Reply { to, response: Response::Stored(stored) });
            }
            Then::Nothing => {}
            Then::Storing(storing) => self.storing_pushed(now, storing, push.told, push.lapsed, out),
        }
    }

    /// A newcomer gets the records that belong there, if this node is among the closest to their keys.
    pub(super) fn hand_over_to(&mut self, now: Now, contact: &Contact, out: &mut Vec<Effect>) {
        if self.store.is_empty()
            || self.handovers.len() >= HANDOVERS_MAX
            || self.handovers.contains_key(&contact.id)
        {
            return;
        }
        let keys = self.store.keys().take(HANDOVER_KEYS_MAX).filter(|key| self.hands_over(key, contact));
        let keys: VecDeque<_> = keys.map(|key| (*key, None)).collect();
        if !keys.is_empty() {
            self.handovers.insert(contact.id, Handover { keys });
            self.hand_over_next(now, contact, out);
        }
    }

    pub(super) fn hand_over_next(&mut self, now: Now, to: &Contact, out: &mut Vec<Effect>) {
        let Some(handover) = self.handovers.get_mut(&to.id) else { return };
        let mut batch = Vec::new();
        let mut bytes = 0;
        'keys: while let Some((key, after)) = handover.keys.front_mut() {
            for record in self.store.at(key) {
                let announcer = record.body().announcer.id;
                if announcer == to.id || after.is_some_and(|after| announcer <= after) {
                    continue;
                }
                bytes += record.wire_len() + 4;
                if batch.len() >= BATCH_RECORDS_MAX || bytes > RECORDS_BYTES_MAX {
                    break 'keys;
                }
                *after = Some(announcer);
                batch.push(record.envelope().clone());
            }
            handover.keys.pop_front();
        }
        if batch.is_empty() {
            self.handovers.remove(&to.id);
            return;
        }
        self.send(
            now,
            to.clone(),
            Request::Store(batch),
            Purpose::Handover,
            self.config.request_timeout,
            out,
        );
    }

    /// Whether the newcomer is among the k closest to `key`, and this node among the few that tell it.
    fn hands_over(&self, key: &Key, contact: &Contact) -> bool {
        let newcomer = key.distance(&contact.id.into());
        let own = key.distance(&self.local.id.into());
        self.table.closer_than(key, &newcomer) + usize::from(own < newcomer) < self.config.k
            && self.table.closer_than(key, &own) - usize::from(newcomer < own) < HANDOVER_RANK
    }

    fn store_one(
        &mut self,
        now: Now,
        envelope: wire::Signed,
        changed: &mut Vec<Arc<SignedRecord>>,
    ) -> StoreOutcome {
        let refused = |refusal| StoreOutcome { refusal: Some(refusal), newer: None };
        let Ok(body) = SignedRecord::peek(&envelope) else { return refused(Refusal::Invalid) };
        let held = self.store.get(&body.key, &body.announcer.id);
        if held.is_some_and(|held| *held.envelope() == envelope) {
            return StoreOutcome::default();
        }
        let Ok(record) = SignedRecord::open(&*self.verifier, envelope) else {
            return refused(Refusal::Invalid);
        };
        let record = Arc::new(record);
        if let Some(own) = self.own_instead(&record) {
            return StoreOutcome { refusal: Some(Refusal::Outdated), newer: Some(own) };
        }
        match self.admit(now, &record) {
            Ok(Put::Changed) => {
                changed.push(record);
                StoreOutcome::default()
            }
            Ok(Put::Refreshed) => StoreOutcome::default(),
            Err(Refusal::Outdated) => {
                let newer = self.store.get(&body.key, &body.announcer.id).map(|held| held.envelope().clone());
                StoreOutcome { refusal: Some(Refusal::Outdated), newer }
            }
            Err(refusal) => refused(refusal),
        }
    }

    /// What this node announces itself is not held for it by itself.
    fn own_instead(&self, record: &SignedRecord) -> Option<wire::Signed> {
        let is_own = record.body().announcer.id == self.local.id;
        let own = self.own.get(&record.body().key).filter(|_| is_own)?;
        Some(own.record.envelope().clone())
    }

    fn admit(&mut self, now: Now, record: &Arc<SignedRecord>) -> Result<Put, Refusal> {
        let body = record.body();
        let realm = Realm::default();
        let access = Access { peer: body.announcer.id, realm: &realm, action: Action::Announce(body.key) };
        self.gate.check(access).map_err(|_| Refusal::Forbidden)?;
        if self.lives.is_past(body) {
            return Err(Refusal::Outdated);
        }
        if self.is_far(&body.key) {
            return Err(Refusal::Far);
        }
        self.store.put(now.at, now.unix, record.clone())
    }

    /// Whether others should hold `key`. While there is room, an announcer that knows the neighbourhood less well than this
    /// node is given the benefit of the doubt: twice as many nodes as hold a record may be closer. Once the store is half
    /// full, k are enough to refuse.
    fn is_far(&self, key: &Key) -> bool {
        let own = key.distance(&self.local.id.into());
        let enough = if self.store.is_half_full() { self.config.k } else { 2 * self.config.k };
        self.table.closer_than(key, &own) >= enough
    }
}
